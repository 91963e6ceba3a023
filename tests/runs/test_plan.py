"""What a run is planned to cost, against counts by hand."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from small_runs import read

from sapo.core.types import Instruction
from sapo.integrations.testing import tiny_tokenizer, toy_task
from sapo.models.render import Renderer
from sapo.runs.config.schema import Config
from sapo.runs.plan import make_plan
from sapo.sequence import run
from sapo.training.schedule import schedule
from sapo.training.settings import TrainSettings


@pytest.mark.parametrize(
    ("max_new_tokens", "device", "batches"), [(16, "cpu", 1), (300, "cpu", 2), (600, "cpu", 4), (600, "cuda", 1)]
)
def test_a_test_reads_each_row_twice_and_writes_batches_of_answers(
    max_new_tokens: int, device: str, batches: int
) -> None:
    renderer, task = Renderer(tiny_tokenizer(), 1024), toy_task()
    (row,) = renderer.encode(task.instruction, task.suffix, task.test[:1])
    task = replace(task, test=(task.test[0],) * 8)
    made = make_plan(
        renderer, [task], [], {task.name: [Instruction(task.instruction, "original")]}, None, TrainSettings(),
        schedule("sequence", [task], 42, 4), max_new_tokens=max_new_tokens, device=device,
    )  # fmt: skip
    # A CPU answers 2048 tokens together: 8 rows, 5 or 2. Equal rows share all but the prompt's last token.
    assert len(row.ids) < 240 and 4 < 2048 / (len(row.ids) + 300) < 8 and 2 < 2048 / (len(row.ids) + 600) < 3
    steps = math.sqrt(row.supervised * max_new_tokens)
    work = made.evaluate[task.name]
    assert work.units == 16
    assert work.cost == pytest.approx(8 * (2 * len(row.ids) - row.prompt_length + 1) + steps * (batches * 32 + 8))


def test_a_run_records_how_far_off_the_budget_left_a_choice(configured: Callable[..., Config], tmp_path: Path) -> None:
    for budget, ended in ((1e-6, True), (None, False)):
        selection = {"examples": 40, "budget": budget, "epsilon": 0.0, "cache": False}
        train = {"rows": 40, "epochs": 1, "batch_size": 16}
        config = configured(
            policy="sapo",
            candidates={"count": 2},
            selection=selection,
            train=train,
            run_dir=str(tmp_path / str(budget)),
        )
        (used,) = run(config).instructions.values()
        race = read(config.run_dir / "selections" / "1-review-sentiment.json")["value"]["race"]
        assert (race["end"] == "budget") == ended and used.tolerance == (race["tolerance"] if ended else None)
