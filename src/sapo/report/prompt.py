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
    shown = Text(plain(renderer.text(encoded.prompt)), overflow="fold")
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


def token_texts(renderer: Renderer, ids: Sequence[int]) -> Iterator[tuple[str, int]]:
    """Yield the text of each token and 1; tokens that make up characters only together come with their number."""
    split = [_PART in renderer.text([i]) for i in ids]
    start = 0
    while start < len(ids):
        end = start + 1
        while split[start] and end < len(ids) and split[end]:
            end += 1
        yield renderer.text(ids[start:end]), end - start
        start = end
