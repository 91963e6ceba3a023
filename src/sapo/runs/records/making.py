"""From results.json to a record."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sapo.runs.records.values import FORMAT, MEASURES, RunRecord


def record_of(
    results_data: Mapping[str, Any],
    *,
    name: str,
    sequence: str,
    test_data: Mapping[str, str],
    test_rows: Mapping[str, int],
    versions: Mapping[str, str | None],
) -> RunRecord:
    """Return the record of a finished run.

    Args:
        results_data: what its results.json holds; everything that a record has no place for is dropped.
        name: of the run in its sweep.
        sequence: the name of its sequence.
        test_data: fingerprint of the test rows by task.
        test_rows: number of the test rows by task.
        versions: of the libraries that it ran with; None for those that are not installed.

    Raises:
        KeyError: if the results lack something that a record needs.
        ValueError: if they do not fit together.
    """
    config = results_data["config"]
    taken = ("tasks", "primary_metrics", "test_prompt", "instructions", "seconds")
    optional = ("crossed", "robustness", "ability", "guard")
    data = {
        "format": FORMAT,
        "name": name,
        "sequence": sequence,
        "config": {key: value for key, value in config.items() if key != "run_dir"},
        "model": config["model"]["base"],
        **{key: config[key] for key in ("method", "policy", "seed")},
        **{key: results_data[key] for key in taken},
        **{key: results_data.get(key) for key in optional},
        "test_data": dict(test_data),
        "test_rows": dict(test_rows),
        "matrices": {measure: results_data["matrices"][measure] for measure in MEASURES},
        "metrics": {measure: results_data["metrics_all"][measure] for measure in MEASURES},
        "watch": {
            task: {measure: measures[measure] for measure in MEASURES}
            for task, measures in results_data["watch"].items()
        },
        "versions": {library: version for library, version in versions.items() if version},
    }
    return RunRecord.from_json(_finite(data))


def _finite(value: Any) -> Any:
    """Return JSON values with None for every number that is not finite."""
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
