"""What choosing costs beside one epoch of training, both measured in one process on the embedded model.

    python -m benchmarks.epoch PATH/SUPERNI [--only short long] [--trained 64]

Choosing is that of `sapo run` with its defaults before one epoch of 1000 rows: 21 hand-written candidates, a race on up
to 250 rows within `selection.budget`, all that a user waits for but loading the model. Training is an epoch with the
defaults (LoRA; 4 rows a pass), with dropout and without (where what all rows begin with is computed once); it is
measured on some of the rows and scaled to 1000. Both in float32, in CPU seconds of one thread, which other work on the
machine hardly moves.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.training import TASKS
from sapo.core.types import Encoded, Task
from sapo.models.fit import MAX_LENGTH
from sapo.models.load import LoadedModel, load_model
from sapo.models.losses import Scorer
from sapo.models.render import Renderer
from sapo.runs.plan import epoch_cost
from sapo.selection.scoring import score_candidates
from sapo.selection.selection import Selection
from sapo.selection.settings import SelectionSettings
from sapo.tasks.load import load_task
from sapo.tasks.sampling import selection_rows
from sapo.training.finetune import finetune
from sapo.training.methods import make_method
from sapo.training.schedule import Training
from sapo.training.select import candidates_of
from sapo.training.settings import LoraSettings, TrainSettings

ROWS = 1000
LORA, TRAIN = LoraSettings(), TrainSettings(epochs=1, micro_batch_size=4)


def seconds(act: Callable[[], object]) -> float:
    """Return the CPU seconds of this process that something takes."""
    began = time.process_time()
    act()
    return time.process_time() - began


def epoch(loaded: LoadedModel, encoded: list[Encoded], dropout: float) -> float:
    """Return the seconds of training on all rows once."""
    method = make_method("seq-lora", LORA.model_copy(update={"dropout": dropout}))
    # Of the training only the seed decides what the new adapter is.
    training = Training(1, 1, "", (), False, (), (), 0, TRAIN.batch_size)
    model = method.prepare(method.start(loaded.model), training)
    try:
        return seconds(lambda: finetune(model, encoded, TRAIN, seed=0))
    finally:
        model.unload()


def choose(loaded: LoadedModel, task: Task) -> Selection:
    """Return the selection of the task's instruction, within the budget of one epoch."""
    renderer, settings = Renderer(loaded.tokenizer, MAX_LENGTH), SelectionSettings()
    rows = selection_rows(task, settings.examples, settings.sample, 42)
    budget = None if settings.budget is None else settings.budget * epoch_cost(renderer, task)
    candidates = candidates_of(task, None).candidates
    return score_candidates(Scorer(loaded.model), renderer, task, candidates, rows, settings, seed=42, budget=budget)


def main() -> None:
    """Print a row of the table for each task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--only", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--trained", type=int, default=64, help="rows that are trained on")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print("| rows | tokens | epoch, s | without dropout | choosing, s | losses | precision | share | without dropout |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|", flush=True)
    for kind in given.only:
        loaded = load_model("embedded", dtype="float32", device="cpu")
        whole = load_task(TASKS[kind], given.data_dir)
        task = replace(whole, train=whole.train[:ROWS])
        renderer, scale = Renderer(loaded.tokenizer, MAX_LENGTH), len(task.train) / given.trained
        # Evenly over the rows, which the file may have in some order.
        some = task.train[:: len(task.train) // given.trained][: given.trained]
        encoded = renderer.encode(task.instruction, task.suffix, some)
        with_dropout, without = (scale * epoch(loaded, encoded, dropout) for dropout in (LORA.dropout, 0.0))
        found: list[Selection] = []
        chosen = seconds(lambda: found.append(choose(loaded, task)))  # noqa: B023
        tokens, race = sum(len(e.ids) for e in encoded) / len(encoded), found[0].race
        assert race is not None
        print(
            f"| {len(task.train)}, {kind} | {tokens:.0f} | {with_dropout:.0f} | {without:.0f} | {chosen:.1f} | "
            f"{found[0].evaluations} | {race.tolerance:.3f} | {chosen / with_dropout:.1%} | {chosen / without:.1%} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
