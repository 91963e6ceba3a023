"""Pages of runs, comparisons, selections, tasks, prompts and dry runs, against the numbers that they rest on."""

import html
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markdown_it import MarkdownIt
from report.making import (
    HOSTILE,
    ROWS,
    TASKS,
    listing,
    make_selection,
    notes,
    on_console,
    page_of,
    printed,
    record,
    report,
    rows,
    tables,
    write_run,
)
from report.making import verdict as said

from sapo.core.errors import DataError, RecordError
from sapo.core.progress import Silent
from sapo.core.storage import write_json
from sapo.core.types import Example, Rejection
from sapo.core.untrusted import one_line, plain
from sapo.integrations.testing import tiny_tokenizer, toy_task
from sapo.models.render import Renderer
from sapo.report.blocks import Command, Listing, Note, Table
from sapo.report.differences import Verdict, pairable, run_differences, verdict
from sapo.report.forecast import dry_run_page
from sapo.report.markdown import to_markdown
from sapo.report.numbers import duration, interval, number, tokens
from sapo.report.page import results_page
from sapo.report.publish import read_report
from sapo.report.runs import Run, read_run, shared_prompts
from sapo.report.selections import finding, ranking, selection_page, subject
from sapo.report.tasks import print_prompt, task_page, tasks_page, token_texts
from sapo.runs.config.loading import make_config
from sapo.runs.metrics import FIGURES, METRICS
from sapo.runs.prepare import estimate, prepare
from sapo.runs.results import RunResult, Wordings
from sapo.tasks.inspection import inspect_rows


@pytest.fixture(autouse=True)
def _short_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Paths are printed whole; the ones of temporary directories are wider than a terminal.
    monkeypatch.chdir(tmp_path)


# Numbers


def test_numbers_intervals_durations_and_token_counts() -> None:
    numbers = (
        (61.24, 1, False),
        (0.0, 1, True),
        (-0.00004, 3, True),
        (0.0336, 3, True),
        (-1.5, 1, True),
        (None, 1, True),
    )
    shown = [number(value, decimals, sign=sign) for value, decimals, sign in numbers]
    assert shown == ["61.2", "0.0", "0.000", "+0.034", "-1.5", "–"]
    assert interval((-0.5, 1.25), 2, sign=True) == "[-0.50, +1.25]"
    assert (interval(None, 2), interval((0.5, float("inf")), 1)) == ("–", "[0.5, no limit]")
    assert [duration(s) for s in (0.04, 9.96, 119, 120, 7199, 7500)] == [
        "0.0 s", "10 s", "119 s", "2 min", "2 h 00 min", "2 h 05 min",
    ]  # fmt: skip
    assert [tokens(n) for n in (12, 25_400, 3_210_000)] == ["12", "25 thousand", "3.2 million"]


def test_matrices_equal_results_json() -> None:
    page, matrices = results_page([write_run(Path("a"))]), json.loads(Path("a/results.json").read_text())["matrices"]
    for measure, title, decimals in (("primary", "Score (", 1), ("nll", "NLL (", 3)):
        for prompt in ("own", "original"):
            titled = ((t.title or s.title, t) for s in page.sections for t in s.blocks if isinstance(t, Table))
            found = next(t for name, t in titled if name.startswith(title) and name.endswith(f"prompt: {prompt}"))
            assert [row[0] for row in found.rows] == ["zero-shot", "after 1 alpha", "after 2 beta", "after 3 gamma"]
            for i, row in enumerate(found.rows):
                for j, text in enumerate(row[1:4], start=1):
                    value = f"{matrices[measure][prompt][i][j - 1]:.{decimals}f}"
                    assert text == (f"{value}*" if i == j else f"({value})" if i < j else f"{value} ")


def test_metrics_equal_results_json_on_the_terminal_and_in_markdown() -> None:
    page = results_page([write_run(Path("a"))])
    data = json.loads(Path("a/results.json").read_text())["metrics_all"]
    text, markdown = printed(page), to_markdown(page).replace("\\", "")
    for prompt, found in zip(("own", "original"), tables(page, "Every metric"), strict=False):
        assert found.title == f"Test prompt: {prompt}"
        for row, metric in zip(rows(found), METRICS, strict=True):
            expected = [metric.title]
            for measure, decimals in (("primary", 1), ("nll", 3)):
                one = data[measure][prompt][metric.name]
                sign = "" if metric.name in ("ap", "la") else "+"
                low, high = one["interval"]
                expected.append(
                    f"{one['value']:{sign}.{decimals}f} [{low:{sign}.{decimals}f}, {high:{sign}.{decimals}f}]"
                )
            assert row == expected and all(value in text and value in markdown for value in expected)


