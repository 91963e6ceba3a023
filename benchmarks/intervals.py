"""Joint coverage and width of the simultaneous intervals on few examples, by simulation.

    python benchmarks/intervals.py

For each number of examples and each least spread f: the share of simulated data sets in which all 20 intervals
hold the true difference (0), and the median width in standard errors. Takes about a minute.
"""

from __future__ import annotations

import numpy as np
from rich.console import Console
from rich.table import Table

from sapo.core.types import Floats, Ints
from sapo.selection import differences

SIZES = (4, 6, 8, 12, 24, 48)
FLOORS = (0.0, 0.1, 0.2, 0.33, 0.5)
CANDIDATES = 20
TRIALS = 150


def simulate(rows: int, trial: int) -> tuple[Floats, Ints]:
    """Return NLLs [1 + candidates, rows] with true differences of 0, correlated and heavy-tailed, and token counts."""
    rng = np.random.default_rng(trial + 1000 * rows)
    shared = rng.normal(size=(rows, 1))
    differences = 0.4 * rng.normal(size=(rows, CANDIDATES)) * np.exp(0.5 * shared) + 0.3 * shared
    tokens = rng.integers(2, 5, rows)
    return np.concatenate([np.zeros((1, rows)), differences.T]), tokens


def coverage(rows: int, floor: float) -> tuple[float, float]:
    """Return joint coverage, and the median half-width in standard errors of the mean difference."""
    differences._LEAST_SPREAD = floor or 1e-9
    held, widths = 0, []
    for trial in range(TRIALS):
        nll, tokens = simulate(rows, trial)
        _, intervals = differences.compare(nll, tokens, seed=0)
        pairs = np.array([pair for pair in intervals if pair is not None])
        held += bool(np.all((pairs[:, 0] <= 0) & (pairs[:, 1] >= 0)))
        spread = (nll[1] / tokens.mean()).std() / np.sqrt(rows)
        widths.append((pairs[0, 1] - pairs[0, 0]) / 2 / spread)
    return held / TRIALS, float(np.median(widths))


def main() -> None:
    """Print the table."""
    differences.DRAWS = 500
    table = Table("examples", *(f"f = {floor}" for floor in FLOORS), title="joint coverage, half-width")
    for rows in SIZES:
        table.add_row(str(rows), *("{:.3f}, {:.1f}".format(*coverage(rows, floor)) for floor in FLOORS))
    Console().print(table)


if __name__ == "__main__":
    main()
