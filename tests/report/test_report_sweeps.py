"""The page of a sweep against hand computations, in any order of its records, and with hostile names."""

import html
import io
import json
import math
import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt
from rich.console import Console

from sapo.core.errors import RecordError
from sapo.report.markdown import to_markdown
from sapo.report.publish import print_report, print_sweep
from sapo.report.sweeps import is_sweep, shared_prompts, sweep_page
from sapo.report.tables import Note, Page, Section, Table
from sapo.report.terminal import show
from sapo.report.units import spread, unit_difference
from sapo.runs.metrics import METRICS
from sapo.runs.records import append_record
from sapo.runs.results import RunResult

TASKS = ("alpha", "beta")
# Student t, 97.5 % quantile by degrees of freedom, from a printed table.
T = {1: 12.706, 2: 4.303, 3: 3.182, 5: 2.571}


def record(
    method: str = "seq-lora",
    policy: str = "original",
    seed: int = 1,
    *,
    sequence: str = "demo",
    tasks: Sequence[str] = TASKS,
    prompts: Sequence[str] = ("selected", "original"),
    values: Mapping[str, float | None] = {"ap": 50.0},
    last: Mapping[str, Sequence[float]] = {},
    metric: str = "exact_match",
    data: str = "rows",
    **changes: Any,
) -> RunResult:
    """A record whose metrics are given; the NLL ones are a hundredth. ``last``: final row of scores by prompt."""

    def estimate(name: str, scale: float) -> dict[str, Any]:
        value = values.get(name)
        known = None if value is None else value * scale
        return {
            "value": known,
            "interval": None if known is None else [known - scale, known + scale],
            "reason": None if known is not None else "none",
        }

    scales = {"primary": 1.0, "nll": 0.01}
    text = "the original" if policy == "original" else "a paraphrase"
    rows = {prompt: list(last.get(prompt, [50.0] * len(tasks))) for prompt in prompts}
    return RunResult.from_json(
        {
            "name": f"{sequence}/{method}-{policy}-s{seed}", "sequence": sequence, "tasks": list(tasks),
            "test_prompt": prompts[0],
            "primary_metrics": dict.fromkeys(tasks, metric), "test_data": dict.fromkeys(tasks, data),
            "test_rows": dict.fromkeys(tasks, 12), "watch": {}, "seconds": {"training": 50.0, "total": 150.0},
            "versions": {},
            "config": {
                "model": {"base": changes.pop("model", "tiny")}, "method": method, "policy": policy, "seed": seed,
            },
            "matrices": {
                m: {p: [[0.0] * len(tasks), *([[x * s for x in rows[p]]] * len(tasks))] for p in prompts}
                for m, s in scales.items()
            },
            "metrics_all": {
                m: {p: {metric.name: estimate(metric.name, s) for metric in METRICS} for p in prompts}
                for m, s in scales.items()
            },
            "instructions": {
                t: {"text": text, "origin": "file", "original": "the original", "suffix": "", "losses": None}
                for t in tasks
            },
        }
        | changes
    )  # fmt: skip


def section(page: Page, title: str) -> Section:
    return next(s for s in page.sections if s.title == title)


def tables(page: Page, title: str) -> list[Table]:
    return [block for block in section(page, title).blocks if isinstance(block, Table)]


def rows(table: Table) -> list[list[str]]:
    return [[cell.text for cell in row] for row in table.rows]


def notes(page: Page, title: str) -> str:
    return " ".join(block.text for block in section(page, title).blocks if isinstance(block, Note))


def titles(page: Page) -> list[str]:
    return [s.title for s in page.sections]


def printed(page: Page, width: int = 80) -> str:
    file = io.StringIO()
    show(Console(file=file, width=width), page)
    return file.getvalue()


