"""General ability: the loss on texts that have nothing to do with any task, so that damage by training shows.

As in peft's method comparison, where "forgetting" is the rise of the token loss on raw text that training causes. The
texts in general.json were written for this library, so that no corpus holds them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any

from sapo.core.types import Encoded
from sapo.models.losses import Scorer
from sapo.models.render import Renderer


@cache
def general_texts() -> Mapping[str, str]:
    """Return the texts by their kind, each of 40 to 140 words."""
    text = files("sapo.models").joinpath("general.json").read_text(encoding="utf-8")
    return MappingProxyType(json.loads(text))


def measure_ability(
    model: Any, renderer: Renderer, scorer: Scorer, max_length: int, advance: Callable[[int], None] = lambda texts: None
) -> float:
    """Return the loss on general text, in nats per supervised token; the model is left unchanged.

    It depends on the tokenizer: it compares stages of one model, not models.

    The renderer's own length limit is ignored, so that the loss does not depend on a user's setting: ``max_length`` is
    what the model was made for, and the rest of a longer text is cut. The scorer's decision about routes is neither
    used nor made. ``advance`` is called with the number of texts of each batch.

    Raises:
        ScoreError: if a text alone does not fit the memory.
    """
    # On a copy: texts share no prefix, and a first call here would decide against shared prefixes for all others.
    return scorer.on(model)(general_rows(renderer, max_length), advance).per_token


def general_rows(renderer: Renderer, max_length: int) -> list[Encoded]:
    """Return the texts as rows to score, without a template: the first token is context, all others are supervised."""
    return [Encoded(tuple(ids[:max_length]), 1) for ids in renderer.token_ids(list(general_texts().values()))]
