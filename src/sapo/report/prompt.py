"""One prompt as the model sees it, the supervised tokens marked one by one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.text import Text

from sapo.core.types import Encoded
from sapo.core.untrusted import plain
from sapo.models.render import Renderer

# What a token decodes to that holds only part of a character.
_PART = "\ufffd"


def print_prompt(console: Console, renderer: Renderer, encoded: Encoded) -> None:
    """Print the prompt as running text and each supervised token in brackets."""
    supervised = encoded.ids[encoded.prompt_length :]
    console.print()
    console.rule(Text("The prompt as the model sees it", style="bold"), align="left", style="dim")
    shown = Text(plain(prompt_text(renderer, encoded.prompt)), overflow="fold")
    for text, count in token_texts(renderer, supervised):
        # A line break is spelled out, or its bracket would close on the next line.
        content = plain(text).replace("\n", "\\n").replace("\t", "\\t")
        shown.append(f"[{content}]" + (f"x{count}" if count > 1 else ""), style="bold green")
    console.print(shown)
    console.rule(style="dim")
    console.print(
        Text(
            f"{encoded.prompt_length} prompt tokens, {encoded.supervised} supervised tokens. [...] marks a supervised "
            "token: the answer and what ends its turn; only these count in the loss. [...]x2: one piece of text that "
            "takes 2 tokens.",
            style="dim",
        )
    )
    if encoded.cut:
        console.print(Text(f"{encoded.cut} characters of the input's middle were cut to fit max_length.", style="bold"))


def prompt_text(renderer: Renderer, ids: Sequence[int]) -> str:
    """Return the text of prompt tokens, decoded together, with special tokens spelled out.

    Decoded alone, tokens of a split character are unreadable, and those of some tokenizers lose their blanks.
    """
    pieces = renderer.pieces(ids)
    special = [bool(piece.strip()) and not renderer.decode([i]) for piece, i in zip(pieces, ids, strict=True)]
    text, start = "", 0
    for end in range(1, len(ids) + 1):
        if end == len(ids) or special[end] or special[start]:
            alone = "".join(pieces[start:end])
            text += alone if special[start] else _together(renderer, ids[start:end], alone)
            start = end
    return text


def token_texts(renderer: Renderer, ids: Sequence[int]) -> Iterator[tuple[str, int]]:
    """Yield the text of each token and 1; tokens that make up characters only together come with their number."""
    pieces = renderer.pieces(ids)
    start = 0
    while start < len(ids):
        end = start + 1
        while _PART in pieces[start] and end < len(ids) and _PART in pieces[end]:
            end += 1
        alone = "".join(pieces[start:end])
        yield (alone if end - start == 1 else _together(renderer, ids[start:end], alone)), end - start
        start = end


def _together(renderer: Renderer, ids: Sequence[int], alone: str) -> str:
    """Return the joint decoding of ordinary tokens; `Renderer.decode` strips blanks, ``alone`` gives them back."""
    core = renderer.decode(ids)
    if not core:
        return alone
    before, after = len(alone) - len(alone.lstrip()), len(alone.rstrip())
    return alone[:before] + core + alone[after:]
