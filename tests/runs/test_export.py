"""Merged models against stock peft, against weights merged by hand, and against what must be refused."""

import errno
import json
import re
import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, PrefixTuningConfig, get_peft_model
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from small_runs import command
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from sapo.core.errors import ModelError, RecordError, SapoError
from sapo.core.storage import read_json, write_json, write_text
from sapo.core.types import Instruction
from sapo.integrations.testing import tiny_model, tiny_tokenizer, toy_task
from sapo.models.fingerprint import state_fingerprint
from sapo.models.render import Renderer
from sapo.runs.card import model_card
from sapo.runs.export import PROBES, Merged, export_merged
from sapo.runs.lineage import lineage
from sapo.runs.stage import load_stage
from sapo.selection.selection import Choice

NAMES = ("first", "second")
LORA = LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=3, lora_dropout=0.2, target_modules=["q_proj", "v_proj"])
PROBE = torch.tensor([[(7 * i + j) % 250 for i in range(40)] for j in range(3)])


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        output: torch.Tensor = model.eval()(input_ids=PROBE, use_cache=False).logits
    return output


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max())


def plain(directory: Path) -> Any:
    """A directory as stock transformers loads it."""
    return AutoModelForCausalLM.from_pretrained(directory)


def with_peft(base: Path, stage: Path) -> Any:
    """A stage as stock peft loads it."""
    return PeftModel.from_pretrained(plain(base), stage)


def make_base(directory: Path, *, tied: bool = False) -> Path:
    config = tiny_model().config
    config.tie_word_embeddings = tied
    with torch.random.fork_rng():
        torch.manual_seed(3)
        LlamaForCausalLM(config).save_pretrained(directory)
    tiny_tokenizer().save_pretrained(directory)
    return directory


def make_stage(stage: Path, base: Path, config: Any = None, dtype: Any = torch.float32) -> Path:
    """A stage after two tasks; by default with an adapter of which its `sapo.json` knows the fingerprint."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=dtype), deepcopy(config or LORA))
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            # As training would.
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(stage)
    data = lineage(
        base=str(base), method="seq-lora", policy="original", template="0123456789abcdef", versions={"torch": "2.9"},
        trained=[Choice(toy_task(name), Instruction(f"Task {name}: yes or no?", "file")) for name in NAMES],
        state="unknown" if config else state_fingerprint(model), limits={"max_length": 200, "max_new_tokens": 5},
        dtype=str(dtype).removeprefix("torch."),
    )  # fmt: skip
    write_json(stage / "sapo.json", data)
    write_text(stage / "README.md", model_card(data))
    return stage


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def stage(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nothing may change it."""
    return make_stage(tmp_path_factory.mktemp("stage"), base)


@pytest.fixture(scope="module")
def merged(stage: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Merged, Path]:
    """The stage exported into a folder of its own; nothing may change it."""
    out = tmp_path_factory.mktemp("merged") / "new" / "out"
    return export_merged(stage, out), out


def moved_stage(stage: Path, to: Path, **changes: Any) -> Path:
    """A copy with another `sapo.json`."""
    shutil.copytree(stage, to)
    write_json(to / "sapo.json", read_json(stage / "sapo.json") | changes)
    return to


# What is written is what was trained.


def test_a_merged_stage_says_what_stock_peft_says_answers_as_the_stage_does_and_needs_no_base(
    stage: Path, tmp_path: Path, base: Path
) -> None:
    moved = Path(shutil.copytree(base, tmp_path / "base"))
    stage = moved_stage(stage, tmp_path / "stage", base_model=str(moved))
    expected, texts = logits(with_peft(base, stage)), [row.input for row in toy_task().test]
    assert distance(expected, logits(plain(base))) > 0.1, "the adapter must matter here"
    answers = {task: load_stage(stage).generate(texts, task) for task in NAMES}
    assert len({answer for each in answers.values() for answer in each}) > 1
    assert export_merged(stage, tmp_path / "out").confirmed
    shutil.rmtree(moved)
    shutil.rmtree(stage)
    model = plain(tmp_path / "out")
    assert distance(logits(model), expected) <= 1e-4
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    loaded = load_stage(tmp_path / "out")
    assert {task: loaded.generate(texts, task) for task in NAMES} == answers
    assert not isinstance(loaded.loaded.model, PeftModel)


def test_a_merged_directory_is_whole_and_readable_by_all(merged: tuple[Merged, Path], stage: Path) -> None:
    measured, out = merged
    files = {path.name: path for path in out.iterdir()}
    wanted = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "sapo.json", "README.md"}
    assert [path.name for path in out.parent.iterdir()] == ["out"] and wanted <= set(files)
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in files.values())
    text = "Say Ünï 北京 <|im_end|>"
    assert AutoTokenizer.from_pretrained(out)(text).input_ids == tiny_tokenizer()(text).input_ids
    before, after = read_json(stage / "sapo.json"), read_json(out / "sapo.json")
    merge = {"state": before["state"], "dtype": "float32", "difference": measured.difference, "scale": measured.scale}
    merge |= {"prompts": 4, "confirmed": True}
    changed = {"dtype": "float32", "state": state_fingerprint(plain(out)), "merged": True, "merge": merge}
    assert after == before | changed
    assert after["state"] != before["state"] and files["README.md"].read_text() == model_card(after)


