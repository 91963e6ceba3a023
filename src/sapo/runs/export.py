"""A stage as a plain model: its adapter merged into the base by peft, if that loses nothing.

Whether it loses something is measured, not looked up: the logits of base and adapter are compared with those of the
merged model as it is read back from the disk. So an adapter on tied embeddings, or a kind of adapter that nobody
thought of here, is either merged exactly or refused.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from sapo.core.errors import ModelError, RecordError, first_line
from sapo.core.storage import undamaged, write_json, write_text
from sapo.core.types import Example
from sapo.models.fingerprint import state_fingerprint
from sapo.models.fit import context_length
from sapo.models.load import LoadedModel, load_config, load_model
from sapo.models.render import Renderer
from sapo.models.settings import EMBEDDED
from sapo.runs.card import model_card
from sapo.runs.lineage import LINEAGE, TAKE_AGAIN, read_lineage, stored_prompts

# Largest difference of a logit, as a share of the largest logit; rounding in float32 makes about 1e-5.
LIMIT = 1e-3
# Compared are prompts of the tasks trained last, with each of two inputs.
TASKS = 4
PROBES = (Example("The quick brown fox jumps over the lazy dog, 12 times a day.", "yes"), Example("Ünï 北京 :)", "2"))
_DTYPE = "float32"
# What peft and transformers raise where they fail.
_LIBRARY_ERRORS = (AttributeError, ImportError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError)
_INSTEAD = "so nothing was written. Use the stage directory itself, with its base model"


@dataclass(frozen=True, slots=True)
class Merged:
    """What was measured of a merged model once it was written and read back.

    Attributes:
        difference: largest difference of a logit to base and adapter.
        scale: largest absolute logit of base and adapter, what ``difference`` is to be compared with.
        prompts: number of prompts on which both were measured.
        confirmed: whether base and adapter have the fingerprint that the run recorded. If not, the base has
            changed since then, or the libraries now give weights other names or values.
    """

    difference: float
    scale: float
    prompts: int
    confirmed: bool


def export_merged(stage_dir: Path, out: Path) -> Merged:
    """Write a stage as a plain model directory in float32 and return what was measured; ``out`` whole or not at all.

    Args:
        stage_dir: a stage directory of a run.
        out: directory to be made; it may exist if it is empty.

    Raises:
        ModelError: if ``stage_dir`` is not a stage, or cannot be merged exactly.
        RecordError: if its `sapo.json` is damaged, or ``out`` cannot be written.
    """
    lineage = read_lineage(stage_dir)
    with undamaged(stage_dir / LINEAGE, TAKE_AGAIN):
        base, state, merged = str(lineage["base_model"]), str(lineage["state"]), bool(lineage.get("merged"))
        prompts, limit = list(stored_prompts(lineage).values()), int(lineage["max_length"])
        quantization, dtype = lineage.get("quantization"), lineage.get("dtype")
        # The card is written last, after minutes of work: what it needs must be there now.
        model_card(lineage)
    if merged:
        raise ModelError(f"{stage_dir} is merged already: copy it, or use it unchanged")
    with _new_directory(out, stage_dir) as built:
        _refuse_quantised(base, quantization)
        loaded, confirmed = _load(base, stage_dir, dtype)
        renderer = Renderer(loaded.tokenizer, min(limit, context_length(loaded.model)))
        rows = [e.ids for prompt in prompts[-TASKS:] for e in renderer.encode(*prompt, PROBES)]
        expected = _logits(loaded.model, rows)
        loaded.model.merge_and_unload(safe_merge=True).save_pretrained(built)
        loaded.tokenizer.save_pretrained(built)
        # Both in memory at once would need twice the room.
        del loaded
        again = load_model(str(built), dtype=_DTYPE, device="cpu")
        if Renderer(again.tokenizer, renderer.max_length).fingerprint() != renderer.fingerprint():
            raise ModelError(f"the tokenizer of {base!r} does not survive saving and loading, {_INSTEAD}")
        pairs = zip(expected, _logits(again.model, rows), strict=True)
        scale = max(float(row.abs().max()) for row in expected)
        found = Merged(max(float((a - b).abs().max()) for a, b in pairs), scale, len(rows), confirmed)
        # Not `>`, as NaN must be refused too.
        if not found.difference <= LIMIT * scale:
            raise ModelError(
                f"the merged model differs from base and adapter: by up to {found.difference:.2g} where the largest "
                f"logit is {scale:.2g} (allowed: {LIMIT:g} of it), {_INSTEAD}. This is so for adapters on tied "
                "embeddings or an output layer tied to them"
            )
        merge = {"state": state, "dtype": _DTYPE, **asdict(found)}
        data = {**lineage, "dtype": _DTYPE, "state": state_fingerprint(again.model), "merged": True, "merge": merge}
        write_json(built / LINEAGE, data)
        write_text(built / "README.md", model_card(data))
    return found


@contextmanager
def _new_directory(out: Path, stage_dir: Path) -> Iterator[Path]:
    """Give a directory that becomes ``out`` if the block succeeds, else is deleted; errors of libraries become ours."""
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            what = "is not empty" if out.is_dir() else "is a file"
            raise RecordError(f"{out} {what}: choose a directory that does not exist yet, or an empty one")
        above = next(folder for folder in out.absolute().parents if folder.exists())
        with tempfile.TemporaryDirectory(dir=above, prefix=f".{out.name}-") as scratch, warnings.catch_warnings():
            # That adapted embeddings "can lead to complications" is what the comparison finds out.
            warnings.filterwarnings("ignore", ".*(tie_word_embeddings|save_embedding_layers).*", UserWarning)
            built = Path(scratch) / "model"
            built.mkdir()
            yield built
            for weights in built.glob("*.safetensors"):
                # They are written for the owner alone.
                weights.chmod(0o644)
            out.absolute().parent.mkdir(parents=True, exist_ok=True)
            if out.exists():
                # Only an empty one is replaced; this fails if something was put there meanwhile.
                out.rmdir()
            built.rename(out)
    except (OSError, SafetensorError) as error:
        raise RecordError(f"{out} cannot be written: {error}. Nothing was left there") from error
    except _LIBRARY_ERRORS as error:
        raise ModelError(
            f"{stage_dir} cannot be merged by the libraries here ({first_line(error)}), {_INSTEAD}"
        ) from error


def _refuse_quantised(base: str, quantization: str | None) -> None:
    """Refuse a base whose weights are not numbers that an update could be added to, in the file or in the run."""
    if quantization is not None:
        raise ModelError(
            f"the adapter was trained on {base!r} in {quantization}, so it cannot be merged exactly: whole weights are "
            f"another base. Use the stage directory itself, with sapo.load_model({base!r}, STAGE, "
            f"quantization={quantization!r})"
        )
    if base == EMBEDDED:
        # Its weights were dequantised once and for all.
        return
    config = load_config(base).to_dict()
    for part in (config, *(part for part in config.values() if isinstance(part, Mapping))):
        if how := part.get("quantization_config"):
            raise ModelError(
                f"base model {base!r} is quantised ({how.get('quant_method', 'unknown')}), so an adapter cannot be "
                "merged into it exactly. Use the stage directory itself with this base, or train on the model that "
                "it was quantised from"
            )


def _load(base: str, stage_dir: Path, dtype: str | None) -> tuple[LoadedModel, bool]:
    """Return base and adapter in float32, and whether in the number format of their training they are those of the run.

    Earlier versions did not record it.
    """
    loaded = load_model(base, str(stage_dir), _DTYPE, "cpu")
    if loaded.confirmed:
        return loaded, True
    # One model at a time: they may be large.
    del loaded
    formats = ("bfloat16", "float16") if dtype is None else (dtype,)
    confirmed = any(load_model(base, str(stage_dir), one, "cpu").confirmed for one in formats if one != _DTYPE)
    return load_model(base, str(stage_dir), _DTYPE, "cpu"), confirmed


def _logits(model: Any, rows: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    with torch.inference_mode():
        return [model(input_ids=torch.tensor([ids]), use_cache=False).logits for ids in rows]
