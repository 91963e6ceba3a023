"""Which choices are so near a tie that another machine's rounding could turn them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

MARGIN = 1e-4


def near_ties(values: Any, place: str = "") -> Iterator[str]:
    """Yield every recorded choice that hangs on less than the margin."""
    if isinstance(values, Mapping):
        if "candidates" in values and "chosen" in values:
            yield from _of_selection(values, place)
        elif values.get("losses") and "original" in values:
            yield from _of_losses(list(values["losses"].values()), place)
        for key, inner in values.items():
            yield from near_ties(inner, f"{place}/{key}")


def _of_selection(values: Mapping[str, Any], place: str) -> Iterator[str]:
    candidates = values["candidates"]
    yield from _of_losses([one["loss"] for one in candidates if one["status"] != "dropped"], place)
    best = min(one["delta"] for one in candidates)
    if abs(best + values["tolerance"]) < MARGIN:
        yield f"{place}: the best one is about as much better than the original as is tolerated"
    for one in candidates:
        if one["interval"] is not None and abs(one["interval"][1]) < MARGIN:
            yield f"{place}: the interval of {one['text']!r} ends about where it begins to count"
        if one["gap"] is not None and one["status"] == "dropped" and abs(one["gap"][0] + values["tolerance"]) < MARGIN:
            yield f"{place}: {one['text']!r} was dropped by a hair"


def _of_losses(losses: list[float], place: str) -> Iterator[str]:
    """Not the lowest ones alone: other rules choose elsewhere in the order."""
    for one, other in pairwise(sorted(losses)):
        if other - one < MARGIN:
            yield f"{place}: losses {one} and {other} are nearly the same"
