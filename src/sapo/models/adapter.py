"""A peft adapter from a directory or the hub onto its base: weights, tokenizer, lineage."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

from sapo.core.errors import ModelError, first_line
from sapo.core.settings import expanded
from sapo.core.storage import read_json
from sapo.models.fingerprint import state_fingerprint
from sapo.models.hub import unreachable
from sapo.models.settings import EMBEDDED

# What is read of an adapter: not the checkpoints and states of optimisers that may lie beside it.
_FILES = ["adapter_*", "*token*", "vocab*", "merges.txt", "*.jinja", "sapo.json"]
UNCONFIRMED = (
    "NOT confirmed that it was trained on this model: its sapo.json records another state of base and adapter. "
    "Another base, dtype or library version would explain it"
)


def adapter_folder(adapter: str) -> Path:
    """Return the directory of an adapter, downloaded where it is a hub id.

    Raises:
        ModelError: if it lacks something, before a model is loaded for it.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        folder = Path(expanded(adapter))
    except ValueError as error:
        raise ModelError(f"adapter {error}") from error
    if not folder.is_dir():
        if (why := unreachable(adapter, "adapter_config.json")) is not None:
            raise ModelError(_cannot_add(adapter, why))
        try:
            folder = Path(snapshot_download(adapter, allow_patterns=_FILES))
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
            raise ModelError(_cannot_add(adapter, first_line(error))) from error
    # A directory never means a hub id, even if peft would look there for what it lacks.
    files = {"adapter_config.json": "adapter_config.json", "adapter_model.safetensors": "adapter_model.*"}
    missing = [name for name, pattern in files.items() if not any(folder.glob(pattern))]
    if missing:
        raise ModelError(_cannot_add(adapter, f"it has no {' and no '.join(missing)}."))
    return folder


def with_adapter(model: Any, folder: Path, adapter: str) -> Any:
    """Return the model with an adapter, unmerged and active; every weight of it must find its place."""
    from peft import PeftModel, get_peft_model_state_dict
    from peft.utils import load_peft_weights

    try:
        with warnings.catch_warnings():
            # Weights that are missing are found below, and are an error there.
            warnings.filterwarnings("ignore", "Found missing adapter keys", UserWarning)
            # peft looks for the base that the adapter names, which may be elsewhere; `tokenizer_of` names it.
            warnings.filterwarnings("ignore", "Unable to fetch remote file|Could not find a config file", UserWarning)
            loaded = PeftModel.from_pretrained(model, folder)
            wanted = set(get_peft_model_state_dict(loaded))
        given = set(load_peft_weights(folder, device="cpu"))
    except Exception as error:
        raise ModelError(_cannot_add(adapter, _mismatch(error))) from error
    if given != wanted:
        names = ", ".join(sorted(given ^ wanted)[:3])
        raise ModelError(_cannot_add(adapter, f"it was trained on another architecture; not matched: {names}"))
    demand_readable_adapter(loaded)
    return loaded


def tokenizer_of(tokenizer: Any, name: str, folder: Path, adapter: str) -> tuple[Any, list[str]]:
    """Return the tokenizer that an adapter was trained with, and what its folder says of that and of its base."""
    from transformers import AutoTokenizer

    notes = list[str]()
    base = read_json(folder / "adapter_config.json", "").get("base_model_name_or_path")
    if base and name != EMBEDDED and Path(str(base)).name != Path(name).name:
        notes.append(f"adapter {adapter} names another base model, {base}: what it does on {name} is not known")
    of_base, template = tokenizer.chat_template, folder / "chat_template.jinja"
    try:
        if (folder / "tokenizer_config.json").is_file():
            tokenizer = AutoTokenizer.from_pretrained(folder)
        elif template.is_file():
            tokenizer.chat_template = template.read_text(encoding="utf-8")
    except Exception as error:
        raise ModelError(_cannot_add(adapter, f"its tokenizer is damaged ({first_line(error)}).")) from error
    if tokenizer.chat_template != of_base:
        notes.append(f"the chat template is the one of adapter {adapter}, not its base's")
    return tokenizer, notes


def is_recorded(model: Any, lineage: Path) -> bool:
    """Whether base and adapter together are what the stage's lineage recorded; true where there is no lineage."""
    if not lineage.is_file():
        return True
    stored = read_json(lineage, "Put it back as it was written, or delete it to load the adapter without it.")
    return not isinstance(stored, dict) or stored.get("state") in (None, state_fingerprint(model))


def demand_readable_adapter(model: Any) -> None:
    """Refuse an adapter that adds virtual tokens: losses are asked for at places of the prompt as it is written."""
    from peft import PeftModel

    if isinstance(model, PeftModel) and model.active_peft_config.is_prompt_learning:
        kind = model.active_peft_config.peft_type.value
        raise ModelError(f"the adapter is of type {kind}, which adds virtual tokens: allowed is LoRA, or no adapter")


def _mismatch(error: Exception) -> str:
    """Return the sizes that do not fit, which torch names behind its first line."""
    found = re.search(
        r"size mismatch for (\S+): .*?shape torch\.Size\((.*?)\).*?model is torch\.Size\((.*?)\)", str(error), re.DOTALL
    )
    if found is None:
        return first_line(error)
    return f"its {found[1]} has the shape {found[2]}, the model's {found[3]}: another base, or another vocabulary."


def _cannot_add(adapter: str, why: str) -> str:
    return (
        f"adapter {adapter!r} cannot be loaded onto this model: {why} Allowed: a directory with adapter_config.json "
        "and adapter_model.safetensors, or a hub id, trained on the same base model."
    )