def test_watch_tasks_and_general_text_are_columns_of_the_matrices() -> None:
    run = write_run(Path("a"))
    watch = json.loads(Path("a/results.json").read_text())["watch"]["other"]
    ability = ({"stage": 0, "loss": 3.5}, {"stage": 3, "loss": 3.25})
    result = RunResult.from_json({**run.result.to_json(), "ability": ability})
    score, loss, *_ = [
        t for t in tables(results_page([replace(run, result=result)]), "Every") if t.title[:3] in "Score NLL"
    ]
    assert score.columns[-1] == "watch: other" and loss.columns[-2:] == ("watch: other", "general text")
    assert [row[-1].strip() for row in score.rows] == [f"{value:.1f}" for value in watch["primary"]["own"]]
    assert [row[-2].strip() for row in loss.rows] == [f"{value:.3f}" for value in watch["nll"]["own"]]
    assert [row[-1].strip() for row in loss.rows] == ["3.500", "–", "–", "3.250"]


def test_one_task_is_reported_as_before_and_after_with_the_change_paired() -> None:
    run = write_run(Path("a"), names=("alpha",), prompts=("own",), better=20)
    page = results_page([run])
    (before,), (after,) = run.result.matrices["primary"]["own"]
    assert before is not None and after is not None
    (first,), (last,) = run.test_rows("primary", "own")
    assert first is not None and last is not None
    rise = last[0] - first[0]
    counts = np.random.default_rng([42, 0]).multinomial(ROWS, np.full(ROWS, 1 / ROWS), size=2000)
    low, high = np.quantile([float((c * rise).sum() / ROWS) for c in counts], [0.025, 0.975])
    change = f"{after - before:+.1f} [{low:+.1f}, {high:+.1f}]"
    assert f"is {before:.1f} before training and {after:.1f} after it; change {change}: better." in said(page)
    assert [row[0] for row in rows(tables(page, "Every metric")[0])] == ["AP", "LA"]


def test_the_first_screen_holds_verdict_matrix_cost_and_next_step() -> None:
    page = results_page([write_run(Path("a"))])
    text = printed(page, 80, full=False)
    # One more line says where everything is.
    assert len(text.splitlines()) <= 29 and max(map(len, text.splitlines())) <= 80
    for part in ("After 3 tasks the mean score", "zero-shot", "loss to original", "without loading", "other seeds"):
        assert part in text, part
    assert "Compare, such as with policy=original:  sapo report a OTHER_RUN\n" in text
    plain = results_page([write_run(Path("b"), policy="original")])
    assert "Compare, such as with policy=sapo:  sapo report b OTHER_RUN\n" in printed(plain, 80, full=False)
    assert "Every metric" not in text and "Every metric" in printed(page) and "config.yaml" not in printed(page)


def test_the_first_screen_has_a_line_for_each_of_many_tasks() -> None:
    run = write_run(Path("b"), names=tuple("uvwxyzabcdefghi"))
    page = results_page([run])
    text = printed(page, 80, full=False)
    assert len(text.splitlines()) <= 24 + 15 and max(map(len, text.splitlines())) <= 80
    shown = page.sections[0].blocks[0]
    assert isinstance(shown, Table) and len(shown.rows) == 15
    matrix = run.matrix("primary", "own")
    for j, row in enumerate(shown.rows):
        assert row[1:4] == tuple(f"{matrix[i][j]:.1f}" for i in (0, j + 1, 15))


# Candidates


