"""From a configuration to a run that is ready: everything that it needs, loaded and checked before its first step.

Configuration stops here: every room is given the values that it uses, so a signature tells what a step depends on.
All that can fail for a reason that the user can act on fails here, before hours of work: first what costs nothing
(settings, directory, data, candidates), then what takes minutes (the model, and whether all prompts fit).
"""

from __future__ import annotations

import gc
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import get_args

from sapo.candidates.opening import open_sources
from sapo.core.errors import ConfigError
from sapo.core.processes import Processes, join
from sapo.core.progress import SILENT, Reporter
from sapo.core.settings import Settings
from sapo.models.answers import teaches_to_stop
from sapo.models.fit import context_length
from sapo.models.load import LoadedModel, best_device, load_model
from sapo.models.render import Renderer
from sapo.models.settings import ModelSettings
from sapo.runs.config.schema import Config, SweepConfig
from sapo.runs.directory import RunDirectory, demand_free
from sapo.runs.inputs import Gathering, Inputs, read_inputs
from sapo.runs.lineage import earlier_tasks, library_versions, lineage
from sapo.runs.model import RunModel
from sapo.runs.plan import Plan, cost_of_examples, make_plan
from sapo.runs.prompts import ORIGINAL, OWN
from sapo.runs.run import Run
from sapo.runs.steps import Chooser, Engine, Tester, Trainer
from sapo.runs.tracking import Tracker
from sapo.selection.settings import SelectionSettings
from sapo.training.finetune import demand_first_gpu
from sapo.training.methods import make_method
from sapo.training.methods.seq_lora import SeqLora
from sapo.training.policies import BY_LOSS, GIVEN, LOWEST, MIXTURES, given_texts
from sapo.training.schedule import schedule
from sapo.training.settings import MethodName, Policy

# Rows on which a model's speed is measured.
_CALIBRATION_ROWS = 8


@contextmanager
def prepared(config: Config, progress: Reporter = SILENT, shared: Path | None = None) -> Iterator[Run]:
    """Yield a run whose directory is open; nothing of it is computed yet.

    ``shared`` is where the runs of a sweep leave for each other what they compute at the start.

    Raises:
        SapoError: for whatever would stop the run later.
    """
    if not isinstance(config, Config):
        raise ConfigError(f"config = {config!r:.80}: give what sapo.load_config returns")
    if config.sweep is not None:
        raise ConfigError(
            "config has a sweep, and this makes a single run: give it to the command `sapo run` or to "
            "sapo.experiments.sweep.run_sweep, or leave sweep out"
        )
    # Before hours of gathering, and a second model in memory.
    join(config.model.device).once(lambda: demand_free(config.run_dir))
    run = prepare(config, progress, shared)
    updates = {stage: work.units for stage, work in run.engine.plan.trainings.items()}
    directory = run.engine.directory
    with directory:
        # A sweep says it for all of its runs.
        for note in () if shared is not None else unread(config):
            progress.note(note)
        run.begin(progress)
        with run.tracker.opened(lambda: run.model.model, updates, first=directory.processes.first):
            yield run


def unread(config: Config) -> tuple[str, ...]:
    """Return what is set and read by none of the runs, one sentence for each reader, without a full stop."""
    sweep, selection = config.sweep or SweepConfig(), config.selection
    policies, methods = {*(sweep.policy or (config.policy,))}, {*(sweep.method or (config.method,))}
    lowest, rules = policies & {*LOWEST}, {*(sweep.rule or (selection.rule,))}
    races = lowest and selection.strategy == "racing" and rules - {"confident"}
    both, by_loss = f"policies {' and '.join(LOWEST)}", f"policies {', '.join(BY_LOSS)}"
    # What is set -> whether a run reads it, and what does.
    readers: dict[str, tuple[object, str]] = {
        **{name.replace("-", "_"): (name in methods, f"method {name}") for name in get_args(MethodName)},
        **{name: (name in policies, f"policy {name}") for name in get_args(Policy)},
        "lora": (methods != {"full"}, "methods that train an adapter, and osf"),
        **{
            f"lora.{key}": (methods == {"full"} or methods - {"full", "osf"}, "methods that train an adapter")
            for key in ("r", "alpha", "dropout")
        },
        "candidates": (gathers(config, policies), "policies that choose among candidates, and for wordings"),
        "candidates.local": ("local" in config.candidates.asked, "source local"),
        "candidates.longest": ("demonstrations" in config.candidates.asked, "source demonstrations"),
        "selection.rule": (lowest, both),
        "selection.strategy": (lowest, both),
        "selection.trial": (lowest and "trial" in rules, f"{both} with selection.rule trial"),
        **{f"selection.{key}": (races, f"races of {both}") for key in ("delta", "epsilon", "budget")},
        **{f"selection.{key}": (policies & {*BY_LOSS}, by_loss) for key in ("examples", "sample", "cache")},
    }
    found = dict[str, list[str]]()
    for key in _changed(config):
        read, reader = readers.get(key, (True, ""))
        if not read:
            found.setdefault(reader, []).append(key)
    return tuple(
        f"not used: {', '.join(keys)} {'is' if len(keys) == 1 else 'are'} for {reader}"
        for reader, keys in found.items()
    )


