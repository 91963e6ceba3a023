"""Reports against results.json, a slow bootstrap, a Markdown parser that is not ours, and hostile texts."""

import html
import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markdown_it import MarkdownIt
from rich.console import Console

import sapo
from sapo.core.errors import DataError, RecordError
from sapo.core.progress import Silent
from sapo.core.storage import write_json
from sapo.core.types import CandidateLoss, Example, Instruction, Losses, Rejection, Selection, Task
from sapo.core.untrusted import plain
from sapo.integrations.testing import tiny_model, tiny_tokenizer, toy_task
from sapo.models.answers import Evaluation
from sapo.models.render import Renderer
from sapo.report.compare import comparison_page
from sapo.report.differences import Verdict, differences, verdict
from sapo.report.forecast import dry_run_page, print_dry_run
from sapo.report.markdown import to_markdown
from sapo.report.numbers import duration, interval, number, tokens
from sapo.report.prompt import print_prompt, prompt_text, token_texts
from sapo.report.publish import print_report, print_run
from sapo.report.run import run_page
from sapo.report.runs import Run, read_run, shared_prompts
from sapo.report.selections import finding, print_selection, ranking, selection_page
from sapo.report.tables import Cell, Column, Command, Listing, Note, Page, Section, Style, Table, cells, one_line
from sapo.report.tasks import print_task, print_tasks
from sapo.report.terminal import show
from sapo.runs.config.loading import make_config
from sapo.runs.config.schema import Config
from sapo.runs.forecast import Forecast, estimate
from sapo.runs.metrics import METRICS
from sapo.runs.prepare import set_up
from sapo.runs.results import Prompt, tabulate
from sapo.selection.scoring import score_candidates
from sapo.selection.settings import SelectionSettings
from sapo.tasks.inspection import inspect_rows

TASKS = ("alpha", "beta", "gamma")
ROWS = 12
HOSTILE = (
    "[bold red]x[/] | `c` ``` <script>alert(1)</script> **b** _i_ [l](http://e) \\| &lt; $m$ # h\n"
    "```\n| a | b |\x1b[31m\u202e"
)
ESCAPED = HOSTILE.replace("\x1b", "\\x1b").replace("\u202e", "\\u202e")
Printer = Callable[[Console], None]


def printed(printer: Printer, width: int = 80, *, terminal: bool = False) -> str:
    """What a function prints to a pipe, or to a terminal with colours."""
    file = io.StringIO()
    color = "standard" if terminal else None
    printer(Console(file=file, width=width, force_terminal=terminal, color_system=color))  # type: ignore[arg-type]
    return file.getvalue()


def showing(page: Page) -> Printer:
    return lambda console: show(console, page)


def task_of(name: str, metric: str = "exact_match") -> Task:
    return replace(toy_task(name), metric=metric)


def make_selection(
    losses: Sequence[float], intervals: Sequence[tuple[float, float] | None], **changes: Any
) -> Selection:
    """A selection whose candidates have the given losses; the first is the original."""
    chosen = changes.pop("chosen", int(np.argmin(losses)))
    texts = changes.pop("texts", ["the original", *(f"paraphrase {i}" for i in range(1, len(losses)))])
    selection = Selection(
        task="alpha", rule="lowest", sample="stratified", rows=(0, 1), chosen=chosen, tolerance=1e-5, rejected=(),
        seconds=3.21, tokens=640, route="plain",
        candidates=tuple(
            CandidateLoss(
                Instruction(text, "file" if i else "original"),
                Losses(np.full(2, loss), np.ones(2, dtype=np.int64), np.zeros(2, dtype=np.int64)),
                float(loss), loss - losses[0], bounds, "chosen" if i == chosen else "scored",
            )
            for i, (text, loss, bounds) in enumerate(zip(texts, losses, intervals, strict=True))
        ),
    )  # fmt: skip
    return replace(selection, **changes)


