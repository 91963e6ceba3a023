"""The documentation: its code runs, what it names exists, its pages build without a network."""

import ast
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import typer.cli
import yaml
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from typer.testing import CliRunner

import sapo
from sapo.cli.app import app
from sapo.core.types import Task
from sapo.integrations.testing import tiny_model, tiny_tokenizer
from sapo.models.load import LoadedModel
from sapo.runs.config.loading import make_config
from sapo.runs.config.study import StudyConfig
from sapo.tasks.builtin import builtin_task

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = (*sorted(DOCS.glob("*.md")), ROOT / "README.md")
# One page for each kind of reader.
GUIDES = ("one-task.md", "sequence.md", "integrate.md", "methods.md", "check.md", "scale.md")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(page: Path, language: str) -> list[str]:
    return [body for name, body in _FENCE.findall(page.read_text(encoding="utf-8")) if name == language]


def rows(path: Path, pairs: list[tuple[str, str]]) -> None:
    path.write_text("".join(json.dumps({"input": i, "output": o}) + "\n" for i, o in pairs), encoding="utf-8")


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with the files that the guides speak of; models, built-in tasks and sets of candidates are tiny."""
    monkeypatch.chdir(tmp_path)
    good, bad = [f"I loved number {i}." for i in range(12)], [f"Never buy number {i}." for i in range(12)]
    rows(tmp_path / "reviews.jsonl", [(t, "positive") for t in good] + [(t, "negative") for t in bad])
    invoices, errors = [f"Invoice {i} is wrong." for i in range(12)], [f"Error {i} again." for i in range(12)]
    rows(tmp_path / "tickets.jsonl", [(t, "billing") for t in invoices] + [(t, "support") for t in errors])
    (tmp_path / "records.jsonl").write_bytes((ROOT / "results" / "seeds.jsonl").read_bytes())

    def tiny(name: str, *_: Any, **__: Any) -> LoadedModel:
        model = tiny_model(seed=2, context=1024)
        return LoadedModel(model, tiny_tokenizer(), name, ())

    def short(name: str) -> Task:
        task = builtin_task(name)
        return replace(task, train=task.train[:12], test=task.test[:4])

    monkeypatch.setattr("sapo.models.load.load_model", tiny)
    monkeypatch.setattr("sapo.tasks.load.builtin_task", short)
    monkeypatch.setattr("sapo.training.select._COUNT", 4)
    return tmp_path


# Trainer pins memory unless it is told not to, which a reader with a GPU would not.
@pytest.mark.filterwarnings("ignore:'pin_memory'")
@pytest.mark.parametrize("page", GUIDES)
def test_the_code_of_a_guide_runs_from_top_to_bottom(page: str, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("trl")
    code = blocks(DOCS / page, "python")
    assert code
    names: dict[str, Any] = {}
    with torch.random.fork_rng():
        for number, body in enumerate(code, start=1):
            exec(compile(body, f"{page}, block {number}", "exec"), names)
    # Every guide shows something in the end.
    assert capsys.readouterr().out.strip()


def test_the_code_of_the_readme_runs(desk: Path) -> None:
    whole, own = blocks(ROOT / "README.md", "python")
    row = {"instruction": "Is this review positive or negative?", "input": "I loved it.", "output": "positive"}
    names: dict[str, Any] = {"model": tiny_model(seed=2, context=1024), "tokenizer": tiny_tokenizer()}
    names["dataset"] = Dataset.from_list([row] * 8)
    exec(whole, names)
    assert names["dataset"][0] == {**row, "instruction": names["selection"].instruction.text}
    exec(own, names)
    assert names["selection"].task == "reviews" and len(names["selection"].candidates) == 2


@pytest.mark.parametrize("page", ["candidates.md", "scoring.md"])
def test_the_code_of_a_page_runs_with_what_it_speaks_of(page: str, desk: Path) -> None:
    model = get_peft_model(tiny_model(seed=2, context=1024), LoraConfig(task_type="CAUSAL_LM"))
    names: dict[str, Any] = {"model": model, "tokenizer": tiny_tokenizer(), "texts": ["Positive or negative?"]}
    names["task"] = sapo.load_task("reviews.jsonl", instruction="Is this review positive or negative?")
    names["earlier_task"] = sapo.load_task("tickets.jsonl", instruction="Billing or support?")
    (body,) = blocks(DOCS / page, "python")
    exec(body, names)
    assert names["selection"].candidates and (names["selection"].trial is not None) == (page == "scoring.md")


@pytest.mark.filterwarnings("ignore:'pin_memory'")
@pytest.mark.parametrize("example", ["trl_sft.py", "trainer.py", "loop.py"])
def test_an_example_runs(example: str, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("trl")
    with torch.random.fork_rng():
        exec(compile((ROOT / "examples" / example).read_text(encoding="utf-8"), example, "exec"), {})
    assert capsys.readouterr().out.strip()


def test_configurations_are_accepted() -> None:
    checked = 0
    for page in PAGES:
        for data in map(yaml.safe_load, blocks(page, "yaml")):
            if isinstance(data, dict) and "run_dir" in data:
                config = StudyConfig.model_validate(data) if "transitions" in data else make_config(data)
                assert config.run_dir == Path(data["run_dir"]), page.name
                checked += 1
    assert checked >= 4


def commands() -> Iterator[tuple[str, list[str]]]:
    for page in PAGES:
        for body in (*blocks(page, "sh"), *blocks(page, "")):
            for line in body.splitlines():
                if line.startswith("sapo "):
                    yield page.name, shlex.split(line, comments=True)[1:]


def test_commands_exist_with_all_their_options() -> None:
    known = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    checked = 0
    for page, (name, *words) in commands():
        assert name in known, f"{page}: sapo {name}"
        options = {
            option for parameter in known[name].params for option in (*parameter.opts, *parameter.secondary_opts)
        }
        used = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert used <= options, f"{page}: sapo {name} has no {used - options}"
        checked += 1
    assert checked > 12


def test_the_page_of_the_command_line_is_what_help_says() -> None:
    asked = ["sapo.cli", "utils", "docs", "--name", "sapo", "--title", "Command line"]
    made = CliRunner().invoke(typer.cli.app, asked).output
    assert (DOCS / "cli.md").read_text(encoding="utf-8").strip() == made.strip(), "make docs writes it again"


def test_the_site_builds_without_a_broken_link_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    made = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        capture_output=True, text=True, cwd=ROOT, env={"PATH": "", "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert made.returncode == 0, made.stderr[-2000:]
    api = (tmp_path / "api" / "index.html").read_text(encoding="utf-8")
    for name in ("select", "TaskSequence", "Rows", "SapoCallback", "export_data"):
        assert re.search(rf'id="sapo\.[\w.]*\b{name}"', api), name
    loaded = re.compile(r'<(?:script|link|img)[^>]+(?:src|href)="(https?:)?//', re.IGNORECASE)
    for page in tmp_path.rglob("*.html"):
        assert not loaded.search(page.read_text(encoding="utf-8")), page


@pytest.mark.parametrize("page", ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "llms.txt"])
def test_links_outside_the_site_lead_somewhere(page: str) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)", (ROOT / page).read_text(encoding="utf-8"))
    for path, anchor in links:
        text = (ROOT / (path or page)).read_text(encoding="utf-8")
        headings = {
            re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in re.findall(r"^#+ (.+)", text, re.M)
        }
        assert not anchor or anchor in headings, f"{page}: {path}#{anchor}"


def test_the_code_that_the_paper_is_matched_to_exists() -> None:
    found = re.findall(r"`([\w/]+\.py)(?:: ([\w., ]+))?`", (DOCS / "paper.md").read_text(encoding="utf-8"))
    assert len(found) > 10
    for path, names in found:
        text = (ROOT / "src" / "sapo" / path).read_text(encoding="utf-8")
        nodes = [*ast.walk(ast.parse(text))]
        there = {node.name for node in nodes if isinstance(node, (ast.ClassDef, ast.FunctionDef))}
        there |= {
            node.target.id for node in nodes if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
        }
        for name in names.replace(",", " ").replace(".", " ").split():
            assert name in there, f"{path} has no {name}"


def test_every_public_name_is_in_the_reference() -> None:
    text = (DOCS / "api.md").read_text(encoding="utf-8")
    missing = [name for name in sapo.__all__ if not name.startswith("__") and name not in text]
    assert not missing
