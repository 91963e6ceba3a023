"""The parts of an English instruction: what is given, what is asked, and everything else."""

from __future__ import annotations

from dataclasses import dataclass, replace

import regex

from sapo.candidates.rules.sentences import loose, sentences
from sapo.candidates.rules.verbs import VERBS, base, commands, word_set


@dataclass(frozen=True, slots=True)
class Parts:
    """An instruction taken apart.

    Attributes:
        given: what the input is, a noun phrase; empty where nothing is said.
        ask: what is to be done with it, a verb phrase in the base form, without a final mark.
        role: who the reader is said to be, a noun phrase; empty as a rule.
        question: the question that ``ask`` was made of; empty as a rule.
        before: sentences between what is given and what is asked.
        after: all other sentences.
    """

    given: str = ""
    ask: str = ""
    role: str = ""
    question: str = ""
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


_IGNORE = regex.IGNORECASE
_LEAD = (
    r"(?:(?:in|for|during) (?:this|the following) (?:task|exercise|problem|assignment|question|work)[,:]? "
    r"|(?:here|now|then|so|next|finally)[,:]? |(?:task|instructions?|question|prompt|assignment)\s*: ?)*"
)
_OBLIGED = (
    r"(?:have to|need to|must|should|will have to|will need to|(?:are|will be|'re|’re) "
    r"(?:asked|expected|required|supposed|instructed|tasked|requested|to)(?: to)?(?= )|are to)"
)
_AIM = (
    r"(?:your|the|our) (?:task|job|goal|objective|aim|assignment|mission|role)(?: here)?"
    r"(?: is| will be|'s|’s|:) ?(?:to )?"
)
_ASKS = regex.compile(
    rf"{_LEAD}(?:{_AIM}|you ?{_OBLIGED} |(?:i|we) (?:want|need|ask|would like|'d like) you to |i'd like you to "
    r"|(?:can|could|would|will) you (?:please |kindly )?|(?:please|kindly),? )",
    _IGNORE,
)
_GIVES = regex.compile(
    rf"{_LEAD}(?:you(?:'re|’re| are| will be|'ll be|’ll be)(?: first)? "
    r"(?:given|presented with|provided with|shown|supplied with|handed)|you (?:will )?(?:receive|get)"
    r"|(?:the|your) input (?:is|will be|consists of)|(?:below|here|there) (?:is|are)"
    r"|(?:i|we)(?: will|'ll)? (?:give|show|provide) you(?: with)?) (?P<given>.+)",
    _IGNORE,
)
_AND_ASKS = regex.compile(
    rf"(?P<given>.+?),? (?:and|then|and then) (?:{_AIM}|(?:you ?)?{_OBLIGED} |asked to |you ?{_OBLIGED} )(?P<ask>.+)",
    _IGNORE,
)
_GIVEN = regex.compile(rf"{_LEAD}given (?P<given>.+)", _IGNORE)
_ROLE = regex.compile(
    r"(?:you are|act as|imagine you are) (?P<role>an? [^,:;\n]+?)"
    r"(?: (?:that|who|which) (?P<does>\w+s) (?P<rest>[^\n]+))?$",
    _IGNORE,
)
_QUESTION = regex.compile(
    r"(?:what|which|who|whom|whose|when|where|why|how|is|are|was|were|do|does|did|can|could|has|have|should|will|would|"
    r"in which|in what|of which|to which|to what|on which|at what)\b",
    _IGNORE,
)
_WHAT_IS = regex.compile(r"what (?:is|are) (?P<what>(?:the|its|their) [^,:;]+)\?", _IGNORE)
# Asks for nothing yet, where more is to come.
_PREPARES = regex.compile(
    r"do not .*|(?:read|look|think|imagine|consider|take|check|begin|start|suppose|study|keep|help|collect|examine"
    r"|observe|follow)\b"
    r"(?!.*(?:,| and| then) \p{Ll}+ (?:the|a|an|it|its|them|which|what|whether|if|all|each|your?)\b).*",
)
# Words of given and asked that say nothing about what is meant.
_STOP = word_set("this that with from which what between their there these those your given following")
_NUMBERS = regex.compile(r"\b(?:\d+|one|two|three|four|five|six|seven|eight|nine|ten)\b", _IGNORE)
_BULLET = regex.compile(r"[-*•·–—]\s+")
# Words of the longest noun phrase, and of the longest item of a list, that may stand inside of a sentence.
_LONGEST_GIVEN, _ITEM = 45, 6


def parts_of(text: str) -> Parts | None:
    """Return the parts of an English instruction, or None where it is not certain what it asks for."""
    found = Parts()
    lines = tuple(map(_flat, sentences(text)))
    for number, line in enumerate(lines, start=1):
        if not found.ask and "\n" in line:
            # What leads to a list may be the very thing that is asked.
            return None
        found = replace(found, after=(*found.after, line)) if found.ask else _take(found, line, number == len(lines))
    return _named(found) if found.ask else None


