"""What travels with a stage: `sapo.json` for programs and a model card for people and the Hub."""

from __future__ import annotations

from sapo.card.facts import (
    LINEAGE,
    TAKE_AGAIN,
    Trained,
    earlier_tasks,
    layout_of,
    library_versions,
    lineage,
    read_lineage,
    stored_prompts,
)
from sapo.card.page import model_card

__all__ = [
    "LINEAGE",
    "TAKE_AGAIN",
    "Trained",
    "earlier_tasks",
    "layout_of",
    "library_versions",
    "lineage",
    "model_card",
    "read_lineage",
    "stored_prompts",
]
