"""The page of a study: its sentences against its figures, in any order of records, at any size, with hostile names."""

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from report.making import notes, printed, report, rows, section, verdict
from report.making import tables as tables_of
from study_trainings import study, tables, training

from sapo.experiments.study.analysis import Analysis, analyse
from sapo.experiments.study.records import StudyRecord, append_study
from sapo.experiments.study.resampling import Measured
from sapo.report.blocks import Note, Page, Plot, Table
from sapo.report.claims import p_value
from sapo.report.markdown import to_markdown
from sapo.report.study import study_page

SIX = tuple(range(6))


def table(page: Page, start: str, number: int = 0) -> Table:
    return tables_of(page, start)[number]


@pytest.fixture(scope="module")
def records() -> list[StudyRecord]:
    return study(np.random.default_rng(4), link=0.8)


@pytest.fixture(scope="module")
def found(records: list[StudyRecord]) -> Analysis:
    return analyse(records)


@pytest.fixture(scope="module")
def page(records: list[StudyRecord], found: Analysis) -> Page:
    with pytest.MonkeyPatch.context() as patch:
        # Two seconds of bootstrap, made once.
        patch.setattr("sapo.report.study.analyse", lambda _: found)
        return study_page(records)


def shown(one: Measured, decimals: int, sign: str = "+") -> str:
    assert one.value is not None and one.interval is not None
    low, high = one.interval
    return f"{one.value:{sign}.{decimals}f} [{low:{sign}.{decimals}f}, {high:{sign}.{decimals}f}]"


def test_the_page_begins_with_the_primary_test_and_what_it_could_find(page: Page, found: Analysis) -> None:
    first = page.verdict[0]
    test = found.primary
    assert test.p is not None and test.critical is not None
    assert first.text == (
        "Claim 3: a lower pre-update loss goes with better effects: in line with the claim. Rank correlation with the "
        f"effect on earlier tasks {shown(test.rho, 2)}, p < 0.001 (the claim: below 0), over 3 transitions of 9 "
        f"candidates, arm adamw. One within ±{test.critical:.2f} could not have been detected at this size."
    )
    assert test.p < 0.001 and page.title == "Study of 162 trainings"
    nothing = verdict(study_page(study(np.random.default_rng(2), arms=("sgd",))))
    assert "better effects: undecided." in nothing and ", p = 0." in nothing and "arm sgd." in nothing
    assert [p_value(p) for p in (None, 0.0004, 0.04, 1.0)] == ["–", "< 0.001", "0.040", "1.000"]


def test_claims_are_shown_with_figures_intervals_and_verdicts(page: Page, found: Analysis) -> None:
    adamw = found.arms[0]
    deviations = rows(table(page, "Claim 1"))
    own = adamw.spreads[0].components[0]
    assert deviations[0][:4] == ["adamw", "the task itself", "3", shown(own.candidates, 4, "")]
    assert own.seeds.value is not None and deviations[0][4] == f"{own.seeds.value:.4f}"
    assert [row[1] for row in deviations[:4]] == [
        "the task itself", "one other task at a time", "mean of earlier tasks", "mean of unseen tasks",
    ]  # fmt: skip
    ratios = rows(table(page, "Claim 1", 1))
    assert ratios[1][1] == "within seed" and ratios[1][-1] == "–, holds noise"
    agreement = adamw.agreements[0]
    assert rows(table(page, "Claim 2"))[0] == [
        "adamw", "all", "12", shown(agreement.across, 2), shown(agreement.same, 2), "in line with the claim",
        ", ".join(f"{value:+.2f}" for value in agreement.by_transition),
    ]  # fmt: skip
    tests = rows(table(page, "Claim 3"))
    assert tests[0][5] == "primary" and [row[0] for row in tests] == ["adamw", "adamw", "sgd", "sgd"]
    secondary = adamw.predictions[1]
    assert tests[1][:5] == [
        "adamw", "pre-update loss", "unseen tasks", shown(secondary.rho, 2), p_value(secondary.p),
    ]  # fmt: skip
    assert tests[1][5] == p_value(secondary.adjusted)
    assert "corrected for all 11 tests" in " ".join(table(page, "Claim 3").legend)
    others = {row[1] for row in rows(table(page, "Other indicators"))}
    assert others == {"length in tokens", "edit distance to original"}
    detection = section(page, "Claim 3").blocks[0]
    assert isinstance(detection, Note) and "is detected by four of five studies" in detection.text


def test_decisions_list_every_transition(page: Page, found: Analysis) -> None:
    gain = next(one for one in found.arms[1].gains if (one.outcome, one.rule) == ("forgetting", "oracle"))
    row = next(row for row in rows(table(page, "What choosing", 1)) if row[:2] == ["earlier tasks", "oracle"])
    assert row[2] == shown(gain.mean, 3) and row[3] in ("better", "worse", "too small to decide")
    assert [float(value) for value in row[4].split(", ")] == pytest.approx(gain.by_transition, abs=6e-4)
    assert len(rows(table(page, "What choosing"))) == 20


