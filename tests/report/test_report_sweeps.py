"""The page of a sweep: statistics over units against independent computations, pairing, and what is refused."""

import math
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from report.making import listing, notes, printed, record, report, rows, sweep_page, tables, titles, verdict

from sapo.core.errors import RecordError
from sapo.report.blocks import Page
from sapo.report.compare import arrange
from sapo.report.differences import spread, unit_difference
from sapo.report.markdown import to_markdown
from sapo.report.runs import Run
from sapo.runs.config.loading import make_config
from sapo.runs.records import append_record
from sapo.runs.results import RunResult

# Student t, 97.5 % quantile by degrees of freedom, from a printed table.
T = {1: 12.706, 2: 4.303, 3: 3.182, 5: 2.571}


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


def test_intervals_are_students() -> None:
    for values in ((1.0, 4.0), (60.0, 61.5, 70.25), (-0.5, 0.25, 3.0, -7.0), (1, 2, 3, 4, 5, 9.5)):
        found = spread([None, *values])
        mean, low, high = by_hand(values)
        assert found.count == len(values) and found.points[0] is None
        assert found.value == pytest.approx(mean)
        # The quantiles of the table have three decimals.
        assert found.interval == pytest.approx((low, high), rel=1e-3, abs=1e-3 * (high - low))
    assert (spread([None]).value, spread([None]).interval) == (None, None)
    assert (spread([3.0, None]).value, spread([3.0, None]).interval) == (3.0, None)
    assert spread([0.1] * 3).interval == (spread([0.1] * 3).value,) * 2


def test_differences_are_paired_by_unit_and_judged_by_direction() -> None:
    ours, base = [10.0, 20.0, 31.0, 5.0, None], [8.0, 17.5, 28.0, None, None]
    found = unit_difference(ours, base, "higher")
    assert found.points == (2.0, 2.5, 3.0, None, None)
    assert (found.count, found.either, found.verdict) == (3, 4, "better")
    assert unit_difference(ours, base, "lower").verdict == "worse"
    assert unit_difference([1.0, 0.0], [0.0, 1.0], "higher").verdict == "too small to decide"
    assert unit_difference([1.0, None], [0.0, 1.0], "higher").verdict == "one unit: no interval"
    assert unit_difference([1.0, None], [None, 1.0], "higher").verdict == "no pair"
    assert unit_difference([1.0, 2.0], [1.0, 2.0], "higher").verdict == "the same"
    # Without any spread nothing is decided: a coarse measure can differ by the same amount by chance.
    assert unit_difference([2.0, 3.0], [1.0, 2.0], "higher").verdict == "too small to decide"
    assert unit_difference([2.0, 3.0], [1.0, 2.01], "higher").verdict == "better"


# The page


def test_results_show_mean_and_interval_over_units() -> None:
    page = sweep_page(three_seeds())
    found = tables(page, "Results")[0]
    assert found.columns == ("setting", "score AP", "NLL AP")
    expected: list[list[float]] = [[53, 56, 59], [54.25, 55.5, 62]]
    for shown, name, values in zip(rows(found), ("original", "sapo"), expected, strict=True):
        mean, low, high = by_hand(values)
        score = f"{mean:.1f} [{low:.1f}, {high:.1f}]"
        mean, low, high = (x / 100 for x in (mean, low, high))
        assert shown == [name, score, f"{mean:.3f} [{low:.3f}, {high:.3f}]"]
    assert [t.title for t in tables(page, "Every metric")] == ["Test prompt: own", "Test prompt: original"]


def test_a_mean_over_fewer_units_than_the_others_says_so() -> None:
    whole = tables(sweep_page(three_seeds()), "Results")[0]
    found = tables(sweep_page(three_seeds()[:-1]), "Results")[0]
    assert not any("(2)" in cell for row in rows(whole) for cell in row) and "(n): over n" not in whole.legend[0]
    (fewer,) = [row for row in rows(found) if any("(2)" in cell for cell in row)]
    assert all(cell.endswith(" (2)") for cell in fewer[1:]) and "(n): over n of the units" in found.legend[0]


def test_policies_are_compared_by_unit_with_every_point_shown() -> None:
    page = sweep_page(three_seeds())
    score, nll, *_ = tables(page, "Policies compared")
    mean, low, high = by_hand([1.25, -0.5, 3.0])
    value, bounds = f"{mean:+.1f}", f"[{low:+.1f}, {high:+.1f}]"
    assert rows(score) == [["sapo", "AP", value, bounds, "too small to decide", "3 of 3", "+1.2, -0.5, +3.0"]]
    assert rows(nll)[0][-1] == "+0.012, -0.005, +0.030"
    assert f"sapo against original (test prompt own): AP in score {value} {bounds} points" in verdict(page)
    assert "demo s1, demo s2, demo s3" in notes(page, "Units") and "Methods compared" not in titles(page)
    # A clear difference is better in score and worse in loss.
    score, nll, *_ = tables(sweep_page(three_seeds((5.0, 5.5, 6.0))), "Policies compared")
    assert (rows(score)[0][4], rows(nll)[0][4]) == ("better", "worse")


