"""What `sapo paraphrase` found: candidates, and the texts that were rejected."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sapo.core.types import Task
from sapo.core.untrusted import one_line
from sapo.report.blocks import Block, Command, Listing, Note, Page, Section, Table
from sapo.report.selections import rejections

if TYPE_CHECKING:
    from sapo.candidates.gather import Gathered

# Characters of a text that a table shows, and rejected texts.
_SHOWN, _NAMED = 90, 12


def gathered_page(task: Task, asked: Sequence[str], gathered: Gathered, out: Path, refused: Path) -> Page:
    """Return the page of candidates that nothing has scored yet.

    Args:
        task: whose instruction was paraphrased.
        asked: options by which a command with data names it again.
        gathered: its candidates.
        out: where they were written.
        refused: where the rejected texts were written, if there were any.
    """
    paraphrases = gathered.candidates[1:]
    rows = tuple(
        (str(n), c.origin, str(len(c.text)), one_line(c.text, _SHOWN)) for n, c in enumerate(paraphrases, start=1)
    )
    columns = ("no.", "from", "characters", "paraphrase")
    found: list[Block] = [Table(columns, rows, text=(1, 3))]
    if gathered.spare:
        found.append(Note(f"{len(gathered.spare)} more are valid; the most different are kept."))
    found += [Note(f"{note[:1].upper()}{note[1:]}.") for note in gathered.notes]
    sections = [
        Section("Original instruction", (Listing(f"{len(task.instruction)} characters:", task.instruction),)),
        Section(f"Valid paraphrases: {len(paraphrases)}", tuple(found)),
    ]
    if count := len(gathered.rejected):
        more = f"And {count - _NAMED} more. " * (count > _NAMED) + f"All of them with reasons: {refused}."
        named = (rejections(gathered.rejected[:_NAMED]), Note(more))
        sections.append(Section(f"Rejected texts: {count}", named))
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