def test_candidates_are_ranked_by_loss_and_marked() -> None:
    selection = make_selection([2.0, 1.5, 2.5, 1.75], [None, (-0.6, -0.4), (0.25, 0.75), (-0.5, 0.0)])
    found, _ = ranking(selection, "paraphrase 1", "chosen")
    assert rows(found) == [
        ["1", "1.5000", "-0.5000", "[-0.6000, -0.4000]", "chosen", "paraphrase 1"],
        ["2", "1.7500", "-0.2500", "[-0.5000, 0.0000]", "", "paraphrase 3"],
        ["3", "2.0000", "–", "–", "original", "the original"],
        ["4", "2.5000", "+0.5000", "[+0.2500, +0.7500]", "", "paraphrase 2"],
    ]


def test_the_finding_says_whether_the_winner_is_clear() -> None:
    cases: list[tuple[list[float], list[Any], int, str]] = [
        ([2, 1.5], [None, (-0.6, -0.4)], 1, "clearly beats the original: -0.5000 [-0.6000, -0.4000] nats/token"),
        ([2, 1.5], [None, (-1.1, 0.1)], 1, "does not clearly beat the original: -0.5000 [-1.1000, +0.1000]"),
        ([2, 1.5], [None, (-1.0, 0.0)], 1, "; no candidate does"),
        ([2, 1.5, 1.6], [None, (-1.1, 0.1), (-0.5, -0.3)], 1, "; 1 with a higher loss do"),
        ([2, 2.5], [None, (0.4, 0.6)], 0, "The original stays: no candidate clearly beats it"),
        ([2, 2 - 1e-6], [None, (-2e-6, -1e-7)], 0, "differs by no more than counts as a tie"),
        ([2, 1.5], [None, None], 1, "has no interval"),
    ]
    for losses, intervals, chosen, sentence in cases:
        assert sentence in finding(make_selection(losses, intervals, chosen=chosen))
    # Of a policy that trains with another one, nothing stays.
    lowest = make_selection([2, 2.5], [None, (0.4, 0.6)], chosen=0)
    assert finding(lowest, subject("highest")).startswith("The original has the lowest loss: ")


def test_a_selection_is_printed_with_its_caveats() -> None:
    rejected = (Rejection("", "empty"), Rejection("Reply.", "lacks the label 'yes' that the original names"))
    selection = make_selection([2.0, 1.5], [None, (-1.1, 0.1)], rejected=rejected)
    text = " ".join(printed(selection_page(selection)).split())
    for part in (
        "intervals hold for all candidates together and for the model as it is now", "gain is optimistic",
        "no candidate does", "empty (nothing)", "lacks the label 'yes'", "in 3.2 s", "route of computation: plain",
        "1e-05", "From: file. In full: paraphrase 1", "sapo run CONFIG.yaml --dry-run",
    ):  # fmt: skip
        assert part in text, part


def test_the_control_policies_do_not_claim_the_lowest_was_taken() -> None:
    page = results_page([write_run(Path("a"), policy="highest", texts=["third"] * 3)])
    assert "lowest, which this policy does not take" in notes(page, "Candidates")
    assert "as a control" in notes(page, "Instructions") and any(
        "trained" in row for row in tables(page, "Cand")[0].rows
    )


@pytest.mark.parametrize(
    ("rule", "said"), [("lowest", "the candidate with the lowest loss"), ("confident", "the original, unless a cand")]
)
def test_choosing_again_begins_with_what_the_rule_chooses(rule: str, said: str) -> None:
    run = write_run(Path("a"))
    config = {**run.result.config, "policy": "reselect", "selection": {"rule": rule}}
    page = results_page([replace(run, result=run.result.model_copy(update={"config": config}))])
    told = notes(page, "Instructions")
    assert f"Policy reselect: {said}" in told and ", chosen again during the training." in told


def test_what_is_trained_at_once_or_alone_is_marked_as_such() -> None:
    run, rows_by = write_run(Path("a")), dict[str, list[list[str]]]()
    for method in ("seq-lora", "multitask", "single"):
        result = run.result.model_copy(update={"config": {**run.result.config, "method": method}})
        page = results_page([replace(run, result=result)])
        rows_by[method] = [row[2:4] for row in rows(tables(page, "By task")[0])]
        starred = [sum("*" in cell for cell in row) for row in rows(tables(page, "Every metric")[-2])]
        assert starred == ([0, 0, 0, 3] if method == "multitask" else [0, 1, 1, 1])
    assert [end for _, end in rows_by["seq-lora"]] == [own for own, _ in rows_by["multitask"]]
    assert [own for own, _ in rows_by["single"]] == [own for own, _ in rows_by["seq-lora"]]
    assert {end for _, end in rows_by["single"]} == {"–"}