def test_missing_pairs_are_left_out_counted_and_named() -> None:
    page = sweep_page(three_seeds((1.0, None, 3.0)))
    assert rows(tables(page, "Policies compared")[0])[0][2:] == [
        "+2.0", "[-10.7, +14.7]", "too small to decide", "2 of 3", "+1.0, –, +3.0",
    ]  # fmt: skip
    assert rows(tables(page, "Units")[0]) == [["sapo", "demo s2"]]
    assert "5 of 6 combinations have finished" in notes(page, "Cost")


def test_one_unit_has_values_with_test_row_noise_and_no_paired_interval() -> None:
    page = sweep_page(three_seeds((1.0,)))
    assert rows(tables(page, "Results")[0])[0][:2] == ["original", "53.0 [52.0, 54.0]"]
    shown = rows(tables(page, "Policies compared")[0])[0]
    assert shown[2:] == ["+1.0", "–", "one unit: no interval"]
    assert "over the test rows" in verdict(page) and "This page holds" not in notes(page, "How to read this")


def test_equal_differences_have_an_interval_of_no_width_and_a_warning() -> None:
    for difference, shown in ((0.0, ["[0.0, 0.0]", "the same"]), (2.0, ["[+2.0, +2.0]", "too small to decide"])):
        page = sweep_page(three_seeds((difference,) * 3))
        assert rows(tables(page, "Policies compared")[0])[0][3:5] == shown
        assert "not a sign of certainty" in notes(page, "How to read")
    assert "not a sign of certainty" not in notes(sweep_page(three_seeds()), "How to read")


def test_methods_are_compared_within_a_policy_on_what_both_define() -> None:
    runs = []
    for seed in (1, 2):
        runs += [
            record("seq-lora", seed=seed, values={"ap": 50.0, "la": 60.0, "bwt_final": -5.0}),
            record("multitask", seed=seed, values={"ap": 55.0 + seed}),
            record("single", seed=seed, values={"la": 59.0}),
        ]
    page = sweep_page(runs)
    assert [[*row[:3], row[-1]] for row in rows(tables(page, "Methods compared")[0])] == [
        ["multitask", "AP", "+6.5", "+6.0, +7.0"],
        ["single", "LA", "-1.0", "-1.0, -1.0"],
    ]
    assert "Policies compared" not in titles(page)
    metrics = rows(tables(page, "Every metric")[0])
    assert [row[0] for row in metrics] == ["AP", "", "", "LA", "", "", "BWT (final)", "", ""]
    assert metrics[1][1:3] == ["multitask", f"56.5 [{56.5 - 12.706 * 0.5:.1f}, {56.5 + 12.706 * 0.5:.1f}]"]
    assert metrics[4][1:] == ["multitask", "–", "–"]
    assert "single against seq-lora: not both define AP or BWT (final)." in verdict(page)
    runs = [record(m, seed=s, values={k: 5.0}) for m, k in (("multitask", "ap"), ("single", "la")) for s in (1, 2)]
    shown = rows(tables(sweep_page(runs), "Methods compared")[0])
    assert shown == [["single", "–", "–", "–", "no pair", "–", ""]]


def test_a_metric_that_only_some_units_define_says_how_many() -> None:
    runs = [
        record(seed=s, sequence=sequence, values=values)
        for s in (1, 2)
        for sequence, values in (("pair", {"ap": 50.0, "bwt_final": -1.0}), ("one", {"ap": 50.0}))
    ]
    shown = rows(tables(sweep_page(runs), "Results")[0])[0]
    assert shown[3].startswith("-0.010 [") and shown[3].endswith(" (2)")


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
        assert to_markdown(sweep_page([*shuffled, shuffled[0]])) == to_markdown(page)
    assert [row[0] for row in rows(tables(page, "Results")[0])][:4] == [
        "seq-lora, original", "seq-lora, sapo", "seq-lora, my-policy", "o-lora, original",
    ]  # fmt: skip
    assert "another s9, another s10, demo s9, demo s10" in notes(page, "Units")


