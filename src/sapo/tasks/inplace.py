"""Data sets of fine-tuning scripts, with an instruction of their own that can be exchanged in place."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sapo.core.errors import DataError
from sapo.core.types import Example, Task
from sapo.models.layout import TAKEN_OUT, Side
from sapo.models.sft import MAX_LENGTH, SftRenderer, prompt_and_completion
from sapo.tasks.files import quoted
from sapo.tasks.labels import metric_of, recognised_labels
from sapo.tasks.layouts import Row, answer_of, layout_of, read_row, shared_instruction

_WORD = "Rows that hold no instruction are worded by your own code, with selection.instruction.text"


class Rows:
    """A data set in a layout of its own, whose instruction can be exchanged in place.

    Attributes:
        dataset: as it was given.
        task: the same rows for `sapo.select`. Their inputs are only read by this object's renderer.
        layout: how rows are asked: "system" (the instruction as system message, then one turn of the user), "alpaca",
            or "other".

    Args:
        dataset: a `datasets.Dataset`, or a list of rows: messages, conversations, prompt and completion, or alpaca.
        instruction: text that stands in the system message, the leading user turn or the column instruction of
            every row; by default what all rows share there.
        held_out: more rows in that layout, which are not trained on, for `sapo.integrations.trainer.SapoCallback`.
        name: of the task, in messages and reports.

    Raises:
        DataError: if the layout is not known, or a row does not hold the instruction, or has no answer.
    """

    def __init__(
        self, dataset: Any, instruction: str | None = None, held_out: Any = None, *, name: str = "rows"
    ) -> None:
        rows, others = _readable(dataset, "row"), _readable([] if held_out is None else held_out, "held-out row")
        if not rows:
            raise DataError("the data set has no rows")
        self.dataset = dataset
        original = shared_instruction(rows) if instruction is None else instruction
        if not isinstance(original, str) or not original.strip():
            raise DataError(f"instruction = {original!r:.80}: pass the text that every row contains")
        train, dev = _examples(rows, original, "row"), _examples(others, original, "held-out row")
        self.layout = layout_of(rows, original)
        labels = recognised_labels(train)
        metric, why = metric_of(labels, train)
        unused = Counter(column for row in (*rows, *others) for column in row.unused)
        named = ", ".join(f"{column!r} ({count} values)" for column, count in unused.items())
        notes = ([f"columns that are not used: {named}"] if named else []) + [f"metric: {metric}, as {why}"]
        self.task = Task(name, original, "", labels, metric, train, dev, (), notes=tuple(notes))

    def renderer(self, tokenizer: Any, max_length: int | None = MAX_LENGTH, *, args: Any = None) -> SftRenderer:
        """Return what encodes these rows as SFTTrainer does; see `SftRenderer`."""
        return SftRenderer(tokenizer, max_length, _taken_out, args=args)

    def completions(self, instruction: str) -> Any:
        """Return the rows with an instruction as a `datasets.Dataset` of prompts and completions."""
        from datasets import Dataset

        pairs = (_taken_out(instruction, "", row) for row in self.task.train)
        return Dataset.from_list([prompt_and_completion(*pair, {}) for pair in pairs])


def exchange(data: Any, old: str, new: str) -> Any:
    """Return rows of any kind, see `sapo.selection.selection.Selection.apply`, with ``new`` in place of ``old``.

    Raises:
        DataError: if a row does not hold the old text, or the layout is not known.
    """
    from datasets import Dataset, DatasetDict, IterableDataset
    from pandas import DataFrame

    def changed(row: Any) -> dict[str, Any]:
        try:
            known = read_row(row)
            found = known.reworded(old, new)
            # A row that holds the new text already, as after a second call, stays: frames hold the original themselves.
            if found is None or old in new:
                found = known.reworded(new, new) or found
        except DataError as error:
            raise DataError(f"{error}. {_WORD}") from error
        if found is None:
            raise DataError(f"a row does not hold the instruction {quoted(old)}: {quoted(row)}. {_WORD}")
        return found

    if isinstance(data, (Dataset, DatasetDict, IterableDataset)):
        return data.map(changed)
    if isinstance(data, DataFrame):
        rows = [changed(row) for row in data.to_dict("records")]
        return data.assign(**{name: [row[name] for row in rows] for name in data.columns})
    if isinstance(data, (list, tuple)):
        return [changed(row) for row in data]
    raise DataError(f"rows in a {type(data).__name__}: allowed are a Dataset, a DataFrame or a list of rows. {_WORD}")


def as_dataset(data: Any) -> Any:
    """Return a `datasets.Dataset` of one, of an IterableDataset or of a pandas DataFrame.

    Raises:
        DataError: if it is something else.
    """
    from datasets import Dataset, IterableDataset
    from pandas import DataFrame

    if isinstance(data, DataFrame):
        return Dataset.from_pandas(data, preserve_index=False)
    if isinstance(data, IterableDataset):
        return Dataset.from_list(list(data))
    if isinstance(data, Dataset):
        return data
    raise DataError(
        f"rows in a {type(data).__name__}: allowed are one split of a Dataset, a DataFrame or a list of rows"
    )


def records(data: Any) -> list[Any]:
    """Return rows of any kind as a list.

    Raises:
        DataError: if they are something else than one table of rows.
    """
    rows = list(data if isinstance(data, (list, tuple)) else as_dataset(data))
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, Mapping):
            raise DataError(f"row {number}: {quoted(row)} instead of columns: give one split of a data set")
    numpys = (np.ndarray, np.generic)
    return [{k: value.tolist() if isinstance(value, numpys) else value for k, value in row.items()} for row in rows]


def _readable(dataset: Any, what: str) -> list[Row]:
    """Return the rows of a data set, each checked for itself."""
    rows = []
    for number, columns in enumerate(records(dataset), start=1):
        try:
            rows.append(read_row(columns))
        except DataError as error:
            raise DataError(f"{what} {number}: {error}") from error
    return rows


def _examples(rows: Sequence[Row], original: str, what: str) -> tuple[Example, ...]:
    """Return rows as examples: what is asked as JSON, with the instruction taken out, and the answer."""
    found = []
    for number, row in enumerate(rows, start=1):
        columns = row.reworded(original, TAKEN_OUT)
        if columns is None:
            raise DataError(f"{what} {number} does not hold the instruction {quoted(original)}")
        open_ = read_row(columns)
        asked = json.dumps([open_.prompt, open_.completion], ensure_ascii=False)
        found.append(Example(asked, answer_of(open_.completion)))
    return tuple(found)


def _taken_out(instruction: str, suffix: str, example: Example) -> tuple[Side, Side]:
    prompt, completion = json.loads(example.input)
    if isinstance(prompt, str):
        return prompt.replace(TAKEN_OUT, instruction, 1), completion
    return [{**turn, "content": turn["content"].replace(TAKEN_OUT, instruction, 1)} for turn in prompt], completion