# Comparison


def test_a_verdict_needs_an_interval_without_zero() -> None:
    assert [verdict((0.1, 0.2), "higher"), verdict((-0.2, -0.1), "lower")] == ["better"] * 2
    assert [verdict((0.1, 0.2), "lower"), verdict((-0.2, -0.1), "higher")] == ["worse"] * 2
    # Of sums that are equal, rounding makes a little more or less.
    for bounds in ((-0.1, 0.2), (0.0, 0.2), (-0.2, 0.0), (0.5, 0.5), (100 / 3, 100 / 3 + 1e-13), (1e-14, 1)):
        assert verdict(bounds, "higher") == verdict(bounds, "lower") == "too small to decide"
    assert verdict((0.0, 0.0), "higher") == verdict((-1e-13, 1e-13), None) == "the same"


@pytest.mark.parametrize("measure", ["primary", "nll"])
def test_paired_differences_equal_a_slow_loop(measure: str) -> None:
    first, other = write_run(Path("a"), seed=7), write_run(Path("b"), seed=8, better=3)
    found = run_differences(first, other, measure, "own")
    drawn: dict[str, list[float]] = {"ap": [], "bwt_final": [], "forgetting_max": []}
    counts = [
        np.random.default_rng([7, j]).multinomial(ROWS, np.full(ROWS, 1 / ROWS), size=2000) for j in range(len(TASKS))
    ]
    cells_of = {name: raw_rows(Path(name), measure) for name in ("a", "b")}
    for draw in range(2000):
        values = {}
        for name, raw in cells_of.items():
            r = [
                [float(np.dot(counts[j][draw], raw[i][j][0]) / np.dot(counts[j][draw], raw[i][j][1])) for j in range(3)]
                for i in range(4)
            ]
            best = min if measure == "nll" else max
            lost = [best(r[i][j] for i in range(j + 1, 3)) - r[3][j] for j in range(2)]
            values[name] = {
                "ap": sum(r[3]) / 3,
                "bwt_final": ((r[3][0] - r[1][0]) + (r[3][1] - r[2][1])) / 2,
                "forgetting_max": sum(lost) / 2 * (-1 if measure == "nll" else 1),
            }
        for metric in drawn:
            drawn[metric].append(values["b"][metric] - values["a"][metric])
    for metric, values_of in drawn.items():
        assert found[metric].interval == pytest.approx(tuple(np.quantile(values_of, [0.025, 0.975])), abs=1e-9)
        after, before = (run.result.estimate(measure, "own", metric)["value"] for run in (other, first))
        assert after is not None and before is not None and found[metric].value == pytest.approx(after - before)


def raw_rows(directory: Path, measure: str) -> list[list[tuple[list[float], list[float]]]]:
    """Numerators and denominators of the test rows of each cell, straight from the files."""
    found = []
    for i in range(4):
        stage = []
        for j, name in enumerate(TASKS):
            prompt = "own" if j < i else "original"
            value = json.loads((directory / "cells" / str(i) / f"{name}.{prompt}.json").read_text())["value"]
            losses, scores = value["losses"], value["scores"]["exact_match"]
            stage.append((losses["nll"], losses["tokens"]) if measure == "nll" else (scores, [1.0] * len(scores)))
        found.append(stage)
    return found


def test_verdicts_respect_the_direction_of_every_metric() -> None:
    first, other = write_run(Path("a")), write_run(Path("b"), better=25)
    score, loss = (run_differences(first, other, measure, "own") for measure in ("primary", "nll"))
    # Every stage adds 25 points: the end is better, later training helps, and nothing is forgotten.
    for metric, sign in (("ap", 1), ("bwt_final", 1), ("fwt_all_stages", 1), ("forgetting_max", -1)):
        assert (score[metric].value or 0) * sign > 0 and score[metric].verdict == "better"
    for metric in ("ap", "bwt_final", "fwt_all_stages", "forgetting_max"):
        assert (loss[metric].value or 0) < 0 and loss[metric].verdict == "better"
    back = run_differences(other, first, "nll", "own")
    assert {back[m].verdict for m in ("ap", "bwt_final", "forgetting_max")} == {"worse"}


