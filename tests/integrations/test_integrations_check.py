"""What people asked of their trainings in public threads, each with the smallest input that shows it."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from adapted import snapshot
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import (
    DataCollatorForLanguageModeling,
    DataCollatorForSeq2Seq,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

import sapo
from sapo.core.errors import DataError
from sapo.integrations.check import Check, check_task
from sapo.integrations.testing import CHAT_TEMPLATE, tiny_model, tiny_tokenizer, toy_task
from sapo.models.load import load_model
from sapo.models.render import Renderer

sft = pytest.importorskip("trl", reason="TRL is not installed: pip install trl")

ASKED = "<|im_start|>user\nIs it good, {}?<|im_end|>\n<|im_start|>assistant\n"
YES = "yes<|im_end|>\n"
EMPTY = "<think>\n\n</think>\n\n"
# As Qwen3: asks openly, or behind an empty block; and as its thinking-only kind.
_QUIET = "{% if enable_thinking is defined and not enable_thinking %}" + EMPTY + "{% endif %}"
THINKS = CHAT_TEMPLATE.replace("assistant\n{% endif %}", "assistant\n" + _QUIET + "{% endif %}").replace(
    "role'] }}\n", "role'] }}\n{% if message['role'] == 'assistant' %}" + _QUIET + "{% endif %}"
)
ALWAYS_THINKS = CHAT_TEMPLATE.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
TOOLS = "{% if tools %}{{ tools }}{% endif %}" + CHAT_TEMPLATE


def modest(**options: Any) -> Any:
    """Return the tiny model, which has no opinion yet: about as bad as guessing."""
    model = tiny_model(**options)
    with torch.no_grad():
        model.lm_head.weight.mul_(0.1)
    return model


def row(tokenizer: Any, *pieces: str) -> dict[str, list[int]]:
    """Return texts as a row of tokens, every second one supervised."""
    ids, labels = list[int](), list[int]()
    for n, piece in enumerate(pieces):
        new = tokenizer(piece, add_special_tokens=False).input_ids
        ids += new
        labels += new if n % 2 else [-100] * len(new)
    return {"input_ids": ids, "labels": labels, "attention_mask": [1] * len(ids)}


def hf(
    *pieces: str, template: str | None = CHAT_TEMPLATE, model: Any = None, tokenizer: Any = None, rows: int = 4,
    tested: Any = None, collator: Any = None, **arguments: Any,
) -> Any:  # fmt: skip
    """Return a Trainer whose rows are these pieces, with {} numbered."""
    tokenizer = tokenizer or tiny_tokenizer(chat_template=template)
    tokenizer.pad_token = tokenizer.pad_token or "\u0120"
    data = [row(tokenizer, *(piece.replace("{}", str(n)) for piece in pieces)) for n in range(rows)]
    settings = {"use_cpu": True, "report_to": "none", "save_strategy": "no", "disable_tqdm": True, **arguments}
    return Trainer(
        model=model or modest(),
        args=TrainingArguments("unused", **settings),
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(data),
        eval_dataset=tested,
        data_collator=collator or DataCollatorForSeq2Seq(tokenizer),
    )


def ours(rows: Any, *, template: str = CHAT_TEMPLATE, tokenizer: Any = None, model: Any = None, **settings: Any) -> Any:
    """Return TRL's SFTTrainer on rows."""
    arguments = sft.SFTConfig(
        "unused", report_to="none", bf16=False, gradient_checkpointing=False, use_cpu=True, disable_tqdm=True,
        save_strategy="no", **settings,
    )  # fmt: skip
    return sft.SFTTrainer(
        model=model or modest(), processing_class=tokenizer or tiny_tokenizer(chat_template=template),
        train_dataset=Dataset.from_list(rows), args=arguments,
    )  # fmt: skip


