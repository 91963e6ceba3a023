"""Test prompts: every cell is that of the text that it names; what is made of them is what a second way finds."""

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from peft import PeftModel
from report.making import tables
from rich.console import Console
from small_runs import (
    SUFFIX,
    Told,
    adapters,
    cells,
    configure,
    more_paraphrases_of,
    nll_by_hand,
    original_of,
    read,
    watch_training,
    write,
    write_bench,
)
from transformers import AutoModelForCausalLM

from sapo.core.errors import ConfigError, SapoError
from sapo.core.types import Floats
from sapo.integrations.testing import tiny_tokenizer
from sapo.report.blocks import Table
from sapo.report.differences import run_differences
from sapo.report.numbers import prompt_name
from sapo.report.page import results_page
from sapo.report.publish import print_report
from sapo.report.runs import read_run
from sapo.runs.card import model_card
from sapo.runs.config.loading import make_config
from sapo.runs.config.schema import Config
from sapo.runs.metrics import FIGURES, TrainedCells
from sapo.runs.prepare import prepare
from sapo.runs.prompts import NONE, ORIGINAL, OWN, short
from sapo.runs.results import RunResult
from sapo.sequence import run

TASKS, WATCH = ("alpha", "beta"), "gamma"
TEXT = "Say anything."
PROMPTS: tuple[Any, ...] = (OWN, ORIGINAL, NONE, TEXT, {"wordings": 2})


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    bench = write_bench(tmp_path_factory.mktemp("bench"), tasks=(*TASKS, WATCH))
    write(bench / "candidates.json", {task: more_paraphrases_of(task) for task in TASKS})
    return bench


Made = Callable[..., tuple[Config, RunResult, Told]]


