"""`sapo.json`: the base model, and for each task so far its data, candidates, losses and instruction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from sapo.core.errors import ModelError
from sapo.core.settings import expanded
from sapo.core.storage import read_json, undamaged
from sapo.models.settings import Quantization
from sapo.selection.selection import Choice, Selection
from sapo.tasks.load import task_fingerprint

LINEAGE = "sapo.json"
FORMAT = 2
TAKE_AGAIN = "Take the directory from where it was written again."
_LIBRARIES = ("sapo-llm", "torch", "transformers", "peft", "accelerate", "tokenizers", "numpy")


@cache
def library_versions(quantization: Quantization | None = None) -> dict[str, str | None]:
    """Return the versions of this package and of the libraries that numbers depend on; None: not installed."""
    libraries = (*_LIBRARIES, *(["bitsandbytes"] if quantization else []))
    versions: dict[str, str | None] = dict.fromkeys(libraries)
    for library in libraries:
        with suppress(PackageNotFoundError):
            versions[library] = version(library)
    return versions


def lineage(
    trained: Sequence[Choice],
    state: str,
    *,
    base: str,
    method: str,
    policy: str,
    limits: Mapping[str, int],
    template: str | None,
    versions: Mapping[str, str | None],
    dtype: str | None = None,
    quantization: Quantization | None = None,
    earlier: Sequence[Mapping[str, Any]] = (),
    whole: bool = False,
    tokenizer: bool = False,
) -> dict[str, Any]:
    """Return the content of `sapo.json`.

    ``state`` is the fingerprint of the resulting weights, ``template`` that of the rendering; ``limits`` are
    `max_length` and `max_new_tokens`, ``dtype`` and ``quantization`` those of the base as it was trained and tested.
    ``earlier`` are the task entries of the stage that the run itself started from, in any earlier format. ``whole``:
    the folder holds a model of its own instead of an adapter; ``tokenizer``: it holds the tokenizer.
    """
    return {
        "format": FORMAT,
        "base_model": base,
        **({"dtype": dtype} if dtype else {}),
        **({"quantization": quantization} if quantization else {}),
        "method": method,
        "policy": policy,
        "state": state,
        **limits,
        "template": template,
        "versions": dict(versions),
        **({"merged": True} if whole else {}),
        **({"tokenizer": True} if tokenizer else {}),
        "tasks": [*map(dict, earlier), *map(_entry, trained)],
    }


def _entry(trained: Choice) -> dict[str, Any]:
    task = trained.task
    return {
        "task": task.name,
        "instruction": trained.instruction.text,
        "origin": trained.instruction.origin,
        "original_instruction": task.instruction,
        "suffix": task.suffix,
        "labels": list(task.labels),
        "metric": task.metric,
        "data": task_fingerprint(task),
        "train_rows": len(task.train),
        "selection": None if trained.selection is None else _summary(trained.selection),
        **({"mixture": [p.text for p in trained.mixture]} if trained.mixture else {}),
        **({"switches": [list(s) for s in trained.switches]} if trained.switches else {}),
        **({"stopped": list(trained.stopped)} if trained.stopped else {}),
    }


def _summary(selection: Selection) -> dict[str, Any]:
    """Return a selection without the losses of single examples, which the run directory keeps."""
    whole = selection.to_json()
    kept = ("rule", "sample", "rows", "chosen", "tolerance", "strategy", "race", "route", "candidates", "rejected")
    shown = ("text", "origin", "loss", "nll_sum", "tokens", "delta", "ci", "examples", "status", "round")
    return {key: whole[key] for key in kept} | {
        "rows": len(selection.rows),
        "candidates": [{key: candidate[key] for key in shown} for candidate in whole["candidates"]],
        # A text may have been rejected because it holds half a character, which other programs' JSON refuses.
        "rejected": [
            {"text": r.text.encode("utf-8", "backslashreplace").decode(), "reason": r.reason}
            for r in selection.rejected
        ],
    }


def read_lineage(directory: Path) -> Any:
    """Return what `sapo.json` in a stage directory holds, see `lineage`; format 1 lacks some keys.

    Raises:
        ModelError: if there is no such file, or a newer version wrote it.
        RecordError: if it cannot be read.
    """
    path = directory / LINEAGE
    if not path.is_file():
        raise ModelError(
            f"{directory} is not a stage directory (no sapo.json): allowed is RUN_DIR/stages/K-TASK, "
            "or a directory that sapo export or sapo.integrations.trainer.describe wrote to"
        )
    found = read_json(path, TAKE_AGAIN)
    written = found.get("format") if isinstance(found, dict) else None
    if isinstance(written, int) and written > FORMAT:
        raise ModelError(f"{path} has format {written}, but this version of sapo reads 1 to {FORMAT}: use a newer sapo")
    return found


def stored_prompts(lineage: Any) -> dict[str, tuple[str, str]]:
    """Return (instruction, suffix) of each task by name, the one trained last at the end.

    Raises:
        KeyError, TypeError, ValueError: if that is not what ``lineage`` holds.
    """
    prompts: dict[str, tuple[str, str]] = {}
    for entry in lineage["tasks"]:
        # A task that was trained twice takes the place and the prompt of its last time.
        prompts.pop(entry["task"], None)
        prompts[entry["task"]] = (entry["instruction"], entry["suffix"])
    if not prompts:
        raise ValueError("no tasks")
    return prompts


def layout_of(lineage: Any, task: str) -> str:
    """Return how a task's prompts are laid out: "own", this library's way, unless another trainer had others."""
    return str([entry.get("layout", "own") for entry in lineage["tasks"] if entry["task"] == task][-1])


def earlier_tasks(*directories: str | PathLike[str] | None) -> list[dict[str, Any]]:
    """Return the task entries of the first of these that is a stage or merged model; none where none has `sapo.json`.

    Raises:
        ModelError, RecordError: as `read_lineage`, and if its `sapo.json` is damaged.
    """
    try:
        folders = [Path(expanded(fspath(one))) for one in directories if one is not None]
    except ValueError as error:
        raise ModelError(str(error)) from error
    for directory in folders:
        if (directory / LINEAGE).is_file():
            found = read_lineage(directory)
            with undamaged(directory / LINEAGE, TAKE_AGAIN):
                stored_prompts(found)
                return [dict(entry) for entry in found["tasks"]]
    return []
