"""`sapo paraphrase`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sapo.candidates.settings import LocalSettings, ServerSettings
from sapo.cli.app import again, app, console, demand_new, demand_writable, one_process, working
from sapo.cli.options import (
    Columns,
    DataDir,
    Given,
    Subset,
    Suffix,
    Train,
    asked_sources,
    checked_options,
    demand_read,
    gathered_from,
    roles,
)
from sapo.core.errors import CandidateError, ConfigError

if TYPE_CHECKING:
    from sapo.candidates.gather import Gathered


@app.command("paraphrase")
def paraphrase_command(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="JSON lines to write: text, origin. Rejected texts go to a second file.")],
    task: Annotated[
        str | None, typer.Option(help="A task's name, or your own data as for select; not needed with --instruction.")
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(
            help="file, builtin, rules, demonstrations, local or openai; repeatable, in order of preference. "
            "[default: builtin, rules]"
        ),
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Paraphrases wanted.")] = 20,
    data_dir: DataDir = None,
    instruction: Given = None,
    suffix: Suffix = None,
    column: Columns = None,
    train: Train = None,
    subset: Subset = None,
    candidates: Annotated[Path | None, typer.Option(help="For --source file: JSON list, JSONL, or by task.")] = None,
    model: Annotated[
        str | None, typer.Option(help="For --source local: 'embedded' (the default), a directory, or a hub id.")
    ] = None,
    server_model: Annotated[str | None, typer.Option(help="For --source openai: the model's name there.")] = None,
    base_url: Annotated[str | None, typer.Option(help="For --source openai: such as http://localhost:8000/v1.")] = None,
    longest: Annotated[
        int, typer.Option(min=1, help="For --source demonstrations: characters of a candidate, at most.")
    ] = 2000,
    temperature: Annotated[
        float, typer.Option(min=0.01, max=2, help="Sampling temperature of a language model; higher is more varied.")
    ] = 1.0,
    max_requests: Annotated[int, typer.Option(min=1, help="Maximum requests to the server.")] = 200,
    max_tokens: Annotated[int, typer.Option(min=1, help="Maximum tokens, prompts and replies together.")] = 200_000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of a language model's sampling.")] = 42,
) -> None:
    """Write paraphrases of a task's instruction to a file, checked; trains and scores nothing.

    The key of a server comes from the environment (OPENAI_API_KEY).
    """
    one_process("sapo paraphrase")
    if server_model == "":
        raise ConfigError("--server-model is empty: give the model's name on the server")
    local, server, shown = (name in (source or ()) for name in ("local", "openai", "demonstrations"))
    demand_read(
        context,
        {
            "model": (local, "--source local: add that"),
            **dict.fromkeys(
                ("server_model", "base_url", "max_requests", "max_tokens"), (server, "--source openai: add that")
            ),
            **dict.fromkeys(("temperature", "seed"), (local or server, "--source local or openai: add one of them")),
            "longest": (shown, "--source demonstrations: add that"),
            **dict.fromkeys(("data_dir", "column", "train", "subset"), (task, "--task: add that")),
        },
    )
    read = (candidates, None if task is None else Path(task))
    demand_new(out, "--out", *read)
    refused = out.with_name(f"{out.name.removesuffix('.jsonl')}.rejected.jsonl")
    demand_writable(refused, "--out", *read)
    from sapo.core.types import Task
    from sapo.models.settings import ModelSettings
    from sapo.report.selections import gathered_page
    from sapo.report.terminal import show
    from sapo.tasks.load import load_task

    with checked_options():
        openai = None
        if server_model is not None:
            openai = ServerSettings(
                model=server_model, base_url=base_url, temperature=temperature,
                max_requests=max_requests, max_tokens=max_tokens,
            )  # fmt: skip
        own = LocalSettings(model=model, temperature=temperature)
    asked = asked_sources(source, candidates, longest=longest, local=own, openai=openai)
    with working(lambda: f"Replies that came in are kept. {again()}") as progress:
        if task is not None:
            loaded = load_task(
                task, data_dir, instruction=instruction, suffix=suffix, columns=roles(column), train=train,
                subset=subset,
            )  # fmt: skip
        elif instruction is None or not instruction.strip():
            raise ConfigError("pass --task or --instruction: the instruction to paraphrase")
        else:
            loaded = Task("instruction", instruction.strip(), (suffix or "").strip(), (), "rouge_l", (), (), ())
        for note in loaded.notes:
            progress.note(note)
        progress.plan(count)
        gathered = gathered_from(asked, loaded, count, ModelSettings(), seed, progress)
    _write(out, refused, gathered)
    # Options by which a command that needs its data names the task again.
    named = ["--task", "YOUR_DATA" if task is None else task]
    named += [] if data_dir is None else ["--data-dir", str(data_dir)]
    named += [] if instruction is None else ["--instruction", instruction]
    show(console(), gathered_page(loaded, named, gathered, out, refused))


def _write(out: Path, refused: Path, gathered: Gathered) -> None:
    """Write the candidates, and the rejected texts to a file of their own.

    Raises:
        CandidateError: if there is no candidate to write.
    """
    from sapo.candidates.checks import listed
    from sapo.core.storage import write_text

    # One of an earlier command would speak of other texts.
    refused.unlink(missing_ok=True)
    if gathered.rejected:
        write_text(refused, _lines({"text": r.text, "reason": r.reason} for r in gathered.rejected))
    if len(gathered.candidates) == 1:
        raise CandidateError(
            f"no valid paraphrase, so {out} is not written ({listed(gathered.rejected)}). "
            "Try another source: sapo paraphrase --help lists them"
        )
    write_text(out, _lines({"text": c.text, "origin": c.origin} for c in gathered.candidates[1:]))


def _lines(rows: Iterable[dict[str, str]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
