"""Why a text is not a valid candidate, always beside the original instruction.

shape      all of an instruction, and nothing but one: no preamble, refusal, marker, placeholder, cut-off end
labels     labels and numbers kept to the letter
likeness   not a candidate there is already, nor the suffix, nor an answer of the data
demands    no demand on the answer that the original does not make
meaning    the same task, by sentence embeddings, where the encoder is installed
"""

from sapo.paraphrase.checks.encoder import Encoder, installed_encoder
from sapo.paraphrase.checks.labels import keeps
from sapo.paraphrase.checks.pool import Pool, admit, why_none

__all__ = ["Encoder", "Pool", "admit", "installed_encoder", "keeps", "why_none"]
