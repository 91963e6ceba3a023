"""Where candidates come from. Every text that is turned away is recorded with its reason."""

from sapo.paraphrase.checks import admit, why_none
from sapo.paraphrase.files import candidates_file
from sapo.paraphrase.gather import gather

__all__ = ["admit", "candidates_file", "gather", "why_none"]
