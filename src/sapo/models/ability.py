"""General ability: the loss on texts that have nothing to do with any task, so that damage by training shows.

As in peft's method comparison, where "forgetting" is the rise of the token loss on raw text that training causes. The
texts in general.json were written for this library, so that no corpus holds them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType

from sapo.core.types import Encoded
from sapo.models.render import Renderer


@cache
def general_texts() -> Mapping[str, str]:
    """Return the texts by their kind, each of 40 to 140 words."""
    text = files("sapo.models").joinpath("general.json").read_text(encoding="utf-8")
    return MappingProxyType(json.loads(text))


def general_rows(renderer: Renderer, max_length: int) -> list[Encoded]:
    """Return the texts as rows to score, without a template: the first token is context, all others are supervised.

    The first one is the token that begins a text, where the tokenizer sets one: such models are at a loss without it.

    Their loss depends on the tokenizer: it compares stages of one model, not models. ``max_length`` is what the model
    was made for, not the renderer's limit, so that the loss does not depend on a user's setting; the rest of a longer
    text is cut.
    """
    texts = [renderer.beginning + text for text in general_texts().values()]
    return [Encoded(tuple(ids[:max_length]), 1) for ids in renderer.token_ids(texts)]
