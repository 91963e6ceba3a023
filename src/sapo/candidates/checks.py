"""Which texts become candidates: each is held against the original instruction, and rejected with a reason if it fails.

What the original itself holds is never a reason. A text that cannot work is rejected wherever it comes from. Guesses
(nearly a duplicate, too long, cut off, ...) thin out what generators make; what a user wrote is the user's choice, so
there they are only noted. Texts that come with the library were read by people: only near-duplicates are guessed.
Nothing is guessed about demonstrations, which hold rows of the data on purpose. Unchecked texts, such as the controls
of a study, only have to be texts that differ.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence

import regex
from rapidfuzz import fuzz

from sapo.candidates.language import changes_language
from sapo.candidates.named import keeps, missing_numbers, named
from sapo.candidates.talk import chatty
from sapo.core.types import Instruction, Origin, Rejection, Task
from sapo.core.untrusted import folded

# Asks whether texts keep to a task; returns a reason against each, or None.
Judge = Callable[[Task, Sequence[str]], Sequence[str | None]]

# Rejected texts that an error names, and characters of each.
_NAMED, _SHOWN = 5, 60
# Origins whose texts people have read with the task in mind, those whose texts are what they are meant to be, and
# those whose texts the user chose.
_READ: tuple[Origin, ...] = ("builtin",)
_MEANT: tuple[Origin, ...] = ("demonstrations", "unchecked")
_CHOSEN: tuple[Origin, ...] = ("file", "given")
# In percent of equal characters (rapidfuzz's ratio). Among 460 hand-written paraphrases the most alike have 78.
NEAR = 92
# Hand-written paraphrases share at most 80 percent with a suffix of this length or more.
_REPEATED, _TELLING = 88, 20
# Shorter answers stand in an instruction by chance.
_LEAKED_WORDS, _LEAKED_CHARACTERS = 3, 16
_WORDS = regex.compile(r"[\p{L}\p{N}]+")
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
_MARK_AT_END = regex.compile(r"(?:^|[.:;!?]\s+|[。：；！？]\s*)(?:\p{L}|\d{1,2})[).]$")
_ITEM = regex.compile(r"^\s+\S|^(?:[-*•·>]|\d{1,2}[.):]|[a-zA-Z][.):]|[\p{L}\p{N}][^:：\n]{0,100}[:：=]|\()")
_PAIRS = {"(": ")", "[": "]", "“": "”", "（": "）", "【": "】", "「": "」", "《": "》", "«": "»"}


class Pool:
    """The candidates of one task: the original, and the texts that pass.

    Args:
        task: whose instruction is the original.
        judge: asked about texts that pass everything else, in one go; None for no such check.

    Attributes:
        kept: the original, then valid texts in the order in which they came.
        rejected: the other texts, with reasons.
    """

    def __init__(self, task: Task, judge: Judge | None = None) -> None:
        self.kept = [Instruction(task.instruction, "original")]
        self.rejected: list[Rejection] = []
        self._task, self._original = task, task.instruction.strip()
        self._labels = named(task.labels, self._original)
        # By its folded form, each text with what messages call it.
        self._seen = {folded(task.instruction): (self._original, "the original instruction")}
        self._judge = judge
        self._unusual: list[Rejection] = []
        # Of the data, by text: many candidates are held against them.
        self._words: dict[str, str] = {}

    def add(self, texts: Sequence[str], origin: Origin) -> int:
        """Check texts and return how many of them passed."""
        passed: list[str] = []
        for raw in texts:
            text = raw.strip()
            reason = self._fact(text, origin)
            if reason is None and origin not in _MEANT:
                reason = self._almost_seen(text) or (None if origin in _READ else self._guess(text))
                if reason is not None and origin in _CHOSEN:
                    self._unusual.append(Rejection(text, reason))
                    reason = None
            if reason is None:
                self._seen[folded(text)] = text, f"candidate {len(self.kept) + len(self.rejected) + len(passed)}"
                passed.append(text)
            else:
                self.rejected.append(Rejection(raw, reason))
        judge = None if origin in (*_READ, *_MEANT) or not passed else self._judge
        verdicts = [None] * len(passed) if judge is None else judge(self._task, passed)
        for text, verdict in zip(passed, verdicts, strict=True):
            if verdict is None:
                self.kept.append(Instruction(text, origin))
            else:
                self.rejected.append(Rejection(text, verdict))
        return sum(verdict is None for verdict in verdicts)

    @property
    def notes(self) -> tuple[str, ...]:
        """Which of the user's own texts are unusual, in one sentence; empty where none is."""
        texts = {candidate.text for candidate in self.kept}
        unusual = [one for one in self._unusual if one.text in texts]
        return (f"{self._task.name}: kept as you wrote them, but unusual: {listed(unusual)}",) if unusual else ()

    def _fact(self, text: str, origin: Origin) -> str | None:
        """Return why a text cannot work, or None."""
        ours = folded(text)
        if not ours:
            return "empty"
        if reason := _broken_characters(self._original, text):
            return reason
        if ours in self._seen:
            same, name = self._seen[ours]
            return f"same as {name}" + ("" if text == same else " apart from case, spacing or invisible characters")
        if origin == "unchecked":
            return None
        # A label may begin a sentence; whether it is spelled to the letter is a guess.
        original, bare = self._original.casefold(), text.casefold()
        missing = [label for label in self._labels if not keeps(label.casefold(), original, bare)]
        return _lacks("label", missing)

    def _guess(self, text: str) -> str | None:
        """Return what is wrong with a text by all appearances, or None; cheap guesses first."""
        task, original = self._task, self._original
        respelled = [label for label in self._labels if not keeps(label, original, text)]
        return (
            _out_of_band(original, text)
            or chatty(original, text)
            or ("is written in another language" if changes_language(original, text) else None)
            or _unterminated(original, text)
            or (f"spells the label {', '.join(map(repr, respelled))} otherwise" if respelled else None)
            or _lacks("number", missing_numbers(task.labels, original, text))
            or _repeats_suffix(original, task.suffix, text)
            or _leak(task, text, self._words)
        )

    def _almost_seen(self, text: str) -> str | None:
        ours = folded(text)
        alike = (name for other, (_, name) in self._seen.items() if fuzz.ratio(ours, other, score_cutoff=NEAR) >= NEAR)
        name = next(alike, None)
        return None if name is None else f"almost the same as {name}"