def write_run(
    directory: Path,
    *,
    seed: int = 42,
    names: Sequence[str] = TASKS,
    prompts: Sequence[Prompt] = ("selected", "original"),
    watch: Sequence[str] = ("other",),
    policy: str = "sapo",
    texts: Sequence[str] | None = None,
    better: float = 0.0,
    rows: int = ROWS,
    data: str = "rows",
    tokens: int = 3,
    metric: str = "exact_match",
) -> Run:
    """Write a run directory with random cells; a larger ``better`` lifts scores and lowers losses."""
    random = np.random.default_rng(seed)
    tasks = [task_of(name, metric) for name in names]
    watched = [task_of(name, metric) for name in watch]
    texts = texts or [f"a paraphrase for {name}" for name in names]
    if policy == "original":
        texts = [task.instruction for task in tasks]
    selected = dict(zip(names, texts, strict=True))
    hardness = {task.name: np.random.default_rng(len(task.name)).uniform(0, 60, rows) for task in (*tasks, *watched)}
    table: dict[tuple[int, str, Prompt], Evaluation] = {}
    for i in range(len(tasks) + 1):
        for task in (*tasks, *watched):
            seen = task.name in names[:i]
            same = not seen or selected[task.name] == task.instruction
            for prompt in prompts:
                score = np.clip(hardness[task.name] + better * i + random.uniform(0, 40, rows), 0, 100)
                count = np.full(rows, tokens) + np.arange(rows) % 2
                cell = Evaluation(
                    ("answer",) * rows,
                    dict.fromkeys(("exact_match", "rouge_l", "list_f1"), score),
                    Losses((5 - score / 30) * count, count, np.zeros(rows, dtype=np.int64)),
                )
                if same and prompt != prompts[0]:
                    cell = table[i, task.name, prompts[0]]
                table[i, task.name, prompt] = cell
                value = {
                    "instruction": "", "predictions": list(cell.predictions), "answers": ["a"] * rows,
                    "scores": {name: x.tolist() for name, x in cell.scores.items()},
                    "losses": cell.losses.to_json(), "seconds": 1.0,
                }  # fmt: skip
                name = f"{task.name}.{'original' if same else prompt}.json"
                inputs = {"data": f"{data} of {task.name}"}
                write_json(directory / "cells" / str(i) / name, {"inputs": inputs, "value": value})
    config = make_config(
        {"sequence": list(names), "watch": list(watch), "policy": policy, "seed": seed, "run_dir": str(directory)}
        | {"evaluate": {"test_prompt": "both" if len(prompts) > 1 else prompts[0]}}
    )
    scored = policy in ("sapo", "highest", "median")
    for n, (task, text) in enumerate(zip(tasks, texts, strict=True), start=1):
        if scored:
            selection = make_selection(
                [2.0, 1.5, 2.5],
                [None, (-0.75, -0.25), (0.1, 0.9)],
                texts=[task.instruction, text, "third"],
                task=task.name,
            )
            write_json(
                directory / "selections" / f"{n}-{task.name}.json",
                {"inputs": {}, "value": selection.to_json()},
            )
    tables = tabulate(table, tasks, watched, prompts, seed)
    results = {
        "tasks": list(names),
        "primary_metric": metric,
        "primary_metrics": {task.name: metric for task in (*tasks, *watched)},
        "test_prompt": prompts[0],
        **tables,
        "instructions": {
            task.name: {
                "text": text, "origin": "file", "original": task.instruction, "suffix": task.suffix,
                "losses": {text: 1.5} if scored else None,
            }
            for task, text in zip(tasks, texts, strict=True)
        },
        "test_data": {name: f"{data} of {name}" for name in names},
        "test_rows": dict.fromkeys(names, rows),
        "config": config.plain(),
        "seconds": {"scoring": 5.0, "training": 61.0, "evaluating": 7500.0, "total": 7566.0},
    }  # fmt: skip
    write_json(directory / "results.json", results)
    (directory / "config.yaml").write_text("seed: 1\n")
    (directory / "stages" / f"{len(names)}-{names[-1]}").mkdir(parents=True, exist_ok=True)
    write_json(directory / "environment.json", {"versions": {"torch": "2.9", "sapo-llm": None}})
    return read_run(directory)


