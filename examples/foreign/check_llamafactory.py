"""LLaMA-Factory's token ids, labels and first loss beside SAPO's.

    python examples/foreign/check_llamafactory.py OUT

Loads every exported data set with the functions that `llamafactory-cli train` calls, in its order, and compares all
rows; then trains one step with learning rate 0 and compares the logged loss.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from comparison import Comparison, Tokens
from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
from llamafactory.hparams import get_train_args
from llamafactory.model import load_tokenizer
from llamafactory.train.tuner import run_exp

# Rows that spell a special token become that token here; {{idx}} is replaced; a long row is cut at another place.
SPELLED = (0, 1, 2, 3, 5, 6)
# LLaMA-Factory's template smollm2 has another default system message: it ends in a full stop.
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


def settings(out: Path, model: str, task: str, rows: int) -> dict[str, Any]:
    """Return what stands in the YAML: no template, so that it is taken from the model's own."""
    return {
        "model_name_or_path": model,
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "lora_dropout": 0.0,
        "dataset_dir": str(out / "llamafactory"),
        "dataset": task,
        "cutoff_len": 1664,
        "mask_history": True,
        "overwrite_cache": True,
        "output_dir": str(out / "trained" / "llamafactory" / task),
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": rows,
        "max_steps": 1,
        "learning_rate": 0.0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "overwrite_output_dir": True,
        "use_cpu": True,
    }


def made(given: dict[str, Any]) -> list[Tokens]:
    """Return a data set's rows as LLaMA-Factory trains on them."""
    model, data, training, _, _ = get_train_args(dict(given))
    loaded = load_tokenizer(model)
    template = get_template_and_fix_tokenizer(loaded["tokenizer"], data)
    rows = get_dataset(template, model, data, training, stage="sft", **loaded)["train_dataset"]
    return [(row["input_ids"], row["labels"]) for row in rows]


def trained(given: dict[str, Any]) -> float:
    """Return the loss that the first step of a training logs."""
    run_exp(dict(given))
    state = json.loads((Path(given["output_dir"]) / "trainer_state.json").read_text(encoding="utf-8"))
    return float(state["log_history"][0]["loss"])


def main(out: Path) -> None:
    """Compare everything."""
    comparison = Comparison(out)
    tasks, model = comparison.reference["tasks"], comparison.reference["model"]
    given = {task: settings(out, model, task, len(found["rows"])) for task, found in tasks.items()}
    comparison.decode = load_tokenizer(get_train_args(dict(given["reviews"]))[0])["tokenizer"].decode
    for task in given:
        comparison.rows(task, made(given[task]), SPELLED if task == "spelled" else ())
    comparison.rows("talks", made({**given["talks"], "mask_history": False}), (0, 1), "without mask_history")
    named = {**given["reviews"], "template": "smollm2"}
    comparison.rows("reviews", made(named), range(8), "template: smollm2")
    comparison.rows("reviews", made({**named, "default_system": SYSTEM}), (), "and default_system: that of the model")
    for task in ("reviews", "odd", "talks"):
        comparison.loss(task, trained(given[task]))
    comparison.end()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
