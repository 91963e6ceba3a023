"""Values on disk: written with seven digits, and held against what is found."""

import json
import math
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from golden.reading import Found

VALUES = Path(__file__).parent / "values"
# (relative, absolute). Training magnifies how another machine rounds: plain SSE4.2 in the place of AVX2 moved losses by
# up to 2e-4 nats per token and norms of tensors by up to 5e-4 of their size.
HERE, ELSEWHERE = (1e-4, 1e-6), (5e-3, 1e-3)
Tolerance = tuple[float, float]
_DIGITS = 7


def machine() -> str:
    """What the last bits of floats depend on."""
    return f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {_processor()}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    # Virtual machines give many processors one name.
    parts = ("model name", "cpu family", "model\t", "stepping")
    told = [next((line.partition(":")[2].strip() for line in lines if line.startswith(part)), "") for part in parts]
    return " ".join(told).strip() or platform.processor() or platform.machine()


def write(name: str, found: Found) -> None:
    """Record what was found as what is expected from now on."""
    parts = {"machine": machine(), **_rounded(found.values), "sha256": found.bits}
    lines = (f"{json.dumps(key)}:{_compact(value)}" for key, value in parts.items())
    VALUES.mkdir(exist_ok=True)
    # A line for each part: a change shows where it is.
    (VALUES / f"{name}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def differences(name: str, found: Found) -> list[str]:
    """Return where what was found differs from what was recorded, each with its place."""
    expected = json.loads((VALUES / f"{name}.json").read_text(encoding="utf-8"))
    recorded_on, bits = expected.pop("machine"), expected.pop("sha256")
    values = json.loads(json.dumps(found.values))
    here = recorded_on == machine()
    told = [*_differ(expected, values, "", HERE if here else ELSEWHERE)]
    if here:
        told += [f"bits of {key}" for key in sorted(bits.keys() | found.bits) if bits.get(key) != found.bits.get(key)]
    return told


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(inner) for inner in value]
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _differ(expected: Any, found: Any, place: str, tolerance: Tolerance) -> Iterator[str]:
    if isinstance(expected, dict) and isinstance(found, dict):
        if place == "/weights":
            yield from _weights_differ(expected, found, tolerance)
            return
        for key in sorted(expected.keys() | found.keys()):
            if key in expected and key in found:
                yield from _differ(expected[key], found[key], f"{place}/{key}", tolerance)
            else:
                yield f"{place}/{key}: {'missing' if key in expected else 'not expected'}"
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for number, (one, other) in enumerate(zip(expected, found, strict=True)):
            yield from _differ(one, other, f"{place}/{number}", tolerance)
    elif not _same(expected, found, tolerance):
        yield f"{place}: {expected!r} expected, {found!r} found"


def _same(expected: Any, found: Any, tolerance: Tolerance) -> bool:
    numbers = [type(value) in (int, float) for value in (expected, found)]
    if all(numbers) and float in (type(expected), type(found)):
        return math.isclose(expected, found, rel_tol=tolerance[0], abs_tol=tolerance[1])
    return bool(expected == found)


def _weights_differ(expected: dict[str, Any], found: dict[str, Any], tolerance: Tolerance) -> Iterator[str]:
    for name in sorted(expected.keys() | found.keys()):
        if name not in expected or name not in found:
            yield f"/weights/{name}: {'missing' if name in expected else 'not expected'}"
            continue
        (shape, norm, product), (other_shape, other_norm, other_product) = expected[name], found[name]
        # A product may be near nothing by chance: its error is that of a vector of this norm.
        near = math.isclose(product, other_product, abs_tol=tolerance[0] * norm + tolerance[1])
        if shape != other_shape or not _same(norm, other_norm, tolerance) or not near:
            yield f"/weights/{name}: {expected[name]} expected, {found[name]} found"
