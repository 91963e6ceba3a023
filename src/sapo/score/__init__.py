"""Pre-update loss, exact and per example.

The loss of a candidate p in the state theta is (paper section 4; sum over examples, then one division, so
that it does not depend on how examples were batched):

    L(p) = sum_i NLL_theta(answer_i | p, input_i) / sum_i tokens_i        [nats per supervised token]

Two routes compute the same numbers:

- plain: every example is one row; right-padded, which a causal model cannot see, so no mask is needed;
- shared prefix: the tokens that all examples of a candidate begin with (system turn, instruction) go through
  the model once, and every batch starts from their keys and values.

Both ask for vocabulary logits at supervised positions only: never [batch, length, vocabulary].

Rows of a batch lie below each other. Behind each other in one long row, under a block mask that keeps them
apart, they were never faster on a CPU (4 to 28 % slower, more with longer batches), nor was a mask of our own
instead of the one that transformers builds for a cache.

    layout    which tokens go where: no model in it
    passes    one forward pass, from tokens to losses
    memory    what is kept, what was used at most
    runner    rows in batches that fit, smaller ones where memory runs out
    scorer    the front door
"""

from sapo.score.layout import IGNORED, common_prefix, losses_of, pad, supervised_positions
from sapo.score.memory import peak_memory
from sapo.score.passes import untouched
from sapo.score.runner import BATCH_TOKENS, BATCH_TOKENS_ACCELERATOR
from sapo.score.scorer import EXACT, Scorer, Scoring

__all__ = [
    "BATCH_TOKENS",
    "BATCH_TOKENS_ACCELERATOR",
    "EXACT",
    "IGNORED",
    "Scorer",
    "Scoring",
    "common_prefix",
    "losses_of",
    "pad",
    "peak_memory",
    "supervised_positions",
    "untouched",
]
