"""How to read the page of runs: what metrics, test prompts, differences and intervals mean."""

from __future__ import annotations

from collections.abc import Iterator

from sapo.report.blocks import NOTHING, Block, Note, Table
from sapo.report.compare import Arranged
from sapo.report.differences import direction, flat, signed
from sapo.runs.metrics import FIGURES, METRICS
from sapo.runs.results import NLL, PRIMARY
from sapo.selection.differences import LEVEL
from sapo.selection.standings import quantile
from sapo.training.policies import MIXTURES

_TESTED = (
    "Test prompt own: a task that was trained on is tested with the instruction it was trained with, others with their "
    "original one; original: every task with its original instruction; none: without any; a text in quotes: every task "
    "with this instruction."
)
_MIXED = (
    "Tasks were trained with several paraphrases in turn and have no instruction of their own: they are tested with "
    "the original one."
)
_ORIGINAL = "All tasks are trained and tested with their original instructions."
_PAIRED_UNITS = (
    "difference: mean over the units in which both have a value, with its 95 % Student t interval. pairs: how many "
    "these are, of the units in which at least one of the two has one. each unit: the differences themselves, in the "
    "order of the units (–: no pair)."
)
EQUAL = (
    "An interval of no width means that all units differ by exactly the same amount. Coarse scores of few test rows "
    "often do: it is not a sign of certainty."
)
_METRICS = (
    "R[i,j]: the result on task j after training task i, 0 is zero-shot; N: number of tasks. AP: average performance "
    "at the end. LA: learning accuracy, each task right after it was trained on. BWT: backward transfer, what later "
    "training did to earlier tasks. FWT: forward transfer, what it did to tasks not trained on yet. Forgetting (max) "
    "takes the best of noisy cells, so its interval lies a little high."
)
_BEYOND = (
    "What a training does beyond its own prompt. R_q[i,j]: task j after stage i with test prompt q; s: the last stage "
    "that tested it. Spill: the change that a training makes on other tasks, and on its own task with other "
    "prompts. Conditionality: how much better the task is done with its own prompt than with held-out paraphrases (in "
    "NLL, better is below 0). Recoverable: how much better the best of these does than the original: what they bring "
    "back was hidden, not lost; as the best of noisy values it lies a little on the better side."
)
_OBSTACLES = {
    "the same": "the same: no unit, and no draw of the test rows, differs. Coarse scores of few rows often do not.",
    "too small to decide": "too small to decide: the interval contains 0, only touches it, or has no width.",
    "not paired": "not paired: the runs were tested on different rows, so the difference has no interval.",
    "not comparable": "not comparable: the runs use different metrics, or their models split the answers into "
    "different tokens, so the numbers have different units.",
}


def reading(arranged: Arranged) -> Iterator[Block]:
    """Yield what metrics, test prompts, differences and intervals mean."""
    units, results = len(arranged.units), [run.result for run in arranged.runs]
    found = [d for one in arranged.compared for d in one.differences.values()]
    mixed = any(result.policy in MIXTURES for result in results)
    if not (mixed and arranged.only_originals):
        yield Note(_ORIGINAL if arranged.only_originals else _TESTED)
    if mixed:
        yield Note(_MIXED)
    if any(None in s.runs or s.metric(PRIMARY, arranged.prompts[0], "ap").value is None for s in arranged.settings):
        yield Note(f"{NOTHING}: not defined for the method. (n): defined for n of the runs only.")
    if found and arranged.sweep:
        yield Note(_PAIRED_UNITS)
    yield from (Note(text) for kind, text in _OBSTACLES.items() if any(d.verdict == kind for d in found))
    bounds = [d.interval for d in found if d.interval is not None]
    if any(map(flat, bounds)):
        yield Note(EQUAL)
    if units > 1:
        reach = quantile((1 - LEVEL) / 2, units - 1)
        yield Note(
            f"Intervals over units are Student t intervals: mean ± {reach:.2f} standard errors with {units} "
            "units, 1.96 with very many. Few units make wide intervals: too small to decide does not mean that there "
            "is no difference."
        )
    if bounds:
        yield Note(
            f"This page holds {len(bounds)} intervals of differences. If nothing differed, about 5 % of them, "
            f"{len(bounds) * 0.05:.1f} here, would still exclude 0 by chance. Decide which comparison counts before "
            "you look, and take the others as hints."
        )
    rows = [
        (m.title, f"{direction(PRIMARY, m.name)}, {direction(NLL, m.name)}", m.definition, m.source)
        for m in METRICS
        if not signed(m.name) or any(len(result.tasks) > 1 for result in results)
    ]
    rows += [(f.title, NOTHING, f.definition, f.source) for f in FIGURES if arranged.defines(f.name)]
    legend = [_METRICS]
    if any(arranged.defines(figure.name) for figure in FIGURES):
        legend.append(_BEYOND)
    columns = ("metric", "better: score, NLL", "definition", "source")
    yield Table(columns, tuple(rows), "The metrics", tuple(legend), text=(0, 1, 2, 3))
