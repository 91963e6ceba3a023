"""Pages as Markdown, with every text escaped: a candidate or an answer cannot become markup."""

from __future__ import annotations

import re
import shlex

from sapo.core.untrusted import plain
from sapo.report.tables import SHORT, Cell, Command, Listing, Note, Page, Plain, Section, Style, one_line

# A backslash becomes an entity, so that none of a text can join the ones that escape.
_ESCAPES = str.maketrans(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;", "\\": "&#92;"} | {character: f"\\{character}" for character in "`*_[]|~#$"}
)
# What would begin a list, a heading or a rule at the start of a paragraph.
_BLOCK = re.compile(r"^(\d*)([-+=.)])")
_WRAP: dict[Style, str] = {"": "", "strong": "**", "dim": "*", "good": "**", "bad": "**"}


def to_markdown(page: Page) -> str:
    """Return a page as GitHub-flavoured Markdown."""
    lines = [f"# {inline(page.title)}"]
    for section in (*([Section(SHORT, page.verdict)] if page.verdict else []), *page.sections):
        lines += ["", f"## {inline(section.title)}"]
        for block in section.plain:
            lines += ["", *_block(block)]
    return "\n".join(lines) + "\n"


def inline(text: str) -> str:
    """Return a text as one escaped line."""
    return _BLOCK.sub(r"\1\\\2", _escaped(one_line(plain(text))))


def fenced(text: str, language: str = "") -> list[str]:
    """Return a text as a code block whose fence is longer than any run of backticks in it."""
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", text))])
    return [f"{fence}{language or 'text'}", *plain(text).split("\n"), fence]


def _escaped(text: str) -> str:
    return text.translate(_ESCAPES)


def _block(block: Plain) -> list[str]:
    if isinstance(block, Note):
        return [_styled(inline(block.text), block.style)]
    if isinstance(block, Listing):
        return [inline(block.label), "", *fenced(block.text)]
    if isinstance(block, Command):
        return [inline(block.purpose), "", *fenced(shlex.join(block.words), "sh")]
    lines = [f"### {inline(block.title)}", ""] if block.title else []
    lines.append(_row([inline(column.title) for column in block.columns]))
    lines.append(_row(["---:" if column.numeric else ":---" for column in block.columns]))
    lines += [_row([_cell(cell) for cell in row]) for row in block.rows]
    if block.legend:
        lines += ["", *(f"- {inline(sentence)}" for sentence in block.legend)]
    return lines


def _row(texts: list[str]) -> str:
    return "| " + " | ".join(texts) + " |"


def _cell(cell: Cell) -> str:
    parts = [_styled(_escaped(one_line(line)), cell.style) for line in plain(cell.text).split("\n")]
    return "<br>".join(parts)


def _styled(text: str, style: Style) -> str:
    # Emphasis around nothing would show its asterisks.
    return f"{_WRAP[style]}{text}{_WRAP[style]}" if text else text