def test_figures_that_rest_on_other_watch_tasks_are_not_compared() -> None:
    def watching(name: str, task: str) -> Run:
        spill = {"spill_tasks": {"mean": {"value": 1.0, "interval": None, "reason": None}, "tasks": {}}}
        run = write_run(Path(name), watch=(task,))
        return replace(run, result=run.result.model_copy(update={"figures": {"primary": spill, "nll": spill}}))

    first, same, other = watching("a", "x"), watching("b", "x"), watching("c", "y")
    assert "spill_tasks" in run_differences(first, same, "nll", "own")
    assert {*run_differences(first, other, "nll", "own")} == {metric.name for metric in METRICS}
    # Two of them rest on the paraphrases that were held out.
    texts = {"alpha": Wordings(texts=("x",), primary=(1.0,), nll=(1.0,))}
    held = replace(same, result=same.result.model_copy(update={"robustness": texts}))
    names = [figure.name for figure in FIGURES]
    assert pairable([first, same], names) == pairable([held, held], names) == names
    assert pairable([first, held], names) == ["spill_tasks", "spill_prompts"]


def test_runs_that_cannot_be_paired_get_no_interval() -> None:
    few: dict[str, Any] = {"prompts": ("own",), "watch": ()}
    first = write_run(Path("a"), **few)
    cases: list[tuple[dict[str, Any], str, Verdict]] = [
        ({"data": "other rows"}, "primary", "not paired"),
        ({"data": "other rows", "rows": 5}, "nll", "not paired"),
        ({"tokens": 4}, "nll", "not comparable"),
        ({"metric": "rouge_l"}, "primary", "not comparable"),
    ]
    for n, (changes, measure, expected) in enumerate(cases):
        other = write_run(Path(f"b{n}"), better=25, **few, **changes)
        found = run_differences(first, other, measure, "own")
        assert {(d.verdict, d.interval) for d in found.values()} == {(expected, None)}
        assert f"{expected}: the runs" in notes(results_page([first, other]), "How to read")
    many = [write_run(Path(f"m{n}"), data=f"other {n}", better=25, **few) for n in range(4)]
    summary = said(results_page([first, *many]))
    assert "Without an interval, so nothing can be said against A (a): B (m0), C (m1), D (m2), E (m3)." in summary


def test_the_comparison_shows_every_run_its_difference_and_the_caveat() -> None:
    runs = [write_run(Path("a")), write_run(Path("b"), policy="original", better=25), write_run(Path("c"), seed=1)]
    page = results_page(runs)
    found = run_differences(runs[0], runs[1], "primary", "own")["ap"]
    assert found.interval is not None
    value, bounds = f"{found.value:+.1f}", f"[{found.interval[0]:+.1f}, {found.interval[1]:+.1f}]"
    compared = tables(page, "Runs compared")[0]
    assert rows(compared)[0] == ["B", "AP", value, bounds, found.verdict]
    assert f"B (b) against A (a) (test prompt own): AP in score {value} {bounds} points, {found.verdict};" in said(page)
    assert "Each run is one seed" in said(page)
    differ = {row[0]: row[1:] for row in rows(tables(page, "What differs")[0])}
    assert differ["policy"] == ["sapo", "original", "sapo"] and "method" not in differ
    assert [row[1] for row in tables(page, "Every metric")[0].rows[:3]] == ["A", "B", "C"]
    text = report("a", "b", "c")
    assert "a/comparison.md" in text and "B (b) against A (a)" in Path("a/comparison.md").read_text()


def test_a_baseline_tested_with_originals_only_can_be_compared() -> None:
    sapo_run = write_run(Path("a"), prompts=("own",))
    baseline = write_run(Path("b"), policy="original", prompts=("original",))
    assert shared_prompts([sapo_run, baseline]) == ("own",)
    assert baseline.matrix("primary", "own") == baseline.result.matrices["primary"]["original"]
    with pytest.raises(RecordError, match=r"c was not .* prompt own; a was not .* prompt original\. Give them"):
        results_page([sapo_run, write_run(Path("c"), prompts=("original",))])
    sweep = record(policy="sapo", prompts=("own",))
    assert shared_prompts([Run(record(prompts=("original",))), Run(sweep)]) == ("own",)
    assert shared_prompts([Run(record()), Run(record(seed=2))]) == ("original",)


