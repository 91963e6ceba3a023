"""What `sapo paraphrase` found: candidates, and the texts that are none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from sapo.core.types import Rejection, Task
from sapo.report.tables import Block, Column, Command, Listing, Note, Page, Section, Table, cells, one_line
from sapo.report.terminal import show

if TYPE_CHECKING:
    from sapo.candidates.gather import Gathered

# Characters of a text that a table shows, and rejected texts.
_SHOWN, _NAMED = 90, 12


def print_gathered(
    console: Console, task: Task, asked: Sequence[str], gathered: Gathered, out: Path, refused: Path | None
) -> None:
    """Print the candidates of a task, where they were written, and what was rejected."""
    show(console, gathered_page(task, asked, gathered, out, refused))


def gathered_page(task: Task, asked: Sequence[str], gathered: Gathered, out: Path, refused: Path | None) -> Page:
    """Return the page of candidates that nothing has scored yet.

    Args:
        task: whose instruction was paraphrased.
        asked: options by which a command with data names it again.
        gathered: its candidates.
        out: where they were written.
        refused: where the texts that are none were written; None where there are none.
    """
    paraphrases = gathered.candidates[1:]
    rows = tuple(
        cells(str(n), c.origin, str(len(c.text)), one_line(c.text, _SHOWN)) for n, c in enumerate(paraphrases, start=1)
    )
    columns = (
        Column("no."),
        Column("from", numeric=False),
        Column("charac-\nters"),
        Column("paraphrase", numeric=False),
    )
    found: list[Block] = [Table("", columns, rows)]
    if gathered.spare:
        found.append(Note(f"{len(gathered.spare)} more were valid; kept are those that differ most."))
    found += [Note(f"{note[:1].upper()}{note[1:]}.") for note in gathered.notes]
    sections = [
        Section("Original instruction", (Listing(f"{len(task.instruction)} characters:", task.instruction),)),
        Section(f"Valid paraphrases: {len(paraphrases)}", tuple(found)),
    ]
    if gathered.rejected:
        sections.append(Section(f"Rejected texts: {len(gathered.rejected)}", _refused(gathered.rejected, refused)))
    following = (
        Note(f"Written to {out}, one JSON object a line: text, origin."),
        Command(
            ("sapo", "select", *asked, "--candidates", str(out)),
            "To see which of them fits a model best, with data of the task (and further options that it needs):",
        ),
    )
    sections.append(Section("Next", following))
    whose = f"the instruction of {task.name}" if task.train else "your instruction"
    return Page(f"Paraphrases of {whose}", tuple(sections))


def _refused(rejected: tuple[Rejection, ...], file: Path | None) -> tuple[Block, ...]:
    counts = Counter(_kind(r.reason) for r in rejected)
    summary = "; ".join(f"{count} x {kind}" for kind, count in counts.most_common())
    rows = tuple(cells(r.reason, one_line(r.text, _SHOWN) or "(nothing)") for r in rejected[:_NAMED])
    more = len(rejected) - len(rows)
    where = f"All of them with reasons: {file}." if file else ""
    return (
        Note(f"{summary}."),
        Table("", (Column("reason", numeric=False), Column("text", numeric=False)), rows),
        *([Note(f"And {more} more. {where}".strip())] if more else [Note(where)] if where else []),
    )


def _kind(reason: str) -> str:
    """Return a reason without what differs from text to text."""
    return reason.split(":")[0].split(" '")[0].split(" (")[0]