def sides(n: int, answer: str = "yes") -> dict[str, Any]:
    asked = [{"role": "system", "content": "Judge."}, {"role": "user", "content": f"Is it good, {n}?"}]
    return {"prompt": asked, "completion": [{"role": "assistant", "content": answer}]}


def turns(n: int) -> dict[str, Any]:
    return {"messages": sides(n)["prompt"] + sides(n)["completion"]}


SIDES = [sides(n) for n in range(4)]


def pretokenised(**settings: Any) -> Any:
    """Return an SFTTrainer on rows whose labels are all of their tokens."""
    made = row(tiny_tokenizer(), "", ASKED + YES)
    return ours([{"input_ids": made["input_ids"], "labels": made["labels"]}] * 4, **settings)


def saved_otherwise() -> Any:
    trainer = ours(SIDES)
    trainer.processing_class.chat_template = CHAT_TEMPLATE.replace("<|im_end|>\n", "<|im_end|>")
    return trainer


def without_tools(folder: Path) -> Any:
    tiny_tokenizer(chat_template=TOOLS).save_pretrained(folder)
    model = modest()
    model.config.name_or_path = str(folder)
    return ours(SIDES, model=model)


def new_token(folder: Path) -> Any:
    tokenizer, model = tiny_tokenizer(), modest()
    tokenizer.save_pretrained(folder)
    model.config.name_or_path = str(folder)
    tokenizer.add_tokens(["<call>"])
    model.resize_token_embeddings(len(tokenizer))
    lora = get_peft_model(model, LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))
    return hf(ASKED, "<call>" + YES, model=lora, tokenizer=tokenizer)


def frozen() -> Any:
    model = modest()
    for parameter in model.parameters():
        parameter.requires_grad_(requires_grad=False)
    return hf(ASKED, YES, model=model)


def pads_with_its_end(_: Path) -> Any:
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    return hf("", ASKED + "yes<|im_end|>", tokenizer=tokenizer, collator=collator)


def not_extended(_: Path) -> Any:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<call>"])
    return hf(ASKED, "<call>" + YES, tokenizer=tokenizer)


