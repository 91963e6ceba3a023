"""Models in 4 and 8 bit: what is loaded, exact losses on it, LoRA on top. By bitsandbytes itself, on the CPU."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from exact_losses import by_hand, close, examples
from peft import PeftModel
from small_runs import command, save_model
from transformers import LlamaForCausalLM

import sapo
from sapo.core.errors import ConfigError, ModelError
from sapo.integrations.testing import tiny_model, tiny_tokenizer, toy_task
from sapo.models.fingerprint import state_fingerprint
from sapo.models.load import _brought_to, _placed, load_model, quantised
from sapo.models.losses import Scorer
from sapo.models.settings import Quantization
from sapo.runs.config.schema import Config
from sapo.runs.export import export_merged
from sapo.runs.stage import load_stage
from sapo.sequence import run
from sapo.training.finetune import finetune
from sapo.training.methods import make_method
from sapo.training.schedule import schedule
from sapo.training.settings import LoraSettings, MethodName, TrainSettings

with warnings.catch_warnings():
    # It compiles a function in a way that torch gives up.
    warnings.simplefilter("ignore", DeprecationWarning)
    bitsandbytes = pytest.importorskip("bitsandbytes")

BITS: tuple[Quantization, ...] = ("4bit", "8bit")


def whole(model: Any) -> Any:
    """The tiny model with the weights that a quantised one stands for."""
    plain = tiny_model(seed=2, context=1024)
    for path, layer in model.named_modules():
        if isinstance(layer, bitsandbytes.nn.Linear4bit):
            weight = bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        elif isinstance(layer, bitsandbytes.nn.Linear8bitLt):
            weight = layer.weight.data.float() * layer.weight.SCB[:, None] / 127
        else:
            continue
        plain.get_submodule(path).weight.data = weight.float()
    return plain


@pytest.mark.parametrize("bits", BITS)
def test_linear_layers_are_quantised_and_all_else_is_ready_for_lora(bits: Quantization, small_model: Path) -> None:
    loaded = load_model(str(small_model), dtype="bfloat16", device="cpu", quantization=bits)
    kind = {"4bit": bitsandbytes.nn.Linear4bit, "8bit": bitsandbytes.nn.Linear8bitLt}[bits]
    layers = [m for m in loaded.model.modules() if isinstance(m, torch.nn.Linear)]
    assert quantised(loaded.model) and not quantised(tiny_model())
    assert [m for m in layers if not isinstance(m, kind)] == [loaded.model.get_output_embeddings()]
    assert not any(p.requires_grad for p in loaded.model.parameters())
    assert {p.dtype for p in loaded.model.parameters() if p.is_floating_point()} == {torch.float32}
    assert f"quantization {bits} of the linear layers" in loaded.notes
    if bits == "4bit":
        found = {(m.compute_dtype, m.weight.quant_type) for m in layers if isinstance(m, kind)}
        assert found == {(torch.bfloat16, "nf4")}


def test_losses_in_4_bit_are_those_of_the_weights_it_stands_for_by_both_routes(small_model: Path) -> None:
    model = load_model(str(small_model), device="cpu", quantization="4bit").model
    scorer = Scorer(model)
    before, losses = state_fingerprint(model), scorer(examples())
    assert scorer.route == "shared prefix" and state_fingerprint(model) == before
    assert close(losses.nll, scorer.plain(examples()).nll)
    assert close(losses.nll, by_hand(whole(model), examples()))
    assert scorer.layout_noise(scorer.open(examples()), range(len(examples()))) < 1e-6
    assert abs(losses.nll - by_hand(tiny_model(seed=2, context=1024), examples())).max() > 0.01


def test_losses_in_8_bit_are_near_those_of_their_weights_and_their_noise_is_measured(tmp_path: Path) -> None:
    model = load_model(str(save_model(tmp_path / "calm")), device="cpu", quantization="8bit").model
    # Before the first pass, which lays the scales elsewhere.
    plain = whole(model)
    # Activations are rounded to 8 bits too.
    assert Scorer(model)(examples()).nll == pytest.approx(by_hand(plain, examples()), rel=0.02)
    # Activations above 6 are not: in which columns depends on all rows of a batch.
    model = tiny_model(seed=2, context=1024)
    for layer in model.model.layers:
        layer.input_layernorm.weight.data *= 3
    model.save_pretrained(tmp_path / "outliers")
    tiny_tokenizer().save_pretrained(tmp_path / "outliers")
    scorer = Scorer(load_model(str(tmp_path / "outliers"), device="cpu", quantization="8bit").model, 400)
    losses = scorer.plain(examples())
    alone = sum(float(scorer.plain([e]).nll[0]) for e in examples()) / losses.tokens.sum()
    noise = scorer.layout_noise(scorer.open(examples()), range(len(examples())))
    assert noise > 1e-6 and abs(losses.per_token - alone) > 1e-6
    assert max(noise, abs(losses.per_token - alone)) < 0.1


@pytest.mark.parametrize("bits", BITS)
def test_the_state_is_the_same_each_time_and_another_than_the_whole_model_s(
    bits: Quantization, small_model: Path
) -> None:
    def state(quantization: Quantization | None) -> str:
        return state_fingerprint(load_model(str(small_model), device="cpu", quantization=quantization).model)

    assert state(bits) == state(bits) != state(None)


@pytest.mark.parametrize("bits", BITS)
def test_the_first_update_s_loss_is_the_pre_update_loss(bits: Quantization, small_model: Path) -> None:
    method = make_method("seq-lora", LoraSettings(r=4, dropout=0.0, target_modules=("q_proj", "v_proj")))
    model = method.start(load_model(str(small_model), device="cpu", quantization=bits).model)
    expected = Scorer(model).plain(examples()[:1])
    base = {name: p.clone() for name, p in model.named_parameters()}
    model = method.prepare(model, schedule("sequence", [toy_task()], 0, 2)[0])
    log = finetune(model, examples()[:1] * 2, TrainSettings(epochs=2, batch_size=2, learning_rate=1e-2, warmup=0.0), 0)
    # In 8 bit a loss moves with the rows of its batch.
    assert log.losses[0] == pytest.approx(expected.per_token, rel={"4bit": 1e-5, "8bit": 0.01}[bits])
    assert log.losses[-1] < log.losses[0]
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained and all(".lora_" in name for name in trained)
    after = {
        name.replace("base_model.model.", "").replace(".base_layer", ""): p for name, p in model.named_parameters()
    }
    assert all(torch.equal(after[name], p) for name, p in base.items())


@pytest.mark.parametrize("bits", BITS)
def test_a_run_trains_adapters_on_the_quantised_base_and_its_stages_say_so(
    bits: Quantization,
    small_model: Path,
    configured: Callable[..., Config],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = {"base": str(small_model), "device": "cpu", "quantization": bits}
    config = configured(model=model, method="inc-lora", lora={"r": 4})
    run(config)
    (stage,) = Path(config.run_dir, "stages").iterdir()
    stored = json.loads((stage / "sapo.json").read_text())
    assert stored["quantization"] == bits and stored["versions"]["bitsandbytes"] == bitsandbytes.__version__
    assert f'quantization="{bits}"' in (stage / "README.md").read_text()
    found = load_stage(stage)
    assert isinstance(found.loaded.model, PeftModel) and quantised(found.loaded.model) and found.loaded.confirmed
    capsys.readouterr()
    assert command("generate", stage, "--input", "x", "--device-map", "auto") == 0
    assert capsys.readouterr().out.strip() == found.generate(["x"])[0].strip()
    assert not load_model(str(small_model), str(stage), device="cpu").confirmed, "another base"
    with pytest.raises(ModelError, match=f"trained on .* in {bits}, so it cannot be merged exactly"):
        export_merged(stage, tmp_path / "merged")
    assert config.plain()["model"]["quantization"] == bits
    assert "quantization" not in configured().plain()["model"]


def test_commands_load_it_quantised(small_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target, texts = tmp_path / "selection.json", ["Is this a good or a bad review?", "positive or negative?"]
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    select = "select --task review-sentiment --examples 4 --strategy exhaustive --quantization 4bit --device-map auto"
    given = ("--candidates", tmp_path / "texts.json", "--model", small_model, "--json", target)
    assert command(*select.split(), *given) == 0
    told = capsys.readouterr().err
    assert "quantization 4bit of the linear layers" in told and "device_map auto: " in told
    found = json.loads(target.read_text())["candidates"]
    model, tokenizer = load_model(str(small_model), quantization="4bit", device_map="auto")
    other = sapo.select(model, tokenizer, sapo.load_task("review-sentiment"), texts, 4, strategy="exhaustive")
    assert [c["loss"] for c in found] == pytest.approx([c.loss for c in other.candidates], rel=1e-5)


@pytest.mark.parametrize("method", ["full", "osf"])
def test_methods_that_train_the_weights_refuse(
    method: MethodName, small_model: Path, configured: Callable[..., Config]
) -> None:
    model = {"base": str(small_model), "device": "cpu", "quantization": "4bit"}
    for changes in ({"method": method}, {"sweep": {"method": ["seq-lora", method]}}):
        with pytest.raises(ConfigError, match=f"quantization 4bit: method {method} .* weights have no gradient"):
            configured(model=model, **changes)
    # Some models come quantised, which only the model itself tells.
    loaded = load_model(str(small_model), device="cpu", quantization="4bit")
    with pytest.raises(ModelError, match=f"method {method} .* quantised weights have no gradient: leave model.quant"):
        make_method(method, LoraSettings()).start(loaded.model)


def test_a_missing_bitsandbytes_names_the_extra(small_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"8bit needs bitsandbytes.*pip install '\.\[quantization\]'"):
        load_model(str(small_model), device="cpu", quantization="8bit")


# Spread over devices.


def test_one_device_holds_the_same_model_with_a_map(small_model: Path) -> None:
    loaded = load_model(str(small_model), dtype="float32", device_map="auto", attention="eager")
    assert loaded.notes[0] == f"device_map auto: {loaded.model.device}"
    assert loaded.model.config._attn_implementation == "eager"
    plain = tiny_model(seed=2, context=1024).to(loaded.model.device)
    assert close(Scorer(loaded.model)(examples()).nll, Scorer(plain)(examples()).nll)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"device_map": "balanced"}, "device_map 'balanced': allowed is auto"),
        ({"device_map": "auto", "device": "cpu"}, "device 'cpu' and device_map 'auto': give only one"),
        ({"quantization": "3bit"}, "quantization '3bit': allowed: 4bit, 8bit"),
        ({"attention": "nope"}, "attn_implementation=\"nope\""),
    ],
)  # fmt: skip
def test_what_is_not_there_is_named(given: dict[str, Any], message: str, small_model: Path) -> None:
    with pytest.raises(ModelError, match=message):
        load_model(str(small_model), **given)


def test_a_map_is_for_one_process(small_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ModelError, match="2 processes were started, each with a model of its own"):
        load_model(str(small_model), device_map="auto")


def test_layers_that_found_no_gpu_are_refused_and_hidden_states_return_to_the_first_one() -> None:
    with torch.device("meta"):
        absent = LlamaForCausalLM(tiny_model().config)
    with pytest.raises(ModelError, match="model 'm' does not fit on the GPUs of this machine"):
        _placed(absent, "m")
    model = tiny_model()
    model.get_decoder().register_forward_hook(_brought_to(torch.device("meta")))
    assert model.get_decoder()(torch.tensor([[1, 2]])).last_hidden_state.device.type == "meta"
