"""Run directories and results made for tests of the report, and what its pages hold."""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from sapo.core.storage import write_json
from sapo.core.types import Instruction, Losses, Task
from sapo.integrations.testing import toy_task
from sapo.models.answers import Evaluation
from sapo.report.blocks import Listing, Note, Page, Section, Table
from sapo.report.page import results_page
from sapo.report.publish import print_report
from sapo.report.runs import Run, read_run
from sapo.report.terminal import show
from sapo.runs.config.loading import make_config
from sapo.runs.matrix import tabulate
from sapo.runs.metrics import METRICS
from sapo.runs.prompts import Prompt
from sapo.runs.results import RunResult
from sapo.selection.selection import CandidateLoss, Selection

TASKS = ("alpha", "beta", "gamma")
ROWS = 12
# What would break out of an element, an attribute, a style sheet, a table or a terminal.
HOSTILE = (
    "[bold red]x[/] | `c` *b* <script>window.hacked = 1</script></style><img src=x onerror='window.hacked=1'> "
    '" $x^2$ $\\frac{1$ {{ 7 * 7 }} {% raw %} <!-- ![i](http://evil.invalid) ~~s~~ \x1b[31m\x00\u202e'
)


def section(page: Page, title: str) -> Section:
    return next(one for one in page.sections if one.title.startswith(title))


def tables(page: Page, title: str = "") -> list[Table]:
    return [b for s in page.sections if s.title.startswith(title) for b in s.blocks if isinstance(b, Table)]


def table(page: Page, title: str) -> Table:
    return next(one for one in tables(page) if one.title.startswith(title))


def rows(table: Table) -> list[list[str]]:
    return [list(row) for row in table.rows]


def notes(page: Page, title: str) -> str:
    return " ".join(block.text for block in section(page, title).blocks if isinstance(block, Note))


def listing(page: Page, label: str) -> str:
    return next(b.text for s in page.sections for b in s.blocks if isinstance(b, Listing) and b.label == label)


def titles(page: Page) -> list[str]:
    return [one.title for one in page.sections]


def verdict(page: Page) -> str:
    return " ".join(note.text for note in page.verdict)


def on_console(printer: Callable[[Console], None], width: int = 100, *, terminal: bool = False) -> str:
    file = io.StringIO()
    printer(Console(file=file, width=width, force_terminal=terminal, color_system="standard" if terminal else None))
    return file.getvalue()


def printed(page: Page, width: int = 100, *, full: bool = True, terminal: bool = False) -> str:
    return on_console(lambda console: show(console, page, full=full), width, terminal=terminal)


def report(*paths: str | Path, html: str | None = None) -> str:
    """What is printed of runs, sweeps or studies on a wide terminal."""
    html_file = None if html is None else Path(html)
    return on_console(lambda console: print_report(console, [Path(path) for path in paths], html_file), 200)


def page_of(*blocks: Any) -> Page:
    return Page("p", (Section("s", blocks),))


def sweep_page(results: Sequence[RunResult]) -> Page:
    return results_page([Run(result) for result in results])


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
    directory: Path, *, seed: int = 42, names: Sequence[str] = TASKS,
    prompts: Sequence[Prompt] = ("own", "original"), watch: Sequence[str] = ("other",), policy: str = "sapo",
    texts: Sequence[str] | None = None, better: float = 0.0, rows: int = ROWS, data: str = "rows", tokens: int = 3,
    metric: str = "exact_match",
) -> Run:  # fmt: skip
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
                name = f"{task.name}.{'original' if same else prompt}.json"
                inputs = {"data": f"{data} of {task.name}"}
                write_json(directory / "cells" / str(i) / name, {"inputs": inputs, "value": cell.to_json()})
    config = make_config(
        {"sequence": list(names), "watch": list(watch), "policy": policy, "seed": seed, "run_dir": str(directory)}
        | {"evaluate": {"prompts": ["own", "original"] if len(prompts) > 1 else prompts[0]}}
    )
    scored = policy in ("sapo", "highest", "median")
    for n, (task, text) in enumerate(zip(tasks, texts, strict=True), start=1):
        if scored:
            bounds = [None, (-0.75, -0.25), (0.1, 0.9)]
            candidates = [task.instruction, text, "third"]
            selection = make_selection([2.0, 1.5, 2.5], bounds, texts=candidates, task=task.name)
            write_json(directory / "selections" / f"{n}-{task.name}.json", {"inputs": {}, "value": selection.to_json()})
    used = (
        {"text": text, "origin": "file", "original": task.instruction, "suffix": task.suffix,
         "losses": {task.instruction: 2.0, text: 1.5} if scored else None}
        for task, text in zip(tasks, texts, strict=True)
    )  # fmt: skip
    results = {
        "tasks": list(names), "primary_metrics": {task.name: metric for task in (*tasks, *watched)},
        "test_prompt": prompts[0], **tabulate(table, tasks, watched, prompts, seed),
        "instructions": dict(zip(names, used, strict=True)), "test_data": {name: f"{data} of {name}" for name in names},
        "test_rows": dict.fromkeys(names, rows), "config": config.plain(),
        "seconds": {"scoring": 5.0, "training": 61.0, "evaluating": 7500.0, "total": 7566.0},
    }  # fmt: skip
    write_json(directory / "results.json", results)
    (directory / "config.yaml").write_text("seed: 1\n")
    (directory / "stages" / f"{len(names)}-{names[-1]}").mkdir(parents=True, exist_ok=True)
    write_json(directory / "environment.json", {"versions": {"torch": "2.9", "sapo-llm": None}})
    return read_run(directory)


def record(
    method: str = "seq-lora", policy: str = "original", seed: int = 1, *, sequence: str = "demo",
    tasks: Sequence[str] = TASKS[:2], prompts: Sequence[str] = ("own", "original"),
    values: Mapping[str, float | None] = {"ap": 50.0}, last: Mapping[str, Sequence[float]] = {},
    metric: str = "exact_match", data: str = "rows", **changes: Any,
) -> RunResult:  # fmt: skip
    """A record whose metrics are given; the NLL ones are a hundredth. ``last``: final row of scores by prompt."""

    def estimate(name: str, scale: float) -> dict[str, Any]:
        value = values.get(name)
        known = None if value is None else value * scale
        bounds, reason = ([known - scale, known + scale], None) if known is not None else (None, "none")
        return {"value": known, "interval": bounds, "reason": reason}

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
