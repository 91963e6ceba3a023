"""The page: for each task gather candidates, score them, choose, fine-tune, evaluate, record.

This is the whole algorithm (paper, section 4). What each line does is in the room it is named after; what
makes it resumable is in `sapo.steps`.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from math import ceil
from typing import Any

import torch

from sapo.card import Trained
from sapo.config import Config
from sapo.errors import ConfigError, DataError
from sapo.evaluate import Evaluation
from sapo.finetune import TrainSettings
from sapo.methods import METHODS, LoraSettings, SeqLora
from sapo.model import LoadedModel, load_model
from sapo.paraphrase import gather
from sapo.plan import Plan, make_plan
from sapo.policies import BY_LOSS, choose_instruction
from sapo.progress import Reporter, Silent
from sapo.record import Record, write_json
from sapo.render import Renderer
from sapo.results import Prompt, Results, tabulate
from sapo.selection import context_length, selection_rows
from sapo.steps import State, Steps
from sapo.tasks import load_sequence
from sapo.types import Instruction, Rejection, Selection, Task

_LIBRARIES = ("torch", "transformers", "peft", "accelerate", "tokenizers", "numpy")
# Every run is tested on the same rows, whatever its seed.
_TEST_SEED = 0


@dataclass(frozen=True, slots=True)
class Setup:
    """Everything a run needs, loaded and checked before its first step."""

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


def run(config: Config, progress: Reporter | None = None) -> Results:
    """Run one sequence and return what it found; everything is recorded in ``config.run_dir``.

    A run directory that holds finished steps of the same configuration is gone on with.

    Raises:
        SapoError: for anything a user can act on, before the first step wherever it can be known then.
    """
    progress = progress or Silent()
    with Record(config.run_dir, config.plain()) as record:
        setup = set_up(config)
        for note in (*setup.loaded.notes, *_cut_notes(setup.plan)):
            progress.note(note)
        progress.plan(setup.plan.cost)
        write_json(record.directory / "environment.json", _environment(setup.loaded))
        steps = Steps(setup.loaded, setup.method, setup.renderer, record, setup.plan, progress)
        return _follow(setup, steps, record)


def _follow(setup: Setup, steps: Steps, record: Record) -> Results:
    config = setup.config
    trained: list[Trained] = []
    selections: list[Selection | None] = []
    state = steps.start
    cells = _evaluate_stage(setup, steps, state, trained)
    for task in setup.tasks:
        selection = _measure(setup, steps, record, state, task)
        instruction = choose_instruction(config.policy, setup.candidates[task.name], selection, config.seed)
        trained.append(Trained(task, instruction))
        selections.append(selection)
        before, state = state, steps.train(state, trained, config.policy, setup.settings, config.seed, _limits(config))
        cells |= _evaluate_stage(setup, steps, state, trained)
        if config.keep == "last" and before.stage > 0:
            record.drop_stage(before.name)
    results = _results(setup, cells, trained, selections, steps.seconds)
    write_json(record.directory / "results.json", results.data)
    return results


def _measure(setup: Setup, steps: Steps, record: Record, state: State, task: Task) -> Selection | None:
    candidates, rejected = setup.candidates[task.name], setup.rejected[task.name]
    write_json(
        record.directory / "candidates" / f"{state.stage + 1}-{task.name}.json",
        {
            "task": task.name,
            "candidates": [{"text": c.text, "origin": c.origin} for c in candidates],
            "rejected": [{"text": r.text, "reason": r.reason} for r in rejected],
        },
    )
    if setup.config.policy not in BY_LOSS:
        return None
    chosen = setup.config.selection
    rows = selection_rows(task, chosen.examples, chosen.sample, setup.config.seed)
    return steps.measure(
        state, task, candidates, rejected, rows, rule=chosen.rule, sample=chosen.sample, seed=setup.config.seed
    )


def _evaluate_stage(
    setup: Setup, steps: Steps, state: State, trained: Sequence[Trained]
) -> dict[tuple[int, str, Prompt], Evaluation]:
    """Return the stage's row of the matrix: every task of the sequence and every watch task."""
    chosen = {t.task.name: t.instruction for t in trained}
    cells: dict[tuple[int, str, Prompt], Evaluation] = {}
    for task in (*setup.tasks, *setup.watch):
        # An unseen task has no selected instruction yet: both prompts are the original then.
        selected = chosen.get(task.name, Instruction(task.instruction, "original")).text
        texts = {"selected": selected, "original": task.instruction}
        evaluated: dict[str, Evaluation] = {}
        for prompt in test_prompts(setup.config):
            text = texts[prompt]
            if text not in evaluated:
                kind: Prompt = "original" if text == task.instruction else "selected"
                evaluated[text] = steps.evaluate(state, task, text, kind, setup.config.evaluate.max_new_tokens)
            cells[state.stage, task.name, prompt] = evaluated[text]
    return cells


def test_prompts(config: Config) -> tuple[Prompt, ...]:
    """Return the test prompts of a run, the one of the main matrix first."""
    wanted = config.evaluate.test_prompt
    return ("selected", "original") if wanted == "both" else (wanted,)


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
    candidates = {name: kept for name, (kept, _) in gathered.items()}
    rejected = {name: refused for name, (_, refused) in gathered.items()}
    loaded = load_model(config.model.base, config.model.adapter, config.model.dtype, config.model.device)
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
    lora = LoraSettings(config.lora.r, config.lora.alpha, config.lora.dropout, config.lora.target_modules)
    method = METHODS[config.method](lora)
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


def _results(
    setup: Setup,
    cells: Mapping[tuple[int, str, Prompt], Evaluation],
    trained: Sequence[Trained],
    selections: Sequence[Selection | None],
    seconds: Mapping[str, float],
) -> Results:
    config = setup.config
    prompts = test_prompts(config)
    tables = tabulate(cells, setup.tasks, setup.watch, prompts, config.seed)
    kinds = {task.metric for task in setup.tasks}
    data: dict[str, Any] = {
        "tasks": [task.name for task in setup.tasks],
        "primary_metric": kinds.pop() if len(kinds) == 1 else "mixed",
        "primary_metrics": {task.name: task.metric for task in (*setup.tasks, *setup.watch)},
        "test_prompt": prompts[0],
        "matrix": tables["matrices"]["primary"][prompts[0]],
        "metrics": tables["metrics_all"]["primary"][prompts[0]],
        **tables,
        "instructions": {
            t.task.name: {
                "text": t.instruction.text,
                "origin": t.instruction.origin,
                "original": t.task.instruction,
                "suffix": t.task.suffix,
                "losses": None
                if selection is None
                else {c.instruction.text: c.losses.per_token for c in selection.candidates},
            }
            for t, selection in zip(trained, selections, strict=True)
        },
        "config": config.plain(),
        "seconds": {**seconds, "total": sum(seconds.values())},
    }
    return Results(data)


def _limits(config: Config) -> dict[str, int]:
    return {"max_length": config.max_length, "max_new_tokens": config.evaluate.max_new_tokens}


def _cut_notes(plan: Plan) -> list[str]:
    return [
        f"{task}: {count} training inputs are longer than max_length and are cut in the middle"
        for task, count in plan.cut.items()
        if count
    ]


def _environment(loaded: LoadedModel) -> dict[str, Any]:
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
