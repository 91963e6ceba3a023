"""How training rows are worded while a model is trained: one instruction, a mixture, or one that is chosen again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

from sapo.core.types import Choice, Encoded, Example, Instruction, Task
from sapo.models.losses import Scorer
from sapo.models.render import Renderer
from sapo.training.policies import Draw


# Losses that differ by less are equal.
_ROUNDING = 1e-4


class Worded(Protocol):
    """Says which instruction a row is trained with at a time.

    Attributes:
        decides: what it depends on, as JSON; empty where it never changes.
    """

    decides: list[Any]

    def text(self, row: int, epoch: int, step: int) -> str:
        """Return it for a row of the task, in an epoch, after so many updates."""


class Fixed:
    """One instruction from beginning to end."""

    def __init__(self, instruction: Instruction) -> None:
        self.decides: list[Any] = []
        self._text = instruction.text

    def text(self, row: int, epoch: int, step: int) -> str:
        """Return it."""
        return self._text


class Mixture:
    """A paraphrase drawn anew each time, see `sapo.training.policies.mixture`."""

    def __init__(self, paraphrases: Sequence[Instruction], draw: Draw) -> None:
        self._texts, self._draw = [p.text for p in paraphrases], draw
        self.decides: list[Any] = [*self._texts]

    def text(self, row: int, epoch: int, step: int) -> str:
        """Return what is drawn."""
        return self._texts[self._draw(row, epoch, step)]


class Reselecting:
    """Scores the leading candidates again while training goes on, and goes on with the lowest.

    A loss that is not lower by more than rounding changes nothing.

    Args:
        scorer: of the model that is trained.
        renderer: of its prompts.
        task: whose instruction is chosen.
        candidates: the first one is what training begins with.
        rows: that are not trained on.
        every: updates between two choices; after the last update nothing is chosen any more.

    Attributes:
        chosen: what is trained with now.
        switches: (updates made, text chosen then), in order.
    """

    def __init__(
        self,
        scorer: Scorer,
        renderer: Renderer,
        task: Task,
        candidates: Sequence[Instruction],
        rows: Sequence[Example],
        every: int,
    ) -> None:
        self._scorer, self._renderer, self._every = scorer, renderer, every
        self._task, self._candidates, self._rows = task, tuple(candidates), rows
        self.decides: list[Any] = [
            every, [c.text for c in candidates], [[row.input, row.answer] for row in rows]
        ]  # fmt: skip
        self.chosen = candidates[0]
        self.switches: list[tuple[int, str]] = []

    def text(self, row: int, epoch: int, step: int) -> str:
        """Return the present choice."""
        return self.chosen.text

    def back(self, step: int) -> None:
        """Go back to what was trained with in the first updates: none of the later choices was."""
        self.restore(None, [switch for switch in self.switches if switch[0] < step])

    def begin(self, model: Any) -> None:
        """Look at nothing yet: the first choice was made before."""

    def after(self, model: Any, step: int, last: bool) -> bool:
        """Choose again where it is time to; training goes on."""
        if last or step % self._every or len(self._candidates) == 1:
            return False
        scorer = self._scorer.on(model)
        losses = [
            scorer(self._renderer.encode(c.text, self._task.suffix, self._rows)).per_token for c in self._candidates
        ]
        best = min(range(len(losses)), key=lambda i: losses[i])
        if losses[best] < losses[self._candidates.index(self.chosen)] - _ROUNDING:
            self.chosen = self._candidates[best]
            self.switches.append((step, self.chosen.text))
        return False

    def state(self) -> Any:
        """Return the switches so far."""
        return [list(switch) for switch in self.switches]

    def restore(self, model: Any, state: Any) -> None:
        """Go on with the last of them."""
        self.switches, self.chosen = [(int(step), str(text)) for step, text in state], self._candidates[0]
        for _, text in self.switches[-1:]:
            self.chosen = next(c for c in self._candidates if c.text == text)


class Rewording:
    """The rows of one training, of one task after the other, each encoded once for every text that it gets.

    Args:
        renderer: of their prompts.
        choices: whose training rows they are, with the instructions that the training begins with.
        worded: how each task's rows are worded.

    Attributes:
        changes: whether any row is ever worded in another way than at the beginning.
        watchers: what chooses again while the model is trained.
        decides: what the wording depends on, as JSON.
    """

    def __init__(self, renderer: Renderer, choices: Sequence[Choice], worded: Sequence[Worded]) -> None:
        self._renderer, self._choices, self._worded = renderer, tuple(choices), tuple(worded)
        self._rows = [
            (c.task, words, i) for c, words in zip(choices, worded, strict=True) for i in range(len(c.task.train))
        ]
        self._known: dict[tuple[int, str], Encoded] = {}
        self.changes = any(words.decides for words in worded)
        self.watchers = tuple(words for words in worded if isinstance(words, Reselecting))
        self.decides = [words.decides for words in worded]

    def __call__(self, row: int, epoch: int, step: int) -> Encoded:
        """Return a row as it is worded at a time."""
        if row == len(self._rows):
            # What fills an update up among several processes: nothing of it is supervised.
            first = self(0, epoch, step)
            return Encoded(first.ids[:1], 1)
        task, words, own = self._rows[row]
        text = words.text(own, epoch, step)
        if (row, text) not in self._known:
            self._known[row, text] = self._renderer.encode(text, task.suffix, [task.train[own]])[0]
        return self._known[row, text]

    def first(self) -> list[Encoded]:
        """Return the rows with the instructions that the training begins with."""
        return [e for c in self._choices for e in self._renderer.encode(c.instruction.text, c.task.suffix, c.task.train)]

    def last(self, epoch: int, updates: int) -> list[Encoded]:
        """Return the rows as they are worded at the last update, the number ``updates`` - 1 in an epoch from 0."""
        if not self.changes:
            return self.first()
        return [self(row, epoch, updates - 1) for row in range(len(self._rows))]

    def finished(self, back_to: int | None) -> tuple[Choice, ...]:
        """Return the choices with the instruction that each task was trained with last.

        Args:
            back_to: updates after which the weights were that training ended with; None where it was not rolled back.
        """
        for watcher in self.watchers:
            if back_to is not None:
                watcher.back(back_to)
        return tuple(
            replace(c, instruction=w.chosen, switches=tuple(w.switches)) if isinstance(w, Reselecting) else c
            for c, w in zip(self._choices, self._worded, strict=True)
        )
