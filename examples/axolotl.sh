#!/usr/bin/env bash
# axolotl: the marked lines choose the instruction and write token ids and labels, exactly what was scored.
#   MODEL=path/or/hub-id bash examples/axolotl.sh reviews.jsonl "Is this review positive or negative?"
# SAPO=path/to/.venv/bin/sapo names SAPO's command where the trainer has an environment of its own, as it needs other
# versions of transformers and peft. Before a second run delete selection.json and data/, which are not overwritten.
set -euo pipefail
sapo=${SAPO:-sapo}
rows=$1 instruction=$2

# ---- SAPO ----
"$sapo" select --model "$MODEL" --task "$rows" --instruction "$instruction" --json selection.json
"$sapo" export-data --task "$rows" --instruction "$instruction" --selection selection.json --format axolotl --model "$MODEL" --out data
# --------------

cat "data/$(basename "${rows%.*}").yaml" - > train.yaml <<YAML
base_model: $MODEL
adapter: lora
lora_r: 16
lora_alpha: 32
lora_target_linear: true
sequence_len: 2048
micro_batch_size: 4
gradient_accumulation_steps: 1
num_epochs: 1
learning_rate: 0.0001
output_dir: runs/axolotl
YAML
axolotl train train.yaml
