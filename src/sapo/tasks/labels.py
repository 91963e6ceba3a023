"""The closed set of a task's answers, where there is one: given by the user, or recognised."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from sapo.core.types import Example, Split
from sapo.models.text_metrics import words_of
from sapo.tasks.files import quoted

# Answers are taken for a closed set of labels up to these limits.
_MOST_LABELS = 20
_ROWS_PER_LABEL = 5
_LONGEST_LABEL = 60
_SHOWN_LABELS = 6
# Words that make an answer prose, and the share of its characters that they hold.
_PROSE = 3
_LETTERS = 0.75


def labels_of(
    given: tuple[str, ...] | None, classes: tuple[str, ...], examples: Mapping[Split, tuple[Example, ...]]
) -> tuple[tuple[str, ...], list[str]]:
    """Return the labels, given, declared as ``classes`` of the answer's column, or recognised, and notes about them."""
    if given is not None:
        return given, _strangers(given, examples) if given else []
    labels = recognised_labels(examples["train"], classes)
    if not labels:
        return (), []
    shown = ", ".join(map(repr, labels[:_SHOWN_LABELS])) + (", ..." if len(labels) > _SHOWN_LABELS else "")
    source = "the data declare" if classes else "the training answers are"
    different = "one text" if len(labels) == 1 else f"{len(labels)} different texts"
    note = f"labels recognised: {source} {different} ({shown})"
    return labels, [note, *_strangers(labels, examples)]


def recognised_labels(train: Sequence[Example], classes: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Return the labels, the commonest first: the declared classes; or the answers where few, short and repeated."""
    counts = Counter(row.answer for row in train)
    if classes:
        return tuple(sorted(dict.fromkeys(classes), key=lambda name: -counts[name]))
    closed = (
        len(counts) <= _MOST_LABELS
        and len(train) >= _ROWS_PER_LABEL * len(counts)
        and min(counts.values(), default=0) > 1
        and all(len(answer) <= _LONGEST_LABEL for answer in counts)
        and not any(row.references for row in train)
    )
    return tuple(sorted(counts, key=lambda answer: (-counts[answer], answer))) if closed else ()


def _strangers(labels: tuple[str, ...], examples: Mapping[Split, tuple[Example, ...]]) -> list[str]:
    notes = []
    for split, name in (("train", "training"), ("dev", "dev"), ("test", "test")):
        rows = examples.get(split, ())  # type: ignore[call-overload]
        outside = [row.answer for row in rows if row.answer not in labels]
        if outside:
            notes.append(
                f"{len(outside)} of {len(rows)} {name} answers lie outside the labels, such as {quoted(outside[0])}"
            )
    return notes


def metric_of(labels: Sequence[str], train: Sequence[Example], listed: int = 0) -> tuple[str, str]:
    """Return the name of a metric that can tell right answers from wrong ones, and why it is taken.

    ROUGE-L compares words: it takes -5 for 5, and half of 3.8 for 3.2. ``listed`` training rows answer with a list.
    """
    if labels:
        return "exact_match", "the answers are labels"
    if 2 * listed > len(train):
        return "list_f1", "the answers are lists"
    prose = sum(_is_prose(row.answer) for row in train)
    if 2 * prose > len(train):
        return "rouge_l", "most answers are prose"
    return "exact_match", "most answers are numbers, single words, symbols or code"


def _is_prose(answer: str) -> bool:
    words = [word for word in words_of(answer) if not any(map(str.isdigit, word))]
    return len(words) >= _PROSE and sum(map(len, words)) > _LETTERS * len("".join(answer.split()))
