"""What losses, selections and inspections look like as JSON: in the run directory and in `sapo select --json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from sapo.candidates.gather import Gathered
from sapo.core.types import (
    CandidateLoss,
    Instruction,
    Losses,
    Race,
    Rejection,
    Selection,
    Unused,
)
from sapo.models.answers import Evaluation
from sapo.tasks.inspection import Inspection, LabelCount, Lengths, Reason


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


def evaluation_to_json(cell: Evaluation) -> dict[str, Any]:
    """Return one cell of a performance matrix as JSON values."""
    return {
        "predictions": list(cell.predictions),
        "scores": {metric: scores.tolist() for metric, scores in cell.scores.items()},
        "losses": losses_to_json(cell.losses),
    }


def evaluation_from_json(value: Mapping[str, Any]) -> Evaluation:
    """Return what `evaluation_to_json` took apart."""
    return Evaluation(
        predictions=tuple(value["predictions"]),
        scores={metric: np.array(scores, dtype=np.float64) for metric, scores in value["scores"].items()},
        losses=losses_from_json(value["losses"]),
    )


def gathered_to_json(task: str, gathered: Gathered) -> dict[str, Any]:
    """Return what was gathered for a task as JSON values."""
    return {
        "task": task,
        "candidates": [{"text": c.text, "origin": c.origin} for c in gathered.candidates],
        "rejected": [{"text": r.text, "reason": r.reason} for r in gathered.rejected],
        "spare": [{"text": c.text, "origin": c.origin} for c in gathered.spare],
        "notes": list(gathered.notes),
    }


def gathered_from_json(value: Mapping[str, Any]) -> Gathered:
    """Return what `gathered_to_json` took apart."""
    return Gathered(
        tuple(Instruction(c["text"], c["origin"]) for c in value["candidates"]),
        tuple(Rejection(r["text"], r["reason"]) for r in value["rejected"]),
        tuple(Instruction(c["text"], c["origin"]) for c in value["spare"]),
        tuple(value["notes"]),
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
        "strategy": selection.strategy,
        "evaluations": selection.evaluations,
        "forward_tokens": selection.tokens,
        "peak_memory": selection.peak_memory,
        "race": None if selection.race is None else asdict(selection.race),
        "route": selection.route,
        "cached": selection.cached,
        "candidates": [
            {
                "text": c.instruction.text,
                "origin": c.instruction.origin,
                "loss": c.loss,
                "nll_sum": float(c.losses.nll.sum()),
                "tokens": int(c.losses.tokens.sum()),
                "examples": len(c.losses.nll),
                "status": c.status,
                "round": c.round,
                "gap": list(c.gap) if c.gap else None,
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
                c["loss"],
                c["delta"],
                (c["ci"][0], c["ci"][1]) if c["ci"] else None,
                c["status"],
                c["round"],
                (c["gap"][0], c["gap"][1]) if c["gap"] else None,
            )
            for c in value["candidates"]
        ),
        chosen=value["chosen"],
        tolerance=value["tolerance"],
        rejected=tuple(Rejection(r["text"], r["reason"]) for r in value["rejected"]),
        seconds=value["seconds"],
        tokens=value["forward_tokens"],
        peak_memory=value["peak_memory"],
        race=None if value["race"] is None else Race(**value["race"]),
        route=value["route"],
        cached=value["cached"],
    )


def inspection_to_json(inspection: Inspection) -> dict[str, Any]:
    """Return an inspection as JSON values; of the unused rows only the first ones stand one by one."""
    return {
        "task": inspection.task,
        "rows": dict(inspection.rows),
        "selected": inspection.selected,
        "duplicates": inspection.duplicates,
        "conflicts": inspection.conflicts,
        "overlap": inspection.overlap,
        "dropped": inspection.dropped,
        "skew": inspection.skew,
        "labels": [asdict(count) for count in inspection.labels],
        "lengths": None if inspection.lengths is None else asdict(inspection.lengths),
        "unused": {
            "rows": inspection.unused_rows,
            "reasons": [
                {"split": r.split, "reason": r.text, "rows": r.count, "first": list(r.rows)} for r in inspection.reasons
            ],
            "first": [asdict(row) for row in inspection.unused],
        },
    }


def inspection_from_json(value: Mapping[str, Any]) -> Inspection:
    """Return what `inspection_to_json` took apart."""
    unused = value["unused"]
    return Inspection(
        task=value["task"],
        rows=dict(value["rows"]),
        selected=value["selected"],
        duplicates=value["duplicates"],
        conflicts=value["conflicts"],
        overlap=value["overlap"],
        dropped=value["dropped"],
        labels=tuple(LabelCount(**count) for count in value["labels"]),
        reasons=tuple(Reason(r["split"], r["reason"], r["rows"], tuple(r["first"])) for r in unused["reasons"]),
        unused=tuple(Unused(**row) for row in unused["first"]),
        unused_rows=unused["rows"],
        lengths=None if value["lengths"] is None else Lengths(**value["lengths"]),
    )
