"""What a reply must look like: rules that need no judge, after IFEval (Zhou et al. 2023, arXiv 2311.07911).

A rule says whether a reply keeps to a form, never whether it is right: a wrong single number is a single number.
Each takes the reply without surrounding white space and the rule's value, in time linear in the reply's length.

Words are counted as people do, "well-known" as one. They are compared as runs of letters and digits ("well" and
"known"), after Unicode NFKC and case folding.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

_WORD = re.compile(r"[^\W_]+")
_NUMBER = re.compile(r"[+-]?[0-9]{1,20}([.,][0-9]{1,20})?")
_QUOTES = "\"'“”„‘’«»"
_ENDS = (".", "!", "?", "…", "。", "！", "？")
_FENCE = "```"


def follows(reply: str, rules: Mapping[str, Any]) -> bool:
    """Return whether a reply keeps all the rules; without a letter or digit it says nothing and keeps none.

    Args:
        reply: what the model said.
        rules: value of each rule by its name in `RULES`.
    """
    said = reply.strip()
    return _WORD.search(said) is not None and all(RULES[name](said, value) for name, value in rules.items())


def _most_words(reply: str, most: int) -> bool:
    return _length(reply) <= most


def _least_words(reply: str, least: int) -> bool:
    return _length(reply) >= least


def _sentences(reply: str, wanted: int) -> bool:
    """As many sentences; the last one need not be closed, and "3.5" does not end one."""
    pieces = [piece for piece in reply.split() if _WORD.search(piece)]
    ended = [piece.rstrip(_QUOTES + ")*").endswith(_ENDS) for piece in pieces]
    return sum(ended) + (not ended[-1]) == wanted


def _bullets(reply: str, wanted: int) -> bool:
    """As many lines that begin with "- " and say something; other lines may stand between them."""
    lines = [line.strip() for line in reply.splitlines()]
    return sum(line.startswith("- ") for line in lines) == wanted


def _items(reply: str, wanted: int) -> bool:
    """As many parts between commas, none empty, on one line."""
    parts = reply.split(",")
    return len(parts) == wanted and all(map(_WORD.search, parts)) and len(reply.splitlines()) == 1


def _lower_case(reply: str, _: bool) -> bool:
    return reply == reply.lower() and any(map(str.islower, reply))


def _upper_case(reply: str, _: bool) -> bool:
    return reply == reply.upper() and any(map(str.isupper, reply))


def _number(reply: str, _: bool) -> bool:
    """One decimal number in ASCII digits, with a full stop after it or not."""
    return _NUMBER.fullmatch(reply.removesuffix(".")) is not None


def _one_of(reply: str, allowed: Sequence[str]) -> bool:
    """One of these words, whatever punctuation stands around it."""
    return _words(reply) in [[word] for word in allowed]


def _json_keys(reply: str, keys: Sequence[str]) -> bool:
    """A JSON object with exactly these keys, in a Markdown code block or not."""
    if reply.startswith(_FENCE) and reply.endswith(_FENCE):
        reply = reply.removesuffix(_FENCE).removeprefix(_FENCE).removeprefix("json")
    try:
        found = json.loads(reply, parse_constant=_no_json)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.keys() == set(keys)


def _quoted(reply: str, _: bool) -> bool:
    """All of it between double quotation marks, straight or curly, with none inside."""
    return reply[0] in '"“' and reply[-1] in '"”' and not set(reply[1:-1]) & set('"“”')


def _contains(reply: str, words: Sequence[str]) -> bool:
    return set(words) <= set(_words(reply))


def _forbids(reply: str, words: Sequence[str]) -> bool:
    return not set(words) & set(_words(reply))


def _without(reply: str, character: str) -> bool:
    return character not in _fold(reply)


def _starts_with(reply: str, phrase: str) -> bool:
    wanted = phrase.split()
    return _words(reply)[: len(wanted)] == wanted


def _ends_with(reply: str, phrase: str) -> bool:
    """These words last, whatever punctuation follows them."""
    wanted = phrase.split()
    return _words(reply)[-len(wanted) :] == wanted


RULES: Mapping[str, Callable[[str, Any], bool]] = MappingProxyType(
    {
        "most_words": _most_words,
        "least_words": _least_words,
        "sentences": _sentences,
        "bullets": _bullets,
        "items": _items,
        "lower_case": _lower_case,
        "upper_case": _upper_case,
        "number": _number,
        "one_of": _one_of,
        "json_keys": _json_keys,
        "quoted": _quoted,
        "contains": _contains,
        "forbids": _forbids,
        "without": _without,
        "starts_with": _starts_with,
        "ends_with": _ends_with,
    }
)


def _fold(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def _words(text: str) -> list[str]:
    return _WORD.findall(_fold(text))


def _length(text: str) -> int:
    """Return the number of pieces between white space that are not only punctuation."""
    return sum(_WORD.search(piece) is not None for piece in text.split())


def _no_json(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
