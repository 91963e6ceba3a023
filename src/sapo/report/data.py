"""What the rows of a run's tasks hold, before anything was trained on them."""

from __future__ import annotations

from collections.abc import Sequence

from sapo.report.blocks import NOTHING, Block, Note, Table, one_line
from sapo.tasks.findings import checked, data_table, warnings_of
from sapo.tasks.inspection import Inspection, LabelCount

# Labels and reasons that a table shows per task, and characters of one.
_LABELS = 20
_REASONS = 10
_SHOWN = 100
_LEGEND = {
    "train": "training rows",
    "test": "test rows",
    "tokens\n/row": "mean tokens of a training row, prompt and answer, with the original instruction",
    "longest": "tokens of the longest training row",
    "cut": "training and test inputs longer than max_length, cut in the middle",
    "dupli-\ncates": "training rows equal to an earlier one in input and answer",
    "over-\nlap": "test rows whose input is also trained on; inputs are equal here if they differ only in case, white "
    "space, Unicode form or invisible characters",
    "skew": "share of selection rows that would need another label to have the label shares of all training rows, "
    f"0 is best, {NOTHING} without labels or selection rows",
    "unused": "rows of the data that cannot be used",
}


def data_blocks(inspections: Sequence[Inspection]) -> tuple[Block, ...]:
    """Return the table of all tasks, what deserves attention, label shares, and why rows cannot be used."""
    columns, rows = data_table(inspections)
    legend = "; ".join(f"{_whole(column)}: {_LEGEND[column]}" for column in columns if column in _LEGEND) + "."
    shown = tuple((one_line(row[0]), *row[1:]) for row in rows)
    table = Table(tuple(map(_whole, columns)), shown, legend=(legend,))
    warnings = [Note(f"{one_line(text)}.", "strong") for i in inspections for text in warnings_of(i)]
    unused = [i for i in inspections if i.unused_rows]
    return (
        table,
        *(warnings or [Note(checked(inspections))]),
        *(_label_shares(i) for i in inspections if i.labels),
        *([_unused(unused)] if unused else []),
    )


def _label_shares(inspection: Inspection) -> Table:
    """Return the shares of the commonest labels, in percent of the rows of each kind."""
    totals = (inspection.rows["train"], inspection.selected, inspection.rows["test"])
    shown = [n for n, total in enumerate(totals) if total]
    ranked = sorted(inspection.labels, key=lambda x: (-x.train, -x.test))
    counts = [(one_line(repr(x.label), _SHOWN), _counts(x)) for x in ranked[:_LABELS]]
    hidden = ranked[_LABELS:]
    if hidden:
        sums = tuple(map(sum, zip(*map(_counts, hidden), strict=True)))
        counts.append((f"{len(hidden)} other labels", sums))
    if any(_counts(inspection.outside)):
        counts.append(("none of the labels", _counts(inspection.outside)))
    rows = tuple(
        (name, *(f"{100 * count[n] / totals[n]:.1f} %" for n in shown), *([] if shown else [NOTHING]))
        for name, count in counts
    )
    kinds = ("train", "selection", "test")
    columns = ("label", *(kinds[n] for n in shown), *([] if shown else ["rows"]))
    legend = f"Percent of all {', '.join(f'{totals[n]} {kinds[n]}' for n in shown)} rows." if shown else "No rows."
    return Table(columns, rows, f"Labels of {one_line(inspection.task)}", (legend,))


def _unused(inspections: Sequence[Inspection]) -> Table:
    rows, hidden = [], 0
    for inspection in inspections:
        shown = inspection.reasons[:_REASONS]
        hidden += inspection.unused_rows - sum(reason.count for reason in shown)
        for reason in shown:
            numbers = ", ".join(map(str, reason.rows)) + (", ..." if reason.count > len(reason.rows) else "")
            name, text = one_line(inspection.task), one_line(reason.text, _SHOWN)
            rows.append((name, reason.split, text, str(reason.count), numbers))
    legend = ["numbers: of the first such rows in the data, from 1."]
    if hidden:
        legend.append(f"{hidden} more rows, for less common reasons, are not shown.")
    columns = ("task", "split", "reason", "rows", "numbers")
    return Table(columns, tuple(rows), "Rows that cannot be used", tuple(legend), text=(0, 1, 2, 4))


def _counts(count: LabelCount) -> tuple[int, ...]:
    return (count.train, count.selection, count.test)


def _whole(column: str) -> str:
    return column.replace("-\n", "").replace("\n", "")