# Errors


def test_a_directory_that_is_not_a_finished_run_says_what_it_is() -> None:
    with pytest.raises(RecordError, match="nowhere is not a directory"):
        read_run(Path("nowhere"))
    Path("empty").mkdir()
    with pytest.raises(RecordError, match="empty is not a run directory"):
        read_run(Path("empty"))
    (Path("empty") / "config.yaml").write_text("seed: 1\n")
    with pytest.raises(RecordError, match=r"unfinished run .* again to resume it"):
        read_report([Path("empty")])


def test_runs_of_other_tasks_are_refused_with_both_named() -> None:
    runs = [write_run(Path("a")), write_run(Path("b"), names=("alpha", "gamma", "beta"))]
    with pytest.raises(RecordError, match="a has the tasks alpha, beta, gamma, but b has alpha, gamma, beta"):
        results_page(runs)


def test_a_damaged_or_incomplete_run_is_an_error_that_says_what_to_do() -> None:
    write_run(Path("a"))
    for content in ("{", "[]", '{"tasks": [{"task": "alpha"}]}', '{"tasks": 1}'):
        Path("a/data.json").write_text(content)
        with pytest.raises(RecordError, match=r"a.* (damaged|cannot be read) .*[Dd]elete"):
            read_report([Path("a")])
    Path("a/data.json").unlink()
    (Path("a") / "cells" / "0" / "alpha.original.json").unlink()
    with pytest.raises(RecordError, match=r"alpha\.original\.json cannot be read .*Start the same"):
        results_page([write_run(Path("b")), read_run(Path("a"))])
    write_json(Path("a/results.json"), {"tasks": []})
    with pytest.raises(RecordError, match=r"damaged, or .*\(primary_metrics: Field required\)"):
        read_run(Path("a"))


# Hostile texts: see the tests of HTML too.


def hostile_blocks() -> list[Any]:
    shown = Table((HOSTILE, "number"), ((HOSTILE, "1"),), HOSTILE, (HOSTILE,), bold=frozenset({0}))
    words = "of these: there are many words to name, and only one of them is the right one to be named by you here"
    changed = Listing("new", f"Name the {HOSTILE} word {words}. {words}.", f"Name the odd word {words}. {words}.")
    return [shown, Note(HOSTILE), Listing(HOSTILE, HOSTILE), Command(("sapo", HOSTILE), HOSTILE), changed]


def test_hostile_texts_are_no_markup_in_a_terminal() -> None:
    for terminal in (False, True):
        text = printed(page_of(*hostile_blocks()), 600, terminal=terminal)
        bare = re.sub(r"\x1b\[[\d;]*m", "", text)
        assert "\x1b" not in bare and "\u202e" not in bare and bare.count("[bold red]x[/] | `c`") == 10
        assert "It replaces:\n    Name the odd word of these" in bare
        # Colour codes that the text asked for would be red, which nothing here is.
        assert "\\x1b[31m" in bare and not re.search(r"\x1b\[[\d;]*31m", text)


