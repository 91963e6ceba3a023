#!/usr/bin/env bash
# LLaMA-Factory: the marked lines choose the instruction and write the rows; the rest is an ordinary training.
#   MODEL=path/or/hub-id bash examples/llamafactory.sh reviews.jsonl "Is this review positive or negative?"
# SAPO=path/to/.venv/bin/sapo names SAPO's command where the trainer has an environment of its own, as it needs other
# versions of transformers and peft. Before a second run delete selection.json and data/, which are not overwritten.
set -euo pipefail
sapo=${SAPO:-sapo}
rows=$1 instruction=$2

# ---- SAPO ----
"$sapo" select --model "$MODEL" --task "$rows" --instruction "$instruction" --json selection.json
"$sapo" export-data --task "$rows" --instruction "$instruction" --selection selection.json --format llamafactory --out data
# --------------

cat > train.yaml <<YAML
model_name_or_path: $MODEL
stage: sft
do_train: true
finetuning_type: lora
lora_target: all
dataset_dir: data
dataset: $(basename "${rows%.*}")
mask_history: true   # of conversations, only the last answer is trained on, as only it is scored
# No template: the model's own chat template, as scored.
output_dir: runs/llamafactory
per_device_train_batch_size: 4
learning_rate: 1.0e-4
num_train_epochs: 1
YAML
llamafactory-cli train train.yaml
