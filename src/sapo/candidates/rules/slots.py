"""What an English frame may take from an instruction, each in the form that the frame needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import regex

from sapo.candidates.rules.order import movable
from sapo.candidates.rules.parts import Parts, covered
from sapo.candidates.rules.sentences import loose
from sapo.candidates.rules.template import Filled
from sapo.candidates.rules.verbs import VERBS, gerund, participle, word_set

# Slots of which a frame must have one where the instruction has that part: nothing is lost.
_GIVEN = frozenset({"given", "Given", "given.", "Given."})
_AFTER = frozenset({"rest", "notes", "bullets", "stars", "numbers", "lines", "rules", "rules."})
_BEFORE = frozenset({"before"})

_PERSONAS = {
    "an annotator": "assign categorize classify decide detect determine indicate judge label predict rate tag",
    "an editor": "condense paraphrase rephrase revise rewrite shorten simplify summarise summarize",
    "a translator": "translate",
    "an attentive reader": "answer choose find infer pick read select",
    "an analyst": "analyse analyze compare extract highlight identify list locate",
    "a careful problem solver": "calculate compute prove solve",
    "a writer": "compose craft create draft formulate generate produce write",
}
_PERSONA = {verb: persona for persona, verbs in _PERSONAS.items() for verb in verbs.split()}
_PRODUCTS = word_set("compose craft create draft formulate generate produce write")
_OBJECT = regex.compile(
    r"(?P<verb>\w+) (?P<object>(?:the|an?|all|each|every|one|this|these) [\w'’-]+"
    r"(?: (?!(?:in|into|to|as|for|on|of|with\w*|based|by|at|such|so|that|from|and|or|whether|if|according|\w+ing|about"
    r"|under|over|below|above|given|provided|which|who|is|are)\b)[\w'’-]+){0,4})"
    r"(?P<rest>(?: (?:in|into|to|as|for|on|based|from) .+)?)"
)
_NOTE = regex.compile(
    r"(?:please,? )?(?:note|note also|be aware|keep in mind|bear in mind|remember)(?: that|:) ", regex.I
)
_ANAPHORA = regex.compile(r"\b(?:this|these|it|its|them|their|such|they)\b", regex.I)
_YOU = regex.compile(r"\b(?:you|your|yourself)\b|['’]re\b", regex.I)
_LONG, _SHORT = 40, 12
# Letters of "yes", which says nothing without its question.
_NAMED = 3


def slots_of(parts: Parts, persona: str, labels: Sequence[str] = ()) -> Mapping[str, str]:
    """Return the slots of an English frame; what the instruction has not got, or not in that form, is empty.

    A name with a capital is for the beginning of a sentence, one with a full stop for its end.

    Args:
        parts: the instruction, in whatever wording.
        persona: who may be told to follow it, the same in all wordings.
        labels: the answers that the instruction names, if it names all that there are.
    """
    ask, given = parts.ask, parts.given
    after, notes = parts.after, [noted(sentence) for sentence in parts.after]
    verb = ask.split(" ", 1)[0].strip(",.")
    free = not given or not _ANAPHORA.search(loose(ask))
    simple = not _again(ask)
    thirdly = not _YOU.search(loose(" ".join((given, ask, *parts.before, *after))))
    plain = len(ask.split()) <= _LONG and not regex.search(r"[:;]|[.!?] ", loose(ask)) and not parts.question
    about = _gerund(verb, ask) if simple else ""
    passive = _passive(ask) if simple else ""
    product = _product(verb, ask) if simple else ""
    return {
        "ask": ask if plain else "",
        "ask.": ended(ask),
        "Ask": capital(ask) if plain and "," not in ask and len(ask.split()) <= _SHORT else "",
        "Ask.": capital(ended(ask)),
        # Asked for ahead of what is given: only what does not point back to it.
        "first.": ended(ask) if free and not parts.before else "",
        "First.": capital(ended(ask)) if free and not parts.before else "",
        "thirdly.": ended(ask) if thirdly else "",
        "asking.": ended(about),
        "passive.": ended(passive),
        "Passive.": capital(ended(passive)),
        "product.": ended(product) if free and not parts.before else "",
        "Product.": capital(ended(product)) if free and not parts.before else "",
        "question": parts.question,
        "persona": "" if parts.role else persona,
        "role": parts.role,
        "given": given,
        "Given": capital(given),
        "given.": ended(given),
        "Given.": capital(ended(given)),
        "before": joined(parts.before),
        "rest": joined(after),
        "notes": joined(notes),
        "rules": listed(notes, "- ") if movable(parts.after) else "",
        "rules.": joined(notes) if movable(parts.after) else "",
        "bullets": listed(notes, "- "),
        "stars": listed(notes, "* "),
        "lines": listed(notes, ""),
        "numbers": "\n".join(f"{n}. {capital(note)}" for n, note in enumerate(notes, start=1)),
        "choices": " or ".join((", ".join(labels[:-1]), labels[-1])) if labels else "",
        "choices,": ", ".join(labels),
        "choices/": " / ".join(labels),
        "choices*": listed_as_they_are(labels),
        # Labels that say by themselves what they stand for.
        "verdicts": " or ".join((", ".join(labels[:-1]), labels[-1])) if labels and all(map(_telling, labels)) else "",
    }


def persona_of(parts: Parts) -> str:
    """Return who does what an instruction asks for: an editor, a translator."""
    verb = parts.ask.split(" ", 1)[0]
    if verb in _PRODUCTS:
        thing = regex.search(r"\b(?:summar\w*|label|rating|score|class|category|answers?)\b", parts.ask, regex.I)
        if thing:
            summary, answer = thing[0].lower().startswith("summar"), thing[0].lower().startswith("answer")
            return "an editor" if summary else "an attentive reader" if answer else "an annotator"
    return _PERSONA.get(verb, "an assistant")


def complete(filled: Filled, parts: Parts) -> bool:
    """Whether a filled frame says everything that the instruction says."""
    used = filled.slots
    given = bool(used & _GIVEN) or not parts.given or covered(parts.given, parts.ask)
    return given and bool(used & _BEFORE or not parts.before) and bool(used & _AFTER or not parts.after)


def joined(sentences: Sequence[str]) -> str:
    """Return sentences as running text; one with a list in it stands on lines of its own."""
    text = ""
    for sentence in sentences:
        text += ("\n" if "\n" in text + sentence else " ") + sentence if text else sentence
    return text


def listed(sentences: Sequence[str], mark: str) -> str:
    """Return sentences as lines that begin with a mark."""
    return "\n".join(mark + capital(sentence) for sentence in sentences)


def listed_as_they_are(labels: Sequence[str]) -> str:
    """Return labels as lines, to the letter."""
    return "\n".join(f"- {label}" for label in labels)


def noted(sentence: str) -> str:
    """Return a sentence without "note that" before it."""
    return capital(_NOTE.sub("", sentence, count=1)) if _NOTE.match(sentence) else sentence


def capital(text: str) -> str:
    """Return a text that begins with a capital."""
    return text[:1].upper() + text[1:]


def ended(text: str) -> str:
    """Return a text with a full stop, unless it ends in a mark or is empty."""
    bare = text.rstrip("\"'”’)")
    return text if not text or bare.endswith((".", "?", "!", ":", "…")) else text + "."


def _telling(label: str) -> bool:
    return label.islower() and len(label) > _NAMED and label not in ("true", "false", "none")


def _again(ask: str) -> bool:
    """Whether another verb follows the first one, which would have to change its form as well."""
    words = regex.findall(r"[\w-]+|[,;]", loose(ask).casefold())
    joints = {"and", "or", "then", "otherwise", ",", ";", "not"}
    return any(one in joints and two in VERBS for one, two in pairwise(words))


def _gerund(verb: str, ask: str) -> str:
    return gerund(verb) + ask[len(verb) :] if verb in VERBS else ""


def _passive(ask: str) -> str:
    match = _OBJECT.fullmatch(ask)
    if not match or match["verb"] not in VERBS or len(ask.split()) > _LONG:
        return ""
    verb, rest = match["verb"], match["rest"]
    if (rest.startswith(" to ") and verb != "translate") or (rest.startswith(" from ") and verb != "extract"):
        return ""
    last = match["object"].rsplit(" ", 1)[-1]
    several = match["object"].startswith(("all ", "these ")) or (last.endswith("s") and not last.endswith("ss"))
    return f"{match['object']} {'are' if several else 'is'} to be {participle(verb)}{rest}"


def _product(verb: str, ask: str) -> str:
    rest = ask[len(verb) :].strip()
    return rest if verb in _PRODUCTS and regex.match(r"(?:an?|one|the) ", rest) else ""
