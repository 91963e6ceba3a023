"""Text from data, models and servers, made safe to show: it is read, never obeyed."""

from __future__ import annotations

import unicodedata

import regex

# Characters of a text in a message or a value's repr.
_BRIEF = 60
# An ampersand or backslash of the text must not join those that escape; the rest takes a backslash. Addresses of
# web pages would become links by themselves.
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "\\": "&#92;"}
_MARKUP = regex.compile(r"[&<>\\`*_\[\]|~#$!@]|:(?=//)|(?<=www)\.", regex.IGNORECASE)
_INVISIBLE = regex.compile(r"\p{Default_Ignorable_Code_Point}")


def plain(text: str) -> str:
    r"""Return the text with control, reordering and broken characters spelled out, such as ``\x1b``.

    Line breaks and tabs stay. A terminal would obey an escape sequence that a candidate or an answer holds.
    """
    return "".join(c if _harmless(c) else c.encode("unicode_escape").decode() for c in text.replace("\r\n", "\n"))


def _harmless(character: str) -> bool:
    # Bidirectional controls (in Cf, as are the joiners that some scripts need) reorder what stands around them.
    reorders = "\u202a" <= character <= "\u202e" or "\u2066" <= character <= "\u2069"
    return character in "\n\t" or not (reorders or unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp"))


def visible(text: str) -> str:
    """Return the text without characters that nobody sees, such as a zero-width space: two such texts are one."""
    return str(_INVISIBLE.sub("", text))


def folded(text: str) -> str:
    """Return the text without differences of case, width, white space and invisible characters."""
    return " ".join(visible(unicodedata.normalize("NFKC", text)).casefold().split())


def brief(text: str) -> str:
    """Return the beginning of a text as one quoted line."""
    line = " ".join(text[:_BRIEF].split())
    return repr(line if len(text) <= _BRIEF else f"{line}...")


def one_line(text: str, most: int | None = None) -> str:
    """Return the text with white space collapsed, and with "..." for its end if it is longer than ``most``."""
    line = " ".join(text.split())
    return line if most is None or len(line) <= most else line[: most - 3].rstrip() + "..."


def inline_markdown(text: str) -> str:
    """Return a text as one line of Markdown that is nothing but text, also in a table."""
    return str(_MARKUP.sub(lambda found: _ENTITIES.get(found.group(), f"\\{found.group()}"), plain(one_line(text))))
