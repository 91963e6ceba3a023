"""How many tokens a model takes, and cutting an example that is too long.

What is lost is counted, and instruction, suffix and answer stay whole.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate
from typing import Any

from sapo.core.errors import RenderError
from sapo.core.types import Encoded, Example

# Published limit: 1536 tokens of prompt and 128 of answer.
MAX_LENGTH = 1664
_CUT_MARK = "\n[...]\n"


def context_length(model: Any) -> int:
    """Return the most tokens that the model was made for, or a very large number where it does not say."""
    return configured_length(model.config)


def configured_length(config: Any) -> int:
    """Return the same of a model's configuration."""
    try:
        # As an attribute, the name also finds what some configurations call n_positions.
        return int(config.get_text_config().max_position_embeddings)
    except AttributeError:
        return 1 << 30


def fit(example: Example, limit: int, encode: Callable[[Example], Encoded], parts: str) -> Encoded:
    """Return the encoding of as much of an example as ``limit`` tokens hold, with the number of characters cut.

    The oldest exchanges of a conversation go first, then the middle of the input.
    """
    # An exchange without any text counts as one character: its loss must show.
    sizes = [max(1, len(user) + len(assistant)) for user, assistant in example.history]
    lost = list(accumulate(sizes, initial=0))

    def without(exchanges: int) -> Encoded | None:
        """Return the encoding without the oldest exchanges, if that is short enough."""
        encoded = encode(replace(example, history=example.history[exchanges:]))
        return replace(encoded, cut=lost[exchanges]) if len(encoded.ids) <= limit else None

    # The fewest exchanges to leave out: shorter never takes more tokens, but for a token or two.
    fewest = bisect_left(range(len(sizes)), True, key=lambda n: without(n + 1) is not None) + 1
    if fewest <= len(sizes) and (found := without(fewest)) is not None:
        return found
    bare = replace(example, history=())
    cut = _fit_input(example.input, limit, lambda text: encode(replace(bare, input=text)), parts)
    return replace(cut, cut=cut.cut + lost[-1])


def _fit_input(text: str, limit: int, encode: Callable[[str], Encoded], parts: str) -> Encoded:
    """Return the encoding of the longest middle-cut of ``text`` that has at most ``limit`` tokens."""
    bare = encode("")
    if len(bare.ids) > limit:
        raise RenderError(
            f"{parts} alone take {len(bare.ids)} tokens, and at most {limit} fit: shorten them, or raise max_length if "
            "the model's context allows it"
        )

    def exceeds(kept: int) -> bool:
        return len(encode(_cut_middle(text, kept)).ids) > limit

    # Bisection over kept characters: needs no token offsets, so it works for every tokenizer. A bound is found
    # by doubling first, so that a huge text is not tokenised over and over.
    low, high = 1, min(4 * limit, len(text) - 1)
    while high < len(text) - 1 and not exceeds(high):
        low, high = high, min(2 * high, len(text) - 1)
    kept = low - 1 + bisect_left(range(low, high + 1), True, key=exceeds)
    best = encode(_cut_middle(text, kept)) if kept else bare
    return replace(best, cut=len(text) - kept)


def _cut_middle(text: str, kept: int) -> str:
    """Return the first and last characters of ``text``, ``kept`` of them in all, around a cut mark."""
    tail = kept // 2
    return text[: kept - tail] + _CUT_MARK + (text[-tail:] if tail else "")