def test_hostile_texts_are_no_markup_in_markdown() -> None:
    markdown = to_markdown(page_of(*hostile_blocks()))
    rendered = MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown)
    assert not re.search(r"<(script|a|img|em|style)\b", rendered) and "\x1b" not in markdown
    line = one_line(plain(HOSTILE))
    found = [html.unescape(re.sub("</?strong>", "", c)) for c in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", rendered)]
    assert found == [line, "number", line, "1"]
    assert (
        re.findall(r"<(?:p|li|h3)>(.*?)</(?:p|li|h3)>", rendered).count(html.escape(line).replace("&#x27;", "'")) == 5
    )
    assert html.unescape(re.findall(r"<code[^>]*>(.*?)</code>", rendered, re.DOTALL)[0]) == f"{plain(HOSTILE)}\n"


def test_a_paragraph_cannot_become_another_block_nor_a_listing_end_its_fence() -> None:
    def rendered(block: Any, tag: str) -> str:
        document = MarkdownIt("commonmark").render(to_markdown(page_of(block)))
        return html.unescape(re.findall(rf"<{tag}[^>]*>(.*?)</{tag}>", document, re.DOTALL)[0])

    for text in ("# no heading", "1. no list", "- no list", "> no quote", "===", "    no code", "+ no"):
        assert rendered(Note(text), "p") == text.strip()
    for fence in ("```", "`````", "~~~"):
        text = f"before\n{fence}\n<script>\n{fence}"
        assert rendered(Listing("l", text), "code") == f"{text}\n"


def test_control_characters_are_spelled_out_and_line_breaks_kept() -> None:
    assert plain("a\r\nb\tc\rd\x00\x9b\ud800é北\u2028") == "a\nb\tc\\rd\\x00\\x9b\\ud800é北\\u2028"
    assert one_line("a  b\n c", 4) == "a..." and one_line("abcd", 4) == "abcd"


# Width


def test_a_wide_matrix_is_split_and_no_number_cut() -> None:
    values = [[f"{100 * i + j}.25" for j in range(15)] for i in range(4)]
    columns = ("stage", *(f"{n} a_long_name" for n in range(1, 16)))
    matrix = Table(columns, tuple((f"after {i}", *row) for i, row in enumerate(values)))
    for width in (36, 60, 80):
        text = printed(page_of(matrix), width)
        assert max(map(len, text.split("\n"))) <= width and "…" not in text
        assert all(value in text.split() for row in values for value in row)


def test_every_part_of_a_split_table_names_its_rows() -> None:
    names = [f"candidate of row {n}" for n in range(1, 12)]
    rows = tuple((str(n), "6.3098", "[-0.1909, -0.0039]", "out, round 9", name) for n, name in enumerate(names, 1))
    ranked = Table(("rank", "loss", "interval", "", "candidate"), rows, text=(-2, -1), clipped=True)
    for width in (44, 60, 120):
        found = re.findall(r"^ *(\d+) .*(candidate of row \d+)", printed(page_of(ranked), width), re.MULTILINE)
        assert found == [(str(n), name) for n, name in enumerate(names, 1)]


def test_words_stay_whole_where_there_is_room_and_a_clipped_text_takes_one_line() -> None:
    table = Table(
        ("task", "loss", "text"), (("extract-items>odd-one-out", "6.25", "北京 " * 40),), text=(0, 2), clipped=True
    )
    for width in (80, 30):
        text = printed(page_of(table), width)
        assert text.count("...") == 1 and len([line for line in text.splitlines() if "北京" in line]) == 1
        assert ("extract-items>odd-one-out" in text) == (width == 80)


def test_pages_of_commands_fit_their_terminal_and_cut_nothing() -> None:
    losses = make_selection([12.0, 11.5], [None, (-10.123, -0.25)], texts=["word " * 30, "north " * 30])
    renderer = Renderer(tiny_tokenizer(), 512)
    encoded = renderer.encode("Say it. " * 20, "", [Example("x", "yes")])[0]
    pages = (selection_page(losses), tasks_page(None), task_page(toy_task()))
    for text in (*(printed(page, 80) for page in pages), on_console(lambda c: print_prompt(c, renderer, encoded), 80)):
        lines = [line for line in text.split("\n") if not line.startswith("  sapo ")]
        assert max(map(len, lines)) <= 80 and "…" not in text and "\x1b" not in text


# Tasks, prompts and dry runs


def test_a_long_example_is_cut_and_its_length_named() -> None:
    task = toy_task()
    page = task_page(replace(task, train=(replace(task.train[0], input="word " * 1000), *task.train)))
    assert listing(page, "Input (5,000 characters, the first 1,000):") == f"{'word ' * 200} ..."
    assert listing(page, "Answer:") == task.train[0].answer


def test_tasks_and_sequences_are_listed() -> None:
    text = printed(tasks_page(None), 160)
    assert re.search(r"review-sentiment +400 +100 +100 +exact_match +positive, negative +Decide whether", text)
    assert re.search(r"demo +ready +review-sentiment, date-format, odd-one-out", text)
    assert re.search(r"trace +needs data_dir +C-STANCE", text)


def test_the_tasks_of_a_directory_are_listed_also_a_broken_one() -> None:
    entry = {"instruction": "Judge [b]it[/b].", "suffix": "", "labels": ["a", "b"]}
    write_json(Path("d/instructions.json"), {"FOMC": entry, "broken": entry})
    for split in ("train", "test"):
        write_json(Path(f"d/FOMC/{split}.json"), [{"sentence": "x", "label": "a"}])
    text = printed(tasks_page(Path("d")), 200)
    assert re.search(r"FOMC +1 +0 +1 +rouge_l +a, b +Judge \[b\]it\[/b\]\.", text)
    assert re.search(r"broken .*cannot be used: d/broken/train\.json", text)
    assert re.search(r"trace +5 missing", text)
    assert "sapo tasks FOMC --data-dir d" in text
    with pytest.raises(DataError, match="no instructions"):
        tasks_page(Path("nowhere"))


def test_the_prompt_marks_every_supervised_token() -> None:
    renderer = Renderer(tiny_tokenizer(), 512)
    encoded = renderer.encode("Say [bold]北京[/bold] naïve.", "End.", [Example("some input", "ok é")])[0]
    text = on_console(lambda c: print_prompt(c, renderer, encoded))
    assert "<|im_start|>user\nSay [bold]北京[/bold] naïve.\n\nText:\nsome input\n\nEnd.<|im_end|>\n" in text
    assert "assistant\n[o][k][ ][é]x2[<|im_end|>][\\n]\n" in text
    assert f"{encoded.prompt_length} prompt tokens, {encoded.supervised} supervised tokens" in " ".join(text.split())
    supervised = list(token_texts(renderer, encoded.ids[encoded.prompt_length :]))
    assert sum(count for _, count in supervised) == encoded.supervised


def test_a_dry_run_adds_up_to_the_plan_and_names_cut_inputs(model_dir: Path) -> None:
    config = make_config(
        {
            "model": str(model_dir), "sequence": ["date-format"], "run_dir": "run", "max_length": 450,
            "candidates": {"count": 2}, "selection": {"examples": 4},
            "train": {"rows": 8, "epochs": 1, "batch_size": 8}, "evaluate": {"rows": 4, "max_new_tokens": 4},
        }
    )  # fmt: skip
    ready, speed = estimate(config, Silent())
    assert speed > 0
    page = dry_run_page(config, ready, 100.0)
    tasks_table, data_table, *_, work = tables(page)
    # Of 20 built-in paraphrases two are kept.
    assert rows(tasks_table)[0] == ["1 date-format", "8", "4", "4", "3", "0"]
    assert rows(data_table)[0][:3] == ["date-format", "8", "4"]
    assert work.rows[-1][-1] == duration(ready.engine.plan.cost / 100)
    assert [row[1] for row in work.rows[:3]] == ["12 row x candidate", "1 updates", "8 rows, each answered and scored"]
    text = " ".join(printed(page).split())
    for part in ("nothing was written", "measured 100 tokens/s on a few rows", "without --dry-run"):
        assert part in text
    for method, stages in (("seq-lora", 3), ("multitask", 2)):
        both = make_config({**config.plain(), "sequence": ["date-format", "review-sentiment"], "method": method})
        assert f"testing, {stages} stages" in printed(dry_run_page(both, prepare(both), 100.0))
    both = config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"prompts": ("own", "original")})})
    inspection = ready.inspections["date-format"]
    assert inspection.lengths is not None
    cut = replace(inspection, lengths=replace(inspection.lengths, cut=3))
    page = dry_run_page(both, replace(prepare(both), inspections={"date-format": cut}), 100.0)
    # Two stages, and the trained task once more after the second one.
    assert tables(page)[-1].rows[2][1] == f"{3 * 4} rows, each answered and scored"
    cut_inputs = "date-format: cut in the middle, as longer than max_length: 3 training inputs;"
    assert cut_inputs in " ".join(printed(page).split())


def test_a_run_shows_its_data_if_that_was_recorded() -> None:
    page = results_page([write_run(Path("a"))])
    assert all(one.title != "Data" for one in page.sections)
    overlapping = replace(inspect_rows(toy_task("alpha"), range(4)), overlap=3)
    write_json(Path("a/data.json"), {"tasks": [overlapping.to_json()]})
    page = results_page([read_run(Path("a"))])
    assert rows(tables(page, "Data")[0])[0][:5] == ["alpha", "16", "8", "0", "3"]
    assert "3 of 8 test rows have inputs that are also trained on" in notes(page, "Data")
