"""Everything a run needs, loaded and checked before its first step."""

from __future__ import annotations

import gc
import platform
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

import torch

from sapo.candidates.gather import Gathered
from sapo.core.processes import ALONE, Processes
from sapo.core.types import Example, Instruction, Rejection, Task
from sapo.models.load import LoadedModel, best_device, load_model
from sapo.models.render import Renderer
from sapo.runs.config.schema import Config
from sapo.runs.gathering import Gathering, hold_back
from sapo.runs.inputs import Given, read_given
from sapo.runs.lineage import earlier_tasks, library_versions
from sapo.runs.plan import Plan, make_plan
from sapo.selection.cache import LossCache, cache_directory
from sapo.selection.rows import context_length, selection_rows
from sapo.selection.scoring import SelectionSettings
from sapo.tasks.findings import data_table, warnings_of
from sapo.tasks.inspection import Inspection, inspect_task
from sapo.training.finetune import TrainSettings
from sapo.training.lessons import Lesson, lessons
from sapo.training.methods import METHODS
from sapo.training.methods.ewc import Ewc, EwcSettings
from sapo.training.methods.lwf import Lwf, LwfSettings
from sapo.training.methods.o_lora import OLora, OLoraSettings
from sapo.training.methods.replay import Replay, ReplaySettings
from sapo.training.methods.seq_lora import LoraSettings, SeqLora
from sapo.training.policies import BY_LOSS, LOWEST


