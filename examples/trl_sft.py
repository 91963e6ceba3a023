"""An ordinary SFTTrainer + LoRA script, and the two lines that make it train with the lowest-loss instruction.

    pip install trl
    python examples/trl_sft.py

The embedded model learns to tell good reviews from bad ones: 64 rows, a minute on two idle cores. Without the lines
between the marks, the same script trains with the original instruction.
"""

from datasets import Dataset
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

import sapo

model, tokenizer = sapo.load_model("embedded")

reviews = sapo.load_task("review-sentiment")
dataset = Dataset.from_list(
    [
        {
            "prompt": [
                {"role": "system", "content": reviews.instruction},
                {"role": "user", "content": row.input},
            ],
            "completion": [{"role": "assistant", "content": row.answer}],
        }
        for row in reviews.train[:64]
    ]
)

args = SFTConfig(
    output_dir="runs/trl",
    per_device_train_batch_size=4,
    num_train_epochs=1,
    learning_rate=1e-3,
    logging_steps=4,
    save_strategy="no",
    report_to="none",
    bf16=False,
    activation_checkpointing=False,
)

# ---- SAPO ----
selection = sapo.select(model, tokenizer, dataset, examples=24, args=args)
dataset = selection.apply(dataset)
# --------------

trainer = SFTTrainer(
    model=model,
    processing_class=tokenizer,
    train_dataset=dataset,
    args=args,
    peft_config=LoraConfig(r=8, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
)
trainer.train()
print(selection)