def _changed(settings: Settings, prefix: str = "") -> Iterator[str]:
    """Yield the keys whose values are not the defaults, a part before its own."""
    for key, value in settings:
        if value != type(settings).model_fields[key].get_default(call_default_factory=True):
            yield f"{prefix}{key}"
            if isinstance(value, Settings):
                yield from _changed(value, f"{prefix}{key}.")


def gathers(config: Config, policies: Collection[Policy]) -> bool:
    """Whether one of the policies, or a test, needs candidates."""
    return bool({*policies} - {"original", *GIVEN}) or config.evaluate.wordings > 0


def prepare(config: Config, progress: Reporter = SILENT, shared: Path | None = None, *, pays: bool = True) -> Run:
    """Return a run that is ready; nothing is written but replies of language models, to the user's cache.

    Only the first process reads data and candidates; every one of them loads the model.

    ``pays``: sources that cost time or money are asked; if not, others stand in for their candidates.

    Raises:
        SapoError: for whatever would stop the run later.
    """
    tracker = Tracker(config.report_to, config.run_dir)
    gathering, inputs = read(config, progress, shared, pays=pays)
    # Finalisers of dropped objects would run at some later point and could swallow a Ctrl-C there.
    gc.collect()
    return gathering.directory.processes.together(lambda: _load(config, gathering, inputs, tracker, progress))


def read(
    config: Config, progress: Reporter = SILENT, shared: Path | None = None, *, pays: bool = True
) -> tuple[Gathering, Inputs]:
    """Return what gives candidates, and all that the user gave, read and checked without loading a model.

    Raises:
        SapoError: for settings, data or candidates that cannot be used.
    """
    plain, processes = config.plain(), join(config.model.device)
    directory = RunDirectory(config.run_dir, plain, processes, shared)
    # Before the model is loaded, and without leaving anything behind should the configuration be wrong.
    directory.check()
    asks = gathers(config, [config.policy])
    sources, judge = open_sources(config.candidates, config.model, config.seed, progress.note) if asks else ((), None)
    file, count = config.candidates.file if asks else None, config.candidates.count
    gathering = Gathering(directory, sources, judge, file, count, config.evaluate.wordings, progress, pays)
    inputs = processes.once(
        lambda: read_inputs(
            config.sequence, config.watch, config.data_dir, config.tasks, gathering,
            train_rows=config.train.rows, test_rows=config.evaluate.rows,
            held_rows=config.reselect.rows if config.policy == "reselect" else None,
            drop=config.data.drop_overlap, seed=config.seed,
        )
    )  # fmt: skip
    if config.policy in GIVEN:
        inputs = inputs.given(given_texts(config.policy, config.fixed, [task.name for task in inputs.tasks]))
    return gathering, inputs