@pytest.fixture(scope="module")
def made(small_model: Path, bench: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Makes runs with all test prompts, each once."""
    root, known = tmp_path_factory.mktemp("made"), dict[str, tuple[Config, RunResult, Told]]()

    def make(policy: str = "sapo", **changes: Any) -> tuple[Config, RunResult, Told]:
        name = f"{policy}-{changes}"
        if name not in known:
            evaluate = {"prompts": list(changes.pop("prompts", PROMPTS))}
            given = {"policy": policy, "evaluate": evaluate, "watch": [WATCH], **changes}
            config = configure(small_model, bench, root / str(len(known)), **given)
            told = Told()
            known[name] = (config, run(config, told), told)
        return known[name]

    return make


def text_of(prompt: str, task: str, stage: int, result: RunResult) -> str:
    """The instruction by the words of the documentation."""
    seen = task in TASKS[:stage]
    own = result.instructions[task].text if seen else original_of(task)
    return {"own": own, "original": original_of(task), "none": ""}.get(prompt, prompt)


# The formulas.


def column(*values: float) -> Floats:
    return np.array([values], dtype=np.float64)


def test_the_figures_of_a_task_by_hand() -> None:
    cells = TrainedCells(column(-10, 4), column(20, 40), column(80), column(60), column(70, 50, 63))
    scores = {figure.name: figure.of(cells) for figure in FIGURES}
    assert scores == {"spill_tasks": [-3.0], "spill_prompts": [30.0], "conditionality": [19.0], "recoverable": [10.0]}
    # Of losses the best is the lowest.
    losses = TrainedCells(column(0.3), column(-0.5), column(0.5), column(0.9), column(0.7, 0.8))
    found = {f.name: f.of(losses, higher_is_better=False) for f in FIGURES}
    assert [float(value[0]) for value in found.values() if value is not None] == pytest.approx([0.3, -0.5, -0.25, -0.2])


@pytest.mark.parametrize(
    ("field", "names"),
    [
        ("tasks", {"spill_tasks"}), ("prompts", {"spill_prompts"}), ("own", {"conditionality"}),
        ("original", {"recoverable"}), ("wordings", {"conditionality", "recoverable"}),
    ],
)  # fmt: skip
def test_a_figure_without_its_cells_is_undefined(field: str, names: set[str]) -> None:
    given = dict.fromkeys(("tasks", "prompts", "own", "original", "wordings"), column(1)) | {field: np.empty((1, 0))}
    assert {figure.name for figure in FIGURES if figure.of(TrainedCells(**given)) is None} == names


# The cells of a run.


@pytest.mark.parametrize("policy", ["sapo", "pure"])
def test_every_cell_is_that_of_its_text_on_the_reloaded_stage(policy: str, made: Made, small_model: Path) -> None:
    config, result, _ = made(policy)
    inputs = prepare(config).inputs
    tasks = {task.name: task for task in (*inputs.tasks, *inputs.watch)}
    for stage, name in enumerate((None, "1-alpha", "2-beta")):
        model = AutoModelForCausalLM.from_pretrained(small_model)
        model = PeftModel.from_pretrained(model, config.run_dir / "stages" / name) if name else model
        for task in (*TASKS, WATCH):
            texts = {prompt: text_of(prompt, task, stage, result) for prompt in (OWN, ORIGINAL, NONE, TEXT)}
            by_text = {
                text: sum(nll_by_hand(model, tiny_tokenizer(), text, SUFFIX, tasks[task].test)) / 9
                for text in set(texts.values())
            }
            for prompt, text in texts.items():
                if task == WATCH:
                    found = result.watch[task]["nll"][prompt][stage]
                else:
                    found = result.matrices["nll"][prompt][stage][TASKS.index(task)]
                assert found == pytest.approx(by_text[text], abs=1e-4), (stage, task, prompt)
            if stage == 2 and task != WATCH:
                held = (result.robustness or {})[task]
                for text, loss in zip(held.texts, held.nll, strict=True):
                    by_hand = nll_by_hand(model, tiny_tokenizer(), text, SUFFIX, tasks[task].test)
                    assert loss == pytest.approx(sum(by_hand) / 9, abs=1e-4)


@pytest.mark.parametrize("policy", ["sapo", "original", "pure"])
def test_each_text_is_tested_once_in_a_file_that_is_named_after_it(policy: str, made: Made) -> None:
    config, result, told = made(policy)
    expected: dict[str, str] = {}
    for stage in range(3):
        for task in (*TASKS, WATCH):
            own = text_of(OWN, task, stage, result)
            names = {original_of(task): "original", "": "none", TEXT: short(TEXT)}
            names = {own: "own", **names} if own != "" else {**names, own: "own"}
            if stage == 2 and task != WATCH:
                held = (result.robustness or {})[task].texts
                names |= {text: short(text) for text in held}
                assert len(held) == 2 and not {*held} & {*names} - {*held}
            expected |= {f"{stage}/{task}.{name}.json": text for text, name in names.items()}
    assert {name: found["instruction"] for name, found in cells(config.run_dir).items()} == expected
    assert len(told.of("testing")) == len(expected)
    assert sum(prepare(config).engine.plan.tests.values()) >= len(expected)


def test_test_prompts_change_no_training_and_what_both_test_is_the_same(made: Made) -> None:
    config, result, _ = made()
    # As many paraphrases are held out, so that the candidates are the same.
    less, main, _ = made(prompts=(OWN, {"wordings": 2}))
    assert adapters(config.run_dir) == adapters(less.run_dir)
    assert main.matrices["nll"] == {OWN: result.matrices["nll"][OWN]} and main.robustness == result.robustness
    assert main.metrics == result.metrics


def test_a_text_that_is_a_watch_tasks_own_instruction_is_tested_once_and_found(made: Made) -> None:
    config, result, _ = made(prompts=(NONE, OWN, original_of(WATCH)))
    assert len([*config.run_dir.glob(f"cells/2/{WATCH}.*.json")]) == 2
    # As where two runs are compared.
    drawn = read_run(config.run_dir).draws("nll", OWN, 0, ["spill_tasks"])["spill_tasks"]
    assert drawn[0] == pytest.approx(result.figures["nll"]["spill_tasks"]["mean"]["value"])


def test_the_first_prompt_is_that_of_the_main_matrix(made: Made) -> None:
    _, result, _ = made(prompts=(NONE, OWN, original_of(WATCH)))
    assert result.test_prompt == NONE and result.matrix == result.matrices["primary"][NONE]
    assert result.matrices["nll"][NONE] != result.matrices["nll"][OWN]


# The figures of a run, by a second way: from the files, with resampled rows written out.


def derived(config: Config, result: RunResult, measure: str) -> dict[str, dict[str, tuple[float, Floats]]]:
    """Value and draws of each figure by task."""
    names = [*TASKS, WATCH]
    counts = {
        task: np.random.default_rng([config.seed, j]).multinomial(3, [1 / 3] * 3, size=2000)
        for j, task in enumerate(names)
    }

    tested = cells(config.run_dir)

    def drawn(stage: int, task: str, text: str) -> Floats:
        (found,) = (
            one for name, one in tested.items() if name.startswith(f"{stage}/{task}.") and one["instruction"] == text
        )
        totals, sizes = found["losses"]["nll"], found["losses"]["tokens"]
        if measure == "primary":
            totals, sizes = found["scores"][result.primary_metrics[task]], [1, 1, 1]
        resampled = [[row for row, n in enumerate(draw) for _ in range(n)] for draw in ([1, 1, 1], *counts[task])]
        return np.array([sum(totals[r] for r in rows) / sum(sizes[r] for r in rows) for rows in resampled])

    lowest = measure == "nll"
    found: dict[str, dict[str, tuple[float, Floats]]] = {figure.name: {} for figure in FIGURES}
    for place, task in enumerate(TASKS, start=1):
        own, original = result.instructions[task].text, original_of(task)
        spill = [
            drawn(place, other, text) - drawn(place - 1, other, text)
            for other in names
            if other != task
            for text in {text_of(prompt, other, place, result) for prompt in (OWN, ORIGINAL, NONE, TEXT)}
        ]
        others = [drawn(place, task, t) - drawn(place - 1, task, t) for t in {original, "", TEXT} - {own}]
        held = [drawn(2, task, text) for text in (result.robustness or {})[task].texts]
        best = np.min(held, axis=0) if lowest else np.max(held, axis=0)
        values = {
            "spill_tasks": np.mean(spill, axis=0), "spill_prompts": np.mean(others, axis=0),
            "conditionality": drawn(2, task, own) - np.mean(held, axis=0),
            "recoverable": best - drawn(2, task, original),
        }  # fmt: skip
        for name, value in values.items():
            found[name][task] = (float(value[0]), value[1:])
    return found


@pytest.mark.parametrize("policy", ["sapo", "original", "pure"])
@pytest.mark.parametrize("measure", ["primary", "nll"])
def test_figures_and_their_paired_intervals_by_a_second_way(policy: str, measure: str, made: Made) -> None:
    config, result, _ = made(policy)
    expected = derived(config, result, measure)
    for name, by_task in expected.items():
        found = result.figures[measure][name]
        means = np.mean([value for value, _ in by_task.values()]), np.mean([d for _, d in by_task.values()], axis=0)
        for estimate, (value, draws) in (
            *((found["tasks"][task], pair) for task, pair in by_task.items()),
            (found["mean"], means),
        ):
            assert estimate["value"] == pytest.approx(value, abs=1e-6)
            assert estimate["interval"] == pytest.approx(list(np.quantile(draws, [0.025, 0.975])), abs=1e-6)
    if measure == "nll":
        assert len({round(found["mean"]["value"] or 0, 4) for found in result.figures["nll"].values()}) == 4


@pytest.mark.parametrize(
    ("method", "names"),
    [
        # All at once: only watch tasks are other tasks.
        ("multitask", {"spill_tasks", "spill_prompts", "conditionality", "recoverable"}),
        # Alone: no other task is tested but watch tasks.
        ("single", {"spill_tasks", "spill_prompts", "conditionality", "recoverable"}),
    ],
)
def test_other_methods_have_the_figures_that_their_cells_define(method: str, names: set[str], made: Made) -> None:
    _, result, _ = made("original", method=method)
    found = {name for name, of in result.figures["nll"].items() if of["mean"]["value"] is not None}
    assert found == names
    before, after = (0, 2) if method == "multitask" else (0, 1)
    for prompt in (NONE, TEXT):
        rows = result.matrices["nll"][prompt]
        assert rows[before][0] is not None and rows[after][0] is not None
    watched = result.watch[WATCH]["nll"]
    changes = [(watched[p][after] or 0) - (watched[p][before] or 0) for p in (ORIGINAL, NONE, TEXT)]
    assert result.figures["nll"]["spill_tasks"]["tasks"]["alpha"]["value"] == pytest.approx(np.mean(changes))


def test_an_undefined_figure_says_why_and_a_default_run_has_its_spill(made: Made) -> None:
    _, result, _ = made(prompts=(OWN,))
    found = result.figures["primary"]
    assert found["spill_tasks"]["mean"]["value"] is not None
    for name, word in (("spill_prompts", "none"), ("conditionality", "wordings"), ("recoverable", "wordings")):
        assert found[name]["tasks"] == {} and word in (found[name]["mean"]["reason"] or "")
    assert RunResult.from_json(result.to_json()) == result


# The page.


def blocks(title: str, *run_dirs: Path) -> list[Table]:
    return tables(results_page([read_run(directory) for directory in run_dirs]), title)


@pytest.mark.parametrize("measure", ["primary", "nll"])
def test_two_runs_are_compared_on_the_same_resampled_rows(measure: str, made: Made) -> None:
    first, other = made("original"), made("pure")
    before, after = (derived(config, result, measure) for config, result, _ in (first, other))
    names = [figure.name for figure in FIGURES]
    found = run_differences(read_run(first[0].run_dir), read_run(other[0].run_dir), measure, OWN, names)
    assert {*found} == {*names}
    for name, difference in found.items():
        value = [np.mean([pair[0] for pair in of[name].values()]) for of in (before, after)]
        draws = [np.mean([pair[1] for pair in of[name].values()], axis=0) for of in (before, after)]
        assert difference.value == pytest.approx(value[1] - value[0], abs=1e-6)
        assert difference.interval == pytest.approx(list(np.quantile(draws[1] - draws[0], [0.025, 0.975])), abs=1e-6)
    fewer = made(prompts=(OWN,))[0]
    assert run_differences(read_run(first[0].run_dir), read_run(fewer.run_dir), "nll", OWN, names) == {}


def test_the_page_shows_figures_by_task_and_the_grid(made: Made) -> None:
    config, result, _ = made()
    _, nll = blocks("Beyond the training prompt", config.run_dir)
    assert [row[0] for row in nll.rows] == [*TASKS, "mean"]
    for n, figure in enumerate(FIGURES, start=1):
        assert nll.columns[n] == figure.title
        for task, row in zip(TASKS, nll.rows, strict=False):
            assert row[n].startswith(f"{result.figures['nll'][figure.name]['tasks'][task]['value']:+.3f} [")
        assert nll.rows[2][n].startswith(f"{result.estimate('nll', OWN, figure.name)['value']:+.3f} [")
    _, losses = blocks("Trained with x tested with", config.run_dir)
    wordings = ("held-out paraphrases", "the worst of them")
    assert losses.columns == ("task", "own", "original", "none", f'"{TEXT}"', *wordings)
    held = [one.nll for one in (result.robustness or {}).values()]
    columns = [[value or 0 for value in result.final("nll", p)] for p in (OWN, ORIGINAL, NONE, TEXT)]
    columns += [[float(np.mean(one)) for one in held], [max(one) for one in held]]
    for place, row in enumerate(losses.rows):
        assert row[1:] == tuple(f"{[*column, np.mean(column)][place]:.3f}" for column in columns)


def test_settings_and_their_differences_stand_on_the_page(made: Made) -> None:
    runs = [made("original"), made("pure")]
    directories = [config.run_dir for config, _, _ in runs]
    main = blocks("Every metric", *directories)[0]
    figures = main.rows[-2 * len(FIGURES) :]
    for n, (_, result, _) in enumerate(runs):
        value = result.estimate("nll", OWN, "conditionality")["value"]
        assert figures[2 * 2 + n][3].startswith(f"{value:+.3f} [")
    differences = blocks("Runs compared", *directories)[0]
    assert [row[1] for row in differences.rows[-len(FIGURES) :]] == [figure.title for figure in FIGURES]
    assert {row[4] for row in differences.rows[-len(FIGURES) :]} <= {
        "higher",
        "lower",
        "the same",
        "too small to decide",
    }
    file = io.StringIO()
    print_report(Console(file=file, width=250), directories, full=True)
    assert "None" not in file.getvalue() and "nan" not in file.getvalue()


# Policies whose text is given.


def trained_with(patch: pytest.MonkeyPatch, config: Config) -> dict[str, set[str]]:
    """The instructions that the rows of each task were trained with."""
    told = Told()
    seen = watch_training(patch, told)
    run(config, told)
    found: dict[str, set[str]] = {}
    for _, instruction, shown, _ in seen:
        found.setdefault(shown.split()[0], set()).add(instruction)
    return found


def test_pure_trains_without_an_instruction(
    small_model: Path, bench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure(small_model, bench, tmp_path / "run", policy="pure", evaluate={"prompts": ["own", "none"]})
    assert trained_with(monkeypatch, config) == {task: {""} for task in TASKS}
    result = RunResult.from_json(read(config.run_dir / "results.json"))
    assert {(one.text, one.origin) for one in result.instructions.values()} == {("", "given")}
    # No candidates are asked for.
    assert [len(read(path)["value"]["candidates"]) for path in config.run_dir.glob("candidates/*.json")] == [1, 1]
    lineage = read(config.run_dir / "stages" / "2-beta" / "sapo.json")
    assert [entry["instruction"] for entry in lineage["tasks"]] == ["", ""]
    card = model_card(lineage)
    assert "Instruction:" not in card and "There was no instruction: the user turn is the input" in card


@pytest.mark.parametrize(
    ("fixed", "texts"),
    [
        (TEXT, {"alpha": TEXT, "beta": TEXT}),
        ({"beta": TEXT}, {"alpha": original_of("alpha"), "beta": TEXT}),
        ({"alpha": original_of("alpha")}, {task: original_of(task) for task in TASKS}),
    ],
)
def test_fixed_trains_with_the_text_that_was_given(
    fixed: Any,
    texts: Mapping[str, str],
    small_model: Path,
    bench: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = configure(small_model, bench, tmp_path / "run", policy="fixed", fixed=fixed)
    assert trained_with(monkeypatch, config) == {task: {text} for task, text in texts.items()}
    result = RunResult.from_json(read(config.run_dir / "results.json"))
    origins = {task: "given" if text != original_of(task) else "original" for task, text in texts.items()}
    assert {task: one.origin for task, one in result.instructions.items()} == origins
    assert result.only_originals == (texts == {task: original_of(task) for task in TASKS})


def test_what_cannot_be_fixed_is_refused(small_model: Path, bench: Path, tmp_path: Path) -> None:
    config = configure(small_model, bench, tmp_path / "run", policy="fixed", fixed={"alfa": TEXT})
    with pytest.raises(ConfigError, match=r"fixed: 'alfa' is not a task .*mean 'alpha'\? Allowed: alpha, beta"):
        run(config)
    for changes in ({"policy": "fixed"}, {"sweep": {"policy": ["original", "fixed"]}}):
        with pytest.raises(ConfigError, match="policy fixed needs its text: give fixed: "):
            configure(small_model, bench, tmp_path / "run", **changes)
    long = configure(small_model, bench, tmp_path / "run", policy="fixed", fixed="long " * 2000)
    with pytest.raises(SapoError, match="long long"):
        run(long)


# The configuration.


def test_prompts_are_read_as_they_are_documented() -> None:
    def prompts(given: Any) -> tuple[tuple[str, ...], int]:
        found = make_config({"sequence": "demo", "run_dir": "r", "evaluate": {"prompts": given}}).evaluate
        return found.texts, found.wordings

    assert prompts("none") == ((NONE,), 0)
    assert prompts(["own", "wordings"]) == ((OWN,), 4)
    assert prompts(["own", {"wordings": 7}, "A text of mine."]) == ((OWN, "A text of mine."), 7)
    assert prompts(["翻译成英语", "Summarise:"]) == (("翻译成英语", "Summarise:"), 0)


@pytest.mark.parametrize("word", ["orignal", "selected", "both", "wording", "crossed"])
def test_a_word_that_was_hardly_meant_as_an_instruction_is_refused(word: str) -> None:
    with pytest.raises(ConfigError, match=f"'{word}' is not a test prompt.*llowed: own, original, none, wordings"):
        make_config({"sequence": "demo", "run_dir": "r", "evaluate": {"prompts": ["own", word]}})


def test_prompts_that_begin_alike_have_columns_of_their_own_and_spaces_at_the_ends_make_no_other_prompt() -> None:
    texts = [f"Please read the following review with care and say {end}" for end in ("yes or no.", "good or bad.")]
    assert len({prompt_name(text) for text in texts}) == 2 and prompt_name("Say it.") == '"Say it."'
    with pytest.raises(ConfigError, match=r"Say it\. is listed twice"):
        make_config({"sequence": "demo", "run_dir": "r", "evaluate": {"prompts": ["own", "Say it.", " Say it. "]}})


def test_a_text_that_no_policy_reads_is_refused() -> None:
    with pytest.raises(ConfigError, match="fixed = 'Say it': only policy fixed reads it"):
        make_config({"sequence": "demo", "run_dir": "r", "policy": "pure", "fixed": "Say it"})
