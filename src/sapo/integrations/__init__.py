"""Into training scripts that people already have: their data, their trainer, the chosen instruction.

layouts    where the instruction stands in a row of somebody's data set, and how to put another one there
trl        TRL's SFTTrainer: rows for it, and its tokens for scoring
trainer    any transformers Trainer: tokens of a task's rows, and choosing again at the beginning of every epoch
sequence   a loop of one's own over several tasks
exports    files that other trainers read
"""
