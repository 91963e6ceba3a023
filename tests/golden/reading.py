"""Where values lie in files and objects: a changed layout is followed here alone.

What is returned has a form of its own, that of the recorded values. Times, versions, paths and fingerprints are left
out: they differ between machines, or may be computed in another way.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Found:
    """What a run left behind.

    Attributes:
        values: compared with a tolerance.
        bits: SHA-256 of the raw bytes of every tensor by name, compared on the machine that recorded them.
    """

    values: Json
    bits: dict[str, str] = field(default_factory=dict)


def of_run(run_dir: Path) -> Found:
    """A run directory: of one run, or of a loop of a user's own."""
    tensors = dict(_tensors(run_dir))
    results = json.loads((run_dir / "results.json").read_text(encoding="utf-8"))
    values = {
        "candidates": {path.stem: _candidates(_step(path)) for path in _files(run_dir, "candidates")},
        "selections": {path.stem: of_selection(_step(path)) for path in _files(run_dir, "selections")},
        "training": {path.stem: _training(_step(path)) for path in _files(run_dir, "training")},
        "cells": {_place(path, results): _cell(_step(path)) for path in _files(run_dir, "cells")},
        **_results(results),
        "weights": {name: _weight(tensor) for name, tensor in tensors.items()},
    }
    return Found(values, {name: _bits(tensor) for name, tensor in tensors.items()})


def of_sweep(run_dir: Path) -> Found:
    """A sweep: its records, and the weights of all its runs."""
    records = [json.loads(line) for line in (run_dir / "records.jsonl").read_text(encoding="utf-8").splitlines()]
    tensors = {
        f"{record['name']}/{name}": tensor for record in records for name, tensor in _tensors(run_dir / record["name"])
    }
    values = {
        "records": {record["name"]: _sweep_record(record) for record in records},
        "weights": {name: _weight(tensor) for name, tensor in tensors.items()},
    }
    return Found(values, {name: _bits(tensor) for name, tensor in tensors.items()})


def of_study(run_dir: Path) -> Found:
    """A study: its records."""
    records = [json.loads(line) for line in (run_dir / "study.jsonl").read_text(encoding="utf-8").splitlines()]
    gone = ("study", "seconds", "config", "versions", "data", "format")
    return Found({"records": [{key: value for key, value in record.items() if key not in gone} for record in records]})


def of_selection(value: Mapping[str, Any]) -> Json:
    """What `select` found, as JSON."""
    race, same = value["race"], ("text", "origin", "status", "round", "loss", "delta", "gap")
    return {
        "chosen": value["candidates"][value["chosen"]]["text"],
        **{key: value[key] for key in ("rows", "tolerance", "forward_tokens")},
        "race": race and [race["rounds"], race["end"], race["tolerance"]],
        "rejected": [[one["text"], one["reason"]] for one in value["rejected"]],
        "candidates": [
            {
                **{key: one[key] for key in same},
                "interval": one["ci"],
                "nll": one["losses"]["nll"],
                "tokens": one["losses"]["tokens"],
            }
            for one in value["candidates"]
        ],
    }


def of_weights(model: torch.nn.Module) -> Found:
    """The parameters of a model."""
    tensors = {name: tensor.detach() for name, tensor in model.named_parameters()}
    return Found(
        {"weights": {name: _weight(tensor) for name, tensor in tensors.items()}},
        {name: _bits(tensor) for name, tensor in tensors.items()},
    )


def is_amid_second_training(run_dir: Path) -> bool:
    """Whether the first task is trained and recorded, and the second training has left a checkpoint."""
    return any(run_dir.glob("training/1-*.json")) and any(
        run_dir.glob("unfinished/2-*/checkpoint-*/trainer_state.json")
    )


def _files(run_dir: Path, kind: str) -> list[Path]:
    return sorted((run_dir / kind).rglob("*.json"))


def _step(path: Path) -> Json:
    value: Json = json.loads(path.read_text(encoding="utf-8"))["value"]
    return value


def _candidates(value: Mapping[str, Any]) -> Json:
    return {
        "texts": [[one["text"], one["origin"]] for one in value["candidates"]],
        "rejected": [[one["text"], one["reason"]] for one in value["rejected"]],
    }


def _training(value: Mapping[str, Any]) -> Json:
    """Of a loop of a user's own only the instruction is known."""
    if "steps" not in value:
        return {"instructions": [[value["instruction"], []]]}
    return {
        **{key: value[key] for key in ("steps", "losses", "objectives")},
        "instructions": [[one["text"], one["switches"]] for one in value["instructions"]],
        "alarms": [_alarm(alarm) for alarm in value["alarms"]],
    }


