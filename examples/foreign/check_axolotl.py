"""axolotl's token ids and labels beside SAPO's.

    python examples/foreign/check_axolotl.py OUT

Loads every exported data set with the functions that `axolotl preprocess` calls and compares all rows: exported as
messages, the same with what makes the labels equal for this model, and exported as token ids; then trains one step on
the latter as `axolotl train` does, with learning rate 0 and all weights, and compares the logged loss.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

os.environ.setdefault("AXOLOTL_DO_NOT_TRACK", "1")

import yaml
from axolotl.cli.config import load_cfg
from axolotl.common.datasets import load_datasets
from axolotl.loaders import load_tokenizer
from comparison import Comparison, Tokens

# The template ends a turn in this after its end-of-turn token. It is scored, and not trained unless it is named.
LINE_BREAK = {"eot_tokens": ["\n"]}
# Rows that spell a special token become that token here, and a row longer than sequence_len is left out.
SPELLED = (0, 1, 2, 3, 6)


def settings(out: Path, model: str, name: str, part: dict[str, Any]) -> str:
    """Write a configuration: a model, one process, the order of the rows kept, and ``part``."""
    given = {
        "base_model": model,
        "sequence_len": 1664,
        "micro_batch_size": 1,
        "gradient_accumulation_steps": 1,
        "num_epochs": 1,
        "learning_rate": 0.0,
        "optimizer": "adamw_torch",
        "attn_implementation": "sdpa",
        "bf16": False,
        "dataset_num_proc": 1,
        "shuffle_merged_datasets": False,
        "dataset_prepared_path": str(out / "prepared" / name),
        "output_dir": str(out / "trained" / "axolotl"),
    }
    path = out / f"axolotl-{name}.yaml"
    path.write_text(yaml.safe_dump({**given, **part}), encoding="utf-8")
    return str(path)


def exported(out: Path, task: str, folder: str = "axolotl") -> dict[str, Any]:
    """Return what the export wrote to be merged into the configuration."""
    return dict(yaml.safe_load((out / folder / f"{task}.yaml").read_text(encoding="utf-8")))


def made(configuration: str) -> list[Tokens]:
    """Return a data set's rows as axolotl trains on them."""
    rows = load_datasets(cfg=load_cfg(configuration)).train_dataset
    return [(row["input_ids"], row["labels"]) for row in rows]


def trained(configuration: str) -> float:
    """Return the loss that the first step of a training logs."""
    if importlib.util.find_spec("triton") is None:
        # axolotl imports its GPU kernels before any training, on CPUs too, where none of them is called.
        for name in ("triton", "triton.language"):
            sys.modules[name] = MagicMock(__spec__=ModuleSpec(name, None), __path__=[], __version__="3.4.0")
    from axolotl.train import train

    cfg = load_cfg(configuration)
    _, _, trainer = train(cfg=cfg, dataset_meta=load_datasets(cfg=cfg))
    return float(trainer.state.log_history[0]["loss"])


def main(out: Path) -> None:
    """Compare everything."""
    comparison = Comparison(out)
    tasks, model = comparison.reference["tasks"], comparison.reference["model"]
    first = settings(out, model, "reviews", exported(out, "reviews"))
    comparison.decode = load_tokenizer(load_cfg(first)).decode
    for task, found in tasks.items():
        every = range(len(found["rows"]))
        comparison.rows(task, made(settings(out, model, task, exported(out, task))), every, "as exported")
        part = {**exported(out, task), **LINE_BREAK}
        known = SPELLED if task == "spelled" else ()
        comparison.rows(task, made(settings(out, model, f"{task}-break", part)), known, "line break trained")
        part = exported(out, task, "axolotl-tokens")
        comparison.rows(task, made(settings(out, model, f"{task}-tokens", part)), (), "exported as token ids")
    for task in ("reviews", "talks"):
        step = {"gradient_accumulation_steps": len(tasks[task]["rows"]), "max_steps": 1, "logging_steps": 1}
        part = {**exported(out, task, "axolotl-tokens"), **step, "save_strategy": "no"}
        comparison.loss(task, trained(settings(out, model, f"{task}-step", part)))
    comparison.end()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
