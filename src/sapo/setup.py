"""Everything a run needs, loaded and checked before its first step."""

from __future__ import annotations

import gc
import platform
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from math import ceil
from typing import Any

import torch

from sapo.config import Config
from sapo.errors import ConfigError, DataError
from sapo.finetune import TrainSettings
from sapo.methods import METHODS, LoraSettings, SeqLora
from sapo.model import LoadedModel, load_model
from sapo.paraphrase import gather
from sapo.plan import Plan, make_plan
from sapo.policies import BY_LOSS
from sapo.render import Renderer
from sapo.selection import context_length, selection_rows
from sapo.tasks import load_sequence
from sapo.types import Instruction, Rejection, Task

_LIBRARIES = ("torch", "transformers", "peft", "accelerate", "tokenizers", "numpy")
# Every run is tested on the same rows, whatever its seed.
_TEST_SEED = 0


@dataclass(frozen=True, slots=True)
class Setup:
    """Everything a run needs; ``loaded.model`` is in the method's stage-0 state."""

    config: Config
    loaded: LoadedModel
    renderer: Renderer
    method: SeqLora
    tasks: tuple[Task, ...]
    watch: tuple[Task, ...]
    candidates: Mapping[str, tuple[Instruction, ...]]
    rejected: Mapping[str, tuple[Rejection, ...]]
    settings: TrainSettings
    plan: Plan

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know before it starts, one sentence each."""
        cut = [
            f"{task}: {count} training inputs are longer than max_length and are cut in the middle"
            for task, count in self.plan.cut.items()
            if count
        ]
        model = self.config.model
        given = ["the adapter's own r, alpha, dropout and modules hold, not lora.*"]
        return (*self.loaded.notes, *(given if model.adapter and self.config.method == "seq-lora" else []), *cut)


def set_up(config: Config) -> Setup:
    """Load and check everything a run needs; writes nothing.

    Raises:
        SapoError: for whatever would stop the run later.
    """
    tasks = load_sequence(config.sequence, config.data_dir)
    watch = load_sequence(config.watch, config.data_dir)
    both = sorted({t.name for t in tasks} & {t.name for t in watch})
    if both:
        raise ConfigError(f"watch: {', '.join(both)} is trained on in this sequence; watch other tasks")
    tasks = tuple(_used_rows(task, config) for task in tasks)
    watch = tuple(_used_rows(task, config) for task in watch)
    needs = config.policy != "original"
    gathered = {
        task.name: gather(task, config.candidates.file, config.candidates.count)
        if needs
        else ((Instruction(task.instruction, "original"),), ())
        for task in tasks
    }
    # Finalisers of dropped objects would run at some later point and could swallow a Ctrl-C there.
    gc.collect()
    candidates = {name: kept for name, (kept, _) in gathered.items()}
    rejected = {name: refused for name, (_, refused) in gathered.items()}
    loaded = load_model(config.model.base, config.model.adapter, config.model.dtype, config.model.device)
    lora = LoraSettings(config.lora.r, config.lora.alpha, config.lora.dropout, config.lora.target_modules)
    method = METHODS[config.method](lora)
    loaded = replace(loaded, model=method.start(loaded.model))
    renderer = Renderer(loaded.tokenizer, min(config.max_length, context_length(loaded.model)))
    train = config.train
    settings = TrainSettings(
        train.epochs, train.learning_rate, train.batch_size, train.micro_batch_size, train.warmup,
        train.weight_decay, train.max_grad_norm,
    )  # fmt: skip
    plan = make_plan(
        renderer, tasks, watch, candidates,
        scores=config.policy in BY_LOSS,
        examples=config.selection.examples,
        updates={t.name: ceil(train.epochs * ceil(len(t.train) / train.batch_size)) for t in tasks},
        epochs=train.epochs,
        both_prompts=config.evaluate.test_prompt == "both" and config.policy != "original",
    )  # fmt: skip
    return Setup(config, loaded, renderer, method, tasks, watch, candidates, rejected, settings, plan)


def _used_rows(task: Task, config: Config) -> Task:
    """Return the task with only the rows that the run uses, in the file's order."""
    if not task.test:
        raise DataError(f"task {task.name!r} has no test rows, so nothing about it could be measured")
    rows = config.train.rows or len(task.train)
    picked = selection_rows(task, rows, "stratified", config.seed)
    tested = replace(task, train=task.test)
    shown = selection_rows(tested, config.evaluate.rows or len(task.test), "stratified", _TEST_SEED)
    return replace(
        task,
        train=tuple(task.train[i] for i in picked),
        test=tuple(task.test[i] for i in shown),
    )


def environment(loaded: LoadedModel) -> dict[str, Any]:
    """Return library versions, machine and the model's decisions, as JSON values."""
    versions: dict[str, str | None] = {}
    for library in ("sapo-llm", *_LIBRARIES):
        try:
            versions[library] = version(library)
        except PackageNotFoundError:
            versions[library] = None
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "model": loaded.name,
        "notes": list(loaded.notes),
        "versions": versions,
    }
