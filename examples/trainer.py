"""A script around transformers' Trainer, and the lines that make it train with the lowest-loss instruction.

    python examples/trainer.py

The embedded model learns to tell good reviews from bad ones: 64 rows. Without the lines between the marks, the same
script trains with the original instruction.
"""

from dataclasses import replace

from peft import LoraConfig, get_peft_model
from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

import sapo
from sapo.integrations.trainer import describe, tokenized
from sapo.models.render import Renderer

model, tokenizer = sapo.load_model("embedded")
tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
reviews = sapo.load_task("review-sentiment")
reviews = replace(reviews, train=reviews.train[:64])
renderer = Renderer(tokenizer, max_length=512)
chosen = reviews.instruction

# ---- SAPO ----
chosen = sapo.select(model, tokenizer, reviews, examples=24, renderer=renderer)
print(chosen)
# --------------

trainer = Trainer(
    model=get_peft_model(model, LoraConfig(r=8, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")),
    args=TrainingArguments(
        "runs/trainer",
        num_train_epochs=1,
        per_device_train_batch_size=4,
        learning_rate=1e-3,
        logging_steps=4,
        save_strategy="no",
        report_to="none",
    ),
    processing_class=tokenizer,
    train_dataset=tokenized(reviews, chosen, renderer),
    data_collator=DataCollatorForSeq2Seq(tokenizer),
)
trainer.train()
trainer.save_model("runs/trainer/adapter")

# ---- SAPO: the instruction travels with the adapter ----
describe("runs/trainer/adapter", trainer.model, tokenizer, reviews, chosen, max_length=512)
print(sapo.apply("runs/trainer/adapter", "A waste of money."))
# --------------
