"""`sapo select`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sapo.cli.app import (
    Columns,
    DataDir,
    Given,
    Model,
    Subset,
    again,
    app,
    console,
    demand_writable,
    quiet_libraries,
    resumable,
    roles,
    terminal,
)
from sapo.core.errors import CandidateError, ConfigError
from sapo.core.processes import Processes, join

if TYPE_CHECKING:
    from sapo.candidates.gather import Gathered
    from sapo.core.progress import Reporter
    from sapo.core.types import Selection, Task
    from sapo.models.load import LoadedModel

Rule = Literal["lowest", "confident"]
Sample = Literal["stratified", "first"]
Strategy = Literal["racing", "exhaustive"]
# Paraphrases, where no file is given.
_COUNT = 20


@app.command("select")
def select_command(
    task: Annotated[
        str,
        typer.Option(help="A task's name; or your own data: a JSON, JSONL, CSV or Parquet file, directory, hub id."),
    ],
    candidates: Annotated[
        Path | None,
        typer.Option(
            help="JSON list, JSONL, or JSON object keyed by task; by default built-in ones, or such as rules make."
        ),
    ] = None,
    model: Model = "embedded",
    adapter: Annotated[str | None, typer.Option(help="Adapter on the model: its current state.")] = None,
    data_dir: DataDir = None,
    instruction: Given = None,
    suffix: Annotated[str | None, typer.Option(help="Replaces the task's suffix.")] = None,
    column: Columns = None,
    subset: Subset = None,
    examples: Annotated[int, typer.Option(min=1, help="Training rows to score on.")] = 250,
    rule: Annotated[Rule, typer.Option(help="lowest loss, or leave the original only with confidence.")] = "lowest",
    strategy: Annotated[
        Strategy, typer.Option(help="Candidates race, and drop out when they cannot win; or all on all rows.")
    ] = "racing",
    delta: Annotated[float, typer.Option(help="Race: how often the winner may be off by more than epsilon.")] = 0.05,
    epsilon: Annotated[float, typer.Option(min=0, help="Race: tolerance, in nats per token.")] = 0.01,
    budget: Annotated[
        float | None,
        typer.Option(
            help="Race: at most this share of the cost of training one epoch on the task; no limit if left out."
        ),
    ] = None,
    sample: Annotated[Sample, typer.Option(help="Rows by label shares, or the first ones.")] = "stratified",
    seed: Annotated[int, typer.Option(min=0, help="Of the sample and the intervals.")] = 42,
    use_cache: Annotated[bool, typer.Option("--cache/--no-cache", help="Take losses computed earlier.")] = True,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write the selection to this file.")] = None,
) -> None:
    """Score candidate instructions under a model and choose one; trains nothing."""
    from sapo.core.storage import write_json
    from sapo.report.selections import print_selection
    from sapo.runs.formats import selection_to_json

    demand_writable(json_out, "--json", candidates, Path(task))
    _demand_sensible(delta, epsilon, budget)

    def read() -> tuple[Task, Gathered]:
        from sapo.tasks.load import load_task

        loaded = load_task(task, data_dir, instruction=instruction, suffix=suffix, columns=roles(column), subset=subset)
        return loaded, _gather(loaded, candidates)

    processes = join(None)
    with resumable(lambda: _kept(use_cache)), quiet_libraries(), terminal() as progress:
        loaded_task, gathered = processes.once(read)
        wanted = _Wanted(examples, rule, strategy, delta, epsilon, budget, sample, seed, use_cache)
        loaded = processes.together(lambda: _load(model, adapter, processes))
        for note in (*loaded.notes, *loaded_task.notes, *gathered.notes):
            progress.note(note)
        selection = _score(loaded, loaded_task, gathered, wanted, processes, progress)
    if not processes.first:
        return
    # First what would be lost should nobody read on.
    if json_out is not None:
        write_json(json_out, {"model": loaded.name, **selection_to_json(selection)})
    print_selection(console(), selection)
    if json_out is not None:
        console().print(f"written to {json_out}", markup=False, highlight=False)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """How to score, see the options of the same names."""

    examples: int
    rule: Rule
    strategy: Strategy
    delta: float
    epsilon: float
    budget: float | None
    sample: Sample
    seed: int
    use_cache: bool


def _load(model: str, adapter: str | None, processes: Processes) -> LoadedModel:
    from sapo.models.load import best_device, load_model

    return load_model(model, adapter, device=processes.device(best_device()))


def _score(
    loaded: LoadedModel, task: Task, gathered: Gathered, wanted: _Wanted, processes: Processes, progress: Reporter
) -> Selection:
    """Return the selection, telling what the data hold and what scoring takes."""
    from sapo.models.fingerprint import state_fingerprint
    from sapo.models.losses import Scorer
    from sapo.models.render import Renderer
    from sapo.report.numbers import tokens
    from sapo.runs.plan import epoch_cost, scoring
    from sapo.selection.cache import LossCache, cache_directory
    from sapo.selection.rows import MAX_LENGTH, context_length, selection_rows
    from sapo.selection.scoring import SelectionSettings, score_candidates
    from sapo.tasks.findings import data_table, warnings_of
    from sapo.tasks.inspection import inspect_rows

    kept = gathered.candidates
    cache = None
    if wanted.use_cache:
        state = state_fingerprint(loaded.model)
        cache = LossCache(cache_directory(), state, loaded.model.device.type, processes)
    renderer = Renderer(loaded.tokenizer, min(MAX_LENGTH, context_length(loaded.model)))
    rows = selection_rows(task, wanted.examples, wanted.sample, wanted.seed)
    inspection = inspect_rows(task, rows)
    progress.table("data", *data_table([inspection]))
    for warning in warnings_of(inspection):
        progress.note(f"note: {warning}")
    if wanted.strategy == "racing" and wanted.rule == "confident":
        progress.note("note: rule confident needs every loss: all candidates are scored on all rows (exhaustive)")
    most = None if wanted.budget is None else wanted.budget * epoch_cost(renderer, task)
    settings = SelectionSettings(
        wanted.rule, wanted.sample, wanted.seed, wanted.strategy, wanted.delta, wanted.epsilon, most
    )
    work = scoring(renderer, task, kept, len(rows), races=settings.races)
    amount = " to ".join(dict.fromkeys(tokens(w.cost) for w in work))
    progress.note(f"scoring {len(kept)} candidates on up to {len(rows)} rows reads {amount} tokens")
    total = len(rows) * len(kept)
    progress.plan(total)
    with (
        progress.step(f"{task.name}: scoring {len(kept)} candidates", total, total) as advance,
        progress.race([c.text for c in kept], len(rows)) as watch,
    ):
        return score_candidates(
            Scorer(loaded.model, processes=processes), renderer, task, kept, rows, settings,
            rejected=gathered.rejected, advance=advance, watch=watch, cache=cache,
        )  # fmt: skip


def _gather(task: Task, file: Path | None) -> Gathered:
    """Return all of a file's candidates; without one, as many as a run takes from what the library has."""
    from sapo.candidates.builtin import Builtin
    from sapo.candidates.checks import why_none
    from sapo.candidates.files import FromFile
    from sapo.candidates.gather import gather
    from sapo.candidates.rules.source import Rules

    gathered = gather(task, (FromFile(file),), None) if file else gather(task, (Builtin(), Rules()), _COUNT)
    if len(gathered.candidates) == 1:
        raise CandidateError(
            f"task {task.name!r} has no valid candidate beside the original instruction "
            f"({why_none(gathered.rejected)}). Correct the texts, or have sapo paraphrase write others"
        )
    return gathered


def _kept(cached: bool) -> str:
    kept = "Losses of finished rounds and candidates are kept" if cached else "Nothing is kept (--no-cache)"
    return f"{kept}. {again()}"


def _demand_sensible(delta: float, epsilon: float, budget: float | None) -> None:
    if not 0 < delta < 0.5:
        raise ConfigError(f"--delta {delta}: allowed is a probability above 0 and below 0.5")
    if not 0 <= epsilon < float("inf"):
        raise ConfigError(f"--epsilon {epsilon}: allowed is 0 or a positive tolerance in nats per token")
    if budget is not None and not 0 < budget < float("inf"):
        raise ConfigError(f"--budget {budget}: allowed is a positive share of the cost of one epoch")