def _load(config: Config, gathering: Gathering, inputs: Inputs, tracker: Tracker, progress: Reporter) -> Run:
    directory, processes = gathering.directory, gathering.directory.processes
    policy, seed, train, evaluate = config.policy, config.seed, config.train, config.evaluate
    own = {"o-lora": config.o_lora, "ewc": config.ewc, "replay": config.replay, "lwf": config.lwf}
    method = make_method(config.method, config.lora, own.get(config.method))
    start = partial(_load_start, config.model, method, processes)
    loaded = start()
    renderer = Renderer(loaded.tokenizer, min(config.max_length, context_length(loaded.model)))
    template = renderer.fingerprint()
    if config.data.drop_long:
        inputs = inputs.fitting(renderer, evaluate.texts, evaluate.max_new_tokens)
    trainings = schedule(method.order, inputs.tasks, seed, train.batch_size)
    selection = config.selection
    if policy not in LOWEST:
        selection = selection.model_copy(update={"strategy": "exhaustive"})
    scored = selection if policy in BY_LOSS else None
    tries = selection.rule == "trial" and policy in LOWEST
    # Where every task is tested with its original in any case, both prompts are the same text.
    same = policy == "original" or policy in MIXTURES
    prompts = tuple(dict.fromkeys(ORIGINAL if same and prompt == OWN else prompt for prompt in evaluate.texts))
    looks_back = tries or config.guard is not None
    inputs.demand_room(renderer, prompts, evaluate.max_new_tokens, looks_back=looks_back)
    inspections = inputs.inspected(renderer, scored, seed)
    plan = make_plan(
        renderer, inputs.tasks, inputs.watch, inputs.candidates, scored, train, trainings,
        prompts=prompts, wordings=evaluate.wordings, max_new_tokens=evaluate.max_new_tokens,
        device=loaded.model.device.type, trial=selection.trial if tries else None,
    )  # fmt: skip
    describe = partial(
        lineage,
        base=loaded.name, method=method.name, policy=policy,
        limits={"max_length": config.max_length, "max_new_tokens": evaluate.max_new_tokens},
        template=template, versions=library_versions(config.model.quantization), quantization=config.model.quantization,
        # Quantised weights have that of their layers, and the rest is float32.
        dtype=None if config.model.quantization else str(loaded.model.dtype).removeprefix("torch."),
        earlier=earlier_tasks(loaded.adapter, config.model.base), whole=method.whole, tokenizer=True,
    )  # fmt: skip
    model = RunModel(loaded, lambda: start().model, method, directory, describe, selection.batch_tokens)
    engine = Engine(directory, model, renderer, plan, progress)
    # Weights of the model itself often need another rate than an adapter.
    own_rate = {"full": config.full.learning_rate, "osf": config.osf.learning_rate}.get(config.method)
    trainer = Trainer(
        engine, model, method, policy=policy, paft=config.paft,
        settings=train.model_copy(update={"learning_rate": own_rate or train.learning_rate}),
        reselect=config.reselect, held_rows=inputs.held_rows, guard=config.guard, watch=inputs.watch, seed=seed,
        keeps_all=config.keep == "all",
    )  # fmt: skip
    return Run(
        config=config.plain(),
        inputs=inputs,
        schedule=trainings,
        # Without the model itself, which a later stage may replace.
        loaded=replace(loaded, model=None),
        engine=engine,
        inspections=inspections,
        notes=_notes(config, method, loaded, renderer, inputs, plan, scored, processes.count),
        gathering=gathering,
        model=model,
        chooser=Chooser(engine, policy, selection, seed, trainer if tries else None),
        trainer=trainer,
        tester=Tester(engine, evaluate.texts, evaluate.max_new_tokens, inputs.held_out, evaluate.general),
        tracker=tracker,
    )  # fmt: skip


def _notes(
    config: Config, method: SeqLora, loaded: LoadedModel, renderer: Renderer, inputs: Inputs, plan: Plan,
    scored: SelectionSettings | None, processes: int,
) -> tuple[str, ...]:  # fmt: skip
    """Return what the user should know before the run starts; ``scored`` is None where the policy needs no losses."""
    notes = [*loaded.notes]
    if processes > 1:
        notes.append(f"{processes} processes share rows and batches")
    if not teaches_to_stop(loaded.model, renderer):
        notes.append(
            "the chat template ends an answer with no token that is trained, so the model is not taught when to stop: "
            "give its tokenizer a template that does, or expect answers of evaluate.max_new_tokens"
        )
    if config.selection.strategy == "racing" and scored is not None and not scored.races:
        why = "selection.rule confident" if config.policy in LOWEST else f"policy {config.policy}"
        notes.append(f"{why} needs every loss: all candidates are scored on all selection rows (exhaustive)")
    if config.model.adapter and method.continues:
        notes.append("the adapter's own r, alpha, dropout and modules hold, not lora.*")
    notes += [note for task in inputs.tasks for note in cost_of_examples(renderer, task, inputs.candidates[task.name])]
    return (*notes, *inputs.notes(config.evaluate.wordings, config.reselect.rows), *plan.notes(config.train.warmup))


def _load_start(model: ModelSettings, method: SeqLora, processes: Processes) -> LoadedModel:
    device = None if model.device_map else processes.device(model.device or best_device())
    if device is not None and processes.count == 1:
        # Before hours of scoring.
        demand_first_gpu(device)
    # Methods that train the weights themselves need all digits of them.
    dtype = model.dtype or ("float32" if method.whole else None)
    loaded = load_model(
        model.base, model.adapter, dtype, device,
        quantization=model.quantization, device_map=model.device_map, attention=model.attention,
    )  # fmt: skip
    return replace(loaded, model=method.start(loaded.model))


def estimate(config: Config, progress: Reporter) -> tuple[Run, float]:
    """Return a run that is ready, and its model's speed in forward tokens per second, by scoring a few rows.

    Nothing is written.

    Raises:
        SapoError: for whatever would stop the run.
    """
    run = prepare(config, progress, pays=False)
    for note in run.notes:
        progress.note(note)
    task = run.inputs.tasks[0]
    rows = run.engine.renderer.encode(task.instruction, task.suffix, task.train[:_CALIBRATION_ROWS])
    tokens = sum(len(e.ids) for e in rows)
    scorer = run.model.scorer
    with progress.step("measuring the model's speed", 1, 1):
        scorer.plain(rows)
        began = time.perf_counter()
        scorer.plain(rows)
        elapsed = time.perf_counter() - began
    return run, tokens / elapsed
