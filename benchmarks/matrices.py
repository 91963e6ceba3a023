"""Measure loss matrices, candidates x rows, on which racing can be tried again and again without a model.

    python benchmarks/matrices.py PATH/SUPERNI benchmarks/matrices

Four short SuperNI tasks, the original and 20 hand-written paraphrases each, 250 rows drawn by label shares; on
the embedded model before any training, and after training on another of the four tasks. One .npz file each: nll
[candidates, rows] in nats, tokens [rows], stratum [rows], length [rows] (tokens of the row with the original).
A file that exists is not measured again. It takes hours on two cores.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from sapo.candidates.gather import gather
from sapo.candidates.opening import HAND_WRITTEN
from sapo.core.types import Task
from sapo.models.fit import MAX_LENGTH
from sapo.models.load import load_model
from sapo.models.losses import Scorer
from sapo.models.render import Renderer
from sapo.tasks.load import load_task
from sapo.tasks.sampling import selection_rows
from sapo.training.finetune import finetune
from sapo.training.methods.seq_lora import SeqLora
from sapo.training.schedule import Training
from sapo.training.settings import LoraSettings, TrainSettings

TASKS = (
    "task141_odd-man-out_classification_category",
    "task363_sst2_polarity_classification",
    "task1510_evalution_relation_extraction",
    "task195_sentiment140_classification",
)
ROWS, SEED = 250, 0
TRAINING = TrainSettings(
    epochs=1, learning_rate=1e-3, batch_size=8, micro_batch_size=8, warmup=0.05, weight_decay=0.0, max_grad_norm=1.0
)


def measure(model: Any, renderer: Renderer, task: Task, path: Path) -> None:
    """Score all candidates on the task's rows and write the matrix."""
    kept = gather(task, (HAND_WRITTEN,), None).candidates
    rows = selection_rows(task, ROWS, "stratified", SEED)
    examples = [task.train[i] for i in rows]
    scorer = Scorer(model)
    nll = []
    for candidate in kept:
        losses = scorer(renderer.encode(candidate.text, task.suffix, examples))
        nll.append(losses.nll)
    lengths = [len(e.ids) for e in renderer.encode(task.instruction, task.suffix, examples)]
    strata = {label: n for n, label in enumerate(sorted({e.answer for e in examples}))}
    np.savez(
        path,
        nll=np.stack(nll).astype(np.float32),
        tokens=losses.tokens,
        stratum=np.array([strata[e.answer] if len(strata) <= 20 else 0 for e in examples]),
        length=np.array(lengths),
    )


def main() -> None:
    """Measure what is missing, the untrained model first."""
    data, out = Path(sys.argv[1]), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    tasks = [load_task(name, data) for name in TASKS]
    for before in (None, *range(len(tasks))):
        wanted = [task for n, task in enumerate(tasks) if before is None or n == (before + 1) % len(tasks)]
        state = "base" if before is None else f"after-{TASKS[before].split('_')[0]}"
        paths = {task.name: out / f"{task.name.split('_')[0]}.{state}.npz" for task in wanted}
        if all(path.exists() for path in paths.values()):
            continue
        loaded = load_model("embedded")
        renderer, model = Renderer(loaded.tokenizer, MAX_LENGTH), loaded.model
        if before is not None:
            task = tasks[before]
            chosen = [task.train[i] for i in selection_rows(task, 128, "stratified", SEED)]
            rows = renderer.encode(task.instruction, task.suffix, chosen)
            alone = Training(1, 1, task.name, (task,), False, (), (), SEED, TRAINING.batch_size, rows)
            model = SeqLora(LoraSettings(r=8, alpha=32, dropout=0.1, target_modules=("q_proj", "v_proj"))).prepare(
                model, alone
            )
            finetune(model, rows, TRAINING, SEED)
        for task in wanted:
            if not paths[task.name].exists():
                print(paths[task.name], flush=True)
                measure(model, renderer, task, paths[task.name])


if __name__ == "__main__":
    main()
