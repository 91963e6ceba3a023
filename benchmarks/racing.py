"""How well races find the winner and what they spend, replayed on stored loss matrices.

    python benchmarks/racing.py [--trials 200] [--delta 0.05] [--epsilon 0.01] [--json FILE]

Each trial draws a new order of the rows and races on it; the winner's loss on all rows is then held against the
lowest one. The matrices are those of `matrices.py` as measured, the same with all gaps to the best shrunk to 0.3
(ten times as hard), and made ones that are worse than what models do: 20 candidates that are all just too bad
(0.0105 above the best, epsilon being 0.01), with normal and heavy-tailed differences (t with 2.5 degrees of
freedom), and ones that hang on one row in a hundred. Simpler schemes stand beside the race, and the race without
knowledge of labels and tokens. Takes a few minutes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from sapo.core.types import Floats, Ints
from sapo.selection.race import race, round_sizes

FOLDER = Path(__file__).parent / "matrices"
CANDIDATES, ROWS, TOKENS = 21, 250, 3


@dataclass(frozen=True)
class Matrix:
    """Losses that are known: NLL sums [candidates, rows], tokens [rows], labels [rows] as numbers from 0."""

    nll: Floats
    tokens: Ints
    groups: Ints

    @property
    def losses(self) -> Floats:
        """Exhaustive losses in nats per token."""
        losses: Floats = self.nll.sum(axis=1) / self.tokens.sum()
        return losses

    def ordered(self, order: Ints) -> Matrix:
        """Return the rows in another order."""
        return Matrix(self.nll[:, order], self.tokens[order], self.groups[order])

    def harder(self, share: float) -> Matrix:
        """Return the same losses with every gap to the best shrunk."""
        gaps = (1 - share) * (self.losses - self.losses.min())
        return Matrix(self.nll - gaps[:, None] * self.tokens, self.tokens, self.groups)


@dataclass(frozen=True)
class Figures:
    """What came out of the trials of one scheme on one matrix.

    Attributes:
        spent: mean share of the candidates x rows evaluations.
        spent_most: the same, 95th percentile.
        missed: share of trials whose winner is worse than the best by more than epsilon.
        best: share of trials that found the very best, or a candidate within 1e-5 of it.
        regret: mean loss of the winner above the best, in nats per token.
    """

    spent: float
    spent_most: float
    missed: float
    best: float
    regret: float


Scheme = Callable[[Matrix], tuple[int, float]]


def read(path: Path) -> Matrix:
    """Return a stored matrix."""
    stored = np.load(path)
    return Matrix(stored["nll"].astype(np.float64), stored["tokens"], stored["stratum"])


def made(kind: str, spread: float) -> Matrix:
    """Return a matrix of one best candidate, not the original, and 20 that are 0.0105 worse; spread in nats/token."""
    rng = np.random.default_rng(1)
    shape = (CANDIDATES, ROWS)
    noise = {
        "normal": lambda: rng.standard_normal(shape),
        "heavy": lambda: rng.standard_t(2.5, shape),
        "rare": lambda: 0.1 * rng.standard_normal(shape) + 10 * (rng.random(shape) < 0.01) * rng.standard_normal(shape),
    }[kind]()
    noise -= noise.mean(axis=1, keepdims=True)
    losses = np.full(CANDIDATES, 1.0105)
    losses[7] = 1.0
    tokens, groups = np.full(ROWS, TOKENS), np.zeros(ROWS, dtype=np.int64)
    return Matrix(TOKENS * (losses[:, None] + spread * noise), tokens, groups)


def racing(delta: float, epsilon: float, *, blind: bool = False) -> Scheme:
    """Return the race of the library; ``blind`` to labels and tokens, all rows are of one kind to it."""

    def run(matrix: Matrix) -> tuple[int, float]:
        mean: Any = np.full_like(matrix.tokens, matrix.tokens.sum() / len(matrix.tokens), dtype=np.float64)
        finish = race(
            lambda wanted: [matrix.nll[i, places.start : places.stop] for i, places in wanted.items()],
            round_sizes(matrix.nll.shape[1]),
            [1.0] * len(matrix.nll),
            mean if blind else matrix.tokens,
            np.zeros_like(matrix.groups) if blind else matrix.groups,
            delta=delta,
            epsilon=epsilon,
        )
        return finish.last.leader, sum(map(len, finish.nll)) / matrix.nll.size

    return run


def halving(sizes: tuple[int, ...], keep: tuple[int, ...]) -> Scheme:
    """Return a scheme that keeps the best so many after each size, whatever the differences."""

    def run(matrix: Matrix) -> tuple[int, float]:
        alive, seen, spent = np.arange(len(matrix.nll)), 0, 0
        for size, most in zip(sizes, keep, strict=True):
            spent, seen = spent + len(alive) * (size - seen), size
            alive = alive[np.argsort(matrix.nll[alive, :size].sum(axis=1))[:most]]
        return int(alive[0]), spent / matrix.nll.size

    return run


def tried(scheme: Scheme, matrix: Matrix, trials: int, epsilon: float) -> Figures:
    """Return the figures over so many orders of the rows."""
    spent, regret = np.zeros(trials), np.zeros(trials)
    for trial in range(trials):
        order = np.random.default_rng(trial).permutation(matrix.nll.shape[1])
        winner, spent[trial] = scheme(matrix.ordered(order))
        regret[trial] = matrix.losses[winner] - matrix.losses.min()
    return Figures(
        float(spent.mean()),
        float(np.quantile(spent, 0.95)),
        float((regret > epsilon).mean()),
        float((regret <= 1e-5).mean()),
        float(regret.mean()),
    )


def show(title: str, found: Mapping[str, Mapping[str, Figures]], legend: str) -> None:
    """Print one table: a row per matrix, columns per scheme."""
    schemes = list(next(iter(found.values())))
    table = Table("matrix", *schemes, title=title, caption=legend)
    for name, figures in found.items():
        cells = [
            f"{100 * f.spent:.1f} % ({100 * f.spent_most:.0f}), {100 * f.missed:.1f} %, {100 * f.best:.0f} %"
            for f in figures.values()
        ]
        table.add_row(name, *cells)
    Console(width=200).print(table)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--delta", type=float, default=0.05)
    parser.add_argument("--epsilon", type=float, default=0.01)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    measured = {path.stem: read(path) for path in sorted(FOLDER.glob("*.npz"))}
    harder = {f"{name}, gaps x 0.3": matrix.harder(0.3) for name, matrix in measured.items()}
    spreads = (0.5, 0.1, 0.05, 0.03)
    worse = {f"{kind}, sd {sd}": made(kind, sd) for kind in ("normal", "heavy", "rare") for sd in spreads}
    race_of = {"race": racing(given.delta, given.epsilon)}
    simple = {
        "race, labels unknown": racing(given.delta, given.epsilon, blind=True),
        "halving 24-64-160-250": halving((24, 64, 160, 250), (10, 4, 2, 1)),
        "halving 16-40-100-250": halving((16, 40, 100, 250), (8, 4, 2, 1)),
        "48 rows": halving((48,), (1,)),
    }
    legend = "evaluations spent, mean (95th percentile); winner worse than the best by more than epsilon; very best"
    found = {}
    for title, matrices, schemes in (
        ("measured matrices", measured, race_of | simple),
        ("ten times as hard", harder, race_of | simple),
        ("made to be hard", worse, race_of),
    ):
        found[title] = {
            name: {scheme: tried(run, matrix, given.trials, given.epsilon) for scheme, run in schemes.items()}
            for name, matrix in matrices.items()
        }
        show(f"{title}: {given.trials} trials, delta {given.delta}, epsilon {given.epsilon}", found[title], legend)
    if given.json is not None:
        plain = {t: {n: {s: asdict(f) for s, f in by.items()} for n, by in rows.items()} for t, rows in found.items()}
        given.json.write_text(json.dumps(plain, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