def covered(given: str, ask: str) -> bool:
    """Whether what is asked already says what is given, so that the latter may be left out."""
    stems = {word[:5] for word in _words(given)}
    if not stems or {*_NUMBERS.findall(given)} - {*_NUMBERS.findall(ask)}:
        return False
    return len(stems & {word[:5] for word in _words(ask)}) >= 0.6 * len(stems)


def _take(found: Parts, line: str, last: bool) -> Parts:
    """Return the parts with those of one more sentence, where none before it asked for anything."""
    sentence = line.rstrip(" .!") if not line.endswith("...") else line
    if not found.given and not found.before:
        given, ask = _given(sentence)
        if given:
            return replace(found, given=given, ask=ask)
    role = _ROLE.fullmatch(sentence)
    if role and not found.role and not found.given and not found.before:
        verb = base(role["does"]) if role["does"] else None
        if verb:
            return replace(found, role=role["role"], ask=f"{verb} {role['rest']}")
        return replace(found, role=sentence[role.start("role") :])
    ask = _ask(sentence)
    if ask and (last or not _PREPARES.fullmatch(ask)):
        return replace(found, ask=ask)
    if line.endswith("?") and _QUESTION.match(line):
        what = _WHAT_IS.fullmatch(line)
        asked = f"determine {what['what']}" if what else _quoted(line)
        return replace(found, ask=asked, question=line)
    return replace(found, before=(*found.before, line))


def _flat(sentence: str) -> str:
    """Return a sentence that leads to a list of a few words each with that list in it, any other as it is."""
    lead, *items = sentence.split("\n")
    bare = [_BULLET.sub("", item.strip()).rstrip(",;") for item in items]
    if not items or not lead.rstrip().endswith(":") or any(len(i.split()) > _ITEM or i.endswith(".") for i in bare):
        return sentence
    return f"{lead.rstrip()} {('; ' if any(',' in item for item in bare) else ', ').join(bare)}."


def _given(sentence: str) -> tuple[str, str]:
    """Return what a sentence says is given, and what it asks for; either may be empty."""
    gives = _GIVES.fullmatch(sentence)
    if gives:
        both = _AND_ASKS.fullmatch(gives["given"])
        if both and _noun_phrase(both["given"]):
            return both["given"], both["ask"]
        if "task" in loose(gives["given"]).casefold().split()[:3]:
            return "", ""
        return (gives["given"], "") if _noun_phrase(gives["given"]) else ("", "")
    given = _GIVEN.fullmatch(sentence)
    if given:
        for comma in regex.finditer(r"[,:] ", given["given"]):
            ask = _ask(given["given"][comma.end() :])
            if ask and _noun_phrase(given["given"][: comma.start()]):
                return given["given"][: comma.start()], ask
    return "", ""


def _ask(sentence: str) -> str:
    """Return the verb phrase of a sentence that asks for something; empty for any other."""
    asks = _ASKS.match(sentence)
    rest = sentence[asks.end() :] if asks else sentence
    if asks and asks.end() and regex.match(r"\p{Ll}[\p{Ll}-]*(?:[ ,]|$)", rest):
        known = rest.split(" ", 1)[0] in VERBS or regex.search(
            r" to |\b(?:can|could|please|kindly)\b", asks.group(), _IGNORE
        )
        return rest.rstrip(" ?") if known else ""
    lead = regex.match(_LEAD, sentence, _IGNORE)
    rest = sentence[lead.end() :] if lead else sentence
    rest = str(regex.sub(r"^(?:please|kindly),? ", "", rest, flags=_IGNORE))
    # In capitals throughout, a verb cannot be told from a name, nor put inside of a sentence.
    if not commands(rest) or rest.endswith("?") or rest[1:2].isupper():
        return ""
    return rest[:1].lower() + rest[1:]


def _quoted(question: str) -> str:
    return f"answer the question “{question}”" if '"' in question else f'answer the question "{question}"'


def _noun_phrase(text: str) -> bool:
    return bool(text.strip()) and len(text.split()) <= _LONGEST_GIVEN and "\n" not in text and ";" not in text


def _named(parts: Parts) -> Parts:
    """Return the parts with a lone "the article" given as "an article": nothing was named before it."""
    the = regex.fullmatch(r"the (?:(?:following|given|input|provided) )?(\w*[^\Ws])", parts.given)
    if not the:
        return parts
    return replace(parts, given=f"{'an' if the[1][0].lower() in 'aeiou' else 'a'} {the[1]}")


def _words(text: str) -> list[str]:
    return [word for word in regex.findall(r"\p{L}{4,}", loose(text).casefold()) if word not in _STOP]
