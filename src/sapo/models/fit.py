"""Cutting an example that is too long: what is lost is counted, and instruction, suffix and answer stay whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate

from sapo.core.errors import RenderError
from sapo.core.types import Encoded, Example

ADVICE = ": shorten them, or raise max_length if the model's context allows it"
_CUT_MARK = "\n[...]\n"


def characters(example: Example) -> int:
    """Return how many characters of an example may be cut."""
    return len(example.input) + sum(len(user) + len(assistant) for user, assistant in example.history)


def fit(example: Example, limit: int, most: int, encode: Callable[[Example], Encoded], parts: str) -> Encoded:
    """Return the encoding of as much of an example as ``limit`` tokens hold, with the number of characters cut.

    The oldest exchanges of a conversation go first, then the middle of the input. Texts of more than ``most``
    characters cannot fit and are not tried.
    """
    # An exchange without any text counts as one character: its loss must show.
    sizes = [max(1, len(user) + len(assistant)) for user, assistant in example.history]
    lost = list(accumulate(sizes, initial=0))
    whole = lost[-1] + len(example.input)

    def without(exchanges: int) -> Encoded | None:
        """Return the encoding without the oldest exchanges, if that is short enough."""
        if whole - lost[exchanges] > most:
            return None
        encoded = encode(replace(example, history=example.history[exchanges:]))
        return replace(encoded, cut=lost[exchanges]) if len(encoded.ids) <= limit else None

    # The fewest exchanges to leave out, by bisection: shorter never takes more tokens, but for a token or two.
    best, low, high = None, 1, len(sizes)
    while low <= high:
        middle = (low + high) // 2
        found = without(middle)
        best, low, high = (best, middle + 1, high) if found is None else (found, low, middle - 1)
    if best is not None:
        return best
    bare = replace(example, history=())
    cut = _fit_input(example.input, limit, lambda text: encode(replace(bare, input=text)), parts)
    return replace(cut, cut=cut.cut + lost[-1])


def _fit_input(text: str, limit: int, encode: Callable[[str], Encoded], parts: str) -> Encoded:
    """Return the encoding of the longest middle-cut of ``text`` that has at most ``limit`` tokens."""
    bare = encode("")
    if len(bare.ids) > limit:
        raise RenderError(f"{parts} alone take {len(bare.ids)} tokens, and at most {limit} fit{ADVICE}")
    # Bisection over kept characters: needs no token offsets, so it works for every tokenizer. A bound is found
    # by doubling first, so that a huge text is not tokenised over and over.
    kept, best = 0, bare
    low, high = 1, min(4 * limit, len(text) - 1)
    while high < len(text) - 1 and len(encode(_cut_middle(text, high)).ids) <= limit:
        low, high = high, min(2 * high, len(text) - 1)
    while low <= high:
        middle = (low + high) // 2
        encoded = encode(_cut_middle(text, middle))
        if len(encoded.ids) <= limit:
            kept, best, low = middle, encoded, middle + 1
        else:
            high = middle - 1
    return Encoded(best.ids, best.prompt_length, cut=len(text) - kept)


def _cut_middle(text: str, kept: int) -> str:
    """Return the first and last characters of ``text``, ``kept`` of them in all, around a cut mark."""
    tail = kept // 2
    return text[: kept - tail] + _CUT_MARK + (text[-tail:] if tail else "")
