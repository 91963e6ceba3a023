"""Your own training loop over two tasks: choose an instruction before each, train as you like, test all after each.

    python examples/loop.py

What SAPO adds is between the marks; the rest is a plain PyTorch loop with LoRA, on rows that SAPO's renderer makes into
tokens. Run it again after an interruption and it resumes.
"""

from dataclasses import replace

import torch
from peft import LoraConfig, get_peft_model

import sapo
from sapo.models.render import Renderer

ROWS, BATCH = 32, 4

base, tokenizer = sapo.load_model("embedded")
tasks = [sapo.load_task(name) for name in ("date-format", "count-letter")]
tasks = [replace(task, train=task.train[:ROWS], test=task.test[:8]) for task in tasks]
torch.manual_seed(0)  # the same initial adapter when the script is resumed
model = get_peft_model(base, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))

# ---- SAPO ----
sequence = sapo.TaskSequence("runs/loop", model, tokenizer, tasks, examples=16, max_new_tokens=12)
if sequence.done:
    model.load_adapter(f"runs/models/{sequence.done[-1].name}", "default", is_trainable=True)
for task in sequence.open:
    instruction = sequence.before(task, model=model)
    # --------------
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    rows = Renderer(tokenizer, max_length=512).encode(instruction.text, task.suffix, task.train)
    model.train()
    for start in range(0, len(rows), BATCH):
        loss = torch.zeros(())
        for row in rows[start : start + BATCH]:
            ids = torch.tensor([row.ids])
            labels = ids.clone()
            labels[:, : row.prompt_length] = -100
            loss = loss + model(input_ids=ids, labels=labels).loss / BATCH
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    model.eval()
    model.save_pretrained(f"runs/models/{task.name}")
    # ---- SAPO ----
    sequence.after(task, model)
print(sequence.results.metrics)
# --------------
