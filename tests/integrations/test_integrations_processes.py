"""`SapoCallback` in two real processes against one."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import forked
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

import sapo
from sapo.integrations.testing import tiny_model, tiny_tokenizer, toy_task
from sapo.integrations.trainer import SapoCallback, tokenized
from sapo.models.render import Renderer


def train(out: Path) -> None:
    """Train with the callback, in as many processes as the environment says, and write what came of it."""
    total, tokenizer, task = 8, tiny_tokenizer(), toy_task(rows=16)
    tokenizer.pad_token = tokenizer.eos_token
    model, renderer = tiny_model(seed=2), Renderer(tokenizer, 512)
    texts = ["Answer yes for many words and no for few.", "yes or no: has it many words?", "Many: yes. Few: no."]
    selection = sapo.select(model, tokenizer, task, texts, strategy="exhaustive", renderer=renderer)
    # Training begins with the worst, so that there is something to change.
    selection = replace(selection, chosen=selection.ranked[-1])
    torch.manual_seed(0)
    model = get_peft_model(model, LoraConfig(r=4, lora_dropout=0.0, target_modules=["q_proj", "v_proj"]))
    model.add_adapter("other", LoraConfig(r=2, target_modules=["q_proj"]))
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    callback = SapoCallback(task, selection, renderer)
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            str(out), num_train_epochs=3, per_device_train_batch_size=2, learning_rate=0.03, report_to="none",
            gradient_accumulation_steps=total // 2 // processes, save_strategy="no", disable_tqdm=True, use_cpu=True,
            max_grad_norm=0.0, lr_scheduler_type="constant", dataloader_pin_memory=False, logging_steps=1,
            ddp_find_unused_parameters=False,
        ),
        train_dataset=tokenized(task, selection, renderer),
        data_collator=DataCollatorForSeq2Seq(tokenizer),
        callbacks=[callback],
    )  # fmt: skip
    trainer.train()
    found = {
        "first": selection.instruction.text,
        "active": list(model.active_adapters),
        "trainable": [name for name, p in model.named_parameters() if p.requires_grad],
        "choices": [[c.epoch, c.instruction.text, list(c.losses.values())] for c in callback.choices],
        "logged": [entry["sapo_loss"] for entry in trainer.state.log_history if "sapo_loss" in entry],
        "weights": {name: p.detach().flatten().tolist()[:8] for name, p in model.named_parameters() if p.requires_grad},
    }
    (out / f"found-{os.environ.get('RANK', '0')}.json").write_text(json.dumps(found))


def found_in(directory: Path) -> list[Any]:
    return [json.loads(path.read_text()) for path in sorted(directory.glob("found-*.json"))]


def test_two_processes_choose_alike_and_train_as_one(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    job = forked.pair(train, tmp_path / "two", directory=tmp_path, name="two")
    train(tmp_path / "one")
    assert forked.ended(job) == (0, 0), (tmp_path / "two.err").read_text()[-3000:]
    (alone,), (first, second) = found_in(tmp_path / "one"), found_in(tmp_path / "two")
    assert first["choices"] == second["choices"] and len(first["choices"]) == 2
    assert alone["choices"][0][1] != alone["first"], "the choice never changed: nothing was tested"
    for (epoch, text, losses), (other_epoch, other_text, others) in zip(
        first["choices"], alone["choices"], strict=True
    ):
        assert (epoch, text) == (other_epoch, other_text) and losses == pytest.approx(others, abs=1e-4)
    assert first["logged"] == pytest.approx(alone["logged"], abs=1e-4)
    assert first["weights"] == second["weights"]
    for name, values in alone["weights"].items():
        assert first["weights"][name] == pytest.approx(values, abs=1e-4), name
    # Of several adapters, the active one and what is trained stay what they were.
    assert alone["active"] == ["default"] and all("default" in name for name in alone["trainable"])
