"""What makes a task forgettable: train one task, then another, and test the first one on the way.

    python benchmarks/forgetting.py OUT.jsonl 'date-format>count-letter rate=1e-3 updates=28' ...

Every argument behind the file is two tasks, built-in or of --data-dir, and settings that differ from the defaults:
modules (all or qv), r, rate, batch, updates, method (lora or full). The embedded model, original instructions, seed 1.
A line of OUT.jsonl holds, for the first task, loss and accuracy at the start, after its own training, and on the way
through the second one; for the second task the same, and what training it alone gives.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from sapo.core.types import Task
from sapo.models.answers import evaluate
from sapo.models.load import load_model
from sapo.models.losses import Scorer
from sapo.models.render import Renderer
from sapo.tasks.load import load_task
from sapo.training.finetune import finetune
from sapo.training.methods import make_method
from sapo.training.schedule import Training
from sapo.training.settings import LoraSettings, TrainSettings
from sapo.training.trainer import Extras

SEED = 1
MODULES: dict[str, str | tuple[str, ...]] = {"all": "all-linear", "qv": ("q_proj", "v_proj")}
DEFAULTS: dict[str, Any] = {
    "modules": "all", "r": 16, "rate": 1e-3, "batch": 8, "updates": 30, "method": "lora",
}  # fmt: skip


@dataclass
class Way:
    """Tests the loss of a task every few updates."""

    scorer: Scorer
    rows: Any
    every: int
    losses: list[tuple[int, float]] = field(default_factory=list)

    def begin(self, model: Any) -> None:
        """Nothing to remember."""

    def after(self, model: Any, step: int, last: bool) -> bool:
        """Test the loss."""
        if step % self.every == 0 or last:
            training = model.training
            model.eval()
            self.losses.append((step, round(self.scorer.on(model)(self.rows).per_token, 4)))
            model.train(training)
        return False

    def state(self) -> Any:
        """Return nothing: no checkpoints are written."""

    def restore(self, model: Any, state: Any) -> None:
        """Nothing to restore."""


class Laboratory:
    """The model with one kind of adapter, and the states that were trained in it."""

    def __init__(self, settings: dict[str, Any], rows: int, new_tokens: int) -> None:
        self.settings, self.rows, self.new_tokens = settings, rows, new_tokens
        loaded = load_model("embedded", None, "float32", "cpu")
        r = settings["r"]
        lora = LoraSettings(r=r, alpha=2 * r, dropout=0.0, target_modules=MODULES[settings["modules"]])
        method = make_method("full" if settings["method"] == "full" else "seq-lora", lora)
        self.tokenizer = loaded.tokenizer
        self.renderer = Renderer(self.tokenizer, 1024)
        start = method.start(loaded.model)
        self.model = method.prepare(start, Training(1, 2, "", (), False, (), (), SEED, settings["batch"]))
        self.scorer = Scorer(self.model)
        self.start = self.weights()
        self.states: dict[str, tuple[dict[str, torch.Tensor], dict[str, Any]]] = {}

    def weights(self) -> dict[str, torch.Tensor]:
        """Return a copy of what is trained."""
        return {name: p.detach().clone() for name, p in self.model.named_parameters() if p.requires_grad}

    def put(self, weights: dict[str, torch.Tensor]) -> None:
        """Bring the model into a state."""
        with torch.no_grad():
            for name, p in self.model.named_parameters():
                if name in weights:
                    p.copy_(weights[name])
        self.model.eval()

    def test(self, task: Task, answers: bool = True) -> dict[str, float]:
        """Return loss and accuracy of a task."""
        rows = task.test[: self.rows]
        if not answers:
            loss = self.scorer.on(self.model)(self.renderer.encode(task.instruction, task.suffix, rows)).per_token
            return {"loss": round(loss, 4)}
        found = evaluate(self.model, self.renderer, task, task.instruction, rows, self.new_tokens, scorer=self.scorer)
        return {"loss": round(found.losses.per_token, 4), "score": round(float(found.scores[task.metric].mean()), 1)}

    def train(self, task: Task, seed: int, watched: Task | None = None) -> dict[str, Any]:
        """Train a task and return what was seen on the way."""
        s = self.settings
        rows = task.train[: s["updates"] * s["batch"]]
        encoded = self.renderer.encode(task.instruction, task.suffix, rows)
        way = None
        if watched is not None:
            tested = self.renderer.encode(watched.instruction, watched.suffix, watched.test[: self.rows])
            way = Way(self.scorer, tested, max(1, s["updates"] // 3))
        began = time.perf_counter()
        settings = TrainSettings(
            epochs=1, learning_rate=s["rate"], batch_size=s["batch"], micro_batch_size=s["batch"]
        )  # fmt: skip
        finetune(self.model, encoded, settings, seed, extras=Extras(watchers=(way,) if way else ()))
        return {"seconds": round(time.perf_counter() - began, 1), "way": way.losses if way else []}

    def alone(self, task: Task) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Return the state after training a task from the start, and its results."""
        if task.name not in self.states:
            self.put(self.start)
            before = self.test(task, answers=False)
            trained = self.train(task, SEED)
            self.states[task.name] = (
                self.weights(),
                {"before": before, "after": self.test(task), "seconds": trained["seconds"]},
            )
        return self.states[task.name]

    def pair(self, first: Task, second: Task) -> dict[str, Any]:
        """Return what training the second task does to the first one."""
        state, learned = self.alone(first)
        self.put(state)
        before = self.test(second, answers=False)
        trained = self.train(second, SEED, first)
        return {
            **self.settings, "first": first.name, "second": second.name, "learned": learned, "second_before": before,
            "second_after": self.test(second), "first_after": self.test(first), "first_on_the_way": trained["way"],
            "seconds": trained["seconds"], "second_alone": self.states.get(second.name, (None, None))[1],
        }  # fmt: skip


def main() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("pairs", nargs="+")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--rows", type=int, default=24)
    parser.add_argument("--new-tokens", type=int, default=12)
    given = parser.parse_args()
    laboratories: dict[str, Laboratory] = {}
    for pair in given.pairs:
        tasks, *changes = pair.split()
        changed = dict(change.split("=") for change in changes)
        settings = {key: type(value)(changed.get(key, value)) for key, value in DEFAULTS.items()}
        key = json.dumps(settings)
        if key not in laboratories:
            laboratories[key] = Laboratory(settings, given.rows, given.new_tokens)
        laboratory = laboratories[key]
        first, *second = tasks.split(">")
        if second:
            line = laboratory.pair(load_task(first, given.data_dir), load_task(second[0], given.data_dir))
        else:
            line = {**settings, "first": first, "learned": laboratory.alone(load_task(first, given.data_dir))[1]}
        with given.out.open("a", encoding="utf-8") as out:
            out.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
