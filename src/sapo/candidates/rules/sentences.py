"""Sentences of an instruction, in any language, and the pieces of it that stay to the letter."""

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
# Code, tables and examples with their answers: what stands on such a line stays there.
_CODE = regex.compile(
    r"```|~~~|^ {4,}\S|^\t+\S|^\s*\|.*\||^\s*(?:import|def|class|return|from|SELECT|print\()\b|[;{}]\s*$",
    regex.MULTILINE,
)
_EXAMPLE = regex.compile(
    r"\b(?:for example|examples?|e\.g\.)\s*:?\s*\n"
    r"|^\s*(?:example|input|output|label|answer|question|q|a|text|sentence)\s*\d*\s*:.*\S",
    regex.IGNORECASE | regex.MULTILINE,
)


def brittle(text: str) -> bool:
    """Whether an instruction holds code, a table or examples, which may be framed but not taken apart."""
    return bool(_CODE.search(text)) or len(_EXAMPLE.findall(text)) > 1


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


def fixed(text: str, labels: Sequence[str] = ()) -> list[str]:
    """Return a text in pieces: at even places free ones, at odd ones those to be kept to the letter."""
    names = "".join(
        rf"|(?<![\p{{L}}\p{{N}}]){regex.escape(label)}(?![\p{{L}}\p{{N}}])"
        for label in sorted(labels, key=len, reverse=True)
        if label.strip()
    )
    return list(regex.split(f"({_FIXED}{names})", text))


def _in_line(line: str) -> list[str]:
    found, start = [], 0
    for end in _END.finditer(line):
        before, rest = line[start : end.start()] + end.group().rstrip(), line[end.end() :]
        if rest and not _goes_on(before, rest):
            found.append(before.strip())
            start = end.end()
    return [sentence for sentence in (*found, line[start:].strip()) if sentence]


def _goes_on(before: str, rest: str) -> bool:
    # An odd number of quotation marks, or an open parenthesis: inside of something.
    if before.count('"') % 2 or before.count("(") > before.count(")") or before.count("“") > before.count("”"):
        return True
    if before.rstrip("\"'”’»）)]】」』")[-1:] != ".":
        return False
    return bool(_ABBREVIATION.search(before[-_LOOK_BACK:])) or not _STARTS.match(rest)
