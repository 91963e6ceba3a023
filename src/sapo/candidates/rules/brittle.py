"""Instructions whose parts hang together so that nobody may take them apart."""

from __future__ import annotations

import regex

from sapo.candidates.rules.sentences import sentences
from sapo.candidates.rules.verbs import commands

# Code, tables, examples with their answers: what stands on such a line stays there.
_CODE = regex.compile(
    r"```|~~~|^ {4,}\S|^\t+\S|^\s*\|.*\||^\s*(?:import|def|class|return|from|SELECT|print\()\b|[;{}]\s*$",
    regex.MULTILINE,
)
_EXAMPLE = regex.compile(
    r"\b(?:for example|examples?|e\.g\.)\s*:?\s*\n"
    r"|^\s*(?:example|input|output|label|answer|question|q|a|text|sentence)\s*\d*\s*:.*\S",
    regex.IGNORECASE | regex.MULTILINE,
)
_IN_TURN = regex.compile(
    r"(?:then|next|after that|afterwards|finally|lastly|secondly|thirdly|now|once more),?\s+(?P<order>.+)",
    regex.IGNORECASE | regex.DOTALL,
)
_LEANS = regex.compile(r".*\b(?:again|the result)\b|\w+ (?:them|it|these|those|both)\b", regex.IGNORECASE)


def brittle(text: str) -> bool:
    """Whether an instruction holds code, a table, examples, or commands that only make sense in their order."""
    if _CODE.search(text) or len(_EXAMPLE.findall(text)) > 1:
        return True
    first, *others = sentences(text) or ("",)
    return commands(first) and any(map(_leans, others))


def _leans(sentence: str) -> bool:
    """Whether a sentence is a command that only makes sense after another one."""
    in_turn = _IN_TURN.match(sentence)
    return commands(in_turn["order"]) if in_turn else commands(sentence) and bool(_LEANS.match(sentence))
