"""Options that several commands share, and what becomes of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from pydantic import ValidationError

from sapo.candidates.settings import CandidateSettings
from sapo.core.errors import ConfigError, nearest
from sapo.core.types import SourceName

if TYPE_CHECKING:
    from sapo.candidates.gather import Gathered
    from sapo.core.progress import Reporter
    from sapo.core.types import Task
    from sapo.models.render import Renderer
    from sapo.models.settings import ModelSettings

DataDir = Annotated[Path | None, typer.Option(help="Directory with instructions.json and one folder per task.")]
Given = Annotated[str | None, typer.Option(help="Instruction of the task; replaces the one that the data hold.")]
Suffix = Annotated[str | None, typer.Option(help="Replaces the task's suffix.")]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        help="ROLE=NAME of own data, repeatable: input, answer, instruction, system, history, messages, ignore.",
    ),
]
Train = Annotated[str | None, typer.Option(help="Own data: the split to train on.")]
Subset = Annotated[str | None, typer.Option(help="Configuration name of a hub data set.")]
Model = Annotated[str, typer.Option(help="'embedded', a local directory, or a hub id.")]
Configuration = Annotated[Path, typer.Argument(help="YAML file, see docs/config.md or docs/study.md.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="key=value, such as train.epochs=1.")]
Ray = Annotated[
    str | None, typer.Option(metavar="ADDRESS", help="Train on a Ray cluster; auto: the cluster of this machine.")
]
StageDir = Annotated[Path, typer.Argument(help="A stage directory of a run: RUN_DIR/stages/K-TASK.")]


def roles(columns: list[str] | None) -> dict[str, tuple[str, ...]] | None:
    """Return role -> columns of --column options."""
    pairs = [column.partition("=") for column in columns or ()]
    wrong = [role for role, equals, name in pairs if not (role and equals and name)]
    if wrong:
        raise ConfigError(f"--column {wrong[0]!r} must have the form ROLE=NAME, such as input=review")
    found: dict[str, tuple[str, ...]] = {}
    for role, _, name in pairs:
        found[role] = (*found.get(role, ()), name)
    return found or None


def renderer_of(model: str) -> Renderer:
    """Return what renders prompts as a run with the model does by default, without loading its weights."""
    from sapo.models.fit import MAX_LENGTH, configured_length
    from sapo.models.load import load_config, load_tokenizer
    from sapo.models.render import Renderer

    return Renderer(load_tokenizer(model), min(MAX_LENGTH, configured_length(load_config(model))))


def demand_read(context: typer.Context, readers: Mapping[str, tuple[object, str]]) -> None:
    """Refuse an option that was given though nothing reads it; by parameter: whether something does, and what would."""
    for name, (is_read, reader) in readers.items():
        source = context.get_parameter_source(name)
        if not is_read and source is not None and source.name == "COMMANDLINE":
            raise ConfigError(f"--{name.replace('_', '-')} is for {reader}")


@contextmanager
def checked_options() -> Iterator[None]:
    """Name the option whose value the settings made in the block do not allow."""
    try:
        yield
    except ValidationError as error:
        wrong = error.errors()[0]
        option = "".join(f"--{str(key).replace('_', '-')} " for key in wrong["loc"][:1])
        raise ConfigError(f"{option}{wrong['input']}: {wrong['msg']}") from error


def asked_sources(
    source: list[str] | None, file: Path | None, allowed: Sequence[str] = get_args(SourceName), **more: Any
) -> CandidateSettings:
    """Return where candidates come from, by --source, each once, and --candidates; ``more`` are other settings."""
    unknown = [name for name in source or () if name not in allowed]
    if unknown:
        raise ConfigError(f"--source {unknown[0]!r}: allowed: {', '.join(allowed)}.{nearest(unknown[0], allowed)}")
    named = source or ([] if file is None else ["file"])
    for name, option, given in (("file", "--candidates", file), ("openai", "--server-model", more.get("openai"))):
        if name in named and given is None:
            raise ConfigError(f"--source {name} needs {option}")
        if name not in named and given is not None:
            raise ConfigError(f"{option} is for --source {name}: add that")
    names = None if source is None else tuple(dict.fromkeys(source))
    try:
        return CandidateSettings.model_validate({"sources": names, "file": file, **more})
    except ValidationError as error:
        raise ConfigError(f"--candidates {file}: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from error


def gathered_from(
    settings: CandidateSettings, task: Task, count: int | None, model: ModelSettings, seed: int, progress: Reporter
) -> Gathered:
    """Return a task's candidates, after notes on what asking for them costs; ``count`` None is all of them."""
    from sapo.candidates.gather import gather, with_spare
    from sapo.candidates.opening import open_sources

    sources, _ = open_sources(settings, model, seed, progress.note)
    wanted = count or settings.count
    for cost in filter(None, (one.cost(task, with_spare(wanted)) for one in sources)):
        progress.note(cost)
    with progress.step(f"{task.name}: gathering candidates", wanted, wanted) as advance:
        return gather(task, sources, count, advance)
