"""Whether a text has the shape of a whole instruction."""

from __future__ import annotations

import unicodedata

import regex

# A paraphrase may say in three words what took fifty, or tell a story around a task of five words: among 460
# hand-written ones the shares lie between 0.056 and 19.4 of the original's characters, none longer than 1900.
_SHORTEST, _LONGEST, _STORY = 0.04, 4.0, 1000

# Words that no English sentence ends with.
_OPEN = frozenset(
    regex.findall(
        r"\S+",
        """a an the and or nor but of to in into on onto at by for from with without as if that than because although
        though whereas while is are was were be been which who whose whom when where what whether either neither both
        it's its their his her your our my this these those may might must can could should would shall will not""",
    )
)
_ENDS = regex.compile(r"""[.?!:;。？！：；…]["'”’»)\]】」』*_`]*$""")
_CLOSED_BY_QUOTE = regex.compile(r"""["'”’»)\]】」』]$""")
_MARK_AT_END = regex.compile(r"(?:^|[.:;!?。：；！？]\s*)(?:\p{L}|\d{1,2})[).]$")
_ITEM = regex.compile(r"^\s+\S|^(?:[-*•·>]|\d{1,2}[.):]|[a-zA-Z][.):]|[\p{L}\p{N}][^:：\n]{0,100}[:：=]|\()")
_PAIRS = {"(": ")", "[": "]", "“": "”", "（": "）", "【": "】", "「": "」", "《": "》", "«": "»"}


def broken_characters(original: str, text: str) -> str | None:
    """Return why a text's characters rule it out, or None; those of the original do not."""
    kinds = {unicodedata.category(c) for c in text if c not in "\n\t" and c not in original}
    if "Cc" in kinds:
        return "contains control characters"
    return "contains half a character (a lone surrogate)" if "Cs" in kinds else None


def unterminated(original: str, text: str) -> str | None:
    """Return why a text looks cut off, or None."""
    for opening, closing in _PAIRS.items():
        # "1)" closes what nothing has opened.
        if text.count(opening) > text.count(closing) and original.count(opening) <= original.count(closing):
            return f"looks cut off: {opening} is not closed"
    if text.count('"') % 2 and not original.count('"') % 2:
        return 'looks cut off: " is not closed'
    last_line = text.splitlines()[-1].rstrip()
    words = regex.findall(r"[\p{L}\p{M}'’]+", last_line)
    ended = bool(_ENDS.search(last_line))
    listed = "\n" in text and _is_item(text)
    if not (ended or listed) and words and words[-1].casefold() in _OPEN and not _CLOSED_BY_QUOTE.search(last_line):
        return f"looks cut off: it ends with {words[-1]!r}"
    if _MARK_AT_END.search(last_line) and not _MARK_AT_END.search(original.rstrip()):
        return "looks cut off: it ends with the mark of an enumeration"
    # Headings, items of a list and lines of code end without a full stop; so does what the original ends like.
    if ended or listed or not _ENDS.search(original.rstrip()):
        return None
    return "looks cut off: its last sentence has no end"


def out_of_band(original: str, text: str) -> str | None:
    """Return why a text is too short or too long beside the original, or None."""
    least, most = max(2, int(_SHORTEST * len(original))), int(max(_STORY, _LONGEST * len(original)))
    if len(text) < least:
        return f"too short: {len(text)} characters, at least {least} beside an original of {len(original)}"
    if len(text) > most:
        return f"too long: {len(text)} characters, at most {most} beside an original of {len(original)}"
    return None


def _is_item(text: str) -> bool:
    """Whether the last lines are items of a list, or one before them announces a list."""
    lines = [line for line in text.splitlines() if line.strip()]
    announced = any(line.rstrip().endswith((":", "：", "是")) for line in lines[:-1])
    return announced or any(_ITEM.match(line) for line in lines[-3:])
