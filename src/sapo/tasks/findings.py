"""An inspection in words: what deserves attention, and a table of all tasks."""

from __future__ import annotations

from collections.abc import Sequence

from sapo.core.untrusted import folded, one_line
from sapo.tasks.inspection import Inspection

_SKEWED = 0.1
# Reasons, labels and characters of them that a warning names.
_NAMED = 3
_NAMED_LABELS = 5
_SHOWN = 120
_NOTHING = "–"


def warnings_of(inspection: Inspection) -> tuple[str, ...]:
    """Return what deserves attention, one sentence each without a full stop, with what to do.

    The sentences quote labels and reasons from the data.
    """
    rows, outside, skew, lengths = inspection.rows, inspection.outside, inspection.skew, inspection.lengths
    names = ", ".join(repr(one_line(x.label, _SHOWN)) for x in inspection.labels[:_NAMED_LABELS])
    names += ", ..." if len(inspection.labels) > _NAMED_LABELS else ""
    beyond = f"answers are not among the labels {names}: correct the answers, or add the missing labels"
    similar: dict[str, list[str]] = {}
    for label in inspection.labels:
        similar.setdefault(folded(label.label), []).append(label.label)
    cut = ((lengths.cut, "training input"), (lengths.cut_test, "test input")) if lengths else ()
    found = (
        (
            inspection.overlap,
            f"{inspection.overlap} of {rows['test']} test rows have inputs that are also trained on: set "
            "data.drop_overlap: true to leave those training rows out",
        ),
        (
            inspection.dropped,
            f"left out, as their inputs are also test inputs: {_count(inspection.dropped, 'training row')}; set "
            "data.drop_overlap: false to train on them",
        ),
        (
            inspection.conflicts,
            f"{inspection.conflicts} of {rows['train']} training rows have an input that also occurs with another "
            "answer: correct the answers, or keep one row of each input",
        ),
        (
            inspection.duplicates,
            f"{inspection.duplicates} of {rows['train']} training rows repeat an earlier row: remove them, unless they "
            "are meant to count more than once",
        ),
        (outside.train, f"{outside.train} of {rows['train']} training {beyond}"),
        (outside.test, f"{outside.test} of {rows['test']} test {beyond}"),
        *(
            (
                len(spellings) > 1,
                "labels that differ in case, white space or invisible characters only: "
                f"{', '.join(map(repr, spellings))}; they count as different answers: write them alike",
            )
            for spellings in similar.values()
        ),
        (
            skew is not None and skew > _SKEWED,
            f"the labels of the {inspection.selected} selection rows are not those of all training rows (skew "
            f"{skew or 0:.2f}): set selection.sample: stratified, or raise selection.examples",
        ),
        *(
            (
                count,
                f"cut in the middle, as longer than max_length: {_count(count, what)}; raise max_length if the model's "
                "context allows it, or shorten them",
            )
            for count, what in cut
        ),
    )
    name = one_line(inspection.task, _SHOWN)
    return (*(f"{name}: {sentence}" for occurs, sentence in found if occurs), *unused_warning(inspection))


def unused_warning(inspection: Inspection) -> tuple[str, ...]:
    """Return the one of these sentences that names the rows that cannot be used; none where all can."""
    unused, reasons = inspection.unused, inspection.unused.reasons
    if not unused.rows:
        return ()
    # One that is left over is named too.
    shown = reasons if len(reasons) <= _NAMED + 1 else reasons[:_NAMED]
    named = [f"{r.rows} {r.split} ({one_line(r.reason, _SHOWN)}; first: row {r.first[0]})" for r in shown]
    others = "" if shown is reasons else ", and others"
    return (
        f"{one_line(inspection.task, _SHOWN)}: left out, as they cannot be used: {_count(unused.rows, 'row')}, "
        f"{', '.join(named)}{others}; correct them in the data, or leave them out",
    )


def data_table(inspections: Sequence[Inspection]) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Return headings, and a row of texts per task; columns of lengths only where there are lengths.

    A heading may be broken where it holds a line break; a hyphen before that belongs to the break.
    """
    sized = any(i.lengths is not None for i in inspections)
    lengths = ("tokens\n/row", "longest", "cut") if sized else ()
    columns = ("task", "train", "test", *lengths, "dupli-\ncates", "over-\nlap", "skew", "unused")
    return columns, tuple(_row(inspection, sized=sized) for inspection in inspections)


def _row(inspection: Inspection, *, sized: bool) -> tuple[str, ...]:
    train, lengths, skew = inspection.rows["train"], inspection.lengths, inspection.skew
    texts = [inspection.task, str(train) if train else _NOTHING, str(inspection.rows["test"])]
    if sized and lengths is None:
        texts += [_NOTHING] * 3
    elif sized and lengths is not None:
        cut = str(lengths.cut + lengths.cut_test)
        texts += [f"{lengths.tokens / train:.0f}", str(lengths.longest), cut] if train else [_NOTHING, _NOTHING, cut]
    texts += [str(inspection.duplicates), str(inspection.overlap)] if train else [_NOTHING, _NOTHING]
    return (*texts, _NOTHING if skew is None else f"{skew:.2f}", str(inspection.unused.rows))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