def by_hand(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and t interval, written out."""
    n = len(values)
    mean = sum(values) / n
    deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1))
    half = T[n - 1] * deviation / math.sqrt(n)
    return mean, mean - half, mean + half


def three_seeds(differences: Sequence[float | None] = (1.25, -0.5, 3.0)) -> list[RunResult]:
    """Original and sapo runs of several seeds; None: there is no sapo run."""
    found = []
    for seed, difference in enumerate(differences, start=1):
        found.append(record(seed=seed, values={"ap": 50.0 + 3 * seed}))
        if difference is not None:
            found.append(record(policy="sapo", seed=seed, values={"ap": 50.0 + 3 * seed + difference}))
    return found


# Statistics


@pytest.mark.parametrize("values", [(1.0, 4.0), (60.0, 61.5, 70.25), (-0.5, 0.25, 3.0, -7.0), (1, 2, 3, 4, 5, 9.5)])
def test_intervals_are_students(values: Sequence[float]) -> None:
    found = spread([None, *values])
    mean, low, high = by_hand(values)
    assert found.count == len(values) and found.points[0] is None
    assert found.mean == pytest.approx(mean)
    # The quantiles of the table have three decimals.
    assert found.interval == pytest.approx((low, high), rel=1e-3, abs=1e-3 * (high - low))


def test_no_value_has_no_mean_and_one_has_no_interval() -> None:
    assert (spread([None]).mean, spread([None]).interval) == (None, None)
    assert (spread([3.0, None]).mean, spread([3.0, None]).interval) == (3.0, None)
    assert spread([0.1] * 3).interval == (spread([0.1] * 3).mean,) * 2


def test_differences_are_paired_by_unit_and_judged_by_direction() -> None:
    ours, base = [10.0, 20.0, 31.0, 5.0, None], [8.0, 17.5, 28.0, None, None]
    found = unit_difference(ours, base, "higher")
    assert found.spread.points == (2.0, 2.5, 3.0, None, None)
    assert (found.spread.count, found.either, found.verdict) == (3, 4, "better")
    assert unit_difference(ours, base, "lower").verdict == "worse"
    assert unit_difference([1.0, 0.0], [0.0, 1.0], "higher").verdict == "too small to decide"
    assert unit_difference([1.0, None], [0.0, 1.0], "higher").verdict == "one unit: no interval"
    assert unit_difference([1.0, None], [None, 1.0], "higher").verdict == "no pair"
    assert unit_difference([1.0, 2.0], [1.0, 2.0], "higher").verdict == "too small to decide"
    # Without any spread nothing is decided: a coarse measure can differ by the same amount by chance.
    assert unit_difference([2.0, 3.0], [1.0, 2.0], "higher").verdict == "too small to decide"
    assert unit_difference([2.0, 3.0], [1.0, 2.01], "higher").verdict == "better"


# The page


def test_results_show_mean_and_interval_over_units() -> None:
    page = sweep_page(three_seeds())
    (score, nll, *_) = tables(page, "Results")
    assert score.title == "Score (0 to 100, higher is better), test prompt: selected"
    assert [column.title for column in score.columns] == ["method", "policy", "units", "AP"]
    expected: list[list[float]] = [[53, 56, 59], [54.25, 55.5, 62]]
    for shown, values in zip(rows(score), expected, strict=True):
        mean, low, high = by_hand(values)
        assert shown[2:] == ["3", f"{mean:.1f}\n[{low:.1f}, {high:.1f}]"]
        mean, low, high = (x / 100 for x in (mean, low, high))
    assert rows(nll)[1][3] == f"{mean:.3f}\n[{low:.3f}, {high:.3f}]"
    assert rows(score)[0][:2] == ["seq-lora", "original"] and rows(score)[1][:2] == ["seq-lora", "sapo"]


def test_policies_are_compared_by_unit_with_every_point_shown() -> None:
    page = sweep_page(three_seeds())
    short, score, nll, *_ = tables(page, "Policies compared")
    mean, low, high = by_hand([1.25, -0.5, 3.0])
    assert rows(score) == [
        [
            "sapo",
            "AP",
            "3 of 3",
            f"{mean:+.1f}",
            f"[{low:+.1f}, {high:+.1f}]",
            "too small to decide",
            "+1.2, -0.5, +3.0",
        ]
    ]
    assert rows(nll)[0][-1] == "+0.012, -0.005, +0.030"
    assert rows(short)[0] == ["seq-lora", "sapo", "score", "selected", "–", "–", "1 of 1"]
    assert "demo s1, demo s2, demo s3" in notes(page, "Runs")
    assert "Methods compared" not in titles(page)


def test_a_clear_difference_is_better_in_score_and_worse_in_loss() -> None:
    page = sweep_page(three_seeds((5.0, 5.5, 6.0)))
    short, score, nll, *_ = tables(page, "Policies compared")
    assert (rows(score)[0][5], score.rows[0][5].style) == ("better", "good")
    assert (rows(nll)[0][5], nll.rows[0][5].style) == ("worse", "bad")
    assert [row[4:] for row in rows(short)[:2]] == [["AP", "–", "0 of 1"], ["–", "AP", "0 of 1"]]


def test_missing_pairs_are_left_out_counted_and_named() -> None:
    page = sweep_page(three_seeds((1.0, None, 3.0)))
    assert rows(tables(page, "Policies compared")[1])[0][2:] == [
        "2 of 3", "+2.0", "[-10.7, +14.7]", "too small to decide", "+1.0, –, +3.0",
    ]  # fmt: skip
    assert rows(tables(page, "Runs")[0]) == [
        ["seq-lora", "original", "1, 2, 3"],
        ["seq-lora", "sapo", "1, 3\nmissing: 2"],
    ]
    assert "5 of 6 combinations have finished" in notes(page, "Runs")


def test_one_unit_has_values_and_no_interval() -> None:
    page = sweep_page(three_seeds((1.0,)))
    assert rows(tables(page, "Results")[0])[0] == ["seq-lora", "original", "1", "53.0"]
    shown = rows(tables(page, "Policies compared")[1])[0]
    assert shown[2:] == ["1 of 1", "+1.0", "–", "one unit: no interval", "+1.0"]
    assert "no interval can be made" in notes(page, "How to read this")
    assert "This page holds" not in notes(page, "How to read this")


@pytest.mark.parametrize(
    ("difference", "verdict", "interval"),
    [(0.0, "too small to decide", "[0.0, 0.0]"), (2.0, "too small to decide", "[+2.0, +2.0]")],
)
def test_equal_differences_have_an_interval_of_no_width_and_a_warning(
    difference: float, verdict: str, interval: str
) -> None:
    page = sweep_page(three_seeds((difference,) * 3))
    assert rows(tables(page, "Policies compared")[1])[0][4:6] == [interval, verdict]
    assert "no sign of certainty" in notes(page, "Policies compared")
    assert "no sign of certainty" not in notes(sweep_page(three_seeds()), "Policies compared")


def test_methods_are_compared_within_a_policy_on_what_both_define() -> None:
    runs = []
    for seed in (1, 2):
        runs += [
            record("seq-lora", seed=seed, values={"ap": 50.0, "la": 60.0, "bwt_final": -5.0}),
            record("multitask", seed=seed, values={"ap": 55.0 + seed}),
            record("single", seed=seed, values={"la": 59.0}),
        ]
    page = sweep_page(runs)
    score = tables(page, "Methods compared")[1]
    assert [row[:2] + row[3:4] + row[-1:] for row in rows(score)] == [
        ["multitask", "AP", "+6.5", "+6.0, +7.0"],
        ["single", "LA", "-1.0", "-1.0, -1.0"],
    ]
    assert "Policies compared" not in titles(page)
    results = tables(page, "Results")[0]
    assert [column.title for column in results.columns[3:]] == ["AP", "LA", "BWT (final)"]
    assert [row[3:] for row in rows(results)][1:] == [
        [f"56.5\n[{56.5 - 12.706 * 0.5:.1f}, {56.5 + 12.706 * 0.5:.1f}]", "–", "–"],
        ["–", rows(results)[2][4], "–"],
    ]


def test_methods_with_nothing_in_common_have_no_difference() -> None:
    runs = [record(m, seed=s, values={k: 5.0}) for m, k in (("multitask", "ap"), ("single", "la")) for s in (1, 2)]
    shown = rows(tables(sweep_page(runs), "Methods compared")[1])
    assert shown == [["single", "–", "0 of 2", "–", "–", "no pair", "–, –"]]


def test_a_metric_that_only_some_units_define_says_how_many() -> None:
    runs = [
        record(seed=s, sequence=sequence, values=values)
        for s in (1, 2)
        for sequence, values in (("pair", {"ap": 50.0, "bwt_final": -1.0}), ("one", {"ap": 50.0}))
    ]
    shown = rows(tables(sweep_page(runs), "Results")[0])
    assert shown[0][2] == "4" and shown[0][4].startswith("-1.0 (2)\n")


def test_both_test_prompts_are_shown_where_all_runs_have_both() -> None:
    page = sweep_page(three_seeds())
    assert [t.title.rsplit(" ", 1)[-1] for t in tables(page, "Results")[:4]] == ["selected"] * 2 + ["original"] * 2
    sapo = record(policy="sapo", prompts=("selected",))
    assert shared_prompts([record(prompts=("original",)), sapo]) == ("selected",)
    assert shared_prompts([record(), record(seed=2)]) == ("original",)
    with pytest.raises(
        RecordError, match=r"demo/seq-lora-random-s1 .* test prompt selected, and demo/seq-lora-sapo-s1"
    ):
        sweep_page([sapo, record(policy="random", prompts=("original",))])


def test_the_order_of_records_does_not_matter_and_equal_ones_count_once() -> None:
    runs = [
        record(m, p, s, sequence=q, values={"ap": 10.0 * s + len(m) + len(p) + len(q)})
        for m in ("o-lora", "seq-lora", "my-method")
        for p in ("sapo", "original", "my-policy")
        for s in (10, 9)
        for q in ("demo", "another")
    ]
    page = sweep_page(runs)
    for n in range(3):
        shuffled = random.Random(n).sample(runs, len(runs))
        assert sweep_page([*shuffled, shuffled[0]]) == page
    assert rows(tables(page, "Runs")[0])[:4] == [
        ["seq-lora", "original", "9, 10", "9, 10"],
        ["seq-lora", "sapo", "9, 10", "9, 10"],
        ["seq-lora", "my-policy", "9, 10", "9, 10"],
        ["o-lora", "original", "9, 10", "9, 10"],
    ]
    assert "another s9, another s10, demo s9, demo s10" in notes(page, "Runs")


def test_the_page_counts_its_intervals_and_says_what_they_hold_for() -> None:
    runs = [
        record(m, p, s, values={"ap": 50.0 + s})
        for m in ("seq-lora", "ewc")
        for p in ("original", "sapo")
        for s in (1, 2)
    ]
    text = notes(sweep_page(runs), "How to read this")
    # Policies: 2 methods x 2 measures x 2 prompts; methods: 2 policies x 2 measures with the main prompt.
    assert "holds 12 intervals of differences" in text and "0.6 here" in text
    assert "12.71 standard errors with 2 units" in text
    assert "2 seeds of one sequence" in text and "nothing of other sequences" in text
    several = [record(seed=s, sequence=q) for s in (1, 2) for q in ("a", "b")]
    assert "2 sequences with 2 seeds" in notes(sweep_page(several), "How to read this")
    assert "2 sequences with one seed each" in notes(sweep_page(several[:2]), "How to read this")


def test_every_run_is_listed_with_its_conditional_interval() -> None:
    (table,) = tables(sweep_page([record(seed=2), record("single", values={})]), "Every run")
    assert rows(table) == [
        ["demo/single-original-s1", "–", "–", "–", "–", "2 min"],
        ["demo/seq-lora-original-s2", "50.0", "[49.0, 51.0]", "0.500", "[0.490, 0.510]", "2 min"],
    ]
    assert "CONDITIONAL" in table.legend[0]


# What only some runs measure


def test_the_four_cells_of_training_and_test_prompt_are_means_over_complete_units() -> None:
    runs = []
    for seed in (1, 2, 3):
        crossed = {"by": "sapo", "primary": {"alpha": 30.0 + seed, "beta": 40.0}, "nll": {"alpha": 1.0, "beta": 2.0}}
        runs += [
            record(seed=seed, last={"original": [50, 60 + seed]}, crossed=crossed if seed < 3 else None),
            record(policy="sapo", seed=seed, last={"selected": [70, 80], "original": [45, 55 + 2 * seed]}),
        ]
    score, nll = tables(sweep_page(runs), "Trained with x tested with")
    original = sum((50 + 60 + seed) / 2 for seed in (1, 2)) / 2
    assert rows(score) == [
        ["seq-lora", "original", "2", f"{original:.1f}", "35.8"],
        ["", "choice of sapo", "2", "51.5", "75.0"],
    ]
    assert rows(nll)[0][4] == "1.500"
    without = [run for run in runs if run.policy == "original"]
    assert "Trained with x tested with" not in titles(sweep_page(without))


def test_robustness_takes_the_worst_wording_of_each_task_in_the_direction_of_the_measure() -> None:
    runs = [
        record(
            seed=seed,
            robustness={
                "alpha": {"texts": ["a", "b"], "primary": [10.0 * seed, 20.0], "nll": [1.0, 3.0]},
                "beta": {"texts": ["c", "d"], "primary": [40.0, 60.0], "nll": [5.0, 4.0 + seed]},
            },
        )
        for seed in (1, 2)
    ]
    page = sweep_page([*runs, record(seed=3), record("ewc", seed=1)])
    score, nll = tables(page, "Robustness to wording")
    # Mean over texts: 15 and 50, then 20 and 50. Worst: 10 and 40, then 20 and 40.
    assert rows(score) == [["seq-lora", "original", "2", "33.8", "32.5, 35.0, –", "27.5", "25.0, 30.0, –"]]
    assert rows(nll)[0][5:] == ["4.250", "4.000, 4.500, –"]
    assert "2 paraphrases" in notes(page, "Robustness to wording")


def test_general_ability_shows_before_after_and_change() -> None:
    def measured(seed: int, after: float) -> RunResult:
        ability = [{"stage": i, "loss": loss} for i, loss in [(0, 3.0), (2, after), (1, 9.0)]]
        return record(seed=seed, ability=ability)

    page = sweep_page([measured(1, 3.25), measured(2, 2.875), record(seed=3, ability=[])])
    (loss,) = tables(page, "General ability")
    assert rows(loss) == [["seq-lora", "original", "2", "3.000", "3.062", "+0.062", "+0.250, -0.125, –"]]


def test_the_guard_is_shown_only_where_something_happened() -> None:
    alarm = {
        "task": "beta",
        "step": 40,
        "back_to": 20,
        "watched": "alpha",
        "increase": 0.25,
        "low": 0.125,
        "updates": 80,
    }
    went_on = alarm | {"step": 60, "back_to": None}
    page = sweep_page([record(guard=[alarm, went_on]), record(seed=2, guard=[])])
    (table,) = tables(page, "Forgetting guard")
    assert rows(table) == [
        ["demo/seq-lora-original-s1", "beta", "alpha", "40 of 80", "20", "+0.250", "+0.125"],
        ["demo/seq-lora-original-s1", "beta", "alpha", "60 of 80", "went on", "+0.250", "+0.125"],
    ]
    for title in ("Forgetting guard", "General ability", "Robustness to wording"):
        assert title not in titles(sweep_page([record(guard=[])]))


# Runs that cannot be compared


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "other"}, "were tested on different rows of task alpha"),
        ({"metric": "rouge_l"}, r"score task alpha with different metrics \(.*rouge_l.*\)"),
        ({"tasks": ("beta", "alpha")}, r"have different tasks \(.*beta, alpha.*\)"),
        ({"model": "large"}, "have different models"),
    ],
)
def test_runs_that_cannot_be_paired_are_refused_with_both_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecordError, match=message) as caught:
        sweep_page([record(), record(policy="sapo", **changes)])
    assert "demo/seq-lora-original-s1" in str(caught.value) and "demo/seq-lora-sapo-s1" in str(caught.value)


def test_other_sequences_may_have_other_rows_but_not_another_model() -> None:
    other = record(sequence="other", tasks=("gamma",), data="other", metric="rouge_l")
    assert "demo, other" in notes(sweep_page([record(), other]), "Runs")
    with pytest.raises(
        RecordError, match="demo/seq-lora-original-s1 and other/seq-lora-original-s1 have different models"
    ):
        sweep_page([record(), record(sequence="other", model="large")])


def test_two_runs_of_one_setting_are_refused() -> None:
    with pytest.raises(RecordError, match="two different runs, demo/seq-lora-original-s1 and again"):
        sweep_page([record(), record(name="again")])
    with pytest.raises(RecordError, match="no finished run yet"):
        sweep_page([])


# Files and the terminal


def write(path: Path, runs: Sequence[RunResult]) -> None:
    for run in runs:
        append_record(path, run)


def report(*paths: Path, width: int = 200) -> str:
    file = io.StringIO()
    print_report(Console(file=file, width=width), paths)
    return file.getvalue()


def test_a_sweep_is_reported_from_its_directory_or_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("sweep/records.jsonl"), three_seeds())
    text = report(Path("sweep"))
    assert text == report(Path("sweep/records.jsonl"))
    assert text.startswith("Sweep of 6 runs") and text.endswith("The same as Markdown: sweep/comparison.md\n")
    assert Path("sweep/comparison.md").read_text() == to_markdown(sweep_page(three_seeds()))
    file = io.StringIO()
    print_sweep(Console(file=file, width=200), Path("sweep"))
    assert file.getvalue() == text


def test_several_sweeps_are_reported_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runs = three_seeds()
    write(Path("one/records.jsonl"), runs[:3])
    write(Path("two.jsonl"), runs[2:])
    text = report(Path("one"), Path("two.jsonl"))
    assert text.startswith("Sweep of 6 runs") and Path("one/comparison.md").is_file()


def test_sweeps_and_single_runs_are_not_mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("sweep/records.jsonl"), three_seeds())
    Path("run").mkdir()
    Path("run/results.json").write_text("{}")
    with pytest.raises(RecordError, match="sweep is a sweep and run is none"):
        report(Path("run"), Path("sweep"))
    write(Path("run/records.jsonl"), three_seeds())
    assert not is_sweep(Path("run"))
    with pytest.raises(RecordError, match=r"none\.jsonl cannot be read"):
        report(Path("none.jsonl"))
    Path("sweep/records.jsonl").write_text("{\n")
    with pytest.raises(RecordError, match=r"sweep/records\.jsonl, line 1 is damaged"):
        report(Path("sweep"))


HOSTILE = "[bold red]x[/] | `c` <script>alert(1)</script> *b* \x1b[31m\u202e"


def test_hostile_names_stay_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    alarm = {"task": HOSTILE, "step": 4, "back_to": 2, "watched": HOSTILE, "increase": 0.2, "low": 0.1, "updates": 8}
    runs = [
        record(method, policy, 1, sequence=HOSTILE, tasks=[HOSTILE], name=f"{HOSTILE}{method}{policy}", guard=[alarm])
        for method in ("seq-lora", HOSTILE)
        for policy in ("original", HOSTILE)
    ]
    write(Path("sweep/records.jsonl"), runs)
    text, markdown = report(Path("sweep"), width=600), Path("sweep/comparison.md").read_text()
    assert "\x1b" not in text and "\u202e" not in text and "\x1b" not in markdown
    assert text.count("[bold red]x[/] | `c`") > 20
    rendered = MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown)
    assert (
        "<script" not in rendered and "&lt;script&gt;" in rendered and "[bold red]x[/] | `c`" in html.unescape(rendered)
    )
    assert rendered.count("<table>") == sum(isinstance(b, Table) for s in sweep_page(runs).sections for b in s.blocks)
    grid = re.findall(r"<tr>", rendered.split("<table>")[1].split("</table>")[0])
    assert len(grid) == 1 + 4


@pytest.mark.parametrize("width", [80, 120])
def test_the_page_fits_a_terminal_and_cuts_no_number(width: int) -> None:
    every = {metric.name: -12.345 for metric in METRICS}
    extras: dict[str, Any] = {
        "robustness": {t: {"texts": ["a", "b"], "primary": [33.3, 44.4], "nll": [1.5, 2.5]} for t in TASKS},
        "ability": [{"stage": 0, "loss": 3.0, "share": 80.0}, {"stage": 2, "loss": 3.5, "share": 75.5}],
    }
    runs = [
        record(m, p, s, sequence=q, values={k: v * s for k, v in every.items()}, **extras)
        for m in ("seq-lora", "inc-lora", "o-lora")
        for p in ("original", "sapo", "per-example")
        for s in (41, 42, 43)
        for q in ("demo", "superni-order-2")
    ]
    page = sweep_page(runs)
    text = printed(page, width)
    assert max(map(len, text.split("\n"))) <= width
    assert "…" not in text
    for row in rows(tables(page, "Results")[0]):
        for line in "\n".join(row[3:]).split("\n"):
            assert line in text
    assert json.dumps(to_markdown(page)).count("per-example") > 10
