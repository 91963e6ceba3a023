"""A stage as a plain model: its adapter merged into the base, if that loses nothing.

Whether it loses something is measured, not looked up: the logits of base and adapter are compared with those of
the merged model, in memory and once more as it is read back from the disk. So an adapter on tied embeddings, or
a kind of adapter that nobody thought of here, is either merged exactly or refused.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from sapo.core.errors import ModelError, RecordError
from sapo.core.storage import undamaged, write_json, write_text
from sapo.core.types import Example
from sapo.models.fingerprint import state_fingerprint
from sapo.models.load import EMBEDDED, LoadedModel, load_model
from sapo.models.render import Renderer
from sapo.runs.card import model_card
from sapo.runs.lineage import LINEAGE, TAKE_AGAIN, read_lineage, stored_prompts
from sapo.selection.rows import context_length

# Largest difference of a logit, as a share of the largest logit; rounding in float32 makes about 1e-5.
LIMIT = 1e-3
# Compared are prompts of the tasks trained last, with each of two inputs.
_TASKS = 4
_PROBES = (Example("The quick brown fox jumps over the lazy dog, 12 times a day.", "yes"), Example("Ünï 北京 :)", "2"))
_DTYPE = "float32"
# What peft and transformers raise where they cannot go on.
_LIBRARY_ERRORS = (AttributeError, ImportError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class Merged:
    """A merged model that was written and read back.

    Attributes:
        directory: where it is.
        difference: largest difference of a logit to base and adapter, before and after saving.
        scale: largest absolute logit of base and adapter, what ``difference`` is to be compared with.
        prompts: number of prompts on which both were measured.
        confirmed: whether base and adapter have the fingerprint that the run recorded. If not, the base has
            changed since then, or the libraries now give weights other names or values.
    """

    directory: Path
    difference: float
    scale: float
    prompts: int
    confirmed: bool


@dataclass(frozen=True, slots=True)
class _Reference:
    """What base and adapter say, to be compared with."""

    ids: tuple[tuple[int, ...], ...]
    logits: tuple[torch.Tensor, ...]
    scale: float

    def difference(self, model: Any, when: str) -> float:
        """Return the largest difference of a logit.

        Raises:
            ModelError: if it is more than rounding.
        """
        found = [_logits(model, ids) for ids in self.ids]
        largest = max(float((one - other).abs().max()) for one, other in zip(self.logits, found, strict=True))
        # Not `>`, as NaN must be refused too.
        if not largest <= LIMIT * self.scale:
            raise ModelError(
                f"the merged model differs from base and adapter {when}: by up to {largest:.2g} where the largest "
                f"logit is {self.scale:.2g} (allowed: {LIMIT:g} of it). {_REFUSED}"
            )
        return largest


_REFUSED = (
    "This adapter cannot be merged exactly, which is so for adapters on tied embeddings or an output layer tied to "
    "them, so nothing was written. Use the stage directory itself, with its base model."
)


def export_merged(stage_dir: Path, out: Path) -> Merged:
    """Write a stage as a plain model directory in float32 and return what was measured; ``out`` whole or not at all.

    Args:
        stage_dir: a stage directory of a run.
        out: directory to be made; it may exist if it is empty.

    Raises:
        ModelError: if ``stage_dir`` is no stage, or cannot be merged exactly.
        RecordError: if its `sapo.json` is damaged, or ``out`` cannot be written.
    """
    lineage = read_lineage(stage_dir)
    with undamaged(stage_dir / LINEAGE, TAKE_AGAIN):
        base, state, merged = str(lineage["base_model"]), str(lineage["state"]), bool(lineage.get("merged"))
        prompts, limit = list(stored_prompts(lineage).values()), int(lineage["max_length"])
        # The card is written last, after minutes of work: what it needs must be there now.
        model_card(lineage)
    if merged:
        raise ModelError(f"{stage_dir} is merged already: copy it, or use it as it is")
    _demand_free(out)
    _refuse_quantised(base)
    loaded, confirmed = _load(base, stage_dir, state)
    _demand_room(out, loaded.model)
    renderer = Renderer(loaded.tokenizer, min(limit, context_length(loaded.model)))
    reference = _reference(loaded.model, renderer, prompts[-_TASKS:])
    model = _merge(loaded.model, stage_dir)
    difference = reference.difference(model, "in memory")

    with _scratch_beside(out) as built:
        with _as_model_error(stage_dir, "saved"):
            model.save_pretrained(built)
            loaded.tokenizer.save_pretrained(built)
        for weights in built.glob("*.safetensors"):
            # They are written for the owner alone.
            weights.chmod(0o644)
        # Both in memory at once would need twice the room.
        del model, loaded
        again = load_model(str(built), dtype=_DTYPE, device="cpu")
        if Renderer(again.tokenizer, renderer.max_length).fingerprint() != renderer.fingerprint():
            raise ModelError(f"the tokenizer of {base!r} does not survive saving and loading: nothing was written")
        difference = max(difference, reference.difference(again.model, "once it is saved and loaded"))
        found = Merged(out, difference, reference.scale, len(reference.ids), confirmed)
        _describe(lineage, found, state_fingerprint(again.model), built)
    return found


def _demand_free(out: Path) -> None:
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            what = "is not empty" if out.is_dir() else "is a file"
            raise RecordError(f"{out} {what}: choose a directory that does not exist yet, or an empty one")
        above = _nearest_folder(out)
        if not above.is_dir() or not os.access(above, os.W_OK):
            raise RecordError(f"{out} cannot be written: {above} is no directory that you may write in")
    except OSError as error:
        raise RecordError(f"{out} cannot be written: {error.strerror or error}. Choose another directory") from error


def _demand_room(out: Path, model: Any) -> None:
    need = sum(p.numel() * 4 for name, p in model.named_parameters() if ".lora_" not in name)
    free = shutil.disk_usage(_nearest_folder(out)).free
    if free < need:
        raise RecordError(
            f"{out} cannot be written: the model takes {need / 1e9:.1f} GB and {free / 1e9:.1f} GB are free. "
            "Make room, or choose a directory on another disk"
        )


def _nearest_folder(out: Path) -> Path:
    return next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())


def _refuse_quantised(base: str) -> None:
    """Refuse a base whose weights are not numbers that an update could be added to."""
    if base == EMBEDDED:
        # Its weights were dequantised once and for all.
        return
    from transformers import PreTrainedConfig

    folder = Path(base).expanduser()
    try:
        config, _ = PreTrainedConfig.get_config_dict(str(folder) if folder.is_dir() else base)
    except (OSError, ValueError):
        # What is wrong with it is said where it is loaded.
        return
    parts = [config, *(part for part in config.values() if isinstance(part, Mapping))]
    quantised = [part["quantization_config"] for part in parts if part.get("quantization_config")]
    if quantised:
        how = quantised[0].get("quant_method", "unknown") if isinstance(quantised[0], Mapping) else "unknown"
        raise ModelError(
            f"base model {base!r} is quantised ({how}), so an adapter cannot be merged into it exactly. Use the stage "
            "directory itself with this base, or train on the model that it was quantised from"
        )


def _load(base: str, stage_dir: Path, state: str) -> tuple[LoadedModel, bool]:
    """Return base and adapter in float32, and whether in some number format they are those of the run."""
    with _as_model_error(stage_dir, "loaded"):
        loaded = load_model(base, str(stage_dir), _DTYPE, "cpu")
        if state_fingerprint(loaded.model) == state:
            return loaded, True
        # A run on a GPU has the base in half precision. One model at a time: they may be large.
        del loaded
        confirmed = any(
            state_fingerprint(load_model(base, str(stage_dir), dtype, "cpu").model) == state
            for dtype in ("bfloat16", "float16")
        )
        return load_model(base, str(stage_dir), _DTYPE, "cpu"), confirmed


def _reference(model: Any, renderer: Renderer, prompts: Sequence[tuple[str, str]]) -> _Reference:
    ids = tuple(e.ids for instruction, suffix in prompts for e in renderer.encode(instruction, suffix, _PROBES))
    logits = tuple(_logits(model, row) for row in ids)
    return _Reference(ids, logits, max(float(row.abs().max()) for row in logits))


def _logits(model: Any, ids: Sequence[int]) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = model(input_ids=torch.tensor([ids]), use_cache=False).logits
    return logits


def _merge(model: Any, stage_dir: Path) -> Any:
    from peft.tuners.tuners_utils import BaseTuner

    if not isinstance(model.base_model, BaseTuner):
        kind = model.peft_config["default"].peft_type.value
        raise ModelError(f"the adapter in {stage_dir} is of the kind {kind}, which peft cannot merge: use it as it is")
    with _as_model_error(stage_dir, "merged"):
        return model.merge_and_unload()


@contextmanager
def _as_model_error(stage_dir: Path, what: str) -> Iterator[None]:
    """Run a block of the libraries' doing: their errors become ours."""
    try:
        with warnings.catch_warnings():
            # That adapted embeddings "can lead to complications" is what the comparison finds out.
            warnings.filterwarnings("ignore", ".*(tie_word_embeddings|save_embedding_layers).*", UserWarning)
            yield
    except _LIBRARY_ERRORS as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(
            f"{stage_dir} cannot be {what} by the libraries here ({lines[0]}). Use the stage directory itself, "
            "with its base model"
        ) from error


@contextmanager
def _scratch_beside(out: Path) -> Iterator[Path]:
    """Give a directory that becomes ``out`` if the block succeeds, and is deleted if not."""
    try:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.absolute().parent, prefix=f".{out.name}-") as scratch:
            built = Path(scratch) / "model"
            built.mkdir()
            yield built
            if out.exists():
                # Only an empty one may be replaced; this fails if something was put there meanwhile.
                out.rmdir()
            os.rename(built, out)
    except OSError as error:
        raise RecordError(f"{out} cannot be written: {error.strerror or error}. Nothing was left there") from error
    except SafetensorError as error:
        raise RecordError(f"{out} cannot be written: {error}. Nothing was left there") from error


def _describe(lineage: Mapping[str, Any], merged: Merged, state: str, built: Path) -> None:
    """Write `sapo.json`, so that `sapo generate` knows the prompts, and the model card."""
    data = {
        **lineage,
        "state": state,
        "merged": True,
        "merge": {
            "state": lineage["state"],
            "dtype": _DTYPE,
            "difference": merged.difference,
            "scale": merged.scale,
            "prompts": merged.prompts,
            "confirmed": merged.confirmed,
        },
    }
    write_json(built / LINEAGE, data)
    write_text(built / "README.md", model_card(data))
