"""Texts and checks through one state of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np

from sapo.core.errors import RenderError
from sapo.core.processes import ALONE, Processes
from sapo.core.types import Encoded, Example, Losses
from sapo.models.ability.data import REPLY_TOKENS, checks, texts
from sapo.models.answers import generate_from
from sapo.models.losses import Scorer
from sapo.models.render import Renderer


@dataclass(frozen=True, slots=True)
class Ability:
    """What a model can do beside its tasks.

    Attributes:
        losses: of the passages, in the order of `sapo.models.ability.data.texts`.
        replies: what the model said to each check, in the order of `sapo.models.ability.data.checks`.
        passed: whether each reply keeps its check's rules.
    """

    losses: Losses
    replies: tuple[str, ...]
    passed: tuple[bool, ...]

    @property
    def loss(self) -> float:
        """Sum of the passages' NLL over the number of their supervised tokens, in nats per token; lower is better.

        It depends on the tokenizer: it compares states of one model, not models.
        """
        return self.losses.per_token

    @property
    def share(self) -> float:
        """Checks passed, in percent; higher is better."""
        return 100.0 * sum(self.passed) / len(self.passed)


def measure_ability(
    model: Any,
    renderer: Renderer,
    scorer: Scorer,
    max_length: int,
    advance: Callable[[int], None] = lambda units: None,
    processes: Processes = ALONE,
) -> Ability:
    """Return the loss on general text and how many simple requests are followed; the model is left as it was.

    Args:
        model: any transformers or peft causal LM.
        renderer: the model's. Its own length limit is not looked at, so that what is measured does not depend on a
            user's setting.
        scorer: the model's, or that of an earlier state; its decision about routes is neither used nor made.
        max_length: most tokens that the model was made for; what exceeds it is cut.
        advance: told how many of `ability_units` each batch was.
        processes: those of ``scorer``; they share passages and checks out.

    Raises:
        RenderError: if a check does not fit ``max_length``.
        ScoreError: if a passage alone does not fit the memory.
    """
    # On a copy: passages have no prefix to share, and a first call here would decide against one for all others.
    losses = scorer.on(model)(encode_texts(renderer, list(texts().values()), max_length), advance)
    prompts = check_prompts(renderer, max_length)
    replies = generate_from(model, renderer, prompts, REPLY_TOKENS, advance, processes)
    passed = tuple(check.passes(reply) for check, reply in zip(checks(), replies, strict=True))
    return Ability(losses, tuple(replies), passed)


def encode_texts(renderer: Renderer, passages: Sequence[str], max_length: int) -> list[Encoded]:
    """Return raw texts as tokens without a template: the first is context, all others are supervised.

    Args:
        renderer: knows the tokenizer.
        passages: of two tokens at least.
        max_length: in tokens; a longer text loses its end, and ``cut`` says how many characters.
    """
    encoded = []
    for text, ids in zip(passages, renderer.token_ids(passages), strict=True):
        kept = tuple(ids[:max_length])
        cut = len(text) - len(renderer.decode(kept)) if len(ids) > max_length else 0
        encoded.append(Encoded(kept, 1, cut))
    return encoded


def ability_to_json(ability: Ability) -> dict[str, Any]:
    """Return an ability as JSON values; floats survive exactly."""
    losses = ability.losses
    return {
        "loss": ability.loss,
        "share": ability.share,
        "losses": {"nll": losses.nll.tolist(), "tokens": losses.tokens.tolist(), "cut": losses.cut.tolist()},
        "replies": list(ability.replies),
        "passed": list(ability.passed),
    }


def ability_from_json(value: Mapping[str, Any]) -> Ability:
    """Return what `ability_to_json` took apart."""
    losses = Losses(
        np.array(value["losses"]["nll"], dtype=np.float64),
        np.array(value["losses"]["tokens"], dtype=np.int64),
        np.array(value["losses"]["cut"], dtype=np.int64),
    )
    return Ability(losses, tuple(value["replies"]), tuple(value["passed"]))


def check_prompts(renderer: Renderer, max_length: int) -> list[tuple[int, ...]]:
    """Return the prompt of every check.

    Raises:
        RenderError: if one does not fit ``max_length``.
    """
    roomy = copy(renderer)
    roomy.max_length = max_length
    try:
        return [roomy.prompts(c.instruction, c.suffix, [Example(c.text, "")], REPLY_TOKENS)[0] for c in checks()]
    except RenderError as error:
        raise RenderError(f"the checks of general ability need a longer context than {max_length}: {error}") from error
