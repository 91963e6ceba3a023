"""What the rows of a run's tasks hold, before anything was trained on them."""

from __future__ import annotations

from collections.abc import Sequence

from sapo.core.untrusted import one_line
from sapo.report.blocks import NOTHING, Block, Note, Table
from sapo.tasks.findings import data_table, warnings_of
from sapo.tasks.inspection import Inspection, LabelCount

# Labels and reasons that a table shows per task, and characters of one.
_LABELS = 20
_REASONS = 10
_SHOWN = 100
_KINDS = ("train", "selection", "test")
_LEGEND = {
    "train": "training rows",
    "test": "test rows",
    "tokens/row": "mean tokens of a training row, prompt and answer, with the original instruction",
    "longest": "tokens of the longest training row",
    "cut": "training and test inputs longer than max_length, cut in the middle",
    "duplicates": "training rows equal to an earlier one in input and answer",
    "overlap": "test rows whose input is also trained on; inputs are equal here if they differ only in case, white "
    "space, Unicode form or invisible characters",
    "skew": "share of selection rows that would need another label to have the label shares of all training rows, "
    f"0 is best, {NOTHING} without labels or selection rows",
    "unused": "rows of the data that cannot be used",
}


def data_blocks(inspections: Sequence[Inspection]) -> tuple[Block, ...]:
    """Return the table of all tasks, what deserves attention, label shares, and why rows cannot be used."""
    broken, rows = data_table(inspections)
    columns = tuple(column.replace("-\n", "").replace("\n", "") for column in broken)
    legend = "; ".join(f"{column}: {_LEGEND[column]}" for column in columns if column in _LEGEND) + "."
    warnings = [Note(f"{text}.", "bold") for i in inspections for text in warnings_of(i)]
    unused = [i for i in inspections if i.unused.rows]
    return (
        Table(columns, rows, legend=(legend,)),
        *(warnings or [Note("No warnings.")]),
        *(_label_shares(i) for i in inspections if i.labels and (i.rows["train"] or i.rows["test"])),
        *([_unused(unused)] if unused else []),
    )


def _label_shares(inspection: Inspection) -> Table:
    """Return the shares of the commonest labels, in percent of the rows of each kind."""
    totals = (inspection.rows["train"], inspection.selected, inspection.rows["test"])
    shown = [n for n, total in enumerate(totals) if total]
    ranked = sorted(inspection.labels, key=lambda x: (-x.train, -x.test))
    named = [(one_line(repr(x.label), _SHOWN), _counts([x])) for x in ranked[:_LABELS]]
    others = (f"{len(ranked) - _LABELS} other labels", ranked[_LABELS:]), ("not a label", [inspection.outside])
    named += [(name, counts) for name, labels in others if any(counts := _counts(labels))]
    rows = tuple((name, *(f"{100 * counts[n] / totals[n]:.1f} %" for n in shown)) for name, counts in named)
    legend = f"Percent of all {', '.join(f'{totals[n]} {_KINDS[n]}' for n in shown)} rows."
    return Table(("label", *(_KINDS[n] for n in shown)), rows, f"Labels of {inspection.task}", (legend,))


def _counts(labels: Sequence[LabelCount]) -> tuple[int, int, int]:
    return sum(x.train for x in labels), sum(x.selection for x in labels), sum(x.test for x in labels)


def _unused(inspections: Sequence[Inspection]) -> Table:
    rows, hidden = [], 0
    for inspection in inspections:
        shown = inspection.unused.reasons[:_REASONS]
        hidden += inspection.unused.rows - sum(reason.rows for reason in shown)
        for one in shown:
            numbers = ", ".join(map(str, one.first)) + (", ..." if one.rows > len(one.first) else "")
            rows.append((inspection.task, one.split, one_line(one.reason, _SHOWN), str(one.rows), numbers))
    legend = ["numbers: of the first such rows in the data, from 1."]
    if hidden:
        legend.append(f"{hidden} more rows, for less common reasons, are not shown.")
    columns = ("task", "split", "reason", "rows", "numbers")
    return Table(columns, tuple(rows), "Rows that cannot be used", tuple(legend), text=(0, 1, 2, 4))
