"""How training rows are worded while a model is trained: one instruction, a mixture, or one that is chosen again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np

from sapo.core.types import Encoded, Example, Instruction
from sapo.models.losses import Scorer
from sapo.models.render import Encoder, Renderer
from sapo.selection.selection import Choice
from sapo.training.settings import Policy

# Losses that differ by less are equal.
_ROUNDING = 1e-4


class Worded(Protocol):
    """Says which instruction a row is trained with at a time; ``decides`` is what it depends on, as JSON."""

    decides: list[Any]

    def text(self, row: int, epoch: int, step: int) -> str:
        """Return it for a row of the task, in an epoch, after so many updates."""


class Mixture:
    """A paraphrase drawn again and again, from the arguments alone: a resumed training draws the same texts.

    Policy "per-example" draws for each row in each epoch; "paft" draws one paraphrase for all rows of ``period``
    consecutive updates (Wei et al. 2025, arXiv 2502.12859). There is at least one of ``paraphrases``.
    """

    def __init__(self, policy: Policy, paraphrases: Sequence[Instruction], period: int, seed: int) -> None:
        self._texts = [paraphrase.text for paraphrase in paraphrases]
        self._by_row, self._period, self._seed = policy == "per-example", period, seed
        self.decides: list[Any] = [*self._texts]

    def text(self, row: int, epoch: int, step: int) -> str:
        """Return the text that is drawn."""
        when = (epoch, row) if self._by_row else (step // self._period,)
        return self._texts[int(np.random.default_rng([self._seed, *when]).integers(len(self._texts)))]


@dataclass(frozen=True, slots=True)
class Again:
    """A choice that was made while a model was trained, after ``step`` updates, and is trained with from then on.

    ``losses`` are of all candidates, in nats per token, by text; ``epoch`` is the one that began then, from 0, where
    choices are made by epoch.
    """

    step: int
    instruction: Instruction
    losses: Mapping[str, float]
    epoch: int | None = None


class Leaders:
    """The leading candidates of a task, chosen among again while a model is trained.

    Rows that were trained on would favour the instruction that they were trained with, so candidates are compared on
    rows that are not. A loss that is not lower by more than rounding changes nothing.

    ``rows`` are not trained on; ``begin`` is what training begins with, ``choices`` are those so far, in order.
    """

    def __init__(
        self,
        renderer: Encoder,
        suffix: str,
        candidates: Sequence[Instruction],
        rows: Sequence[Example],
        begin: Instruction,
    ) -> None:
        self._candidates, self.begin, self.choices = tuple(candidates), begin, list[Again]()
        self._rows = {c.text: renderer.encode(c.text, suffix, rows) for c in candidates}

    @property
    def chosen(self) -> Instruction:
        """What is trained with now."""
        return self.choices[-1].instruction if self.choices else self.begin

    @property
    def several(self) -> bool:
        """Whether there is anything to choose from."""
        return len(self._candidates) > 1

    @property
    def switches(self) -> tuple[tuple[int, str], ...]:
        """The changes of the instruction so far: (updates made, text from then on)."""
        texts = [self.begin.text, *(choice.instruction.text for choice in self.choices)]
        return tuple(
            (choice.step, choice.instruction.text)
            for before, choice in zip(texts, self.choices, strict=False)
            if choice.instruction.text != before
        )

    def choose(self, scorer: Scorer, step: int, epoch: int | None = None) -> Again:
        """Choose again, under the model that is scored, after so many updates."""
        losses = {c.text: scorer(self._rows[c.text]).per_token for c in self._candidates}
        best = min(self._candidates, key=lambda c: losses[c.text])
        now = self.chosen
        # A training that was resumed may continue with a text that is not among these candidates.
        lower = now.text not in losses or losses[best.text] < losses[now.text] - _ROUNDING
        self.choices.append(Again(step, best if lower else now, losses, epoch))
        return self.choices[-1]

    def back(self, step: int) -> None:
        """Go back to what was trained with in the first updates."""
        self.choices = [choice for choice in self.choices if choice.step < step]

    def to_json(self) -> Any:
        """Return the choices so far as JSON values."""
        return {"begin": asdict(self.begin), "choices": [asdict(choice) for choice in self.choices]}

    def restore(self, value: Any) -> None:
        """Resume with what `to_json` returned."""
        self.begin = Instruction(**value["begin"])
        self.choices = [Again(**{**c, "instruction": Instruction(**c["instruction"])}) for c in value["choices"]]


class Reselecting:
    """Chooses again every so many updates, and trains on with the choice; see `sapo.training.trainer.Watcher`.

    The choice is made every so many updates of the model that is trained, but not after the last one. ``decides`` is
    what the choices depend on, as JSON; ``leaders`` hold those so far.
    """

    def __init__(self, scorer: Scorer, leaders: Leaders, every: int, decides: list[Any]) -> None:
        self._scorer, self.leaders, self._every, self.decides = scorer, leaders, every, decides

    def text(self, row: int, epoch: int, step: int) -> str:
        """Return the present choice."""
        return self.leaders.chosen.text

    def begin(self, model: Any) -> None:
        """Look at nothing yet: the first choice was made before."""

    def after(self, model: Any, step: int, last: bool) -> bool:
        """Choose again where it is time to; training continues."""
        if not last and step % self._every == 0 and self.leaders.several:
            self.leaders.choose(self._scorer.on(model), step)
        return False

    def state(self) -> Any:
        """Return the choices so far."""
        return self.leaders.to_json()

    def restore(self, model: Any, state: Any) -> None:
        """Resume with them."""
        self.leaders.restore(state)


class Rewording:
    """The rows of one training, of one task after the other, each encoded once for every text that it gets.

    ``choices`` hold the instructions that the training begins with; ``worded`` says how each task's rows are worded,
    ``decides`` what that depends on, as JSON. ``watchers`` choose again while the model is trained. Where nothing
    ``changes``, no row is ever worded in another way than at the beginning.
    """

    def __init__(self, renderer: Renderer, choices: Sequence[Choice], worded: Sequence[Worded | None]) -> None:
        self._renderer, self._choices, self._worded = renderer, tuple(choices), tuple(worded)
        self._rows = [
            (c.task, c.instruction, words, i)
            for c, words in zip(choices, worded, strict=True)
            for i in range(len(c.task.train))
        ]
        self._known: dict[tuple[int, str], Encoded] = {}
        self.changes = any(words is not None for words in worded)
        self.watchers = tuple(words for words in worded if isinstance(words, Reselecting))
        self.decides = [[] if words is None else words.decides for words in worded]

    def __call__(self, row: int, epoch: int, step: int) -> Encoded:
        """Return a row as it is worded at a time."""
        if row == len(self._rows):
            # What fills an update up among several processes: nothing of it is supervised.
            first = self(0, epoch, step)
            return Encoded(first.ids[:1], 1)
        task, instruction, words, own = self._rows[row]
        text = instruction.text if words is None else words.text(own, epoch, step)
        if (row, text) not in self._known:
            self._known[row, text] = self._renderer.encode(text, task.suffix, [task.train[own]])[0]
        return self._known[row, text]

    def first(self) -> list[Encoded]:
        """Return the rows with the instructions that the training begins with."""
        return [
            e for c in self._choices for e in self._renderer.encode(c.instruction.text, c.task.suffix, c.task.train)
        ]

    def last(self, epoch: int, updates: int) -> list[Encoded]:
        """Return the rows as they are worded at the last update, the number ``updates`` - 1 in an epoch from 0."""
        if not self.changes:
            return self.first()
        return [self(row, epoch, updates - 1) for row in range(len(self._rows))]

    def finished(self, back_to: int | None) -> tuple[Choice, ...]:
        """Return the choices with the instruction that each task was trained with last.

        ``back_to`` counts the updates that the final weights have seen; None where training was not rolled back.
        """
        finished = []
        for choice, worded in zip(self._choices, self._worded, strict=True):
            if isinstance(worded, Reselecting):
                if back_to is not None:
                    worded.leaders.back(back_to)
                choice = replace(choice, instruction=worded.leaders.chosen, switches=worded.leaders.switches)
            finished.append(choice)
        return tuple(finished)
