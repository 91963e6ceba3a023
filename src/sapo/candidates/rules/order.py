"""The order of sentences: which of them may change places without a loss."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

import regex

from sapo.candidates.rules.sentences import loose

# Droppable where sentences change places; other words of this kind keep a sentence where it is.
_DROPPED = regex.compile(
    r"(?:in short|in other words|in addition|additionally|also|furthermore|moreover|finally|lastly),? ", regex.I
)
# Sentences that lean on the one before: by how they begin, or by a word anywhere in them.
_LEANS = regex.compile(
    r"(?:however|but|otherwise|then|therefore|thus|hence|so|this|these|they|it|its|such|those|that|and|or|else|here"
    r"|if (?:not|so|it|they|there)|in (?:this|that|such|these|both|either|all) |for (?:example|instance)|e\.g|i\.e"
    r"|there|he|she|both|either|neither|none|similarly|likewise|instead|conversely|on the other hand"
    r"|the (?:same|former|latter|other)|one of|now|only|do so)\b"
    r"|.*\b(?:first|second|third|fourth|fifth|sixth|next|following|follows|below|above|previous|examples?|earlier|later"
    r"|once|these|those|such(?! as| that))\b",
    regex.I,
)
_STEPS = regex.compile(r"(?:first|second|third|next|then|afterwards?|step)(?:ly)?\b[ ,:]|\(?\d+[.)]", regex.I)
# "the description above" may come to stand below.
_PLACED = regex.compile(r"\bthe (description|definition|rules?|criteri(?:a|on)|guidelines?) (?:above|below)\b", regex.I)
# From so many sentences on, their order is that of a list, and any other one is as good.
_MANY = 5


def movable(sentences: Sequence[str]) -> bool:
    """Whether none of the sentences is a step, a question or a list, and the first leans on nothing before it."""
    if any(_STEPS.match(s) or "\n" in s or s.endswith("?") for s in sentences):
        return False
    return not sentences or not _LEANS.match(loose(placed(sentences[0])))


def turned(sentences: Sequence[str], turn: int) -> tuple[str, ...]:
    """Return sentences in one of their orders, each with those that lean on it; unchanged where that is not safe."""
    if not movable(sentences):
        return tuple(sentences)
    units: list[list[str]] = []
    for sentence in map(placed, sentences):
        bare = _DROPPED.sub("", sentence, count=1) if _DROPPED.match(sentence) else sentence
        if units and _LEANS.match(loose(bare)):
            units[-1].append(sentence)
        else:
            units.append([bare[:1].upper() + bare[1:]])
    return tuple(sentence for place in _order(len(units), turn) for sentence in units[place])


def placed(sentence: str) -> str:
    """Return a sentence that does not say on which side of it a description or rule stands."""
    return str(_PLACED.sub(r"the \1 given here", sentence))


def _order(count: int, turn: int) -> tuple[int, ...]:
    """Return one of the orders of so many places."""
    if count < _MANY:
        turn %= count + 1
        # Turned round by so many places, and last of all from the back.
        return tuple(range(count))[::-1] if turn == count else (*range(turn, count), *range(turn))
    strides = [stride for stride in range(1, count) if gcd(stride, count) == 1]
    return tuple((turn + n * strides[turn % len(strides)]) % count for n in range(count))
