"""Which language an instruction is written in, and whether a paraphrase stays with it."""

from __future__ import annotations

from collections import Counter
from functools import cache

import regex
from py3langid.langid import MODEL_FILE, LanguageIdentifier

# A language is named from this probability on, and ruled out below that one. Among 460 English and Chinese
# paraphrases the lowest probability of the right language is 0.09; among their translations 0.00004 the highest.
_NAMED, _RULED_OUT = 0.5, 0.01
# Few words leave any language uncertain. They are taken for English where it is at least so likely as a share of the
# likeliest language: so are 135 of 139 uncertain beginnings (four words) of the English paraphrases, and of one to
# three words in another language 7 of 34.
_ENGLISH = 0.2
# Fewer letters may belong to any language of their script.
_TELLING = 12
# Languages that their script identifies; those of other scripts are identified by statistics.
_SCRIPTS = {
    "zh": r"\p{Han}",
    "ja": r"[\p{Hiragana}\p{Katakana}]",
    "ko": r"\p{Hangul}",
    "el": r"\p{Greek}",
    "he": r"\p{Hebrew}",
    "th": r"\p{Thai}",
    "Cyrillic": r"\p{Cyrillic}",
    "Arabic": r"\p{Arabic}",
    "Devanagari": r"\p{Devanagari}",
    "Latin": r"\p{Latin}",
}
_OF_ONE_LANGUAGE = ("zh", "ja", "ko", "el", "he", "th")
# A word of Han or kana has about a third of the letters of a Latin one.
_DENSE = 3


def language(text: str) -> str | None:
    """Return the ISO 639-1 code of the language that a text is written in, or None where that is uncertain.

    An uncertain text that may well be English counts as English.
    """
    script = _script(text)
    if script is None or script in _OF_ONE_LANGUAGE:
        return script
    ranked = _identifier().rank(text)
    code, probability = ranked[0]
    if probability >= _NAMED:
        return str(code)
    return "en" if dict(ranked)["en"] >= _ENGLISH * probability else None


def changes_language(original: str, text: str) -> bool:
    """Whether a text is clearly written in another language than the original.

    A text that may be either is not: few words, names and labels say little about a language.
    """
    if _script(text) != _script(original):
        return True
    spoken = language(original)
    if spoken is None or spoken in _OF_ONE_LANGUAGE or len(regex.findall(r"\p{L}", text)) < _TELLING:
        return False
    return bool(dict(_identifier().rank(text))[spoken] < _RULED_OUT)


def _script(text: str) -> str | None:
    """Return the script of most letters, as its language where it has but one; None for a text without letters."""
    counts = Counter({name: len(regex.findall(pattern, text)) for name, pattern in _SCRIPTS.items()})
    # Japanese mixes kana with Han.
    if counts["ja"] * 10 >= counts["zh"]:
        counts["ja"] += counts["zh"] * (counts["ja"] > 0)
    for dense in ("zh", "ja"):
        counts[dense] *= _DENSE
    name, most = max(counts.items(), key=lambda item: item[1])
    return name if most else None


@cache
def _identifier() -> LanguageIdentifier:
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
