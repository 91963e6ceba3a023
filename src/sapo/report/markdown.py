"""Pages as Markdown, with every text escaped: a candidate or an answer cannot become markup."""

from __future__ import annotations

import re
import shlex

from sapo.core.untrusted import inline_markdown, plain
from sapo.report.blocks import Block, Command, Listing, Note, Page, Plot

# What would begin a list, a heading or a rule at the start of a paragraph.
_BLOCK = re.compile(r"^(\d*)([-+=.)])")


def to_markdown(page: Page) -> str:
    """Return a page as GitHub-flavoured Markdown."""
    parts = [f"# {inline(page.title)}"]
    for section in page.parts:
        parts += [f"## {inline(section.title)}", *filter(None, map(block_markdown, section.blocks))]
    return "\n\n".join(parts) + "\n"


def inline(text: str) -> str:
    """Return a text as one escaped line."""
    return _BLOCK.sub(r"\1\\\2", inline_markdown(text))


def block_markdown(block: Block) -> str:
    """Return one block; a figure has none."""
    if isinstance(block, Plot):
        return ""
    if isinstance(block, Note):
        return _marked(inline(block.text), bold=block.style == "bold")
    if isinstance(block, Listing):
        shown = f"{inline(block.label)}\n\n{fenced(block.text, 'text')}"
        return shown if block.original is None else f"{shown}\n\nIt replaces:\n\n{fenced(block.original, 'text')}"
    if isinstance(block, Command):
        return f"{inline(block.purpose)}\n\n{fenced(shlex.join(map(plain, block.words)), 'sh')}"
    lines = [f"### {inline(block.title)}", ""] if block.title else []
    lines.append(_row([inline(title) for title in block.columns]))
    lines.append(_row(["---:" if block.numeric(i) else ":---" for i in range(len(block.columns))]))
    lines += [
        _row([_marked(inline_markdown(text), bold=n in block.bold) for text in row]) for n, row in enumerate(block.rows)
    ]
    lines += ["", *(f"- {inline(sentence)}" for sentence in block.legend)] if block.legend else []
    return "\n".join(lines)


def fenced(text: str, language: str) -> str:
    """Return a text as a code block whose fence is longer than any run of backticks in it."""
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", text))])
    return f"{fence}{language}\n{plain(text)}\n{fence}"


def _row(texts: list[str]) -> str:
    return "| " + " | ".join(texts) + " |"


def _marked(text: str, *, bold: bool) -> str:
    # Emphasis around nothing would show its asterisks.
    return f"**{text}**" if bold and text else text