@pytest.fixture(autouse=True)
def _short_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Paths are printed whole; the ones of temporary directories are wider than a terminal.
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The configuration of a real run of one task, finished."""
    base = tmp_path_factory.mktemp("real")
    tiny_model().save_pretrained(base / "tiny")
    tiny_tokenizer().save_pretrained(base / "tiny")
    config = make_config(
        {
            "model": str(base / "tiny"), "sequence": ["date-format"], "run_dir": str(base / "run"),
            "candidates": {"count": 2}, "selection": {"examples": 4}, "max_length": 450,
            "train": {"rows": 8, "epochs": 1, "batch_size": 8}, "evaluate": {"rows": 4, "max_new_tokens": 4},
        }
    )  # fmt: skip
    sapo.run(config)
    return config


def tables(page: Page) -> list[Table]:
    return [block for section in page.sections for block in section.blocks if isinstance(block, Table)]


def table(page: Page, title: str) -> Table:
    return next(t for t in tables(page) if t.title.startswith(title))


def texts(row: Sequence[Cell]) -> list[str]:
    return [cell.text for cell in row]


# Numbers


@pytest.mark.parametrize(
    ("value", "decimals", "sign", "text"),
    [
        (61.24, 1, False, "61.2"),
        (0.0, 1, True, "0.0"),
        (-0.00004, 3, True, "0.000"),
        (0.0336, 3, True, "+0.034"),
        (-1.5, 1, True, "-1.5"),
        (None, 1, True, "–"),
    ],
)
def test_numbers_show_their_sign_and_no_negative_zero(
    value: float | None, decimals: int, sign: bool, text: str
) -> None:
    assert number(value, decimals, sign=sign) == text


def test_intervals_durations_and_token_counts() -> None:
    assert interval((-0.5, 1.25), 2, sign=True) == "[-0.50, +1.25]"
    assert interval(None, 2) == "–"
    assert [duration(s) for s in (0.04, 9.96, 119, 120, 7199, 7500)] == [
        "0.0 s", "10 s", "119 s", "2 min", "2 h 00 min", "2 h 05 min",
    ]  # fmt: skip
    assert [tokens(n) for n in (12, 25_400, 3_210_000)] == ["12", "25 thousand", "3.2 million"]


@pytest.mark.parametrize("prompt", ["selected", "original"])
@pytest.mark.parametrize(("measure", "title", "decimals"), [("primary", "Score (", 1), ("nll", "NLL of", 3)])
def test_matrices_equal_results_json(measure: str, title: str, decimals: int, prompt: str) -> None:
    run = write_run(Path("a"))
    matrix = json.loads(Path("a/results.json").read_text())["matrices"][measure][prompt]
    shown = next(
        t for t in tables(run_page(run)) if t.title.startswith(title) and t.title.endswith(f"prompt: {prompt}")
    )
    assert [row[0].text for row in shown.rows] == ["zero-shot", "after 1 alpha", "after 2 beta", "after 3 gamma"]
    for i, row in enumerate(shown.rows):
        for j, cell in enumerate(row[1:], start=1):
            value = f"{matrix[i][j - 1]:.{decimals}f}"
            expected: tuple[str, Style] = (
                (f"{value}*", "strong") if i == j else (f"({value})", "dim") if i < j else (f"{value} ", "")
            )
            assert (cell.text, cell.style) == expected


def test_metrics_equal_results_json_in_terminal_and_markdown() -> None:
    run = write_run(Path("a"))
    data = json.loads(Path("a/results.json").read_text())["metrics_all"]
    rows = table(run_page(run), "Metrics").rows
    text, markdown = printed(lambda c: print_run(c, Path("a"))), Path("a/report.md").read_text().replace("\\", "")
    assert len(rows) == 2 * len(METRICS)
    for n, metric in enumerate(METRICS):
        for k, prompt in enumerate(("selected", "original")):
            shown = texts(rows[2 * n + k])
            assert shown[0] == ("" if k else metric.title) and shown[1] == prompt
            expected = []
            for measure, decimals in (("primary", 1), ("nll", 3)):
                found = data[measure][prompt][metric.name]
                sign = "" if metric.name in ("ap", "la") else "+"
                low, high = found["interval"]
                expected += [
                    f"{found['value']:{sign}.{decimals}f}",
                    f"[{low:{sign}.{decimals}f}, {high:{sign}.{decimals}f}]",
                ]
            assert shown[2:] == expected
            for value in expected:
                assert value in text and value in markdown


def test_watch_tasks_show_their_change_from_the_start() -> None:
    run = write_run(Path("a"))
    watch = json.loads(Path("a/results.json").read_text())["watch"]["other"]
    rows = next(s for s in run_page(run).sections if s.title.startswith("Watch")).blocks[0]
    assert isinstance(rows, Table)
    scores, losses = watch["primary"]["selected"], watch["nll"]["selected"]
    assert texts(rows.rows[0]) == ["other", "zero-shot", f"{scores[0]:.1f}", "", f"{losses[0]:.3f}", ""]
    for i in (1, 2, 3):
        assert texts(rows.rows[i])[2:] == [
            f"{scores[i]:.1f}", f"{scores[i] - scores[0]:+.1f}", f"{losses[i]:.3f}", f"{losses[i] - losses[0]:+.3f}",
        ]  # fmt: skip


def test_one_task_is_reported_as_before_and_after_with_the_change_paired() -> None:
    run = write_run(Path("a"), names=("alpha",), prompts=("selected",), better=20)
    page = run_page(run)
    rows = table(page, "Before and after").rows
    (before,), (after,) = run.data["matrices"]["primary"]["selected"]
    assert texts(rows[0])[1:4] == [f"{before:.1f}", f"{after:.1f}", f"{after - before:+.1f}"]
    scores, _ = run.test_rows("primary", "selected")
    change = scores[1][0] - scores[0][0]
    counts = np.random.default_rng([42, 0]).multinomial(ROWS, np.full(ROWS, 1 / ROWS), size=2000)
    low, high = np.quantile([float((c * change).sum() / ROWS) for c in counts], [0.025, 0.975])
    assert rows[0][4].text == f"[{low:+.1f}, {high:+.1f}]"
    assert "BWT" not in printed(showing(page))


# Candidates


def test_candidates_are_ranked_by_loss_and_marked() -> None:
    selection = make_selection([2.0, 1.5, 2.5, 1.75], [None, (-0.6, -0.4), (0.25, 0.75), (-0.5, 0.0)])
    rows = [texts(row) for row in ranking(selection, "paraphrase 1", "chosen").rows]
    assert rows == [
        ["1", "1.5000", "-0.5000", "[-0.6000, -0.4000]", "chosen", "paraphrase 1"],
        ["2", "1.7500", "-0.2500", "[-0.5000, 0.0000]", "", "paraphrase 3"],
        ["3", "2.0000", "–", "–", "original", "the original"],
        ["4", "2.5000", "+0.5000", "[+0.2500, +0.7500]", "", "paraphrase 2"],
    ]


@pytest.mark.parametrize(
    ("losses", "intervals", "chosen", "sentence"),
    [
        ([2, 1.5], [None, (-0.6, -0.4)], 1, "is clearly better than the original: its interval lies below 0"),
        ([2, 1.5], [None, (-1.1, 0.1)], 1, "no candidate is clearly better than the original"),
        ([2, 1.5], [None, (-1.0, 0.0)], 1, "no candidate is clearly better than the original"),
        ([2, 1.5, 1.6], [None, (-1.1, 0.1), (-0.5, -0.3)], 1, "1 other(s) with a higher loss are clearly better"),
        ([2, 2.5], [None, (0.4, 0.6)], 0, "The original stays: no candidate is clearly better"),
        ([2, 2 - 1e-6], [None, (-2e-6, -1e-7)], 0, "differs by no more than counts as a tie"),
        ([2, 1.5], [None, None], 1, "has no interval"),
    ],
)
def test_the_finding_says_whether_the_winner_is_clear(
    losses: list[float], intervals: list[Any], chosen: int, sentence: str
) -> None:
    assert sentence in finding(make_selection(losses, intervals, chosen=chosen))


def test_a_selection_is_printed_with_its_caveats() -> None:
    rejected = (
        Rejection("", "empty"),
        Rejection("Reply.", "lacks the label 'yes' that the original instruction names"),
    )
    selection = make_selection([2.0, 1.5], [None, (-1.1, 0.1)], rejected=rejected)
    text = " ".join(printed(lambda c: print_selection(c, selection)).split())
    for part in (
        "intervals hold for all candidates together and for the model as it is now",
        "gain is optimistic",
        "no candidate is clearly better than the original",
        "empty (nothing)",
        "lacks the label 'yes'",
        "in 3.2 s",
        "route of computation: plain",
        "1e-05",
        "From: file. In full: paraphrase 1",
        "sapo run CONFIG.yaml --dry-run",
    ):
        assert part in text, part


def test_the_control_policies_do_not_claim_the_lowest_was_taken() -> None:
    text = " ".join(
        printed(lambda c: show(c, run_page(write_run(Path("a"), policy="highest", texts=["third"] * 3)))).split()
    )
    assert "lowest, which this policy does not take" in text
    assert "trained third" in text


# Comparison


@pytest.mark.parametrize(
    ("bounds", "better", "expected"),
    [
        ((0.1, 0.2), "higher", "better"),
        ((0.1, 0.2), "lower", "worse"),
        ((-0.2, -0.1), "higher", "worse"),
        ((-0.2, -0.1), "lower", "better"),
        ((-0.1, 0.2), "higher", "too small to decide"),
        ((-0.1, 0.2), "lower", "too small to decide"),
        ((0.0, 0.2), "higher", "too small to decide"),
        ((-0.2, 0.0), "lower", "too small to decide"),
        ((0.0, 0.0), "higher", "too small to decide"),
    ],
)
def test_a_verdict_needs_an_interval_without_zero(bounds: tuple[float, float], better: Any, expected: Verdict) -> None:
    assert verdict(bounds, better) == expected


@pytest.mark.parametrize("measure", ["primary", "nll"])
def test_paired_differences_equal_a_slow_loop(measure: str) -> None:
    first, other = write_run(Path("a"), seed=7), write_run(Path("b"), seed=8, better=3)
    found = differences(first, other, measure, "selected")
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
        point = (
            other.metrics(measure, "selected")[metric]["value"] - first.metrics(measure, "selected")[metric]["value"]
        )
        assert found[metric].value == pytest.approx(point)


def raw_rows(directory: Path, measure: str) -> list[list[tuple[list[float], list[float]]]]:
    """Numerators and denominators of the test rows of each cell, straight from the files."""
    found = []
    for i in range(4):
        stage = []
        for j, name in enumerate(TASKS):
            prompt = "selected" if j < i else "original"
            value = json.loads((directory / "cells" / str(i) / f"{name}.{prompt}.json").read_text())["value"]
            losses, scores = value["losses"], value["scores"]["exact_match"]
            stage.append((losses["nll"], losses["tokens"]) if measure == "nll" else (scores, [1.0] * len(scores)))
        found.append(stage)
    return found


def test_verdicts_respect_the_direction_of_every_metric() -> None:
    first, other = write_run(Path("a")), write_run(Path("b"), better=25)
    score, loss = (differences(first, other, measure, "selected") for measure in ("primary", "nll"))
    # Every stage adds 25 points: the end is better, later training helps, and nothing is forgotten.
    for metric, sign in (("ap", 1), ("bwt_final", 1), ("fwt_all_stages", 1), ("forgetting_max", -1)):
        assert score[metric].value * sign > 0 and score[metric].verdict == "better"
    for metric in ("ap", "bwt_final", "fwt_all_stages", "forgetting_max"):
        assert loss[metric].value < 0 and loss[metric].verdict == "better"
    back = differences(other, first, "nll", "selected")
    assert {back[m].verdict for m in ("ap", "bwt_final", "forgetting_max")} == {"worse"}


def test_a_run_compared_with_itself_is_undecided() -> None:
    run = write_run(Path("a"))
    assert {d.verdict for d in differences(run, run, "primary", "selected").values()} == {"too small to decide"}


@pytest.mark.parametrize(
    ("changes", "measure", "expected"),
    [
        ({"data": "other rows"}, "primary", "not paired"),
        ({"data": "other rows", "rows": 5}, "nll", "not paired"),
        ({"tokens": 4}, "nll", "not comparable"),
        ({"metric": "rouge_l"}, "primary", "not comparable"),
    ],
)
def test_runs_that_cannot_be_paired_get_no_interval(changes: dict[str, Any], measure: str, expected: Verdict) -> None:
    first, other = write_run(Path("a")), write_run(Path("b"), better=25, **changes)
    found = differences(first, other, measure, "selected")
    assert {d.verdict for d in found.values()} == {expected}
    assert all(d.interval is None for d in found.values())
    assert f"{expected}: the runs" in " ".join(printed(lambda c: print_report(c, [Path("a"), Path("b")])).split())


def test_the_comparison_shows_every_run_its_difference_and_the_caveat() -> None:
    runs = [write_run(Path("a")), write_run(Path("b"), policy="original", better=25), write_run(Path("c"), seed=1)]
    text = printed(lambda c: print_report(c, [Path("a"), Path("b"), Path("c")]), 120)
    rows = table(comparison_page(runs), "Score (exact_match, 0 to 100; higher is better), test prompt: selected").rows
    assert [row[1].text for row in rows[:3]] == ["A", "B", "C"]
    metrics = next(t for t in tables(comparison_page(runs)) if t.columns[-1].title == "verdict")
    found = differences(runs[0], runs[1], "primary", "selected")["ap"]
    assert found.interval is not None
    assert texts(metrics.rows[1])[4:] == [
        f"{found.value:+.1f}", f"[{found.interval[0]:+.1f}, {found.interval[1]:+.1f}]", found.verdict,
    ]  # fmt: skip
    assert metrics.rows[1][-1].style == "good"
    assert texts(metrics.rows[0])[4:] == ["", "", ""]
    assert re.search(r"policy +sapo +original +sapo", text)
    assert not re.search(r"^method ", text, re.MULTILINE)
    assert "say nothing of other seeds" in " ".join(text.split())
    assert text.rstrip().endswith("a/comparison.md")
    assert "B against A" in Path("a/comparison.md").read_text()


def test_a_baseline_tested_with_originals_only_can_be_compared() -> None:
    sapo_run = write_run(Path("a"), prompts=("selected",))
    baseline = write_run(Path("b"), policy="original", prompts=("original",))
    assert shared_prompts([sapo_run, baseline]) == ("selected",)
    assert baseline.matrix("primary", "selected") == baseline.data["matrices"]["primary"]["original"]
    with pytest.raises(RecordError, match=r"different prompts \(a: selected; c: original\)"):
        shared_prompts([sapo_run, write_run(Path("c"), prompts=("original",))])


def test_originals_are_shown_once_where_both_prompts_are_the_same() -> None:
    titles = [t.title for t in tables(run_page(write_run(Path("a"), policy="original")))]
    assert sum(title.startswith("Score (") for title in titles) == 1


# Errors


def test_a_directory_that_is_no_finished_run_says_what_it_is() -> None:
    with pytest.raises(RecordError, match="nowhere is not a directory"):
        read_run(Path("nowhere"))
    Path("empty").mkdir()
    with pytest.raises(RecordError, match="empty is not a run directory"):
        read_run(Path("empty"))
    (Path("empty") / "config.yaml").write_text("seed: 1\n")
    with pytest.raises(RecordError, match=r"unfinished run .* it goes on from there"):
        print_report(Console(file=io.StringIO()), [Path("empty")])


def test_runs_of_other_tasks_are_refused_with_both_named() -> None:
    write_run(Path("a"))
    write_run(Path("b"), names=("alpha", "gamma", "beta"))
    with pytest.raises(RecordError, match="a has the tasks alpha, beta, gamma, but b has alpha, gamma, beta"):
        print_report(Console(file=io.StringIO()), [Path("a"), Path("b")])


def test_a_damaged_or_incomplete_run_is_an_error_that_says_so() -> None:
    write_run(Path("a"))
    (Path("a") / "cells" / "0" / "alpha.original.json").unlink()
    with pytest.raises(RecordError, match=r"alpha\.original\.json is missing"):
        run_page(read_run(Path("a")))
    write_json(Path("a/results.json"), {"tasks": []})
    with pytest.raises(RecordError, match=r"damaged, or .*\(primary_metrics: Field required\)"):
        read_run(Path("a"))


# Hostile texts


def hostile_page() -> Page:
    table_of_it = Table(HOSTILE, (Column(HOSTILE, numeric=False), Column("number")), (cells(HOSTILE, "1"),), (HOSTILE,))
    blocks = (table_of_it, Note(HOSTILE), Listing(HOSTILE, HOSTILE), Command(("sapo", HOSTILE), HOSTILE))
    return Page(HOSTILE, (Section(HOSTILE, blocks),))


def test_hostile_texts_are_no_markup_in_a_terminal() -> None:
    for terminal in (False, True):
        text = printed(showing(hostile_page()), 400, terminal=terminal)
        bare = re.sub(r"\x1b\[[\d;]*m", "", text)
        assert "\x1b" not in bare and "\u202e" not in bare
        assert bare.count("[bold red]x[/] | `c`") == 11
        assert "\\x1b[31m\\u202e" in bare
        # Colour codes that the text asked for would be red, which nothing here is.
        assert not re.search(r"\x1b\[[\d;]*31m", text)


def test_hostile_texts_are_no_markup_in_markdown() -> None:
    markdown = to_markdown(hostile_page())
    rendered = MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown)
    assert "<script" not in rendered and "<a " not in rendered and "\x1b" not in markdown
    assert rendered.count("<em>") == rendered.count("<strong>") == 0
    assert rendered.count("<table>") == 1 and rendered.count("<tr>") == 2
    line = one_line(ESCAPED)
    found = [
        re.sub(r"<br ?/?>", "\n", cell) for cell in re.findall(r"<t[hd](?: [^>]*)?>(.*?)</t[hd]>", rendered, re.DOTALL)
    ]
    assert [html.unescape(cell) for cell in found] == [
        line,
        "number",
        "\n".join(map(one_line, ESCAPED.split("\n"))),
        "1",
    ]
    blocks = [html.unescape(block) for block in re.findall(r"<code[^>]*>(.*?)</code>", rendered, re.DOTALL)]
    assert blocks[0] == f"{ESCAPED}\n" and len(blocks) == 2 and ESCAPED in blocks[1]
    paragraphs = [
        html.unescape(text) for text in re.findall(r"<(?:p|li|h\d)>(.*?)</(?:p|li|h\d)>", rendered, re.DOTALL)
    ]
    assert paragraphs == [line] * 7


@pytest.mark.parametrize(
    "text", ["# no heading", "1. no list", "- no list", "> no quote", "===", "    no code", "+ no"]
)
def test_a_paragraph_cannot_become_another_block(text: str) -> None:
    page = Page("t", (Section("s", (Note(text),)),))
    rendered = MarkdownIt("commonmark").render(to_markdown(page))
    assert html.unescape(re.findall(r"<p>(.*?)</p>", rendered, re.DOTALL)[0]) == text.strip()


@pytest.mark.parametrize("fence", ["```", "`````", "~~~"])
def test_a_listing_cannot_end_its_fence(fence: str) -> None:
    text = f"before\n{fence}\n<script>\n{fence}"
    rendered = MarkdownIt("commonmark").render(to_markdown(Page("t", (Section("s", (Listing("l", text),)),))))
    assert html.unescape(re.findall(r"<code[^>]*>(.*?)</code>", rendered, re.DOTALL)[0]) == f"{text}\n"


def test_hostile_instructions_survive_a_whole_run_report() -> None:
    texts_of = [f"{HOSTILE} {n}" for n in range(3)]
    write_run(Path("a"), texts=texts_of)
    write_run(Path("b"), texts=texts_of, seed=1)
    text = printed(lambda c: print_run(c, Path("a")), 200) + printed(
        lambda c: print_report(c, [Path("a"), Path("b")]), 200
    )
    assert "\x1b" not in text and "[bold red]x[/] | `c`" in text
    for file in ("report.md", "comparison.md"):
        rendered = MarkdownIt("commonmark", {"html": True}).enable("table").render((Path("a") / file).read_text())
        assert "<script" not in rendered and "&lt;script&gt;" in rendered


def test_control_characters_are_spelled_out_and_line_breaks_kept() -> None:
    assert plain("a\r\nb\tc\rd\x00\x9b\ud800é北\u2028") == "a\nb\tc\\rd\\x00\\x9b\\ud800é北\\u2028"
    assert one_line("a  b\n c", 4) == "a..." and one_line("abcd", 4) == "abcd"


# Width and colour


def everything(real: Config) -> dict[str, Printer]:
    """Every kind of page."""
    write_run(Path("a"))
    write_run(Path("b"), policy="original", better=20)
    write_run(Path("one"), names=("alpha",))
    selection = make_selection(
        [12.0, 11.5], [None, (-10.123, -0.25)], rejected=(Rejection("x", "empty"),), texts=["word " * 30, "north " * 30]
    )
    renderer = Renderer(tiny_tokenizer(), 512)
    encoded = renderer.encode("Say it. " * 20, "", [Example("x", "yes")])[0]
    forecast = estimate(real, Silent())
    return {
        "run": lambda c: print_run(c, Path("a")),
        "one task": lambda c: print_report(c, [Path("one")]),
        "comparison": lambda c: print_report(c, [Path("a"), Path("b"), Path("a")]),
        "selection": lambda c: print_selection(c, selection),
        "tasks": lambda c: print_tasks(c, None),
        "task": lambda c: print_task(c, toy_task()),
        "prompt": lambda c: print_prompt(c, renderer, encoded),
        "dry run": lambda c: print_dry_run(c, real.model_copy(update={"run_dir": Path("there")}), short(forecast)),
    }


def short(forecast: Forecast) -> Forecast:
    """The forecast with the model called by a name instead of a long temporary path."""
    return replace(forecast, setup=replace(forecast.setup, loaded=replace(forecast.setup.loaded, name="tiny")))


def test_every_page_fits_80_columns_and_a_pipe(real: Config) -> None:
    for name, printer in everything(real).items():
        text = printed(printer)
        assert "\x1b" not in text, name
        assert max(map(len, text.split("\n"))) <= 80, name
        assert "…" not in text, name
        assert "\x1b" in printed(printer, terminal=True), name


@pytest.mark.parametrize("width", [36, 60, 80])
def test_a_wide_matrix_is_split_and_no_number_cut(width: int) -> None:
    names = [f"task{n}_with_quite_a_long_name" for n in range(1, 16)]
    values = [[f"{100 * i + j}.25" for j in range(15)] for i in range(4)]
    columns = (Column("stage", numeric=False), *(Column(name, short=str(n)) for n, name in enumerate(names, start=1)))
    rows = tuple(cells(f"after {names[i]}", *row) for i, row in enumerate(values))
    text = printed(showing(Page("p", (Section("s", (Table("", columns, rows),)),))), width)
    assert max(map(len, text.split("\n"))) <= width
    assert text.split("\n")[3].split()[0] == "stage"
    for row in values:
        for value in row:
            assert value in text.split(), value


def test_a_command_is_continued_between_words_only() -> None:
    command = Command(("sapo", "generate", "dir with blanks/" + "x" * 40, "--input", "YOUR TEXT"), "Ask:")
    text = printed(showing(Page("p", (Section("s", (command,)),))), 60)
    lines = text.split("Ask:\n")[1].rstrip("\n").split("\n")
    assert all(line.endswith(" \\") for line in lines[:-1]) and len(lines) > 1
    joined = " ".join(line.removesuffix("\\").strip() for line in lines)
    assert joined == f"sapo generate 'dir with blanks/{'x' * 40}' --input 'YOUR TEXT'"


# Tasks, prompts, dry runs and a real run


def test_tasks_and_sequences_are_listed() -> None:
    text = printed(lambda c: print_tasks(c, None), 160)
    assert re.search(r"review-sentiment +400 +100 +100 +exact_match +positive, negative +Decide whether", text)
    assert re.search(r"demo +ready +review-sentiment, date-format, odd-one-out", text)
    assert re.search(r"trace +needs data_dir +C-STANCE", text)


def test_the_tasks_of_a_directory_are_listed_also_a_broken_one() -> None:
    entry = {"instruction": "Judge [b]it[/b].", "suffix": "", "labels": ["a", "b"]}
    write_json(Path("d/instructions.json"), {"FOMC": entry, "broken": entry})
    for split in ("train", "test"):
        write_json(Path(f"d/FOMC/{split}.json"), [{"sentence": "x", "label": "a"}])
    text = printed(lambda c: print_tasks(c, Path("d")), 200)
    assert re.search(r"FOMC +1 +0 +1 +rouge_l +a, b +Judge \[b\]it\[/b\]\.", text)
    assert re.search(r"broken .*cannot be used: d/broken/train\.json", text)
    assert re.search(r"trace +5 missing", text)
    assert "sapo tasks FOMC --data-dir d" in text
    with pytest.raises(DataError, match="no instructions"):
        print_tasks(Console(file=io.StringIO()), Path("nowhere"))


def test_a_task_is_shown_with_its_texts_rows_and_an_example() -> None:
    task = toy_task()
    text = printed(lambda c: print_task(c, task))
    for part in (
        task.instruction,
        task.suffix,
        "yes, no",
        "exact_match",
        "train 16, dev 8, test 8",
        task.train[0].input,
    ):
        assert part in text


def test_the_prompt_marks_every_supervised_token() -> None:
    renderer = Renderer(tiny_tokenizer(), 512)
    encoded = renderer.encode("Say [bold]北京[/bold] naïve.", "End.", [Example("some input", "ok é")])[0]
    text = printed(lambda c: print_prompt(c, renderer, encoded))
    assert "<|im_start|>user\nSay [bold]北京[/bold] naïve.\n\nText:\nsome input\n\nEnd.<|im_end|>\n" in text
    assert "assistant\n[o][k][ ][é]x2[<|im_end|>][\\n]\n" in text
    assert f"{encoded.prompt_length} prompt tokens, {encoded.supervised} supervised tokens" in " ".join(text.split())
    supervised = list(token_texts(renderer, encoded.ids[encoded.prompt_length :]))
    assert sum(count for _, count in supervised) == encoded.supervised
    assert prompt_text(renderer, encoded.prompt).startswith("<|im_start|>user\nSay")


def test_the_prompt_tells_what_was_cut() -> None:
    renderer = Renderer(tiny_tokenizer(), 100)
    encoded = renderer.encode("Say.", "", [Example("long " * 50, "yes")])[0]
    assert f"{encoded.cut} characters of the input's middle were cut" in printed(
        lambda c: print_prompt(c, renderer, encoded)
    )


def test_a_dry_run_adds_up_to_the_plan(real: Config) -> None:
    forecast = replace(estimate(real, Silent()), tokens_per_second=100.0)
    page = dry_run_page(real, forecast)
    tasks_table, data_table, *_, work = tables(page)
    # Of 20 built-in paraphrases two are kept.
    assert texts(tasks_table.rows[0]) == ["1 date-format", "8", "4", "4", "3", "0"]
    assert texts(data_table.rows[0])[:3] == ["date-format", "8", "4"]
    plan = forecast.setup.plan
    assert work.rows[-1][-1].text == duration(plan.cost / 100)
    assert work.rows[0][1].text == "12 row x candidate"
    assert work.rows[1][1].text == "1 updates"
    assert work.rows[2][1].text == "16 rows, answered and scored"
    text = " ".join(printed(showing(page)).split())
    assert (
        "nothing was written" in text and "measured 100 tokens/s on a few rows" in text and "without --dry-run" in text
    )


def test_a_dry_run_counts_the_second_test_prompt_and_names_cut_inputs(real: Config) -> None:
    config = real.model_copy(update={"evaluate": real.evaluate.model_copy(update={"test_prompt": "both"})})
    setup = set_up(config)
    inspection = setup.inspections["date-format"]
    assert inspection.lengths is not None
    inspection = replace(inspection, lengths=replace(inspection.lengths, cut=3))
    page = dry_run_page(config, Forecast(replace(setup, inspections={"date-format": inspection}), 100.0))
    # Two stages, and the trained task once more after the second one.
    assert tables(page)[-1].rows[2][1].text == f"{3 * 8} rows, answered and scored"
    assert "date-format: cut in the middle, as longer than max_length: 3 training inputs;" in " ".join(
        printed(showing(page)).split()
    )


def test_a_run_shows_its_data_if_that_was_recorded() -> None:
    run = write_run(Path("a"))
    assert all(section.title != "Data" for section in run_page(run).sections)
    overlapping = replace(inspect_rows(toy_task("alpha"), range(4)), overlap=3)
    write_json(Path("a/data.json"), {"tasks": [overlapping.to_json()]})
    text = " ".join(printed(lambda c: print_run(c, Path("a"))).split())
    assert "alpha 16 8 0 3 0.00 0" in text and "3 of 8 test rows have inputs that are also trained on" in text
    assert "## Data" in Path("a/report.md").read_text()


@pytest.mark.parametrize("content", ["{", "[]", '{"tasks": [{"task": "alpha"}]}', '{"tasks": 1}'])
def test_a_damaged_record_of_the_data_is_an_error_that_names_it(content: str) -> None:
    write_run(Path("a"))
    Path("a/data.json").write_text(content)
    with pytest.raises(RecordError, match=r"a/data\.json .*[Dd]elete"):
        print_run(Console(file=io.StringIO()), Path("a"))


def test_a_real_run_is_reported_with_the_numbers_it_recorded(real: Config) -> None:
    text = printed(lambda c: print_run(c, real.run_dir), 200)
    data = json.loads((real.run_dir / "results.json").read_text())
    (before,), (after,) = data["matrices"]["nll"]["selected"]
    assert f"{before:.3f}" in text and f"{after:.3f}" in text and f"{after - before:+.3f}" in text
    for loss in data["instructions"]["date-format"]["losses"].values():
        assert f"{loss:.4f}" in text
    assert f"sapo generate {real.run_dir}/stages/1-date-format --task date-format --input 'YOUR TEXT'" in text
    assert "Before and after training on date-format" in (real.run_dir / "report.md").read_text()


def test_a_real_selection_is_printed() -> None:
    task, tokenizer = toy_task(), tiny_tokenizer()
    kept = [Instruction(task.instruction, "original"), Instruction("yes or no?", "given")]
    selection = score_candidates(
        sapo.models.losses.Scorer(tiny_model()), Renderer(tokenizer, 512), task, kept, range(4),
        SelectionSettings(rule="lowest", sample="first", strategy="exhaustive", delta=0.05, epsilon=0.01),
    )  # fmt: skip
    page = selection_page(selection)
    assert [row[1].text for row in tables(page)[0].rows] == sorted(
        f"{c.losses.per_token:.4f}" for c in selection.candidates
    )
