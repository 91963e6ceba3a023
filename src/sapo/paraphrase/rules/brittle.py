"""Instructions whose parts hang together so that nobody may take them apart."""

from __future__ import annotations

import regex

from sapo.paraphrase.rules.sentences import sentences
from sapo.paraphrase.rules.verbs import commands

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
_NEXT = regex.compile(
    r"(?:then|next|after that|afterwards|finally|lastly|second(?:ly)?|third(?:ly)?|now|once more)\b"
    r"|.*\b(?:again|the result)\b|\w+ (?:them|it|these|those|both)\b",
    regex.IGNORECASE,
)


def brittle(text: str) -> bool:
    """Whether an instruction holds code, a table, examples, or commands that only make sense in their order."""
    if _CODE.search(text) or len(_EXAMPLE.findall(text)) > 1:
        return True
    orders = [sentence for sentence in sentences(text) if commands(sentence)]
    return any(_NEXT.match(sentence) for sentence in orders[1:])