def test_the_page_counts_its_intervals_and_says_what_they_hold_for() -> None:
    def crossed(gain: float) -> Page:
        kinds = [(m, p, s) for m in ("seq-lora", "ewc") for p in ("original", "sapo") for s in (1, 2)]
        return sweep_page(
            [record(m, p, s, values={"ap": 50 + s + (p == "sapo") * (gain + s / 4)}) for m, p, s in kinds]
        )

    page = crossed(5.0)
    text = notes(page, "How to read this")
    # Policies: 2 methods x 2 measures x 2 prompts; methods: 2 policies x 2 measures with the main prompt.
    assert "holds 12 intervals of differences" in text and "0.6 here" in text
    assert "12.71 standard errors with 2 units" in text
    assert [row[0] for row in rows(tables(page, "Policies compared")[0])] == ["seq-lora, sapo", "ewc, sapo"]
    better = "AP in score better in 2 of 2 groups; AP in NLL worse in 2 of 2 groups."
    assert f"sapo against original (test prompt own): {better}" in verdict(page)
    for said in (verdict(page), verdict(crossed(0.0))):
        assert "No clear difference to seq-lora (test prompt own) in AP or BWT (final), in score or NLL: ewc." in said
    assert "No clear difference to original" in verdict(crossed(0.0))
    assert "2 seeds of one sequence" in verdict(page) and "not other sequences" in verdict(page)
    policies = ("original", "sapo", "random", "highest", "median")
    alone = verdict(sweep_page([record(policy=p) for p in policies]))
    assert "One unit, so nothing can be said against original: " in alone and "No clear" not in alone
    # Of a second unit one run alone has ended.
    unfinished = verdict(sweep_page([*(record(policy=p) for p in policies), record(seed=2)]))
    assert "One unit, so nothing can be said against original: " in unfinished and "No clear" not in unfinished
    # Only one method defines it: the group is named.
    forgets = [
        record(m, p, s, values={"ap": 50 + s, "bwt_final": s + (9 + s) * (p == "sapo") if m == "seq-lora" else None})
        for m in ("seq-lora", "multitask") for p in ("original", "sapo") for s in (1, 2)
    ]  # fmt: skip
    assert "BWT (final) in score +10.5 [+4.1, +16.9] points, better (seq-lora)" in verdict(sweep_page(forgets))
    several = [record(seed=s, sequence=q) for s in (1, 2) for q in ("a", "b")]
    assert "2 sequences with 2 seeds" in verdict(sweep_page(several))
    assert "2 sequences with one seed each" in verdict(sweep_page(several[:2]))


def test_every_run_is_listed_with_its_conditional_interval() -> None:
    (found,) = tables(sweep_page([record(seed=2), record("single", values={})]), "Every run")
    assert rows(found) == [
        ["demo/single-original-s1", "–", "–", "2 min"],
        ["demo/seq-lora-original-s2", "50.0 [49.0, 51.0]", "0.500 [0.490, 0.510]", "2 min"],
    ]
    assert "conditional on the trained models" in found.legend[0]


# What only some runs measure


def test_what_is_trained_with_stands_against_what_is_tested_with() -> None:
    runs = []
    for seed in (1, 2, 3):
        crossed = {"by": "sapo", "primary": {"alpha": 30.0 + seed, "beta": 40.0}, "nll": {"alpha": 1.0, "beta": 2.0}}
        runs += [
            record(seed=seed, last={"own": [50, 60 + seed]}, crossed=crossed if seed < 3 else None),
            record(policy="sapo", seed=seed, last={"own": [70, 80], "original": [45, 55 + 2 * seed]}),
        ]
    page = sweep_page(runs)
    score, nll = tables(page, "Trained with x tested with")
    assert score.columns == ("trained with", "own", "original", "choice of sapo")
    means = [[(50 + 60 + seed) / 2 for seed in (1, 2, 3)], [(30 + seed + 40) / 2 for seed in (1, 2)]]
    (own, low, high), (choice, *bounds) = map(by_hand, means)
    assert rows(score)[0][1::2] == [
        f"{own:.1f} [{low:.1f}, {high:.1f}]",
        "{:.1f} [{:.1f}, {:.1f}]".format(choice, *bounds),
    ]
    assert rows(score)[1][1:] == ["75.0 [75.0, 75.0]", "52.0 [49.5, 54.5]", "–"]
    assert rows(nll)[0][3] == "1.500 [1.500, 1.500]"
    without = [run for run in runs if run.policy == "sapo"]
    assert "Trained with x tested with" not in titles(sweep_page(without))


