"""Candidates as they come in: each text is taken, or turned away with a reason."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sapo.paraphrase.checks.demands import contradicts
from sapo.paraphrase.checks.encoder import Encoder, installed_encoder
from sapo.paraphrase.checks.labels import missing_labels, missing_numbers
from sapo.paraphrase.checks.likeness import duplicate, folded, leak, repeats_suffix
from sapo.paraphrase.checks.meaning import Meaning, unread
from sapo.paraphrase.checks.shape import broken_characters, out_of_band, unterminated
from sapo.paraphrase.checks.talk import chatty
from sapo.paraphrase.checks.tasks import another_task
from sapo.paraphrase.language import changes_language
from sapo.paraphrase.source import Unchecked
from sapo.types import Instruction, Origin, Rejection, Task

# Rejected texts that an error names, and characters of each.
_NAMED, _SHOWN = 5, 60
# Origins whose texts people have read with the task in mind; nothing is guessed about them.
_READ: tuple[Origin, ...] = ("builtin",)


class Pool:
    """The candidates of one task: the original, and the texts that hold against it.

    Args:
        task: the task whose instruction is the original.
        encoder: returns what the check of meaning needs, when the first text comes so far; None where there is none.
            By default the encoder of the optional extra.
        known: candidates that there are already.

    Attributes:
        kept: the original, then valid texts in the order in which they came.
        rejected: texts turned away, with reasons.
        note: what could not be checked although it was to be, one sentence; empty otherwise.
    """

    def __init__(
        self, task: Task, encoder: Callable[[], Encoder | None] | None = None, known: Sequence[Instruction] = ()
    ) -> None:
        self.kept = [Instruction(task.instruction, "original")]
        self.rejected: list[Rejection] = []
        self.note = ""
        self._task, self._original = task, task.instruction.strip()
        self._seen = {folded(c.text): f"an earlier candidate ({c.text[:_SHOWN]!r})" for c in known}
        self._seen[folded(task.instruction)] = "the original instruction"
        self._encoder = encoder or installed_encoder
        self._meaning: Meaning | None = None

    def add(self, texts: Sequence[str], origin: Origin) -> int:
        """Judge texts and return how many of them were taken."""
        before = len(self.kept)
        for raw in texts:
            text = raw.strip()
            reason = None if isinstance(raw, Unchecked) else self._fact(text) or self._guessed(text, origin)
            if reason is None:
                self._seen[folded(text)] = f"candidate {len(self.kept) + len(self.rejected)}"
                self.kept.append(Instruction(text, origin))
            else:
                self.rejected.append(Rejection(raw, reason))
        return len(self.kept) - before

    def _fact(self, text: str) -> str | None:
        """Return what is wrong with a text for certain, or None."""
        if not text:
            return "empty"
        missing = missing_labels(self._task.labels, self._original, text)
        return broken_characters(self._original, text) or duplicate(text, self._seen) or _lacks("label", missing)

    def _guessed(self, text: str, origin: Origin) -> str | None:
        return None if origin in _READ else self._guess(text)

    def _guess(self, text: str) -> str | None:
        """Return what is wrong with a text by all appearances, or None; cheap guesses first."""
        task, original = self._task, self._original
        return (
            out_of_band(original, text)
            or chatty(original, text)
            or ("is written in another language" if changes_language(original, text) else None)
            or unterminated(original, text)
            or _lacks("number", missing_numbers(task.labels, original, text))
            or repeats_suffix(original, task.suffix, text)
            or contradicts(original, task.suffix, task.labels, text)
            or another_task(original, task.suffix, text)
            or leak(task, text)
            or self._drift(text)
        )

    def _drift(self, text: str) -> str | None:
        """Return what is wrong with a text's meaning, or None; loads the encoder the first time."""
        if self._meaning is None and not self.note:
            encoder = self._encoder()
            self.note = unread(self._task, encoder)
            self._meaning = None if encoder is None or self.note else Meaning(self._task, encoder)
        return self._meaning.drift(text) if self._meaning else None


def admit(task: Task, texts: Sequence[str], origin: Origin) -> tuple[tuple[Instruction, ...], tuple[Rejection, ...]]:
    """Return the original followed by the valid texts, and the rejected ones with reasons.

    Args:
        task: the task whose instruction is the original.
        texts: paraphrases, in order of preference.
        origin: where they come from.
    """
    pool = Pool(task)
    pool.add(texts, origin)
    return tuple(pool.kept), tuple(pool.rejected)


def why_none(rejected: Sequence[Rejection]) -> str:
    """Return in a few words why no text became a candidate: the first ones with their reasons."""
    if not rejected:
        return "none were given"
    shown = [f"{r.text[:_SHOWN]!r}: {r.reason}" for r in rejected[:_NAMED]]
    more = len(rejected) - len(shown)
    return "; ".join([*shown, *([f"and {more} more"] if more else [])])


def _lacks(kind: str, missing: Sequence[str]) -> str | None:
    if not missing:
        return None
    return f"lacks the {kind} {', '.join(map(repr, missing))} that the original instruction names"
