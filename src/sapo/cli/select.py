"""`sapo select`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import typer

from sapo.cli.app import again, app, console, demand_new, say, working
from sapo.cli.options import (
    Columns,
    DataDir,
    Given,
    Model,
    Subset,
    Suffix,
    Train,
    asked_sources,
    checked_options,
    demand_read,
    gathered_from,
    roles,
)
from sapo.core.errors import CandidateError
from sapo.core.processes import Processes, join
from sapo.core.types import Sample, SourceName, Strategy
from sapo.models.settings import DeviceMap, ModelSettings, Quantization
from sapo.selection.settings import SelectionSettings

if TYPE_CHECKING:
    from sapo.candidates.gather import Gathered
    from sapo.core.progress import Reporter
    from sapo.core.types import Task
    from sapo.models.load import LoadedModel
    from sapo.selection.selection import Selection


@app.command("select")
def select_command(
    context: typer.Context,
    task: Annotated[
        str,
        typer.Option(help="A task's name; or your own data: a JSON, JSONL, CSV or Parquet file, directory, hub id."),
    ],
    candidates: Annotated[
        Path | None,
        typer.Option(
            help="JSON list, JSONL, or JSON object keyed by task; default: built-in, else rule-based paraphrases."
        ),
    ] = None,
    model: Model = "embedded",
    source: Annotated[
        list[str] | None,
        typer.Option(
            help="file (as --candidates), builtin, rules, demonstrations or local; repeatable, in order of preference. "
            "[default: the file, else builtin, rules]"
        ),
    ] = None,
    adapter: Annotated[str | None, typer.Option(help="Adapter on the model: its current state.")] = None,
    quantization: Annotated[Quantization | None, typer.Option(help="Quantise the model to fit the GPU.")] = None,
    device_map: Annotated[DeviceMap | None, typer.Option(help="Spread the model over all GPUs.")] = None,
    data_dir: DataDir = None,
    instruction: Given = None,
    suffix: Suffix = None,
    column: Columns = None,
    train: Train = None,
    subset: Subset = None,
    examples: Annotated[int, typer.Option(min=1, help="Training rows to score on.")] = 250,
    rule: Annotated[
        Literal["lowest", "confident"],
        typer.Option(help="lowest loss, or leave the original only with confidence. trial trains: see `sapo run`."),
    ] = "lowest",
    strategy: Annotated[
        Strategy, typer.Option(help="Candidates race and are dropped when they cannot win; or all on all rows.")
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
    from sapo.candidates.checks import listed
    from sapo.core.storage import write_json
    from sapo.models.load import best_device, load_config, load_model
    from sapo.report.selections import selection_page
    from sapo.report.terminal import show
    from sapo.tasks.load import load_task

    demand_new(json_out, "--json", candidates, Path(task))
    with checked_options():
        settings = SelectionSettings(
            examples=examples, rule=rule, sample=sample, strategy=strategy, delta=delta, epsilon=epsilon,
            budget=budget, cache=use_cache,
        )  # fmt: skip
    race = (settings.races, "races: --strategy racing with --rule lowest")
    demand_read(context, dict.fromkeys(("delta", "epsilon", "budget"), race))
    asked = asked_sources(source, candidates, [name for name in get_args(SourceName) if name != "openai"])
    base = ModelSettings(base=model, quantization=quantization, device_map=device_map)

    def read(progress: Reporter) -> tuple[Task, Gathered]:
        loaded = load_task(
            task, data_dir, instruction=instruction, suffix=suffix, columns=roles(column), train=train, subset=subset
        )
        # A name that is no model's is told before candidates are gathered, which may take minutes.
        load_config(model)
        # Of a file that is the only source all candidates; of other sources, as many as a run takes.
        count = None if asked.asked == ("file",) else asked.count
        gathered = gathered_from(asked, loaded, count, base, seed, progress)
        if len(gathered.candidates) == 1:
            raise CandidateError(
                f"task {loaded.name!r} has no valid candidate besides the original instruction "
                f"({listed(gathered.rejected)}). Correct the texts, or have sapo paraphrase write others"
            )
        return loaded, gathered

    processes = join(None)
    kept = "Losses of finished rounds and candidates are kept" if use_cache else "Nothing is kept (--no-cache)"
    with working(lambda: f"{kept}. {again()}") as progress:
        given, gathered = processes.once(lambda: read(progress))
        device = None if device_map else processes.device(best_device())
        loaded = processes.together(
            lambda: load_model(model, adapter, device=device, quantization=quantization, device_map=device_map)
        )
        for note in (*loaded.notes, *given.notes, *gathered.notes):
            progress.note(note)
        selection = _score(loaded, given, gathered, settings, seed, processes, progress)
    if processes.first:
        # First what would be lost should nobody read on.
        if json_out is not None:
            quantised = {} if quantization is None else {"quantization": quantization}
            write_json(json_out, {"model": loaded.name, **quantised, **selection.to_json()})
        show(console(), selection_page(selection))
        say(*([f"written to {json_out}"] if json_out is not None else []))


def _score(
    loaded: LoadedModel, task: Task, gathered: Gathered, settings: SelectionSettings, seed: int,
    processes: Processes, progress: Reporter,
) -> Selection:  # fmt: skip
    """Return the selection, after notes on what the data hold and what scoring takes."""
    from sapo.core.storage import cache_directory
    from sapo.models.fingerprint import state_fingerprint
    from sapo.models.fit import MAX_LENGTH, context_length
    from sapo.models.losses import Scorer
    from sapo.models.render import Renderer
    from sapo.report.numbers import tokens
    from sapo.runs.plan import cost_of_examples, epoch_cost, scoring
    from sapo.selection.cache import LossCache
    from sapo.selection.scoring import score_candidates
    from sapo.tasks.findings import data_table, warnings_of
    from sapo.tasks.inspection import inspect_rows
    from sapo.tasks.sampling import selection_rows

    model, kept = loaded.model, gathered.candidates
    renderer = Renderer(loaded.tokenizer, min(MAX_LENGTH, context_length(model)))
    rows = selection_rows(task, settings.examples, settings.sample, seed)
    inspection = inspect_rows(task, rows)
    progress.table("data", *data_table([inspection]))
    for warning in warnings_of(inspection):
        progress.note(f"note: {warning}")
    if settings.strategy == "racing" and not settings.races:
        progress.note("note: rule confident needs every loss: all candidates are scored on all rows (exhaustive)")
    amount = tokens(scoring(renderer, task, kept, len(rows)).cost)
    for note in cost_of_examples(renderer, task, kept):
        progress.note(note)
    progress.note(f"scoring {len(kept)} candidates on up to {len(rows)} rows reads up to {amount} tokens")
    progress.plan(len(rows) * len(kept))
    budget = None if settings.budget is None else settings.budget * epoch_cost(renderer, task)
    cache = None
    if settings.cache:
        cache = LossCache(cache_directory("losses"), state_fingerprint(model), model.device.type, processes)
    return score_candidates(
        Scorer(model, processes=processes), renderer, task, kept, rows, settings,
        seed=seed, budget=budget, rejected=gathered.rejected, cache=cache, progress=progress,
    )  # fmt: skip
