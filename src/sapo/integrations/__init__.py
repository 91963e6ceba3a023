"""The method in other people's training scripts, and test doubles.

Comes in: their data sets, trainers and loops. Goes out: rows with the chosen instruction, losses of the tokens that
they train on, choices during their training.
Must not know: configurations. What a run does, it does with the steps of a run (`loop`).

    trl        TRL's SFTTrainer: rows for it, and its tokens for scoring
    trainer    any transformers Trainer: tokens of a task's rows, and choosing again at the beginning of every epoch
    check      what a trainer is about to learn, and what is wrong with it; afterwards what changed
    verdicts   one function for each question that a check asks
    loop       a loop of one's own over several tasks
    exports    files that other trainers read
    testing    a tiny model and other fakes
"""