def test_bounds_and_mediators_are_shown_by_arm(page: Page, found: Analysis) -> None:
    one = found.arms[0].bounds["path"]
    assert one.kept is not None and one.ratio is not None and one.range is not None
    assert rows(table(page, "Between", 1))[0] == [
        "adamw", "path", "81", f"{100 * one.kept:.0f} %", f"{one.ratio:.2f}",
        f"{one.range[0]:.2f} to {one.range[1]:.2f}", "0",
    ]  # fmt: skip
    mediators = rows(table(page, "Between"))
    before, after = found.arms[0].mediations[0]
    assert mediators[0] == ["adamw", "first gradient", shown(before.rho, 2), shown(after.rho, 2)]
    assert next(row for row in mediators if row[1].startswith("drift"))[2:] == ["–"] * 2


def test_every_training_is_listed_by_candidate_with_its_seeds() -> None:
    effects = {task: np.array([[0.5, 0.25], [-0.125, 1.0]]) for task in "ba"}
    page = study_page(tables(effects))
    assert rows(table(page, "Every training")) == [
        ["a>b", "adamw", "0", "0, 1", "+0.500, +0.250", "+0.500, +0.250", "–, –", "–, –", "100 s"],
        ["a>b", "adamw", "1", "0, 1", "-0.125, +1.000", "-0.125, +1.000", "–, –", "–, –", "100 s"],
    ]
    assert rows(table(page, "Every candidate"))[1] == ["a>b", "1", "1.0000", "file", "text 1"]
    scored = training(scores={"b": {"before": 20.0, "after": 81.25}})
    assert rows(table(study_page([scored]), "Every training"))[0][7] == "81.2"


def test_the_order_of_records_does_not_matter() -> None:
    records = study(np.random.default_rng(1), candidates=3, seeds=(1, 2), transitions=("a>b", "a>b>c"))
    assert study_page(random.Random(0).sample(records, len(records))) == study_page(records)


def test_one_transition_and_one_seed_claim_nothing_beyond_themselves() -> None:
    page = study_page([training(c, effects={"b": -1.0 - 0.1 * c, "a": -0.2 * c, "u": -0.3 * c}) for c in range(9)])
    text = verdict(page)
    assert "effect on earlier tasks -1.00 [-1.00, -1.00]" in text and "over 1 transition of 9 candidates" in text
    assert "There is one transition: nothing here says what other transitions would show." in text
    assert "(not known: one seed: only trainings that share their noise can be compared)" in text
    assert "(not known: one seed: candidates cannot be told from noise)" in text
    assert "not a sign of certainty" in notes(page, "How to read")
    (row, *_) = rows(table(page, "Claim 2"))
    assert row[3:6] == ["–", "+1.00 [+1.00, +1.00]", "undecided"]


SMALL: dict[str, Sequence[StudyRecord]] = {
    "one training": [training()],
    "two candidates": [training(c) for c in (0, 1)],
    "no original": [training(c, s) for c in (1, 2, 3) for s in (1, 2)],
    "no loss": [training(c, indicators={}) for c in SIX],
    "nothing measured": [training(c, indicators={"pre_update": None}, mediators={}) for c in SIX],
    "constant": [training(c, s) for c in SIX for s in (1, 2)],
    "no earlier task": [training(c, transition="b", effects={"b": -1.0 - c}) for c in SIX],
    "interrupted": [training(c, s) for c in SIX for s in (1, 2)][:-3],
}


@pytest.mark.parametrize("case", SMALL)
def test_small_studies_have_a_page_without_nan_and_with_reasons(case: str) -> None:
    page = study_page(SMALL[case])
    text = printed(page)
    assert "nan" not in text.lower().replace("nano", "") and "None" not in text and "inf" not in text
    assert "undecided" in verdict(page) and "in line with" not in verdict(page)
    for block in (block for one in page.sections for block in one.blocks):
        if isinstance(block, Table) and block.title.startswith("Standard") and "–" in str(block.rows):
            assert any(sentence.startswith("–: ") for sentence in block.legend)
    to_markdown(page)


def test_without_the_original_there_is_no_gain_to_draw() -> None:
    for case, drawn in (("no original", 0), ("constant", 4)):
        blocks = section(study_page(SMALL[case]), "What choosing").blocks
        assert sum(isinstance(block, Plot) for block in blocks) == drawn


def test_without_any_chance_to_detect_something_the_page_says_so() -> None:
    page = study_page([training(c, effects={"b": -1.0, "a": 0.1 * c}) for c in range(3)])
    assert "No correlation at all could have been detected at this size." in verdict(page)
    assert "left out" in table(page, "Trainings").columns[-1]
    assert rows(table(study_page(SMALL["interrupted"]), "Trainings"))[0][-3:] == ["4", "1, 2", "1"]


# Files and the terminal


def test_a_study_is_printed_from_its_directory_or_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    records = [training(c, s) for c in SIX for s in (1, 2)]
    for record in records:
        append_study(Path("runs/study.jsonl"), record)
    text = report("runs")
    assert text == report("runs/study.jsonl") and text.startswith("Study of 12 trainings")
    assert "Everything: runs/study.md" in text and "Every training" not in text
    assert Path("runs/study.md").read_text() == to_markdown(study_page(records))
