"""What a model can do beside its tasks, so that users see whether fine-tuning damages it.

Two measures that need neither downloads nor a judge:

- loss on general text: 24 short passages, of many kinds and four languages, as raw text without chat template,

      L = sum_i NLL(passage_i) / sum_i tokens_i        [nats per token]

  where the first token of each passage is context and all others are supervised;
- requests followed: simple everyday requests with rules that a program can check, after IFEval (Zhou et al. 2023,
  arXiv 2311.07911), with prompts and rules of our own, answered greedily.

Both compare states of one model with each other. They are too small to rank models, and their numbers are not
those of IFEval.

    data       the passages and checks, as JSON beside it
    rules      what a reply must look like
    measuring  both measures of one state of a model
"""

from sapo.ability.data import Check, ability_fingerprint, ability_units, checks, texts
from sapo.ability.measuring import Ability, ability_from_json, ability_to_json, check_prompts, measure_ability

__all__ = [
    "Ability",
    "Check",
    "ability_fingerprint",
    "ability_from_json",
    "ability_to_json",
    "ability_units",
    "check_prompts",
    "checks",
    "measure_ability",
    "texts",
]
