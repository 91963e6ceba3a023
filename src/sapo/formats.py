"""What losses and selections look like as JSON: in the run directory and in `sapo select --json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sapo.types import CandidateLoss, Instruction, Losses, Rejection, Selection


def losses_to_json(losses: Losses) -> dict[str, Any]:
    """Return per-example losses as JSON values; floats survive exactly."""
    return {"nll": losses.nll.tolist(), "tokens": losses.tokens.tolist(), "cut": losses.cut.tolist()}


def losses_from_json(value: Mapping[str, Any]) -> Losses:
    """Return what `losses_to_json` took apart."""
    return Losses(
        np.array(value["nll"], dtype=np.float64),
        np.array(value["tokens"], dtype=np.int64),
        np.array(value["cut"], dtype=np.int64),
    )


def selection_to_json(selection: Selection) -> dict[str, Any]:
    """Return a selection as JSON values: for each candidate its loss, and beside it every example's."""
    return {
        "task": selection.task,
        "rule": selection.rule,
        "sample": selection.sample,
        "examples": len(selection.rows),
        "rows": list(selection.rows),
        "chosen": selection.chosen,
        "tolerance": selection.tolerance,
        "rejected": [{"text": r.text, "reason": r.reason} for r in selection.rejected],
        "seconds": selection.seconds,
        "route": selection.route,
        "candidates": [
            {
                "text": c.instruction.text,
                "origin": c.instruction.origin,
                "loss": c.losses.per_token,
                "nll_sum": float(c.losses.nll.sum()),
                "tokens": int(c.losses.tokens.sum()),
                "examples": len(c.losses.nll),
                "status": c.status,
                "delta": c.delta,
                "ci": list(c.interval) if c.interval else None,
                "losses": losses_to_json(c.losses),
            }
            for c in selection.candidates
        ],
    }


def selection_from_json(value: Mapping[str, Any]) -> Selection:
    """Return what `selection_to_json` took apart."""
    return Selection(
        task=value["task"],
        rule=value["rule"],
        sample=value["sample"],
        rows=tuple(value["rows"]),
        candidates=tuple(
            CandidateLoss(
                Instruction(c["text"], c["origin"]),
                losses_from_json(c["losses"]),
                c["delta"],
                (c["ci"][0], c["ci"][1]) if c["ci"] else None,
                c["status"],
            )
            for c in value["candidates"]
        ),
        chosen=value["chosen"],
        tolerance=value["tolerance"],
        rejected=tuple(Rejection(r["text"], r["reason"]) for r in value["rejected"]),
        seconds=value["seconds"],
        route=value["route"],
    )