def test_figures_of_sweeps_that_rest_on_other_watch_tasks_are_not_compared() -> None:
    def compared(watched: str) -> bool:
        runs = []
        for policy, task in (("original", "x"), ("sapo", watched)):
            for seed in (1, 2):
                spill = {"spill_tasks": {"mean": {"value": float(seed), "interval": None, "reason": None}, "tasks": {}}}
                watch = {task: {measure: {"own": [0.0]} for measure in ("primary", "nll")}}
                figures = {"primary": spill, "nll": spill}
                runs.append(record(policy=policy, seed=seed, watch=watch, figures=figures))
        found = arrange([Run(one) for one in runs])
        return any("spill_tasks" in one.differences for one in found.compared)

    assert compared("x") and not compared("y")


def test_the_worst_wording_of_each_task_is_that_in_the_direction_of_the_measure() -> None:
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
    score, nll = tables(sweep_page([*runs, record(seed=3)]), "Trained with x tested with")
    # Mean over texts: 15 and 50, then 20 and 50. Worst: 10 and 40, then 20 and 40.
    assert [cell.split(" ")[0] for cell in rows(score)[0][2:]] == ["33.8", "27.5"]
    assert [cell.split(" ")[0] for cell in rows(nll)[0][2:]] == ["3.625", "4.250"]


def test_general_ability_shows_before_after_and_change() -> None:
    def measured(seed: int, after: float) -> RunResult:
        ability = [{"stage": i, "loss": loss} for i, loss in [(0, 3.0), (2, after), (1, 9.0)]]
        return record(seed=seed, ability=ability)

    page = sweep_page([measured(1, 3.25), measured(2, 2.875), record(seed=3, ability=[])])
    (loss,) = tables(page, "General ability")
    assert [cell.split(" ")[0] for cell in rows(loss)[0][1:]] == ["3.000", "3.062", "+0.062"]


def test_the_guard_is_shown_only_where_something_happened() -> None:
    alarm = {"task": "2-beta", "step": 40, "watched": "alpha", "increase": 0.25, "low": 0.125, "updates": 80}
    page = sweep_page([record(guard=[alarm | {"back_to": 20}, alarm | {"back_to": None}]), record(seed=2, guard=[])])
    assert "guard, demo/seq-lora-original-s1, 2-beta: training stopped and rolled back to update 20" in verdict(page)
    assert verdict(page).count("Forgetting guard") == 1
    text = notes(page, "Forgetting guard")
    assert "demo/seq-lora-original-s1, 2-beta: after update 40 of 80 the loss on alpha had risen by 0.250" in text
    assert text.count("training continued") == 1
    for title in ("Forgetting guard", "General ability", "Trained with x tested with"):
        assert title not in titles(sweep_page([record(guard=[])]))


# Runs that cannot be compared


def test_runs_that_cannot_be_compared_are_refused_with_both_named() -> None:
    one = record(task_data={"alpha": "1"})
    start = {m: {p: [[0.1, 0.0], *rows[1:]] for p, rows in found.items()} for m, found in one.matrices.items()}
    for other, message in (
        (
            record(policy="sapo", task_data={"alpha": "2"}),
            "made with different data of task alpha.*delete its directory",
        ),
        (record(policy="sapo", matrices=start), r"before any training \(zero-shot loss on task alpha: 0\.000; 0\.100"),
        (record(policy="sapo", data="other"), "demo/seq-lora-sapo-s1 were tested on different rows of task alpha"),
        (record(policy="sapo", metric="rouge_l"), r"score task alpha with different metrics \(.*rouge_l.*\)"),
        (record(policy="sapo", tasks=("beta", "alpha")), r"have different tasks \(.*beta, alpha.*\)"),
        (record(sequence="other", model="large"), "other/seq-lora-original-s1 have different models"),
        (record(name="again"), "two different runs, demo/seq-lora-original-s1 and again,.*not the same figures or"),
        (
            record(
                policy="sapo",
                config={**one.config, "policy": "sapo", "model": {"base": one.model, "quantization": "4bit"}},
            ),
            "different models",
        ),
    ):
        with pytest.raises(RecordError, match=message) as caught:
            sweep_page([one, other])
        assert "demo/seq-lora-original-s1" in str(caught.value)
    with pytest.raises(RecordError, match="no finished run yet"):
        sweep_page([])
    # Another sequence may have other rows.
    other = record(sequence="other", tasks=("gamma",), data="other", metric="rouge_l")
    assert "other s1" in notes(sweep_page([one, other]), "Units")


