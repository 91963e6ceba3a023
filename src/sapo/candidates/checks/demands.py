"""Whether a text demands of the answer what neither the original nor its suffix does.

A suffix says what the answer looks like ("Directly output only the word"). A paraphrase that asks for reasons, a
rating beside it, another form or another language sets the model against its own suffix.
"""

from __future__ import annotations

from collections.abc import Sequence

import regex

# Verbs by which a text asks for something to be written.
_WRITE = (
    r"(?:write|give|state|name|add|attach|append|put|list|note|provide|include|mention|say|output|enter|quote|cite|mark"
    r"|rate|explain|describe|tell|supply|report|indicate|show|spell|type|print|return|use|point\ out|go\ on|finish|end"
    r"|close|open|begin|start|follow)"
)
_NOT = (
    "".join(rf"(?<!\b{word}\ )" for word in ("no", "not", "without", "never", "not\\ to", "or", "neither"))
    + r"(?<!n't\ )"
)
# Kinds of demands. A text contradicts where it makes one of a kind that neither original nor suffix makes.
_KINDS = {
    "reasons": rf"""
        {_NOT}(?<!\blet\ me\ )(?<!\bwill\ )(?<!'ll\ )\bexplain\b | {_NOT}\b(?:justify|defend|motivate
            |substantiate)\ (?:your|the|this|it|why)\b
        | \b(?:explanation|justification|rationale|reasoning:|chain\ of\ thought|thought\ process|step-by-step
            |step\ by\ step)\b
        | \bshow\ (?:all|your|the|each|every)\ (?:\w+\ )?(?:steps?|working?|calculations?|reasoning|derivation)\b
        | \b{_WRITE}\ (?:\w+\ ){{0,4}}(?:reasons?|evidence|proof|arguments?|grounds)\b
        | \bbecause\ \.\.\. | \b(?:say|tell\ \w+|state|write|show)\ why\b | \bwhat\ made\ you\b | \bmade\ you\ think\b
        | \byour\ (?:\w+\ )?(?:answer|choice|decision|summary|verdict|judge?ment|label|classification)\ (?:rests
            |is\ based)\ on\b
        | \b(?:reasons?|arguments?|evidence)\ (?:for|behind)\ (?:your|the|calling|choosing|each)\b
        | 理由|原因|解释|说明为什么|分析文本|逐句分析|写出分析|推理过程
    """,
    "more than the answer": rf"""
        \b(?:and|then|also|after\ (?:that|this|which)|afterwards|finally|next|additionally|in\ addition|besides
            |before\ that|below\ (?:it|this|the\ \w+)|on\ the\ next\ line|after\ (?:it|them|the\ \w+)
            |as\ well),?\ (?:also\ |briefly\ |please\ )?
            (?:{_WRITE})\b[^.;:\n]{{0,60}}\b(?:rating|score|scale|percent|percentage|confidence|probability|certainty
                |tone|mood|in\ common|keywords?|title|itself|comment|suggestion|translation|synonyms?|example)\b
        | \b(?:confidence|certainty|probability|likelihood)\ (?:score|level|value|between|for\ each|of\ your
            |in\ percent|from)\b | \ba\ probability\ for\ each\b | \bwith\ a\ (?:confidence|probability)\b
        | \b(?:star\ rating|on\ a\ scale\ (?:from|of))\b | \b(?:from|between)\ (?:0|1|zero|one)\ (?:to|and)\ (?:5|10
            |100|five|ten)\b
        | \bfollowed\ by\ (?:your|(?:a|an|the)\ (?:\w+\ )?(?:explanation|discussion|reason|comment|rating|score
            |remark|justification))\b | \b(?:together|along)\ with\ (?:your|(?:a|an|the)\ (?:\w+\ )?(?:explanation
            |discussion|reason|comment|rating|score|remark|justification))\b
        | \bgo\ on\ to\ (?:answer|explain|write|give|name|describe|say)\b | \b(?:greet|thank(?!\ you))\b
        | \breply\ to\ (?:its|the)\ (?:author|writer|customer|user)\b
        | \bin\ (?:brackets|parentheses)\ (?:after|behind|beside|following)\b
        | 置信度|概率|并(?:附上|附|引用|说明|给出|写出)|另外(?:写|给)|再(?:写|给)出
    """,
    "another form of answer": r"""
        \bin\ (?:a\ |one\ |the\ form\ of\ a\ )?(?:complete|full|whole)\ sentences?\b(?!\ (?:is|are|not))
        | \b(?:answer|respond|reply|output|result)\b[^.\n]{0,40}\b(?:json|xml|yaml|html|csv|markdown|latex|table
            |bullet\ points?|bullets|all\ caps|upper\ ?case|lower\ ?case|capital\ letters|capitals|bold|italics
            |roman\ numerals?|digits|english\ words|rhyme|verse|poem|emoji)\b
        | \b(?:as|into|in|with|using)\ (?:an?\ |its\ )?(?:json|xml|yaml|html|csv|markdown|bullet\ points?
            |bulleted\ list|numbered\ list|table|rhymes?|verse|emojis?|uppercase|lowercase|capital\ letters)\b
        | \b(?:underline|boldface|capitali[sz]e|italici[sz]e|spell\ (?:it|the\ \w+)\ out|spell\ out|backwards
            |reverse\ order)\b
        | \b(?:begin|start|open|end|close|finish)\ (?:your\ (?:answer|reply|response|output)|the\ (?:answer|reply
            |response|output|first\ line|last\ line))\ with\b
        | \b(?:begin|start|open|end|close|finish)\ with\ (?:a\ (?:line|greeting|sentence|heading|question)|["'“])
        | \b(?:has|have|needs?)\ to\ (?:start|begin|end)\ with\b | \bin\ the\ form\ ["'“(] | \bof\ the\ form\ ["'“(]
        | \b(?:answer|reply|respond|write|output)\ (?:only\ )?in\ (?:french|german|spanish|english|italian|chinese
            |latin|another\ language|two\ sentences|three\ sentences|a\ paragraph|at\ least)\b
        | \btranslate\ (?:your|the)\ (?:answer|summary|result|label)\b
        | \bby\ its\ (?:letter|number|position|index)\b | \b(?:a|1)\ for\ the\ first\b | \bno\ (?:digits|numerals
            |letters)\ in\ (?:what|your|the)\b
        | \bat\ least\ (?:\w+\ )?(?:words|sentences|paragraphs|lines)\b | \b(?:one|a|two
            |three)\ paragraphs?\b[^.\n]{0,20}\b(?:long|answer|explaining)\b
        | \ban\ essay\b | \bheading\ ["'“]
        | 用一句完整的话|用(?:英文|英语|法语|德语)(?:回答|作答|写)|以(?:JSON|表格|列表)
    """,
    "several answers, or other ones": r"""
        \b(?:answer|say|write|reply|respond|output|use|choose|label\ it|put|enter
            |mark\ it)\b[^.\n"'“]{0,30}["'“](?:mixed|unclear|unsure|unknown|neither|both|none|other|neutral|maybe
            |it\ depends|not\ sure|n/a|cannot\ say|undecided)["'”]
        | \b(?:name|list|give|output|write|indicate|choose|select)\ (?:them\ )?(?:all|every|each|both|several|two
            |three|as\ many)\b[^.\n]{0,30}\b(?:of\ (?:these|them)|that|which|candidates?|options?|labels|answers
            |possible|might|may|plausible)\b
        | \b(?:more\ than\ one|several|multiple)\ (?:answers?|labels?|options?|choices)\ (?:are|is|may
            |can)\ (?:be\ )?(?:allowed|given|possible|fine|permitted)\b
        | \ball\ of\ (?:these|them),\ separated\b | \branked?\ (?:list|all|the\ options)\b
            | \bin\ order\ of\ (?:likelihood|probability|preference)\b
        | \bdo\ not\ (?:give|write|state|choose|output|provide)\ (?:an|the|any|your)\ (?:answer|label
            |summary)(?:\ to\ \w+\ \w+)?[.:;,] | \bdon't\ state\ it\b
        | \bmust\ not\ contain\b | \bask\ (?:back|a\ question|for\ clarification)\b
    """,
}
_PATTERNS = {
    name: regex.compile(pattern, regex.IGNORECASE | regex.VERBOSE | regex.MULTILINE) for name, pattern in _KINDS.items()
}


# "without any explanation", "do not give reasons": what is not wanted is no demand.
_NEGATED = regex.compile(r"\b(?:no|not|without|never|nor|neither|\w+n['’]t)\W+(?:\w+\W+){0,2}$", regex.IGNORECASE)
# Where answers are numbers, the original asks for them, in whatever words.
_NUMBERS = "on a scale from 1 to 5"


def contradicts(original: str, suffix: str, labels: Sequence[str], text: str) -> str | None:
    """Return what a text demands of the answer beyond the original, its suffix and labels, or None."""
    numbers = _NUMBERS if any(label.isdecimal() for label in labels) else ""
    given = "\n".join((original, suffix, numbers))
    for name, pattern in _PATTERNS.items():
        if pattern.search(given):
            continue
        for found in pattern.finditer(text):
            if not _NEGATED.search(text[: found.start()]):
                return f"asks for {name} ({found.group().strip()!r}), which the original does not"
    return None
