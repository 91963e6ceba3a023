"""English verbs that instructions begin with, and their forms."""

from __future__ import annotations


def word_set(text: str) -> frozenset[str]:
    """Return the words of a text."""
    return frozenset(text.split())


VERBS = word_set(
    """
    accept adapt add align analyse analyze annotate answer apply arrange ask assess assign begin break build
    calculate carry categorise categorize change check choose cite clarify classify clean collect combine come
    comment compare complete compose compress compute condense consider construct continue convert copy correct
    count craft create decide decode deduce define delete derive describe detect determine differentiate discover
    discuss distinguish divide draft draw edit elaborate eliminate emit employ encode establish estimate evaluate
    examine expand explain explore express extract fill filter find finish fix flag follow form format formulate
    gather generate give grade group guess help highlight identify ignore imagine improve include indicate infer
    insert inspect interpret invent judge justify keep label leave list locate look make mark match mention merge
    modify name normalise normalize note number opt order organize outline output paraphrase parse perform pick
    place point predict prepare present produce proofread propose prove provide pull put quote rank rate read
    rearrange recognise recognize recommend refer remove reorder rephrase replace reply report respond restore
    retrieve return reverse review revise rewrite say score search select separate set shorten show simplify solve
    sort specify spell split state study suggest sum summarise summarize supply tag take tell think transcribe
    transform translate try turn use vary verify work write
    """
)
# Also nouns or adjectives: verbs only in front of one of these words.
_AMBIGUOUS = word_set(
    """
    answer break change check comment complete copy correct count draft draw edit estimate express extract fill
    filter finish fix flag form format grade group guess help highlight judge label leave list look make mark match
    mention name note number order outline output paraphrase place point present quote rank rate read refer reply
    report return reverse review score search separate set show sort spell split state study sum tag take turn use
    work clean
    """
)
_FOLLOWS = word_set(
    """
    a an the all any both each either every exactly following given how if in it its me no one only or out some that
    them these this to true two up us using what where whether which who why with yes your into as for from down
    three four five at whatever through by on
    """
)
_IRREGULAR = {
    "begin": "begun", "break": "broken", "build": "built", "choose": "chosen", "draw": "drawn", "find": "found",
    "give": "given", "keep": "kept", "leave": "left", "make": "made", "put": "put", "quote": "quoted", "read": "read",
    "rewrite": "rewritten", "set": "set", "show": "shown", "split": "split", "take": "taken", "tell": "told",
    "think": "thought", "write": "written",
}  # fmt: skip
_DOUBLED = word_set("begin flag format infer opt put refer set split sum tag")


def commands(text: str) -> bool:
    """Whether a text begins with a verb in the imperative (or, the same word, in its base form)."""
    first, _, rest = text.strip().partition(" ")
    word = first.casefold()
    if word not in VERBS:
        return word == "do" and rest.casefold().startswith("not ")
    following = rest.split(" ", 1)[0]
    if word in _AMBIGUOUS:
        return following.strip(",.").casefold() in _FOLLOWS or following[:1] in {'"', "'", "“", "‘", "[", "{", "`"}
    # "Generate." is a sentence; "Generate: ..." is a heading.
    return True


def gerund(verb: str) -> str:
    """Return the form in -ing of one of the verbs."""
    if verb in _DOUBLED:
        return verb + verb[-1] + "ing"
    return (verb[:-1] if verb.endswith("e") and not verb.endswith("ee") else verb) + "ing"


def participle(verb: str) -> str:
    """Return the past participle of one of the verbs."""
    if verb in _IRREGULAR:
        return _IRREGULAR[verb]
    if verb in _DOUBLED:
        return verb + verb[-1] + "ed"
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return verb[:-1] + "ied"
    return verb + ("d" if verb.endswith("e") else "ed")


def base(third_person: str) -> str | None:
    """Return the verb of which a word is the third person, None if it is none of the verbs."""
    word = third_person.casefold()
    stems = (word[:-1], word[:-2], word[:-3] + "y")
    return next((stem for stem in stems if word.endswith("s") and stem in VERBS and len(stem) > 1), None)