def test_a_sweep_page_holds_a_configuration_that_makes_it_again() -> None:
    def run(method: str, policy: str, seed: int) -> RunResult:
        own = {"method": method, "policy": policy, "seed": seed, "ewc": {"weight": 2.0} if method == "ewc" else None}
        return record(method, policy, seed, config={"model": {"base": "embedded"}, "sequence": ["a", "b"], **own})

    runs = [run(m, p, s) for m in ("seq-lora", "ewc") for p in ("original", "sapo") for s in (1, 2)]
    config = make_config({**yaml.safe_load(listing(sweep_page(runs), "sweep.yaml")), "run_dir": "x"})
    assert config.sweep is not None and config.ewc is not None and config.ewc.weight == 2.0
    # Two sequences and two rules of one policy.
    both = [
        r.model_copy(update={"sequence": name, "config": {**r.config, "sequence": tasks, "selection": {"rule": rule}}})
        for r in runs
        for name, tasks in (("demo", ["a", "b"]), ("back", ["b", "a"]))
        for rule in (("lowest", "trial") if r.policy == "sapo" else ("lowest",))
    ]
    again = make_config({**yaml.safe_load(listing(sweep_page(both), "sweep.yaml")), "run_dir": "x"})
    assert again.sweep is not None and again.sweep.rule == ("lowest", "trial")
    assert set(again.sweep.sequence or ()) == {("a", "b"), ("b", "a")} and again.sequence in (
        again.sweep.sequence or ()
    )
    tried = [r for r in both if r.way != "sapo"]
    again = make_config({**yaml.safe_load(listing(sweep_page(tried), "sweep.yaml")), "run_dir": "x"})
    assert again.selection.rule == "trial" and "Means mix" not in to_markdown(sweep_page(tried))
    assert (config.sweep.method, config.sweep.seed) == (("seq-lora", "ewc"), (1, 2))
    odd = [r.model_copy(update={"config": {**r.config, "train": {"epochs": n}}}) for n, r in enumerate(runs[:2])]
    assert "differ in train.epochs too" in to_markdown(sweep_page(odd))
    assert "Means mix settings: the runs differ in train.epochs too." in notes(sweep_page(odd), "Cost")
    assert "Means mix" not in to_markdown(sweep_page(runs))


def test_a_choice_that_the_budget_ended_is_told_on_the_first_screen() -> None:
    run = record()
    (task, used), *_ = run.instructions.items()
    ended = {**run.instructions, task: used.model_copy(update={"tolerance": 0.0999, "losses": {used.text: 1.0}})}
    page = sweep_page([run.model_copy(update={"instructions": ended}), record(seed=2)])
    assert "selection.budget ended 1 of 1 choice: the lowest loss may lie up to 0.1 nats" in notes(page, "Cost")
    assert "selection.budget ended" not in notes(sweep_page([run]), "Cost")


# Files and the terminal


def test_sweeps_are_reported_from_their_directories_or_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runs = three_seeds()
    for path, several in (("sweep/records.jsonl", runs), ("one/records.jsonl", runs[:3]), ("two.jsonl", runs[2:])):
        for run in several:
            append_record(Path(path), run)
    text = report("sweep")
    assert text == report("sweep/records.jsonl")
    assert text.startswith("Sweep of 6 runs") and "Everything: sweep/comparison.md" in text
    assert Path("sweep/comparison.md").read_text() == to_markdown(sweep_page(runs))
    # What failed or was interrupted has no record.
    for name in (runs[0].name, "demo/ewc-original-s1"):
        (Path("sweep") / name).mkdir(parents=True)
        (Path("sweep") / name / "config.yaml").touch()
    assert "1 run without a result yet (demo/ewc-original-s1): at work now, or resumed by" in report("sweep")
    assert report("one", "two.jsonl").startswith("Sweep of 6 runs") and Path("one/comparison.md").is_file()
    with pytest.raises(RecordError, match=r"none\.jsonl cannot be read"):
        report("none.jsonl")
    Path("sweep/records.jsonl").write_text("{\n")
    with pytest.raises(RecordError, match=r"sweep/records\.jsonl, line 1 is damaged"):
        report("sweep")
    Path("rows.jsonl").write_text('{"input": "a", "output": "b"}\n')
    with pytest.raises(RecordError, match=r"rows\.jsonl, line 1: it is not a record of a run\. Give"):
        report("rows.jsonl")


def test_the_first_screen_of_a_large_sweep_is_short() -> None:
    runs = [
        record(m, p, s, sequence=q, values={"ap": 50.0, "bwt_final": -1.0 * s})
        for m in ("seq-lora", "inc-lora", "o-lora")
        for p in ("original", "sapo", "per-example")
        for s in (41, 42, 43)
        for q in ("demo", "superni-order-2")
    ]
    assert len(printed(sweep_page(runs), 100, full=False).splitlines()) <= 40
