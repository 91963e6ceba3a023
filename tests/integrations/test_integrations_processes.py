"""`SapoCallback` in two real processes, as torchrun starts them, against one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = """
import json, os, sys
import torch
from dataclasses import replace
from pathlib import Path
from peft import LoraConfig, get_peft_model
from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments
import sapo
from sapo.integrations.trainer import SapoCallback, tokenized
from sapo.models.render import Renderer
from sapo.integrations.testing import tiny_model, tiny_tokenizer, toy_task

out, total = Path(sys.argv[1]), 8
tokenizer, task = tiny_tokenizer(), toy_task(rows=16)
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
trainer = Trainer(
    model=model,
    args=TrainingArguments(
        str(out), num_train_epochs=4, per_device_train_batch_size=2, learning_rate=0.03, report_to="none",
        gradient_accumulation_steps=total // 2 // processes, save_strategy="no", disable_tqdm=True, use_cpu=True,
        max_grad_norm=0.0, lr_scheduler_type="constant", dataloader_pin_memory=False, logging_steps=1,
        ddp_find_unused_parameters=False,
    ),
    train_dataset=tokenized(task, selection, renderer),
    data_collator=DataCollatorForSeq2Seq(tokenizer),
)
callback = SapoCallback(trainer, task, selection, renderer)
trainer.add_callback(callback)
trainer.train()
rank = os.environ.get("RANK", "0")
found = {
    "first": selection.instruction.text,
    "active": list(model.active_adapters),
    "trainable": [name for name, p in model.named_parameters() if p.requires_grad],
    "choices": [[c.epoch, c.instruction.text, list(c.losses.values())] for c in callback.choices],
    "logged": [entry["sapo_loss"] for entry in trainer.state.log_history if "sapo_loss" in entry],
    "weights": {name: p.detach().flatten().tolist()[:8] for name, p in model.named_parameters() if p.requires_grad},
}
(out / f"found-{rank}.json").write_text(json.dumps(found))
"""


def job(directory: Path, processes: int) -> list[Any]:
    directory.mkdir()
    script = directory / "script.py"
    script.write_text(SCRIPT)
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, *launcher, str(script), str(directory)],
        capture_output=True, text=True, env=environment, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((directory / f"found-{rank}.json").read_text()) for rank in range(processes)]


def test_two_processes_choose_alike_and_train_as_one(tmp_path: Path) -> None:
    first, second = job(tmp_path / "two", 2)
    (alone,) = job(tmp_path / "one", 1)
    assert first["choices"] == second["choices"] and len(first["choices"]) == 3
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