@dataclass(frozen=True, slots=True)
class Setup:
    """Everything a run needs; ``loaded.model`` is in the method's stage-0 state."""

    config: Config
    loaded: LoadedModel
    renderer: Renderer
    method: SeqLora
    tasks: tuple[Task, ...]
    watch: tuple[Task, ...]
    gathering: Gathering
    gathered: Mapping[str, Gathered]
    held_rows: Mapping[str, tuple[Example, ...]]
    settings: TrainSettings
    plan: Plan
    inspections: Mapping[str, Inspection]
    earlier: tuple[Mapping[str, Any], ...]
    processes: Processes

    @property
    def candidates(self) -> Mapping[str, tuple[Instruction, ...]]:
        """Per task, the original first."""
        return {name: hold_back(found, *self._counts)[0] for name, found in self.gathered.items()}

    @property
    def held_out(self) -> Mapping[str, tuple[Instruction, ...]]:
        """Per task, the paraphrases that are no candidates but for testing."""
        return {name: hold_back(found, *self._counts)[1] for name, found in self.gathered.items()}

    @property
    def _counts(self) -> tuple[int, int]:
        return self.config.candidates.count, self.config.evaluate.wordings

    @property
    def lessons(self) -> tuple[Lesson, ...]:
        """The trainings of the run, in order."""
        return lessons(self.method.order, self.tasks)

    def fresh(self) -> Any:
        """Return the stage-0 model, loaded once more."""
        return _load_start(self.config, self.method, self.processes).model

    @property
    def rejected(self) -> Mapping[str, tuple[Rejection, ...]]:
        """Per task, the texts that are no candidates."""
        return {name: found.rejected for name, found in self.gathered.items()}

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know before it starts, one sentence each."""
        model = self.config.model
        given = ["the adapter's own r, alpha, dropout and modules hold, not lora.*"]
        several = [f"{self.processes.count} processes share rows and batches"] if self.processes.count > 1 else []
        return (
            *self.loaded.notes,
            *several,
            *_forced(self.config),
            *(given if model.adapter and self.config.method == "seq-lora" else []),
            *(f"{task.name}: {note}" for task in (*self.tasks, *self.watch) for note in task.notes),
            *(note for found in self.gathered.values() for note in found.notes),
            *(
                f"{name}: {len(held)} of evaluate.wordings = {self.config.evaluate.wordings} paraphrases are held out: "
                "there are no more beside the candidates"
                for name, held in self.held_out.items()
                if len(held) < self.config.evaluate.wordings
            ),
            *(
                f"{name}: {len(rows)} rows to choose again on, of reselect.rows = {self.config.reselect.rows}"
                for name, rows in self.held_rows.items()
                if len(rows) < self.config.reselect.rows
            ),
            *(
                f"{name}: a single update, at which warm-up begins with learning rate 0: nothing would be learned. "
                "Set train.warmup to 0, or more epochs, or a smaller train.batch_size"
                for name, work in self.plan.train.items()
                if work.units == 1 and self.config.train.warmup > 0
            ),
        )

    @property
    def data_table(self) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
        """Headings and rows of the data report."""
        return data_table(tuple(self.inspections.values()))

    @property
    def data_warnings(self) -> tuple[str, ...]:
        """What about the data deserves attention, one sentence each."""
        return tuple(sentence for inspection in self.inspections.values() for sentence in warnings_of(inspection))

    def selection_settings(self, task: Task) -> SelectionSettings:
        """Return how the instruction of a task is chosen."""
        chosen, searched = self.config.selection, self.config.candidates.search
        races = _races(self.config)
        return SelectionSettings(
            rule=chosen.rule,
            sample=chosen.sample,
            seed=self.config.seed,
            strategy="racing" if races else "exhaustive",
            # All races of a search together keep delta.
            delta=chosen.delta / (1 if searched is None else 1 + searched.rounds),
            epsilon=chosen.epsilon,
            budget=chosen.budget * self.plan.train[task.name].cost if races and chosen.budget is not None else None,
        )

    def cache(self, state: str) -> LossCache | None:
        """Return the losses computed earlier under a state, or None where that is switched off."""
        if not self.config.selection.cache:
            return None
        return LossCache(cache_directory(), state, self.loaded.model.device.type, self.processes)


def set_up(config: Config, gathering: Gathering | None = None, processes: Processes = ALONE) -> Setup:
    """Load and check everything a run needs; writes nothing but replies of language models, to the user's cache.

    Only the first process reads data and candidates; every one of them loads the model.

    Args:
        config: of the run.
        gathering: gives every task its candidates.
        processes: of this job.

    Raises:
        SapoError: for whatever would stop the run later.
    """
    gathering = gathering or Gathering(config)
    given = processes.once(lambda: read_given(config, gathering))
    # Finalisers of dropped objects would run at some later point and could swallow a Ctrl-C there.
    gc.collect()
    return processes.together(lambda: _load(config, gathering, given, processes))


def _load(config: Config, gathering: Gathering, given: Given, processes: Processes) -> Setup:
    tasks, watch = given.tasks, given.watch
    candidates = {
        name: hold_back(found, config.candidates.count, config.evaluate.wordings)[0]
        for name, found in given.gathered.items()
    }
    method = _method(config)
    loaded = _load_start(config, method, processes)
    renderer = Renderer(loaded.tokenizer, min(config.max_length, context_length(loaded.model)))
    train = config.train
    # Weights of the model itself often need another rate than an adapter.
    own_rate = {"full": config.full.learning_rate, "osf": config.osf.learning_rate}.get(config.method)
    settings = TrainSettings(
        train.epochs, own_rate or train.learning_rate, train.batch_size, train.micro_batch_size, train.warmup,
        train.weight_decay, train.max_grad_norm,
    )  # fmt: skip
    plan = make_plan(
        renderer, tasks, watch, candidates,
        scores=config.policy in BY_LOSS,
        races=_races(config),
        examples=config.selection.examples,
        budget=config.selection.budget if _races(config) else None,
        updates={t.name: ceil(train.epochs * ceil(len(t.train) / train.batch_size)) for t in tasks},
        epochs=train.epochs,
        lessons=lessons(method.order, tasks),
        both_prompts=config.evaluate.test_prompt == "both" and config.policy != "original",
        wordings=config.evaluate.wordings,
    )  # fmt: skip
    inspections = {
        task.name: inspect_task(task, renderer, _selected(task, config), given.dropped[task.name]) for task in tasks
    } | {task.name: inspect_task(replace(task, train=()), renderer) for task in watch}
    return Setup(
        config, loaded, renderer, method, tasks, watch, gathering, given.gathered, given.held_rows, settings, plan,
        inspections, _earlier(config), processes,
    )  # fmt: skip


def _method(config: Config) -> SeqLora:
    lora = LoraSettings(config.lora.r, config.lora.alpha, config.lora.dropout, config.lora.target_modules)
    match config.method:
        case "o-lora":
            return OLora(lora, OLoraSettings(**config.o_lora.model_dump()))
        case "ewc":
            return Ewc(lora, EwcSettings(**config.ewc.model_dump()))
        case "replay":
            return Replay(lora, ReplaySettings(**config.replay.model_dump()))
        case "lwf":
            return Lwf(lora, LwfSettings(**config.lwf.model_dump()))
        case other:
            return METHODS[other](lora)


def _load_start(config: Config, method: SeqLora, processes: Processes) -> LoadedModel:
    model = config.model
    device = processes.device(model.device or best_device())
    # Methods that train the weights themselves need all digits of them.
    dtype = model.dtype or ("float32" if method.whole else None)
    loaded = load_model(model.base, model.adapter, dtype, device)
    return replace(loaded, model=method.start(loaded.model))


def _races(config: Config) -> bool:
    return config.policy in LOWEST and config.selection.rule == "lowest" and config.selection.strategy == "racing"


def _forced(config: Config) -> tuple[str, ...]:
    """Say where every loss is needed, so that nothing can be raced for."""
    if config.selection.strategy != "racing" or config.policy not in BY_LOSS or _races(config):
        return ()
    why = "selection.rule confident" if config.policy in LOWEST else f"policy {config.policy}"
    return (f"{why} needs every loss: all candidates are scored on all selection rows (exhaustive)",)


def _earlier(config: Config) -> tuple[Mapping[str, Any], ...]:
    """Return the tasks of the stage that the run starts from, if it starts from one."""
    for given in (config.model.adapter, config.model.base):
        found = earlier_tasks(Path(given).expanduser()) if given else []
        if found:
            return tuple(found)
    return ()


def _selected(task: Task, config: Config) -> tuple[int, ...]:
    if config.policy not in BY_LOSS:
        return ()
    return selection_rows(task, config.selection.examples, config.selection.sample, config.seed)


def environment(loaded: LoadedModel, processes: Processes) -> dict[str, Any]:
    """Return library versions, machine and the model's decisions, as JSON values."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processes": processes.count,
        "threads": torch.get_num_threads(),
        "model": loaded.name,
        "notes": list(loaded.notes),
        "versions": library_versions(),
    }