def _alarm(value: Mapping[str, Any]) -> Json:
    return {key: value[key] for key in ("step", "back_to", "watched", "increase", "low", "updates")}


def _cell(value: Mapping[str, Any]) -> Json:
    same = {key: value[key] for key in ("instruction", "predictions", "scores")}
    return {**same, "nll": value["losses"]["nll"], "tokens": value["losses"]["tokens"]}


def _place(path: Path, results: Mapping[str, Any]) -> str:
    """The stage, the task and the test prompt of a cell; held-out paraphrases are counted."""
    task, name = path.stem.rsplit(".", 1)
    held = (results.get("robustness") or {}).get(task, {}).get("texts", [])
    if name.startswith("text-"):
        name = f"held-out-{held.index(_step(path)['instruction']) + 1}"
    return f"{path.parent.name}/{task}.{_named(name)}"


def _named(value: Any) -> Any:
    """The values with test prompts as they were named when values were recorded."""
    if isinstance(value, Mapping):
        return {_named(key): _named(one) for key, one in value.items()}
    return "selected" if value == "own" else value


def _results(value: Mapping[str, Any]) -> Json:
    value = {**value, **{key: _named(value[key]) for key in ("test_prompt", "matrices", "metrics_all", "watch")}}
    found = {
        "tasks": value["tasks"],
        "primary": [value["primary_metric"], value["primary_metrics"]],
        "main": [value["test_prompt"], value["matrix"], _metrics(value["metrics"])],
        "matrices": value["matrices"],
        "metrics": {
            measure: {prompt: _metrics(metrics) for prompt, metrics in prompts.items()}
            for measure, prompts in value["metrics_all"].items()
        },
        **{key: value[key] for key in ("watch", "instructions", "test_rows")},
        "wordings": value.get("robustness"),
        "guard": [[one["task"], _alarm(one)] for one in value.get("guard") or ()],
    }
    return {key: one for key, one in found.items() if one or one == 0}


def _metrics(value: Mapping[str, Any]) -> Json:
    return {name: [one["value"], one["interval"], one["reason"]] for name, one in value.items()}


def _sweep_record(record: Mapping[str, Any]) -> Json:
    config, measures = record["config"], ("primary", "nll")
    record = {**record, **{key: _named(record[key]) for key in ("matrices", "metrics_all", "watch")}}
    kept = ("text", "origin", "original", "switches")
    return {
        "sequence": record["sequence"],
        **{key: config[key] for key in ("method", "policy", "seed")},
        "tasks": record["tasks"],
        "instructions": {task: {key: one.get(key) for key in kept} for task, one in record["instructions"].items()},
        "test_rows": record["test_rows"],
        "matrices": {measure: record["matrices"][measure] for measure in measures},
        "watch": {task: {measure: one[measure] for measure in measures} for task, one in record["watch"].items()},
        "crossed": record.get("crossed"),
        "metrics": {
            measure: {prompt: _metrics(metrics) for prompt, metrics in record["metrics_all"][measure].items()}
            for measure in measures
        },
    }


def _tensors(run_dir: Path) -> Iterable[tuple[str, torch.Tensor]]:
    """Tensors of every stage, and what methods remember beside them, by stage and name."""
    for path in sorted((run_dir / "stages").rglob("*.safetensors")):
        place = path.parent.relative_to(run_dir / "stages").as_posix()
        # Weights are told apart by their names, whatever their file is called; memories by their file too.
        place += "" if path.stem in ("adapter_model", "model") else f"/{path.stem}"
        for name, tensor in sorted(load_file(path).items()):
            yield f"{place}: {name}", tensor


def _weight(tensor: torch.Tensor) -> list[Any]:
    """Shape, norm, and the product with a vector that is the same everywhere."""
    flat = tensor.double().flatten()
    # By hand: torch promises no numbers from a seed over versions.
    steps = torch.arange(1, len(flat) + 1, dtype=torch.float64)
    vector = torch.sin(steps * 12.9898) * 1.5
    return [list(tensor.shape), float(flat.norm()), float(flat @ vector)]


def _bits(tensor: torch.Tensor) -> str:
    raw = tensor.contiguous().flatten().view(torch.uint8).cpu().numpy().tobytes()
    return hashlib.sha256(raw).hexdigest()
