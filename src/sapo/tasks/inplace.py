"""Data sets of fine-tuning scripts, with an instruction of their own that can be exchanged in place."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from sapo.core.errors import DataError
from sapo.core.types import Example, Split, Task
from sapo.models.layout import TAKEN_OUT, Side
from sapo.models.sft import MAX_LENGTH, SftRenderer, prompt_and_completion
from sapo.tasks.columns import INPUTS, Columns, holds, meaning_of
from sapo.tasks.files import Broken, quoted
from sapo.tasks.labels import metric_of, recognised_labels
from sapo.tasks.layouts import INSTRUCTION, layout_of, reworded, sides
from sapo.tasks.library import in_memory
from sapo.tasks.rows import Row, content_of, read_split

# Changes what is trained on, as some names of columns mean that do.
_NOT_SCORED = "chat_template_kwargs"


class Rows:
    """A data set in a layout of its own, whose instruction can be exchanged in place.

    Rows that cannot be used, as when they are read from a file, are left out and listed in the task.

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
        DataError: if the layout is not known, a row does not hold the instruction, or no row can be used.
    """

    def __init__(
        self, dataset: Any, instruction: str | None = None, held_out: Any = None, *, name: str = "rows"
    ) -> None:
        self.dataset = dataset
        given: dict[Split, Any] = {"train": dataset} if held_out is None else {"train": dataset, "dev": held_out}
        parts: dict[Split, Any] = {split: in_memory(name, data).splits["train"] for split, data in given.items()}
        every = [row for rows in parts.values() for row in rows if not isinstance(row, Broken)]
        where, columns = layout_of(every)
        notes = _unused_columns(every, columns)
        read = {split: read_split(split, rows, columns) for split, rows in parts.items()}
        unused = [row for _, left in read.values() for row in left]
        said = list(read["train"][0].values())
        if not said:
            ((commonest, count),) = Counter(one.reason for one in unused).most_common(1)
            raise DataError(f"no row can be used, most often ({count} rows) because {commonest}")
        if instruction is None:
            # The column of that name, or the system message. Candidates have no white space at their ends: that of the
            # rows stays, for all of them alike.
            told = {(row.instruction if where == INSTRUCTION else row.system).strip() for row in said}
            if len(told) > 1 or told == {""}:
                raise DataError(
                    "the rows have no instruction in common (neither one system message nor one text in the column "
                    "instruction): pass the text that every row contains as instruction=..."
                )
            (instruction,) = told
        if not isinstance(instruction, str) or not instruction.strip():
            raise DataError(f"instruction = {instruction!r:.80}: pass the text that every row contains")
        original = instruction.strip()
        examples = {
            split: tuple(
                _example(f"{split} row {n}", parts[split][n - 1], row, where, original) for n, row in used.items()
            )
            for split, (used, _) in read.items()
        }
        train = examples["train"]
        asked = {(row.system.strip(), row.instruction.strip(), row.example.history) for row in said}
        # How rows are asked, so that other inputs can be: by one turn of the user, and which instruction where.
        usual = ("alpaca", ("", original, ())) if where == INSTRUCTION else ("system", (original, "", ()))
        self.layout = usual[0] if asked == {usual[1]} else "other"
        labels = recognised_labels(train)
        metric, why = metric_of(labels, train)
        notes.append(f"metric: {metric}, as {why}")
        dev = examples.get("dev", ())
        self.task = Task(name, original, "", labels, metric, train, dev, (), tuple(unused), tuple(notes))

    def renderer(self, tokenizer: Any, max_length: int | None = MAX_LENGTH, *, args: Any = None) -> SftRenderer:
        """Return what encodes these rows as SFTTrainer does; see `SftRenderer`."""
        return SftRenderer(tokenizer, max_length, _taken_out, args=args)

    def completions(self, instruction: str) -> Any:
        """Return the rows with an instruction as a `datasets.Dataset` of prompts and completions."""
        from datasets import Dataset

        pairs = (_taken_out(instruction, "", row) for row in self.task.train)
        return Dataset.from_list([prompt_and_completion(*pair, {}) for pair in pairs])


def _unused_columns(rows: Sequence[Mapping[str, Any]], columns: Columns) -> list[str]:
    """Return a note that names the columns with values that are neither asked nor answered; some are refused."""
    held = Counter(name for row in rows for name, value in row.items() if holds(value) and name not in columns.used)
    asked = any(holds(row.get(name)) for row in rows for name in columns.input)
    texts = {name for row in rows for name in held if holds(row.get(name)) and not isinstance(row[name], bool)}
    for name in held:
        if (kind := meaning_of(name, texts)) is not None or name == _NOT_SCORED:
            raise DataError(f"the column {name!r} is {kind or 'not scored'}, and would not be used: remove the column, "
                            "or the rows")  # fmt: skip
        if columns.input_may_lack and not asked and name.lower() in INPUTS:
            raise DataError(f"the column {name!r} is called like an input, and would not be used: rename it input, or "
                            "remove it")  # fmt: skip
    named = ", ".join(f"{name!r} ({count} values)" for name, count in held.items())
    return [f"columns that are not used: {named}"] if named else []


def _example(what: str, row: Mapping[str, Any], said: Row, where: str, original: str) -> Example:
    """Return a row as an example: what is asked as JSON, with the instruction taken out, and the answer."""
    open_ = reworded(row, where, original, TAKEN_OUT)
    if open_ is None:
        raise DataError(
            f"{what} does not hold the instruction {quoted(original)}: have it in every row; or, for the library to "
            "put it in front of each, say which columns hold what, such as columns={'input': 'prompt', 'answer': "
            "'completion'} or columns={'messages': 'messages'}"
        )
    prompt, completion = map(_as_texts, sides(open_, where, said.example.answer))
    if isinstance(prompt, str) != isinstance(completion, str):
        raise DataError(f"{what}: of prompt and completion one is a text, the other messages")
    # All of a text was read as the answer.
    answer = completion if where == "text" and isinstance(completion, str) else said.example.answer
    if not answer.strip():
        raise DataError(f"{what}: nothing follows the instruction, so there is nothing to learn")
    return Example(json.dumps([prompt, completion], ensure_ascii=False, default=str), answer)


def _as_texts(side: Side) -> Side:
    """Return messages whose contents are texts: parts are joined, as where rows are read."""
    if isinstance(side, str):
        return side
    return [
        turn | {"content": content_of(turn["content"], n)} if isinstance(turn.get("content"), list) else turn
        for n, turn in enumerate(side, start=1)
    ]


def _taken_out(instruction: str, suffix: str, example: Example) -> tuple[Side, Side]:
    prompt, completion = json.loads(example.input)
    if isinstance(prompt, str):
        return prompt.replace(TAKEN_OUT, instruction, 1), completion
    return [{**turn, "content": turn["content"].replace(TAKEN_OUT, instruction, 1)} for turn in prompt], completion
