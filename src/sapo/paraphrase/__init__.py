"""Where candidates come from. Every text that is turned away is recorded with its reason.

source      the seam: what gives texts
builtin, files, rules, local, server   its five kinds
checks      why a text is not a valid candidate
diversity   which valid ones to keep
gather      all of it together
"""

from sapo.paraphrase.builtin import Builtin
from sapo.paraphrase.checks import admit, why_none
from sapo.paraphrase.files import FromFile, candidates_file
from sapo.paraphrase.gather import Gathered, descendants, gather, with_spare
from sapo.paraphrase.local import Local, LocalSettings
from sapo.paraphrase.opening import open_sources
from sapo.paraphrase.rules import Rules
from sapo.paraphrase.source import Ranking, Source

__all__ = [
    "Builtin",
    "FromFile",
    "Gathered",
    "Local",
    "LocalSettings",
    "Ranking",
    "Rules",
    "Source",
    "admit",
    "candidates_file",
    "descendants",
    "gather",
    "open_sources",
    "why_none",
    "with_spare",
]
