"""Seconds per update of three ways to train on the same batches: sapo, transformers' Trainer, trl's SFTTrainer.

    python benchmarks/training.py DATA_DIR [--json FILE] [--rows SHORT LONG] [--micro N] [--repeats N] [--threads N]

All three train LoRA (r 8, alpha 32, on q_proj and v_proj, no dropout) of the embedded model in float32 on a CPU,
without gradient checkpointing, one epoch of the same token ids in the same order. A round runs every route once, in
turn; the first round is not counted. Timed is what lies between the first forward pass with gradients and the end of
the last update, so not the building of trainers and data sets. Losses and weights at the end show that all three
train on the same quantity. `benchmarks/gpu.py` does it on an accelerator.

Needs trl: `pip install --constraint constraints.txt '.[bench]'`.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from rich.console import Console
from rich.table import Table
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.data import Sampler, SequentialSampler
from transformers import PrinterCallback, Trainer, TrainingArguments
from trl import SFTConfig, SFTTrainer

from sapo.core.types import Encoded
from sapo.models.batches import IGNORED, pad
from sapo.models.fit import MAX_LENGTH
from sapo.models.load import load_model
from sapo.models.render import Renderer
from sapo.tasks.load import load_task
from sapo.training.finetune import finetune
from sapo.training.methods import make_method
from sapo.training.schedule import Training
from sapo.training.settings import LoraSettings, TrainSettings
from sapo.training.trainer import UpdateSampler

TASKS = {"short": "task195_sentiment140_classification", "long": "task224_scruples_anecdotes_ethical_judgment"}
LORA = LoraSettings(r=8, alpha=32, dropout=0.0, target_modules=("q_proj", "v_proj"))
OURS = "sapo"
RATE, DECAY, CLIP = 1e-4, 0.0, 1.0


@dataclass(frozen=True, slots=True)
class Run:
    """One training.

    Attributes:
        seconds: wall time, see `Clock`.
        peak: most GiB allocated at one time, on CUDA only.
        losses: of every update, in nats per supervised token.
        moved: what was added to each trained weight, in one row.
    """

    seconds: float
    losses: tuple[float, ...]
    moved: torch.Tensor
    peak: float | None


class Clock:
    """Takes the time from the first forward pass with gradients to the end of the last update.

    Args:
        model: whose passes count.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._began: float | None = None
        self._ended = 0.0

    @property
    def seconds(self) -> float:
        """The time taken."""
        assert self._began is not None
        return self._ended - self._began

    @contextmanager
    def running(self) -> Iterator[None]:
        """Watch the model and all optimisers."""
        begin = self._model.get_input_embeddings().register_forward_pre_hook(self._forward)
        end = register_optimizer_step_post_hook(self._update)
        try:
            yield
        finally:
            begin.remove()
            end.remove()

    def _forward(self, *_: Any) -> None:
        if self._began is None and torch.is_grad_enabled():
            self._began = self._now()

    def _update(self, *_: Any) -> None:
        self._ended = self._now()

    def _now(self) -> float:
        if self._model.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


class Bench:
    """One task's rows and the model that every run starts from afresh.

    Args:
        model: with a LoRA adapter.
        tokenizer: its tokenizer.
        encoded: the rows, which are put into the order that `sapo.training.finetune` takes them in.
        batch: rows of an update.
        micro: rows of a pass.
    """

    def __init__(self, model: Any, tokenizer: Any, encoded: Sequence[Encoded], batch: int, micro: int) -> None:
        order = UpdateSampler([len(e.ids) for e in encoded], batch, 1, 0)
        self._given, self._rows = list(encoded), [encoded[i] for i in order]
        self._model, self._tokenizer = model, tokenizer
        self._batch, self._micro = batch, micro
        self._start = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}

    def ours(self) -> Run:
        """Train by `sapo.training.finetune.finetune`."""
        settings = TrainSettings(
            epochs=1,
            learning_rate=RATE,
            batch_size=self._batch,
            micro_batch_size=self._micro,
            warmup=0.0,
            weight_decay=DECAY,
            max_grad_norm=CLIP,
        )
        with self._fresh() as (model, clock):
            training = finetune(model, self._given, settings, seed=0)
            return Run(clock.seconds, training.losses, self._moved(), self._peak())

    def transformers(self) -> Run:
        """Train by transformers' Trainer with labels: logits of every position."""

        class InOrder(Trainer):
            def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
                return SequentialSampler(self.train_dataset)

        def collate(rows: Sequence[dict[str, Encoded]]) -> dict[str, torch.Tensor]:
            encoded = [row["encoded"] for row in rows]
            ids, labels = pad([e.ids for e in encoded], [e.prompt_length for e in encoded])
            return {"input_ids": ids, "labels": labels}

        return self._by(
            lambda model, output: InOrder(
                model=model,
                args=TrainingArguments(**self._arguments(output), label_names=["labels"]),
                train_dataset=[{"encoded": e} for e in self._rows],
                data_collator=collate,
            )
        )

    def trl(self) -> Run:
        """Train by trl's SFTTrainer, from ids and labels: it takes both as they are."""

        class InOrder(SFTTrainer):
            def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
                return SequentialSampler(self.train_dataset)

        labels = [[IGNORED] * e.prompt_length + list(e.ids[e.prompt_length :]) for e in self._rows]
        rows = Dataset.from_dict({"input_ids": [list(e.ids) for e in self._rows], "labels": labels})
        return self._by(
            lambda model, output: InOrder(
                model=model,
                args=SFTConfig(**self._arguments(output), gradient_checkpointing=False, max_length=None),
                train_dataset=rows,
                processing_class=self._tokenizer,
            )
        )

    def _by(self, make: Callable[[Any, str], Trainer]) -> Run:
        with self._fresh() as (model, clock), tempfile.TemporaryDirectory() as output:
            trainer = make(model, output)
            trainer.remove_callback(PrinterCallback)
            trainer.train()
            losses = tuple(float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry)
            return Run(clock.seconds, losses, self._moved(), self._peak())

    def _arguments(self, output: str) -> dict[str, Any]:
        return {
            "output_dir": output,
            "num_train_epochs": 1,
            "learning_rate": RATE,
            "per_device_train_batch_size": self._micro,
            "gradient_accumulation_steps": self._batch // self._micro,
            "warmup_steps": 0,
            "weight_decay": DECAY,
            "max_grad_norm": CLIP,
            "lr_scheduler_type": "linear",
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": [],
            "disable_tqdm": True,
            "remove_unused_columns": False,
            "dataloader_pin_memory": False,
            "seed": 0,
            "use_cpu": self._model.device.type == "cpu",
            # As `sapo.training.finetune` does.
            "bf16": self._model.device.type == "cuda" and self._model.dtype == torch.bfloat16,
        }

    @contextmanager
    def _fresh(self) -> Iterator[tuple[Any, Clock]]:
        """Give the model as it was and a running clock, and take off what trainers wrap around its forward pass."""
        with torch.no_grad():
            for name, parameter in self._model.named_parameters():
                if name in self._start:
                    parameter.copy_(self._start[name])
                    parameter.grad = None
        inner = self._model.get_base_model()
        if self._model.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        try:
            clock = Clock(self._model)
            with clock.running():
                yield self._model, clock
        finally:
            for module in (self._model, inner):
                module.__dict__.pop("forward", None)
                module.__dict__.pop("_original_forward", None)
            gc.collect()

    def _peak(self) -> float | None:
        return torch.cuda.max_memory_allocated() / (1 << 30) if self._model.device.type == "cuda" else None

    def _moved(self) -> torch.Tensor:
        weights = dict(self._model.named_parameters())
        return torch.cat([(weights[name].detach() - start).flatten() for name, start in self._start.items()])


