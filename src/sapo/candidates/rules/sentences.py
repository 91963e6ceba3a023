"""Sentences of an instruction, in any language, and the pieces of it that nobody may touch."""

from __future__ import annotations

from collections.abc import Sequence

import regex

_ITEM = regex.compile(r"\s*(?:[-*•·–—]|\(?(?:\d+|[a-zA-Z])[.)])\s")
_CLOSERS = "[\"'”’»）)\\]】」』]*"
_END = regex.compile(rf"(?:[.!?؟]+{_CLOSERS}(?=\s)|[。！？।]+{_CLOSERS})\s*")
_ABBREVIATION = regex.compile(
    r"(?:^|[,;:] )\d+\.$"
    r"|(?:^|[\s(\"'“])(?:\p{L}|\p{L}\.\p{L}|e\.g|i\.e|etc|vs|cf|Mr|Mrs|Ms|Dr|Prof|St|No|Nr|Fig|Inc|Ltd|approx"
    r"|resp|z\.\s?B|d\.\s?h|bzw|usw|p\.\s?ej|Sr|Sra|т\.\s?е|т\.\s?д|напр)\.$"
)
# Characters before a full stop that tell whether it ends a sentence.
_LOOK_BACK = 24
_STARTS = regex.compile(r"[\"'“‘«(\[¿¡{]*[\p{Lu}\p{Lo}\p{N}]")
# Quotations, code, placeholders, addresses, marks of an enumeration.
_FIXED = (
    r"\"[^\"\n]*\"|“[^”\n]*”|«[^»\n]*»|「[^」\n]*」|(?<![\p{L}\p{N}])'[^'\n]+'(?!\p{L})|‘[^’\n]*’(?!\p{L})|`[^`]*`"
    r"|\{[^{}\n]*\}|<[^<>\n]*>|\[[^\[\]\n]*\]|%\w|https?://\S+|www\.\S+|\S+@\S+|\b\w\)|\b\p{Lu}\.(?=\s?\p{L})"
)
_FOOTNOTE = regex.compile(rf"(?<=[.!?]{_CLOSERS} )\d{{1,2}} (?=(?:In|The|This|These|It|Note|Each|Here|For|A|An) )")


def without_footnotes(text: str) -> str:
    """Return an English text without the numbers of footnotes that stand between its sentences."""
    return str(_FOOTNOTE.sub("", text))


def sentences(text: str) -> tuple[str, ...]:
    """Return the sentences of a text, without outer spaces; a list stays with the line that introduces it."""
    found: list[str] = []
    for line in text.splitlines():
        if not line.strip():
            continue
        continues = bool(found) and line[0].isspace() and _ITEM.match(found[-1].rsplit("\n", 1)[-1])
        if continues or (found and _ITEM.match(line)):
            found[-1] += "\n" + line.rstrip()
        else:
            found.extend(_in_line(line))
    return tuple(found)


def fixed(text: str, labels: Sequence[str] = ()) -> tuple[str, ...]:
    """Return a text in pieces: at even places free ones, at odd ones those to be kept to the letter."""
    names = "".join(
        rf"|(?<![\p{{L}}\p{{N}}]){regex.escape(label)}(?![\p{{L}}\p{{N}}])"
        for label in sorted(labels, key=len, reverse=True)
        if label.strip()
    )
    return tuple(regex.split(f"({_FIXED}{names})", text))


def loose(text: str) -> str:
    """Return a text without what is quoted or otherwise fixed in it."""
    return " ".join(fixed(text)[::2])


def _in_line(line: str) -> list[str]:
    found, start = [], 0
    for end in _END.finditer(line):
        before, rest = line[start : end.start()] + end.group().rstrip(), line[end.end() :]
        if not rest or _goes_on(before, rest):
            continue
        found.append(before.strip())
        start = end.end()
    found.append(line[start:].strip())
    return [sentence for sentence in found if sentence]


def _goes_on(before: str, rest: str) -> bool:
    # An odd number of quotation marks, or an open parenthesis: inside of something.
    inside = before.count('"') % 2 or before.count("(") > before.count(")") or before.count("“") > before.count("”")
    if inside:
        return True
    mark = before.rstrip("\"'”’»）)]】」』")[-1:]
    if mark == ".":
        return bool(_ABBREVIATION.search(before[-_LOOK_BACK:])) or not _STARTS.match(rest)
    return False
