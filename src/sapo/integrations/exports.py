"""A task's rows with the chosen instruction, as files that other trainers read.

llamafactory   NAME.json (alpaca) and dataset_info.json, for its `dataset_dir`
axolotl        NAME.jsonl (messages, or token ids) and NAME.yaml, to be merged into its configuration
"""

from __future__ import annotations

import json
from os import PathLike
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from sapo.core.errors import DataError
from sapo.core.storage import read_json, write_json, write_text
from sapo.core.types import Example, Task
from sapo.models.batches import labelled
from sapo.models.layout import messages, turns_of
from sapo.models.render import Encoder
from sapo.selection.selection import Chosen, trained

Format = Literal["llamafactory", "axolotl"]
FORMATS: tuple[str, ...] = get_args(Format)


def export_data(
    task: Task, selection: Chosen, form: Format, directory: str | PathLike[str], renderer: Encoder | None = None
) -> tuple[Path, ...]:
    """Write a task's training rows for another trainer and return the files.

    Rows that candidates show as examples are left out. The text that its chat template gets is that of
    `sapo.models.render`: instruction, blank line, "Text:", input, suffix.
    What such an export wrote there before is replaced; entries of other data sets in a `dataset_info.json` stay.

    Args:
        task: its rows and suffix; its name is that of the data set.
        selection: the chosen instruction, or a text.
        form: of which trainer.
        directory: made if it does not exist.
        renderer: of the model's prompts; with one, rows are token ids and labels, exactly what is scored, where the
            trainer takes them (axolotl).

    Raises:
        CandidateError: if the selection is of another task.
        DataError: if the format is not known or has no rows of token ids, an existing `dataset_info.json` is
            not one, or another data set of this name is there.
        RecordError: if a file cannot be written.
    """
    directory, (task, text) = Path(directory), trained(task, selection)
    name = task.name.replace("/", "-")
    if form == "llamafactory":
        if renderer is not None:
            raise DataError("llamafactory takes texts and makes tokens itself: leave the renderer out")
        return _llamafactory(task, text, name, directory)
    if form == "axolotl":
        return _axolotl(task, text, name, directory, renderer)
    raise DataError(f"format {form!r}: allowed: {', '.join(FORMATS)}")


def _llamafactory(task: Task, text: str, name: str, directory: Path) -> tuple[Path, ...]:
    index = directory / "dataset_info.json"
    known = read_json(index, "Repair it, or choose another directory.") if index.is_file() else {}
    if not isinstance(known, dict):
        raise DataError(f"{index} holds no object of data sets: choose another directory")
    rows = directory / f"{name}.json"
    columns = {"prompt": "instruction", "query": "input", "response": "output", "history": "history"}
    entry = {"file_name": rows.name, "formatting": "alpaca", "columns": columns}
    if known.get(name, entry) != entry or (rows.exists() and name not in known):
        raise DataError(_another(name, rows if rows.exists() else index))
    write_json(rows, [_alpaca(text, task.suffix, row) for row in task.train])
    write_json(index, {**known, name: entry})
    return rows, index


def _alpaca(instruction: str, suffix: str, row: Example) -> dict[str, Any]:
    """Return a row whose instruction and input, put together by a line break, are the last turn of the user."""
    *earlier, last = turns_of(instruction, row, suffix)
    history = [[asked, answered] for asked, answered in zip(earlier[::2], earlier[1::2], strict=True)]
    head = "" if history else instruction
    asked = (
        {"instruction": head, "input": last.removeprefix(f"{head}\n")} if head else {"instruction": last, "input": ""}
    )
    return {**asked, "output": row.answer, "history": history}


def _axolotl(task: Task, text: str, name: str, directory: Path, renderer: Encoder | None) -> tuple[Path, ...]:
    rows, settings = directory / f"{name}.jsonl", directory / f"{name}.yaml"
    if renderer is None:
        lines = [json.dumps({"messages": _marked(text, task.suffix, row)}, ensure_ascii=False) for row in task.train]
    else:
        lines = [
            json.dumps({**labelled(e), "attention_mask": [1] * len(e.ids)})
            for e in renderer.encode(text, task.suffix, task.train)
        ]
    there = settings.read_text(encoding="utf-8", errors="replace") if settings.is_file() else ""
    if (rows.exists() or settings.exists()) and there not in [_axolotl_settings(rows, tokens=t) for t in (False, True)]:
        raise DataError(_another(name, rows if rows.exists() else settings))
    write_text(rows, "".join(f"{line}\n" for line in lines))
    write_text(settings, _axolotl_settings(rows, tokens=renderer is not None))
    return rows, settings


def _axolotl_settings(rows: Path, *, tokens: bool) -> str:
    """Return what is to be merged into axolotl's configuration; it takes token ids and labels unchanged."""
    source: dict[str, Any] = {"path": str(rows), "ds_type": "json"}
    shown: dict[str, Any] = {"datasets": [source]}
    if not tokens:
        source |= {
            "type": "chat_template",
            "field_messages": "messages",
            "message_field_training": "train",
            "train_on_eos": "turn",
        }
        shown = {"chat_template": "tokenizer_default", "train_on_inputs": False, **shown}
    return str(yaml.safe_dump(shown, allow_unicode=True, sort_keys=False))


def _another(name: str, path: Path) -> str:
    return f"{path} is another data set {name!r}, not written by this export: move it, or choose another directory"


def _marked(instruction: str, suffix: str, row: Example) -> list[dict[str, Any]]:
    """Return a row as messages that say whether they are trained on: the answer alone is."""
    *earlier, answer = messages(instruction, suffix, row)
    return [*({**message, "train": False} for message in earlier), {**answer, "train": True}]