def test_a_base_in_half_precision_is_merged_in_float32(tmp_path: Path) -> None:
    half = make_base(tmp_path / "half")
    plain(half).to(torch.bfloat16).save_pretrained(half)
    assert json.loads((half / "config.json").read_text())["dtype"] == "bfloat16"
    stage = make_stage(tmp_path / "stage", half, dtype=torch.bfloat16)
    assert export_merged(stage, tmp_path / "out").confirmed, "the run's own number format confirms the weights"
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "float32"
    exact = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(half, dtype=torch.float32), stage)
    assert distance(logits(plain(tmp_path / "out")), logits(exact)) <= 1e-4


def test_a_stage_is_loaded_in_the_number_format_of_its_training(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    for dtype in (torch.bfloat16, torch.float32):
        found = load_stage(make_stage(tmp_path / str(dtype), base, dtype=dtype)).loaded
        assert found.model.dtype == dtype and found.confirmed


def test_the_code_on_a_card_loads_the_model(merged: tuple[Merged, Path], stage: Path, base: Path) -> None:
    for folder in (stage, merged[1]):
        (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
        scope: dict[str, Any] = {}
        exec(code.replace("FOLDER", str(folder)), scope)
        assert distance(logits(scope["model"]), logits(with_peft(base, stage))) <= 1e-4
        assert scope["tokenizer"]("x").input_ids == tiny_tokenizer()("x").input_ids


def test_the_measured_numbers_are_those_of_the_prompts(merged: tuple[Merged, Path], stage: Path, base: Path) -> None:
    measured, out = merged
    renderer, suffix = Renderer(tiny_tokenizer(), 200), toy_task().suffix
    rows = [e.ids for name in NAMES for e in renderer.encode(f"Task {name}: yes or no?", suffix, PROBES)]
    models = [with_peft(base, stage).eval(), plain(out).eval()]
    with torch.no_grad():
        pairs = [[m(input_ids=torch.tensor([row])).logits for m in models] for row in rows]
    assert measured.prompts == len(rows) == 4
    assert measured.scale == pytest.approx(max(float(one.abs().max()) for one, _ in pairs), rel=1e-5)
    assert 0 < measured.difference <= 1e-4 * measured.scale
    assert measured.difference == pytest.approx(max(distance(*pair) for pair in pairs), rel=1, abs=1e-6)


# Tied embeddings: exact or refused.


about_embeddings = pytest.mark.filterwarnings("ignore:.*(tie_word_embeddings|save_embedding_layers).*:UserWarning")
APART = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj"], modules_to_save=["lm_head"])


@about_embeddings
@pytest.mark.parametrize(("config", "heads"), [(None, set()), (APART, {"lm_head.weight"})], ids=["tied", "apart"])
def test_tied_embeddings_stay_tied_unless_a_whole_layer_was_trained_apart(
    config: LoraConfig | None, heads: set[str], tmp_path: Path
) -> None:
    base = make_base(tmp_path / "base", tied=True)
    stage = make_stage(tmp_path / "stage", base, config)
    export_merged(stage, tmp_path / "out")
    assert distance(logits(plain(tmp_path / "out")), logits(with_peft(base, stage))) <= 1e-4
    found = {name for name in load_file(tmp_path / "out" / "model.safetensors") if "embed" in name or "head" in name}
    assert found == {"model.embed_tokens.weight", *heads}


@about_embeddings
def test_an_adapter_on_one_of_two_tied_layers_is_refused(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", tied=True)
    stage = make_stage(
        tmp_path / "stage", base, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["embed_tokens"])
    )
    refused(ModelError, "differs from base and adapter: by up to .* tied", stage, tmp_path / "out")


# Refusals, each of which leaves nothing behind.


def refused(kind: type[SapoError], message: str, stage: Path, out: Path) -> None:
    above = next(folder for folder in out.parents if folder.exists())
    before = {path: path.is_file() and path.read_bytes() for path in above.rglob("*")}
    with pytest.raises(kind, match=message):
        export_merged(stage, out)
    assert {path: path.is_file() and path.read_bytes() for path in above.rglob("*")} == before


def test_what_cannot_be_merged_exactly_is_refused(stage: Path, base: Path, tmp_path: Path) -> None:
    broken = moved_stage(stage, tmp_path / "stage")
    tensors = load_file(broken / "adapter_model.safetensors")
    next(iter(tensors.values())).fill_(float("nan"))
    save_file(tensors, broken / "adapter_model.safetensors", metadata={"format": "pt"})
    refused(ModelError, r"cannot be merged by the libraries here \(NaNs.*nothing was written", broken, tmp_path / "out")
    prefix = make_stage(tmp_path / "p", base, PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    refused(ModelError, "the adapter is of type PREFIX_TUNING, which adds virtual tokens", prefix, tmp_path / "out")
    quantised = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    for name, part in (("flat", quantised), ("nested", {"text_config": quantised})):
        folder = Path(shutil.copytree(base, tmp_path / name))
        (folder / "config.json").write_text(json.dumps(json.loads((folder / "config.json").read_text()) | part))
        moved = moved_stage(stage, tmp_path / f"{name} stage", base_model=str(folder))
        refused(ModelError, r"is quantised \(bitsandbytes\).*cannot be merged into it exactly", moved, tmp_path / "out")


def test_a_tokenizer_that_does_not_survive_is_refused(
    stage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tiny_tokenizer(chat_template=None)
    original = type(other).save_pretrained
    monkeypatch.setattr(type(other), "save_pretrained", lambda self, folder: original(other, folder))
    refused(ModelError, "tokenizer of .* does not survive saving and loading", stage, tmp_path / "out")


def test_a_directory_that_is_no_stage_is_refused(tmp_path: Path, base: Path, stage: Path) -> None:
    refused(ModelError, r"is not a stage directory \(no sapo\.json\)", base, tmp_path / "out")
    refused(RecordError, r"sapo\.json is damaged", moved_stage(stage, tmp_path / "x", tasks=[{}]), tmp_path / "out")
    gone = moved_stage(stage, tmp_path / "gone", base_model="./nowhere")
    refused(ModelError, r"'\./nowhere' does not exist", gone, tmp_path / "out")
    without = moved_stage(stage, tmp_path / "without")
    (without / "adapter_model.safetensors").unlink()
    refused(ModelError, r"no adapter_model\.safetensors", without, tmp_path / "out")
    again = moved_stage(stage, tmp_path / "merged", merged=True)
    refused(ModelError, "merged is merged already", again, tmp_path / "twice")


def test_only_a_new_or_empty_directory_is_written(stage: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("keep me")
    refused(RecordError, "full is not empty: choose", stage, tmp_path / "full")
    refused(RecordError, "is a file: choose", stage, tmp_path / "full" / "file")
    refused(RecordError, "cannot be written: .*Not a directory", stage, tmp_path / "full" / "file" / "out")
    (tmp_path / "empty").mkdir()
    export_merged(stage, tmp_path / "empty")
    assert (tmp_path / "empty" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("error", "seen"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), RecordError),
        (SafetensorError("Error while serializing: I/O error"), RecordError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
    ids=repr,
)
def test_what_stops_the_writing_leaves_nothing(
    error: BaseException, seen: type[BaseException], stage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = LlamaForCausalLM.save_pretrained

    def half(self: Any, folder: Path) -> None:
        original(self, folder)
        raise error

    monkeypatch.setattr(LlamaForCausalLM, "save_pretrained", half)
    existing = isinstance(error, OSError)
    if existing:
        (tmp_path / "out").mkdir()
    with pytest.raises(seen, match="out cannot be written: .*" if seen is RecordError else None):
        export_merged(stage, tmp_path / "out")
    assert [path.name for path in tmp_path.rglob("*")] == (["out"] if existing else [])


def test_what_was_put_there_meanwhile_is_kept(stage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = LlamaForCausalLM.save_pretrained

    def slow(self: Any, folder: Path) -> None:
        original(self, folder)
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "mine").write_text("keep me")

    monkeypatch.setattr(LlamaForCausalLM, "save_pretrained", slow)
    with pytest.raises(RecordError, match="out cannot be written"):
        export_merged(stage, tmp_path / "out")
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")} == {"out", "out/mine"}


# The command.


def test_the_command_writes_measures_and_says_what_comes_next(
    stage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "two words"
    assert command("export", stage, "--merge", out) == 0
    text, errors = capsys.readouterr()
    difference = read_json(out / "sapo.json")["merge"]["difference"]
    assert f"written to {out}:" in text and f"{difference:.1e}" in text and errors == ""
    assert f"\n  sapo generate '{out}' --input" in text and f"model.base='{out}'" in text
    assert "are those of the run" in text and "NOT confirmed" not in text
    answers = []
    for where in (stage, out):
        assert command("generate", where, "--input", "few words") == 0
        answers.append(capsys.readouterr())
    assert answers[0] == answers[1]
    other = moved_stage(stage, tmp_path / "stage", state="another")
    assert command("export", other, "--merge", tmp_path / "other") == 0
    assert "NOT confirmed that the base model is the one of the run" in capsys.readouterr().out