def joined(rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """Collate as people pack by hand: one long row, without positions."""
    return {key: torch.tensor([[i for row in rows for i in row[key]]]) for key in ("input_ids", "labels")}


def padding_learned(rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    width = max(len(row["input_ids"]) for row in rows)
    filled = {"input_ids": 0, "labels": 0, "attention_mask": 0}
    return {k: torch.tensor([[*row[k], *[v] * (width - len(row[k]))] for row in rows]) for k, v in filled.items()}


# Found besides, by case.
ALSO = {
    "Megatron-Bridge#3359": {"rows"},
    "pad token is the end": {"mask"},
    "trl#4201": {"mask", "reasoning"},
    "axolotl#1832": {"mask"},
}
# Thread or trap -> trainer, verdict.
FOUND: dict[str, tuple[Callable[[Path], Any], str, str, str]] = {
    "sound": (lambda _: hf(ASKED, YES), "ok", "answers", r"'yes<\|im_end\|>\\n', its tokens 'y' to '\\n'"),
    "ms-swift#5705": (
        lambda _: hf("<|im_start|>user\n", "Is it good, {}?", "<|im_end|>\n<|im_start|>assistant\n", YES),
        "warning", "mask", "in 4 of 4 rows prompts are learned too, such as 'Is it good, 0",
    ),
    "ms-swift#4835": (
        lambda _: hf(ASKED, EMPTY + EMPTY + YES, template=THINKS), "error", "reasoning", "4 rows .* occurs twice",
    ),
    "unsloth#3005": (
        lambda _: hf(ASKED, YES, template=THINKS), "warning", "reasoning", "the model can reason, and none of 4 rows",
    ),
    "Automodel#3739": (
        lambda _: hf(ASKED, EMPTY + YES, template=THINKS), "warning", "reasoning", "4 of 4 .* empty <think> .* learned",
    ),
    "Automodel#3352": (
        lambda _: hf(ASKED.removesuffix("assistant\n"), "assistant\n" + YES),
        "warning", "mask", r"too early: 'assistant\\n' is learned",
    ),
    "axolotl#2089": (lambda _: hf(ASKED + "y", "es<|im_end|>"), "error", "mask", "too late: 'y' is not learned"),
    "Megatron-Bridge#3359": (
        lambda _: pretokenised(completion_only_loss=True), "error", "mask", "despite completion_only_loss",
    ),
    "OPSD#32": (lambda _: ours([turns(n) for n in range(4)]), "warning", "mask", "4 of 4 rows prompts are learned"),
    "trl#5988": (
        lambda _: hf(ASKED, "yes", "<|im_end|>\n"), "error", "end of turn", r"'<\|im_end\|>' behind it is masked, so",
    ),
    "pad token is the end": (pads_with_its_end, "error", "end of turn", "masked as padding: set a pad_token"),
    "no end at all": (lambda _: hf(ASKED, "yes"), "error", "end of turn", "'s' is learned last; generation stops at"),
    "trl#4147": (lambda _: hf(ASKED + YES), "error", "answers", "4 of 4 training rows supervise no text"),
    "empty answer": (lambda _: hf(ASKED, "<|im_end|>\n"), "error", "answers", "4 of 4 training rows supervise no text"),
    "trl#4201": (
        lambda _: ours(SIDES, template=ALWAYS_THINKS), "error", "template", r"rendered '.*assistant\\n<think>\\n'",
    ),
    "trl#5862": (
        lambda _: ours(SIDES, max_length=51), "error", "length", "max_length = 51, 4 rows lose .* and 0 all of it",
    ),
    "answers cut away": (
        lambda _: ours([*SIDES, sides(5, "x" * 300), {**sides(5), "prompt": [{"role": "user", "content": "y" * 200}]}],
                       max_length=100),
        "warning", "length", "max_length = 100, 1 rows lose .* and 1 all of it",
    ),
    "longer than the model": (
        lambda _: hf(ASKED, YES, model=modest(context=32)), "error", "length", "the model takes 32: set",
    ),
    "unsloth#1239": (without_tools, "warning", "template", "is not the model's own and does not know tools"),
    "axolotl#1832": (lambda _: saved_otherwise(), "error", "template", "the saved template renders the first row diff"),
    "plain text": (lambda _: hf("Is it good, {}? ", YES), "warning", "mask", "no row holds '.*assistant"),
    "repeated": (lambda _: hf(ASKED.replace("{}", ""), YES), "warning", "rows", "3 repeat an earlier one"),
    "contradicted": (
        lambda _: hf(ASKED.replace("{}", ""), "{}" + YES), "warning", "rows", "4 contradict another one",
    ),
    "nothing trainable": (lambda _: frozen(), "error", "weights", "none of 35104 weights is trainable"),
    "rate 0": (lambda _: hf(ASKED, YES, learning_rate=0.0), "error", "weights", "learning_rate = 0"),
    "half": (lambda _: hf(ASKED, YES, bf16=True), "warning", "weights", "bf16 = True on a CPU"),
    "half weights": (
        lambda _: hf(ASKED, YES, model=modest().bfloat16()), "warning", "weights", "are bfloat16, which rounds",
    ),
    "new token frozen": (new_token, "error", "weights", "1 tokens are new, such as '<call>', and embeddings"),
    "joined by hand": (lambda _: hf(ASKED, YES, collator=joined), "error", "batch", "they see each other"),
    "padding learned": (
        lambda _: hf(ASKED, "yes{}" + YES, rows=11, collator=padding_learned), "error", "batch", "padding is learned",
    ),
    "wrapped": (
        lambda _: ours(SIDES, packing=True, packing_strategy="wrapped", max_length=108),
        "warning", "length", "packing_strategy = wrapped",
    ),
    "new token without embedding": (not_extended, "error", "weights", "token 258 has none of 258 embeddings"),
}  # fmt: skip


def problems(check: Check) -> set[tuple[str, str]]:
    return {(v.level, v.about) for v in check.verdicts if v.level != "ok"}


@pytest.mark.parametrize("case", FOUND)
def test_what_is_wrong_is_named_and_nothing_else(case: str, tmp_path: Path) -> None:
    make, level, about, text = FOUND[case]
    check = sapo.check(make(tmp_path))
    (found,) = [v.text for v in check.verdicts if (v.level, v.about) == (level, about)]
    assert re.search(text, found), found
    assert {name for _, name in problems(check)} - {about} == ALSO.get(case, set()), str(check)
    assert (check.level == "error") == any(kind == "error" for kind, _ in problems(check))


@pytest.mark.parametrize(
    ("name", "end", "only", "expected"),
    [
        ("qwen3", "<|im_end|>", False, {("warning", "reasoning")}),
        ("phi3", "<|end|>", False, set()),
        ("gemma3", "<end_of_turn>", True, set()),
        # trl#5988: an answer ends with the next turn's beginning, which only TRL's template for training writes.
        ("glm4moe", "<|user|>", True, {("warning", "reasoning")}),
        ("glm4moe", "<|user|>", False, {("warning", "reasoning"), ("error", "end of turn")}),
    ],
)
def test_templates_of_well_known_models(name: str, end: str, only: bool, expected: set[tuple[str, str]]) -> None:
    file = Path(sft.__file__).parent / "chat_templates" / f"{name}.jinja"
    tokenizer, model = tiny_tokenizer(chat_template=file.read_text(encoding="utf-8")), modest()
    tokenizer.add_special_tokens({"eos_token": end, "bos_token": "<s>"})
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.generation_config.eos_token_id = None
    rows = [turns(n) if only else sides(n) for n in range(4)]
    check = sapo.check(ours(rows, tokenizer=tokenizer, model=model, assistant_only_loss=only))
    assert problems(check) - {("warning", "loss")} == expected, str(check)
    assert ("ok", "mask") in {(v.level, v.about) for v in check.verdicts}


def test_the_prompt_to_send_is_told_to_the_letter() -> None:
    # LlamaFactory#1650, tt-blacksmith#725, trl#4645: how to give the trained system prompt at inference.
    trainer = ours(SIDES)
    check = sapo.check(trainer)
    asked = trainer.processing_class.apply_chat_template(SIDES[0]["prompt"], tokenize=False, add_generation_prompt=True)
    assert check.prompt == asked and repr(asked) in str(check)
    assert "all 4 prompts begin alike, up to " in str(check) and "Judge.<|im_end|>" in str(check)
    quiet = [{**side, "chat_template_kwargs": {"enable_thinking": False}} for side in SIDES]
    told = sapo.check(ours(quiet, template=THINKS))
    assert told.prompt == asked + EMPTY and "made with chat_template_kwargs={'enable_thinking': False}" in str(told)
    assert "4 rows are asked not to reason" in str(told)
    assert f"{EMPTY!r}"[1:] + ", with which the chat template asks" in str(told)


def test_prompts_that_lose_their_beginning_are_told() -> None:
    with pytest.warns(FutureWarning, match="keep_end"):
        trainer = ours(SIDES, max_length=51, truncation_mode="keep_end")
    told = str(sapo.check(trainer))
    assert "4 rows have 51 tokens, and truncation_mode = keep_end cuts the beginning" in told


def test_losses_before_are_those_of_the_tokens_that_are_trained() -> None:
    # ms-swift#4660, axolotl#311: an evaluation before training, cheap and with intervals; NeMo-RL#3302: several sets.
    made = [row(tiny_tokenizer(), ASKED, YES, ASKED, "no<|im_end|>"), row(tiny_tokenizer(), ASKED + "x", YES)]
    several = {"chats": Dataset.from_list(made), "one": Dataset.from_list(made[:1])}
    trainer = hf(ASKED, "{}" + YES, tested=several, rows=70)
    check = sapo.check(trainer, watch=[toy_task("watched", rows=6)])
    assert {name: len(rows) for name, rows in check.rows.items()} == {"train": 64, "chats": 2, "one": 1, "watched": 3}
    with torch.no_grad():
        logits = trainer.model(torch.tensor([made[0]["input_ids"]])).logits[0, :-1].double()
    labels = torch.tensor(made[0]["labels"][1:])
    by_hand = torch.nn.functional.cross_entropy(logits, labels)
    assert check.losses["one"].per_token == pytest.approx(float(by_hand), abs=1e-5)
    assert re.search(r"of 'chats' before training: \d\.\d{3} \[\d\.\d{3}, \d\.\d{3}\] nats/token, 2 rows", str(check))
    trained = sapo.check(ours(SIDES, learning_rate=0.0, per_device_train_batch_size=4))
    other = ours(SIDES, learning_rate=0.0, per_device_train_batch_size=4, logging_steps=1, num_train_epochs=1)
    other.train()
    assert trained.losses["train"].per_token == pytest.approx(other.state.log_history[0]["loss"], abs=1e-4)


def test_nothing_is_changed_by_looking() -> None:
    trainer = hf(ASKED, YES, tested=Dataset.from_list([row(tiny_tokenizer(), ASKED, YES)]))
    collate = trainer.data_collator

    def noisy(rows: Any) -> Any:
        torch.rand(1)
        return collate(rows)

    trainer.data_collator = noisy
    trainer.model.train()
    trainer.model.lm_head.eval()
    before = snapshot(trainer.model)
    sapo.check(trainer).after()
    assert snapshot(trainer.model) == before


def digits(rows: int = 8) -> Any:
    return Dataset.from_list(
        [row(tiny_tokenizer(), ASKED.replace("{}", str(n)), f"1{n}23") for n in range(10, 10 + rows)]
    )


def test_after_training_what_got_better_and_what_was_lost() -> None:
    # NeMo-RL#3141, ms-swift#10003, unsloth#794: is anything else lost; unsloth#1203: step by step.
    trainer = hf(ASKED, YES, tested={"digits": digits()}, learning_rate=1e-2, num_train_epochs=30)
    check = sapo.check(trainer)
    trainer.train()
    after = check.after()
    assert [(v.level, v.about) for v in after.verdicts] == [("ok", "train"), ("warning", "digits")]
    assert after.verdicts[0].text.endswith("4 rows: better") and "8 rows: lost. Train less" in after.verdicts[1].text
    # peft#2984: forgetting that is negative, or there without any training. Here the same state is the same loss.
    again = after.after()
    assert again.verdicts[0].level == "error" and "no weight changed" in again.verdicts[0].text
    assert again.verdicts[1].level == "ok" and "+0.000 [0.000, 0.000], 8 rows: unchanged" in again.verdicts[1].text
    for name, losses in after.losses.items():
        assert np.array_equal(losses.nll, again.losses[name].nll)


def test_a_bug_is_told_from_forgetting() -> None:
    # ms-swift#6485: was it forgotten, or is there a bug?
    trainer = hf(ASKED, YES, tested={"digits": digits()}, learning_rate=1e-2, num_train_epochs=8)
    trainer.train()
    check = sapo.check(trainer)
    after = check.after(modest(seed=3))
    assert [(v.level, v.about) for v in after.verdicts][:1] == [("error", "train")]
    assert "training failed" in after.verdicts[0].text
    broken = sapo.check(hf(ASKED, YES, tested={"digits": digits()}))
    with torch.no_grad():
        broken.model.lm_head.weight.mul_(5)
    assert [v.level for v in broken.after().verdicts] == ["error", "error"]
    assert "look for a bug before you call it forgetting" in str(broken.after())
    with torch.no_grad():
        broken.model.lm_head.weight.fill_(float("nan"))
    assert [v.level for v in broken.after().verdicts] == ["error", "error"]
    assert {("error", "loss"), ("error", "batch")} <= problems(sapo.check(hf(ASKED, YES, model=broken.model)))


def test_too_small_a_difference_is_not_called_one() -> None:
    # Self-Distillation#9: the direction replicates, the size does not.
    check = sapo.check(hf(ASKED, YES, tested={"digits": digits()}))
    with torch.no_grad():
        check.model.lm_head.weight.add_(
            1e-4 * torch.randn(check.model.lm_head.weight.shape, generator=torch.Generator().manual_seed(1))
        )
    assert "too small to decide" in check.after().verdicts[1].text


def test_it_can_look_during_training() -> None:
    # ms-swift#6571: evaluation during training.
    trainer = hf(ASKED, YES, learning_rate=1e-2, num_train_epochs=2)
    check, seen = sapo.check(trainer), list[float]()

    class Look(TrainerCallback):
        def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            seen.append(check.after().losses["train"].per_token)

    trainer.add_callback(Look())
    trainer.train()
    assert check.losses["train"].per_token > seen[0] > seen[1]


def test_rows_that_are_tested_and_trained_on_are_counted() -> None:
    tested = Dataset.from_list([row(tiny_tokenizer(), ASKED.replace("{}", str(n)), "no<|im_end|>") for n in (2, 3, 9)])
    check = sapo.check(hf(ASKED, YES, tested=tested))
    assert problems(check) == {("warning", "rows")} and "2 of 3 prompts of 'test' are trained on" in str(check)


def test_rows_that_the_user_left_out_are_not_called_cut() -> None:
    trainer = ours(SIDES, dataset_kwargs={"skip_prepare_dataset": True})
    trainer.train_dataset = Dataset.from_list([row(tiny_tokenizer(), ASKED, YES)] * 9).select(range(4))
    assert ("ok", "length") in {(v.level, v.about) for v in sapo.check(trainer).verdicts}


def test_packed_rows_are_looked_at_one_by_one() -> None:
    rows = [sides(n) for n in range(9)]
    packed, plain = sapo.check(ours(rows, packing=True, max_length=128)), sapo.check(ours(rows))
    assert packed.rows == plain.rows and not problems(packed)
    assert packed.losses["train"].per_token == pytest.approx(plain.losses["train"].per_token, abs=1e-6)


def test_a_trainer_without_tokens_is_refused() -> None:
    trainer = hf(ASKED, YES)
    trainer.train_dataset = Dataset.from_list(SIDES)
    with pytest.raises(DataError, match="rows have the columns prompt, completion: allowed are rows made into tokens"):
        sapo.check(trainer)
    with pytest.raises(DataError, match="two of the sets train, train have one name"):
        sapo.check(hf(ASKED, YES, tested={"train": digits()}))
    trainer.train_dataset = []
    with pytest.raises(DataError, match="train_dataset has no rows"):
        sapo.check(trainer)
    trainer.train_dataset = None
    with pytest.raises(DataError, match="lacks processing_class or train_dataset"):
        sapo.check(trainer)


def test_a_task_is_checked_as_it_would_be_trained(model_dir: Path) -> None:
    loaded = load_model(str(model_dir))
    check = check_task(loaded, Renderer(loaded.tokenizer, 512), toy_task(rows=8), [toy_task("train", rows=4)])
    assert problems(check) == {("warning", "loss")} and list(check.losses) == ["train", "test", "watch 1: train"]
    assert "worse than guessing (5.6): is it the model's own tokenizer?" in str(check)
    assert check.prompt.startswith("<|im_start|>user\nSay yes if")
    short = check_task(loaded, Renderer(loaded.tokenizer, 130), toy_task(rows=8))
    assert ("warning", "length") in problems(short) and "4 rows lose the middle of their input" in str(short)
