"""How training rows are worded while a model is trained: one instruction, a mixture, or one that is chosen again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from sapo.core.types import Encoded, Example, Instruction, Task
from sapo.models.losses import Scorer
from sapo.models.render import Renderer
from sapo.training.policies import Draw


class Worded(Protocol):
    """Says which instruction a row is trained with at a time."""

    def text(self, row: int, epoch: int, step: int) -> str:
        """Return it for a row of the task, in an epoch, after so many updates."""


class Mixture:
    """A paraphrase drawn anew each time, see `sapo.training.policies.mixture`."""

    def __init__(self, paraphrases: Sequence[Instruction], draw: Draw) -> None:
        self._texts, self._draw = [p.text for p in paraphrases], draw

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


_ROUNDING = 1e-4


class Rewording:
    """The rows of one training, of one task after the other, each encoded once for every text that it gets.

    Args:
        renderer: of their prompts.
        tasks: whose training rows they are.
        worded: how each task's rows are worded.
    """

    def __init__(self, renderer: Renderer, tasks: Sequence[Task], worded: Sequence[Worded]) -> None:
        self._renderer = renderer
        self._rows = [
            (task, words, i) for task, words in zip(tasks, worded, strict=True) for i in range(len(task.train))
        ]
        self._known: dict[tuple[int, str], Encoded] = {}

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
