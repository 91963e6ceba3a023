"""What people are shown of a race: after a selection, in a dry run, and on a stage's model card."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from report.making import printed

from sapo.core.errors import CandidateError
from sapo.core.progress import Work
from sapo.core.types import Example, Instruction
from sapo.integrations.testing import tiny_model, tiny_tokenizer, toy_task
from sapo.models.losses import Scorer
from sapo.models.render import Renderer
from sapo.report.blocks import Page
from sapo.report.forecast import dry_run_page
from sapo.report.numbers import duration, tokens
from sapo.report.selections import effort, ranking, selection_page
from sapo.runs.card import model_card
from sapo.runs.config.loading import make_config
from sapo.runs.lineage import lineage
from sapo.runs.plan import make_plan
from sapo.runs.prepare import prepare
from sapo.selection.scoring import score_candidates
from sapo.selection.selection import Choice, Race, Selection
from sapo.selection.settings import SelectionSettings
from sapo.training.schedule import schedule
from sapo.training.select import select
from sapo.training.settings import TrainSettings

TEXTS = ("Reply yes if it is long and no if it is short.", "Many words? yes. Few? no.", "yes or no?", "no? yes?")
ROWS = 40


@cache
def raced(budget: float | None = None) -> Selection:
    """A race of the original and four others, of whom some are dropped before all rows were seen."""
    train = tuple(Example(f"row {i} has {'words ' * (i % 7)}", ("yes", "no")[i % 2]) for i in range(ROWS))
    task = replace(toy_task(), train=train)
    candidates = [Instruction(task.instruction, "original"), *(Instruction(text, "given") for text in TEXTS)]
    settings = SelectionSettings(rule="lowest", sample="first", strategy="racing", delta=0.05, epsilon=0.01)
    scorer, renderer = Scorer(tiny_model(seed=2)), Renderer(tiny_tokenizer(), 512)
    return score_candidates(scorer, renderer, task, candidates, range(ROWS), settings, seed=0, budget=budget)


def words(page: Page) -> str:
    return " ".join(printed(page, 150).split())


def test_a_ranking_after_a_race_shows_rows_and_the_round_in_which_a_candidate_left() -> None:
    selection = raced()
    table, _ = ranking(selection, selection.instruction.text, "chosen")
    assert list(table.columns)[:3] == ["rank", "rows", "loss"]
    left = 0
    for row, index in zip(table.rows, selection.ranked, strict=True):
        candidate = selection.candidates[index]
        assert row[1] == str(len(candidate.losses.nll))
        assert (f"out, round {candidate.round}" in row[5]) == (candidate.status == "dropped")
        left += candidate.status == "dropped"
    assert 0 < left < len(TEXTS) + 1


def test_the_work_of_a_race_and_its_promise_are_said_in_words() -> None:
    selection = raced()
    assert selection.race is not None and selection.race.end == "decided"
    text, share = words(selection_page(selection)), 100 * selection.evaluations / (ROWS * 5)
    assert f"{selection.evaluations} of {ROWS * 5} losses ({share:.0f} %) were needed" in text
    assert f"On these {ROWS} rows no loss lies further below the chosen one's, with 95 % confidence." in text
    assert f"{tokens(selection.tokens)} tokens went through the model" in text and "peak memory" in text
    assert "rows: training rows it was scored on; where these are not all of them, its loss is estimated" in text
    other = effort(replace(selection, race=Race(0.1, 0.02, 0.02, 1, "decided", None)))
    assert other.startswith("A race of 1 round: ") and "0.02 nats" in other and "90 % confidence" in other
    without = replace(selection, race=None)
    assert effort(without) == "" and "rows:" not in words(selection_page(without))
    assert ranking(without, "", "chosen")[0].columns[:2] == ("rank", "loss")


def test_a_race_that_the_budget_ended_says_what_its_choice_is_worth() -> None:
    selection = raced(budget=1.0)
    assert selection.race is not None and selection.race.end == "budget" and selection.race.tolerance > 0.01
    text = words(selection_page(selection))
    assert f"may lie up to {selection.race.tolerance:.2g} below the chosen one's, with 95 % confidence" in text
    assert "To be surer, raise selection.budget (--budget)" in text


def test_a_dry_run_shows_the_most_that_scoring_takes(model_dir: Path, tmp_path: Path) -> None:
    def dry(**selection: Any) -> tuple[Work, str, tuple[str, ...]]:
        config = make_config(
            {
                "model": str(model_dir), "sequence": ["date-format"], "run_dir": str(tmp_path / "run"),
                "candidates": {"count": 3}, "selection": {"examples": 40, **selection}, "max_length": 900,
                "train": {"rows": 60, "epochs": 1, "batch_size": 4}, "evaluate": {"rows": 4, "max_new_tokens": 4},
            }
        )  # fmt: skip
        setup = prepare(config)
        (most,) = setup.engine.plan.score.values()
        return most, words(dry_run_page(config, setup, 1000.0)), setup.notes

    most, text, _ = dry(strategy="racing", budget=None)
    assert most.units == 4 * 40 and f"160 row x candidate {tokens(most.tokens)} {duration(most.cost / 1000)}" in text
    assert "Candidates race" in text
    assert "Candidates race" not in dry(strategy="exhaustive")[1]
    for budget, tight in ((1e-6, True), (1000.0, False)):
        most, _, notes = dry(budget=budget)
        assert any("date-format: selection.budget is spent with the first rows" in note for note in notes) == tight
        # Of 40 rows the first round takes 8.
        assert most.units == 4 * (8 if tight else 40)


def test_the_plan_of_a_race_keeps_to_the_budget_but_for_the_first_round() -> None:
    renderer, task = Renderer(tiny_tokenizer(), 512), toy_task()
    candidates = {task.name: [Instruction(task.instruction, "original"), *(Instruction(t, "given") for t in TEXTS)]}

    def plan(budget: float | None) -> tuple[float, float]:
        made = make_plan(
            renderer, [task], [], candidates, SelectionSettings(budget=budget), TrainSettings(epochs=1),
            schedule("sequence", [task], 42, 4), max_new_tokens=8, device="cpu",
        )  # fmt: skip
        return made.score[task.name].cost, made.train[task.name].cost

    (unlimited, train), (least, _) = plan(None), plan(1e-9)
    assert least < unlimited
    between = (least + unlimited) / 2
    assert plan(between / train)[0] == pytest.approx(between)


def test_the_model_card_marks_losses_that_are_estimates_and_a_race_that_the_budget_ended() -> None:
    for budget in (None, 1.0):
        selection = raced(budget)
        assert selection.race is not None
        data = lineage(
            base="b", method="seq-lora", policy="sapo", trained=[Choice(toy_task(), selection.instruction, selection)],
            state="s", limits={"max_length": 512, "max_new_tokens": 4}, template="t", versions={}, earlier=[],
        )  # fmt: skip
        card = model_card(data)
        assert "Candidates raced: the losses of those that dropped out are estimates." in card
        lower = f"another candidate's loss may be lower by up to {selection.race.tolerance:.2g}"
        assert (f"The budget ended the race: {lower}" in card) == (budget is not None)


def test_an_error_names_the_first_of_many_useless_candidates() -> None:
    with pytest.raises(CandidateError, match=r"' ': empty; ' ': empty; .*; and 595 more\)") as caught:
        select(tiny_model(), tiny_tokenizer(), toy_task(), [" "] * 600)
    assert len(str(caught.value)) < 400