def measure(bench: Bench, repeats: int) -> dict[str, list[Run]]:
    """Return the counted runs of every route."""
    routes: dict[str, Callable[[], Run]] = {OURS: bench.ours, "Trainer": bench.transformers, "SFTTrainer": bench.trl}
    runs: dict[str, list[Run]] = {name: [] for name in routes}
    for n in range(repeats + 1):
        for name, run in routes.items():
            found = run()
            if n > 0:
                runs[name].append(found)
    return runs


def figures(runs: dict[str, list[Run]]) -> dict[str, dict[str, Any]]:
    """Return by route: median and all seconds, ratio to ours, losses, and how far weights end from ours.

    The distance between weights is relative to how far ours went.
    """
    medians = {name: statistics.median(run.seconds for run in found) for name, found in runs.items()}
    ours = runs[OURS][0]
    return {
        name: {
            "median_seconds": medians[name],
            "seconds": [run.seconds for run in found],
            "ratio": medians[name] / medians[OURS],
            "losses": found[0].losses,
            "distance": float((found[0].moved - ours.moved).norm() / ours.moved.norm()),
        }
        for name, found in runs.items()
    }


def environment() -> dict[str, Any]:
    """Return what the figures depend on."""
    packages = ("sapo-llm", "torch", "transformers", "accelerate", "peft", "trl", "datasets", "numpy")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "packages": {name: version(name) for name in packages},
        "torch": torch.__config__.show(),
    }


def main() -> None:
    """Print the table of every task, and write all figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rows", type=int, nargs=2, default=(32, 8), metavar=("SHORT", "LONG"))
    parser.add_argument("--micro", type=int, default=8, help="rows of a pass; an update has twice as many")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, help="of torch")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    loaded = load_model("embedded", device="cpu")
    method = make_method("seq-lora", LORA)
    # Of the training only the seed decides what the new adapter is.
    training = Training(1, 1, "", (), False, (), (), 0, 2 * given.micro)
    model = method.prepare(method.start(loaded.model), training)
    result: dict[str, Any] = {
        "lora": LORA.model_dump(),
        "micro": given.micro,
        "environment": environment(),
        "tasks": {},
    }
    for (kind, name), rows in zip(TASKS.items(), given.rows, strict=True):
        task = load_task(name, given.data_dir)
        encoded = Renderer(loaded.tokenizer, MAX_LENGTH).encode(task.instruction, task.suffix, task.train[:rows])
        micro = min(given.micro, rows)
        batch = min(2 * micro, rows)
        found = figures(measure(Bench(model, loaded.tokenizer, encoded, batch, micro), given.repeats))
        tokens = sum(len(e.ids) for e in encoded)
        result["tasks"][kind] = {"task": name, "rows": rows, "batch": batch, "tokens": tokens, "routes": found}
        table = Table(
            "route", "s per update", "times ours", "first loss", "last loss", "distance of weights",
            title=f"{name}: {rows} rows of {tokens / rows:.0f} tokens, {batch} an update, {micro} a pass",
        )  # fmt: skip
        for route, figure in found.items():
            losses = figure["losses"]
            table.add_row(
                route,
                f"{figure['median_seconds'] / len(losses):.2f}",
                f"{figure['ratio']:.2f}",
                f"{losses[0]:.6f}",
                f"{losses[-1]:.6f}",
                f"{figure['distance']:.1e}",
            )
        Console().print(table)
        if given.json:
            given.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