def listed(texts: Sequence[Rejection]) -> str:
    """Return in a few words why texts did not become candidates: the first ones with their reasons."""
    shown = [f"{one.text[:_SHOWN]!r}: {one.reason}" for one in texts[:_NAMED]]
    more = [f"and {len(texts) - _NAMED} more"] if len(texts) > _NAMED else []
    return "; ".join([*shown, *more]) or "none were given"


def _lacks(kind: str, missing: Sequence[str]) -> str | None:
    if not missing:
        return None
    return f"lacks the {kind} {', '.join(map(repr, missing))} that the original instruction names"


def _broken_characters(original: str, text: str) -> str | None:
    """Return why a text's characters rule it out, or None; those of the original do not."""
    kinds = {unicodedata.category(c) for c in text if c not in "\n\t" and c not in original}
    if "Cc" in kinds:
        return "contains control characters"
    return "contains half a character (a lone surrogate)" if "Cs" in kinds else None


def _unterminated(original: str, text: str) -> str | None:
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


def _out_of_band(original: str, text: str) -> str | None:
    """Return why a text is too short or too long for the original, or None."""
    least, most = max(2, int(_SHORTEST * len(original))), int(max(_STORY, _LONGEST * len(original)))
    if len(text) < least:
        return f"too short: {len(text)} characters, at least {least} for an original of {len(original)}"
    if len(text) > most:
        return f"too long: {len(text)} characters, at most {most} for an original of {len(original)}"
    return None


def _is_item(text: str) -> bool:
    """Whether the last lines are items of a list, or one before them announces a list."""
    lines = [line for line in text.splitlines() if line.strip()]
    announced = any(line.rstrip().endswith((":", "：", "是")) for line in lines[:-1])
    return announced or any(_ITEM.match(line) for line in lines[-3:])


def _repeats_suffix(original: str, suffix: str, text: str) -> str | None:
    """Return why a text takes the suffix's place, or None; what the original repeats is no reason."""
    fixed = folded(suffix)
    if len(fixed) < _TELLING:
        return None
    repeated = fuzz.partial_ratio(fixed, folded(text)) >= _REPEATED > fuzz.partial_ratio(fixed, folded(original))
    return "repeats the suffix" if repeated else None


def _leak(task: Task, text: str, words: dict[str, str]) -> str | None:
    """Return which answer or input of the data a text gives away, or None; ``words`` keeps those of the data."""
    ours, known = _spaced(text), _spaced(f"{task.instruction}\n{task.suffix}")
    for example in (*task.train, *task.dev, *task.test):
        for kind, value in (("an answer", example.answer), ("an input", example.input)):
            # Short enough to stand in the text, and long enough not to stand there by chance.
            telling = len(value) >= _LEAKED_CHARACTERS or len(value.split()) >= _LEAKED_WORDS
            if value in task.labels or len(value) > 2 * len(text) or not telling:
                continue
            if (found := words.get(value)) is None:
                found = words[value] = _spaced(value)
            if found in ours and found not in known:
                return f"holds {kind} of the data: {value.strip()[:60]!r}"
    return None


def _spaced(text: str) -> str:
    """Return the words of a text, folded, each between spaces, so that only whole words are found in it."""
    return f" {' '.join(_WORDS.findall(folded(text)))} "
