"""Options that several commands share, and what becomes of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from sapo.core.errors import ConfigError, nearest
from sapo.core.types import SourceName

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


@contextmanager
def checked_options() -> Iterator[None]:
    """Name the option whose value the settings made in the block do not allow."""
    try:
        yield
    except ValidationError as error:
        wrong = error.errors()[0]
        option = "".join(f"--{str(key).replace('_', '-')} " for key in wrong["loc"][:1])
        raise ConfigError(f"{option}{wrong['input']}: {wrong['msg']}") from error


def source_names(source: Sequence[str], allowed: Sequence[SourceName]) -> tuple[SourceName, ...]:
    """Return the sources that --source names, each once."""
    unknown = [name for name in source if name not in allowed]
    if unknown:
        raise ConfigError(f"--source {unknown[0]!r}: allowed: {', '.join(allowed)}.{nearest(unknown[0], allowed)}")
    return tuple(name for wanted in dict.fromkeys(source) for name in allowed if name == wanted)
