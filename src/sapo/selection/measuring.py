"""The measuring side of a selection: places in race order -> losses, from the cache or the model."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from sapo.core.errors import ScoreError
from sapo.core.types import Encoded, Example, Floats, Instruction, Ints, Losses, Task
from sapo.models.batches import common_prefix, width
from sapo.models.losses import COMMON, Scorer, Scoring
from sapo.models.render import Encoder
from sapo.selection.cache import Found, LossCache

# Rows from which the cost of a candidate's row is estimated.
SAMPLED = 8


class Measuring:
    """Losses of candidates on rows, counted and timed.

    Attributes:
        tokens: supervised tokens of each row, in race order.
        spent: forward tokens so far.
        seconds: wall time of computing, that of cached losses included.
    """

    def __init__(
        self,
        scorer: Scorer,
        renderer: Encoder,
        task: Task,
        candidates: Sequence[Instruction],
        order: Sequence[int],
        cache: LossCache | None,
        advance: Callable[[int], None],
    ) -> None:
        self._scorer, self._renderer, self._task, self._candidates = scorer, renderer, task, candidates
        self._order, self._cache, self._advance = order, cache, advance
        self._examples = [task.train[i] for i in order]
        self._open: dict[int, Scoring] = {}
        self._computed: set[int] = set()
        self._cut: list[Ints] = [np.zeros(0, dtype=np.int64)] * len(candidates)
        self.tokens = np.array([e.supervised for e in self._opened(0).encoded], dtype=np.int64)
        self.spent, self.seconds = 0, 0.0
        self.routes: set[str] = set()

    @property
    def cached(self) -> int:
        """Number of candidates all of whose losses were found."""
        return len(self._candidates) - len(self._computed)

    def measure(self, wanted: Mapping[int, range]) -> list[Floats]:
        """Return the NLL sums of candidates on the rows at these places."""
        seconds = self._joined(wanted)
        return [self._measured(candidate, places, seconds.get(candidate)) for candidate, places in wanted.items()]

    def _joined(self, wanted: Mapping[int, range]) -> dict[int, float]:
        """Compute what is better computed in batches that candidates share, and return each one's part of the time."""
        if not self._scorer.common:
            return {}
        new = {c: places for c, places in wanted.items() if self._found(self._rows(c, places)) is None}
        asked = [(self._opened(candidate), places) for candidate, places in new.items()]
        began, before = time.perf_counter(), sum(scoring.tokens for scoring, _ in asked)
        if not self._scorer.join(asked, self._advance):
            return {}
        self.spent += sum(scoring.tokens for scoring, _ in asked) - before
        return dict.fromkeys(new, (time.perf_counter() - began) / len(new))

    def _measured(self, candidate: int, places: range, joined: float | None) -> Floats:
        """Return one candidate's NLL sums; ``joined``: the time that common batches took for it, if it was in them."""
        scoring, wanted = self._opened(candidate), self._rows(candidate, places)
        found = self._found(wanted)
        if found is None:
            began = time.perf_counter()
            before = scoring.tokens
            nll = scoring.nll(places, self._advance if joined is None else lambda rows: None)
            self._demand_finite(nll, candidate, places)
            route = self._scorer.route if joined is None else COMMON
            found = Found(nll, time.perf_counter() - began + (joined or 0.0), route)
            self.spent += scoring.tokens - before
            self._computed.add(candidate)
            if self._cache is not None:
                self._cache.keep(wanted, found)
        elif joined is None:
            self._advance(len(wanted))
        self.seconds += found.seconds
        self.routes.add(found.route)
        self._cut[candidate] = np.array([e.cut for e in scoring.encoded[: places.stop]], dtype=np.int64)
        if places.stop == len(self._order):
            self._open.pop(candidate).release()
        return found.nll

    def noise(self) -> float:
        """Return how far a loss moves with the layout of batches alone, in nats per token; 0 in float32."""
        scoring = self._opened(0)
        before = scoring.tokens
        found = self._scorer.layout_noise(scoring, range(min(SAMPLED, len(scoring.encoded))))
        self.spent += scoring.tokens - before
        return found

    def confirm(self, pair: Sequence[int], rows: int) -> list[Floats]:
        """Return the NLL sums of two candidates on the first rows, both computed in the same batches."""
        began, encoded = time.perf_counter(), [self._rows(candidate, range(rows)) for candidate in pair]
        found = self._scorer.side_by_side(encoded)
        self.spent += sum(width(e, 0) for part in encoded for e in part)
        self.seconds += time.perf_counter() - began
        return found

    def losses(self, nll: Sequence[Floats]) -> list[Losses]:
        """Return the losses of all candidates as values."""
        return [Losses(x, self.tokens[: len(x)], cut) for x, cut in zip(nll, self._cut, strict=True)]

    def release(self) -> None:
        """Let go of what is kept for further rounds."""
        while self._open:
            self._open.popitem()[1].release()

    def _rows(self, candidate: int, places: range) -> Sequence[Encoded]:
        return self._opened(candidate).encoded[places.start : places.stop]

    def _found(self, rows: Sequence[Encoded]) -> Found | None:
        return None if self._cache is None else self._cache.find(rows)

    def _opened(self, candidate: int) -> Scoring:
        if candidate not in self._open:
            text = self._candidates[candidate].text
            self._open[candidate] = self._scorer.open(self._renderer.encode(text, self._task.suffix, self._examples))
        return self._open[candidate]

    def _demand_finite(self, nll: Floats, candidate: int, places: range) -> None:
        bad = np.flatnonzero(~np.isfinite(nll))
        if bad.size:
            raise ScoreError(
                f"task {self._task.name!r}: candidate {candidate} ({self._candidates[candidate].text[:60]!r}) has the "
                f"loss {nll[bad[0]]} on training row {self._order[places[int(bad[0])]]} ({bad.size} such rows). The "
                "model's weights or its number format are broken: try dtype float32, or an earlier stage."
            )


def row_costs(
    renderer: Encoder, task: Task, candidates: Sequence[Instruction], sample: Sequence[Example]
) -> tuple[list[float], int]:
    """Return about how many forward tokens one row of each candidate costs, and what all their beginnings do."""
    costs, beginnings = [], 0
    for candidate in candidates:
        encoded = renderer.encode(candidate.text, task.suffix, sample)
        shared = common_prefix(encoded)
        costs.append(sum(len(e.ids) for e in encoded) / len(encoded) - shared)
        beginnings += shared
    return costs, beginnings
