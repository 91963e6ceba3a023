"""Where tasks come from: exact names, errors that name everything, fingerprints that see every row."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from own_data import dump

from sapo.core.errors import DataError
from sapo.core.types import Example, Task
from sapo.integrations.testing import toy_task
from sapo.tasks.benchmark import benchmark_names
from sapo.tasks.builtin import BUILTIN
from sapo.tasks.columns import COLUMNS
from sapo.tasks.load import load_sequence, load_task, sequence_names, task_fingerprint
from sapo.tasks.sequences import SEQUENCES

TRACE = ("C-STANCE", "FOMC", "MeetingBank", "Py150", "ScienceQA", "NumGLUE-cm")
ENTRY = {"instruction": "Judge {text}.", "suffix": "Say good or bad.", "labels": ["good", "bad"]}


def rows(*inputs: str) -> list[dict[str, str]]:
    return [{"sentence": text, "label": f"{text}!"} for text in inputs]


def benchmark(folder: Path, *names: str) -> Path:
    """A benchmark directory with two training rows, one dev and one test row per task."""
    dump(folder / "instructions.json", dict.fromkeys(names, ENTRY))
    for name in names:
        dump(folder / name / "train.json", rows(f"{name} a", f"{name} b"))
        dump(folder / name / "dev.json", rows("d"))
        dump(folder / name / "test.json", rows("t"))
    return folder


def test_a_benchmark_task_is_read_from_its_folder(tmp_path: Path) -> None:
    assert benchmark_names(benchmark(tmp_path / "many", "FO", "FOMC", "A")) == ("FO", "FOMC", "A")
    assert load_task("FO", tmp_path / "many").train[0].input == "FO a"
    assert load_task("FOMC", benchmark(tmp_path, "FOMC", "Py150")) == Task(
        name="FOMC",
        instruction="Judge {text}.",
        suffix="Say good or bad.",
        labels=("good", "bad"),
        metric="rouge_l",
        train=(Example("FOMC a", "FOMC a!"), Example("FOMC b", "FOMC b!")),
        dev=(Example("d", "d!"),),
        test=(Example("t", "t!"),),
        notes=(
            "2 of 2 training answers lie outside the labels, such as 'FOMC a!'",
            "1 of 1 dev answers lie outside the labels, such as 'd!'",
            "1 of 1 test answers lie outside the labels, such as 't!'",
        ),
    )


def test_what_a_benchmark_file_holds_besides_its_texts_is_named(tmp_path: Path) -> None:
    folder = benchmark(tmp_path, "FOMC")
    extra = [{"sentence": "a", "label": ["b", "c"], "id": 1}, {"sentence": "a", "label": ""}]
    dump(folder / "FOMC" / "train.json", extra)
    dump(folder / "FOMC" / "dev.json", [{"sentence": "a", "label": ""}])
    task = load_task("FOMC", folder)
    assert task.notes[0] == "columns that are not used: 'id' (1 values)" and len(task.unused) == 2
    assert "none of the 1 dev rows can be used, most often because the answer is empty" in task.notes
    assert any(note.startswith("lists in 'label' (1 of 1 training rows) are learned") for note in task.notes)
    dump(folder / "FOMC" / "test.json", [{"sentence": "a", "label": ""}])
    with pytest.raises(DataError, match=r"test\.json: none of the 1 test rows can be used"):
        load_task("FOMC", folder)


@pytest.mark.parametrize("name", ["FOMC/", "FOM", "fomc", "FOMC ", "./FOMC"])
def test_only_the_exact_name_finds_a_task_and_the_nearest_is_named(name: str, tmp_path: Path) -> None:
    folder = benchmark(tmp_path, "NumGLUE-cm", "FOMC")
    with pytest.raises(DataError, match="has no task ") as caught:
        load_task(name, folder)
    assert repr(name) in str(caught.value) and "It has: NumGLUE-cm, FOMC" in str(caught.value)
    if name in ("FOMC/", "FOM", "FOMC "):
        assert "Did you mean 'FOMC'?" in str(caught.value)


def test_built_in_tasks_are_found_beside_a_benchmark_and_misspelt_ones_are_not(tmp_path: Path) -> None:
    assert load_task(BUILTIN[0], benchmark(tmp_path, "FOMC")).name == BUILTIN[0]
    with pytest.raises(
        DataError, match=r"no task 'date-formats'\. Did you mean 'date-format'\?.*give data_dir.*hub id"
    ):
        load_task("date-formats")
    with pytest.raises(DataError, match="no task 'date-format/'"):
        load_task("date-format/")
    with pytest.raises(DataError, match=r"'demo' is a sequence, not a task.*`sequence: demo`.*give data_dir"):
        load_task("demo")
    for name in ("", " "):
        with pytest.raises(DataError, match=r"no task is named.*give data_dir"):
            load_task(name)


def test_instruction_and_suffix_can_be_replaced(tmp_path: Path) -> None:
    folder = benchmark(tmp_path, "FOMC")
    original = load_task("FOMC", folder)
    changed = load_task("FOMC", folder, instruction="Decide.", suffix="")
    assert changed == dataclasses.replace(original, instruction="Decide.", suffix="")
    with pytest.raises(DataError, match="'FOMC': the instruction is empty"):
        load_task("FOMC", folder, instruction="  ")


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (["FOMC"], "must map task names to objects"),
        ({"FOMC": "Judge."}, "must map task names to objects"),
        ({"FOMC": {"instruction": "  ", "suffix": ""}}, "FOMC: the instruction given is empty"),
        ({"FOMC": {"instruction": "i", "suffix": None}}, "FOMC: suffix = None: must be a text"),
        ({"FOMC": {"instruction": "i", "suffix": "", "labels": "a"}}, "FOMC: labels = 'a': must be a list"),
        ({"FOMC": {"instruction": "i", "suffix": ""}}, r"test\.json: No such file"),
        (
            {"FOMC": {**ENTRY, "metric": "exact_match"}},
            "task 'FOMC': metric is no key of a benchmark's task",
        ),
        (None, r"has no instructions\.json"),
    ],
)
def test_a_benchmark_that_cannot_be_read_says_what_is_missing(index: Any, message: str, tmp_path: Path) -> None:
    folder = benchmark(tmp_path, "FOMC")
    if "No such" in message:
        (folder / "FOMC" / "test.json").unlink()
        (folder / "FOMC" / "dev.json").unlink()
    dump(folder / "instructions.json", index)
    if index is None:
        (folder / "instructions.json").unlink()
    with pytest.raises(DataError, match=message):
        load_task("FOMC", folder)
    if index is not None and "test" in message:
        dump(folder / "FOMC" / "test.json", rows("t"))
        task = load_task("FOMC", folder)
        assert task.dev == () and task.labels == () and task.suffix == ""


@pytest.mark.parametrize(
    ("sequence", "numbers"),
    [
        ("ni_seq_c1", [195, 1310, 273, 611, 224]),
        ("ni_seq_g1", [589, 141, 618, 339, 360]),
        ("ni_seq_m1", [195, 360, 611, 2, 224]),
    ],
)
def test_published_sequences_have_the_published_tasks_in_order(sequence: str, numbers: list[int]) -> None:
    assert [name.split("_")[0] for name in sequence_names(sequence)] == [f"task{n:03}" for n in numbers]
    assert sequence_names("trace") == TRACE


def test_a_sequence_is_loaded_in_its_order_and_each_task_once(tmp_path: Path) -> None:
    assert [task.name for task in load_sequence("demo")] == list(SEQUENCES["demo"])
    folder = benchmark(tmp_path, *sorted(TRACE))
    assert [task.name for task in load_sequence("trace", folder)] == list(TRACE)
    mixed = load_sequence(["Py150", BUILTIN[1], "FOMC"], folder)
    assert [task.name for task in mixed] == ["Py150", BUILTIN[1], "FOMC"]
    with pytest.raises(DataError, match="more than once: a, c"):
        sequence_names(["c", "a", "b", "a", "c", "c"])
    with pytest.raises(DataError, match=r"'ni_seq_c2'\. Did you mean 'ni_seq_c1'\?.*trace"):
        sequence_names("ni_seq_c2")
    names = [name for name in TRACE if name not in ("MeetingBank", "Py150")]
    with pytest.raises(DataError, match=rf"has no MeetingBank, Py150\..*It has: {', '.join(names)}"):
        load_sequence("trace", benchmark(tmp_path / "less", *names))


def read_rows(path: Path) -> tuple[Example, ...]:
    return load_task(str(path), instruction="Do.").train


@pytest.mark.parametrize(("source", "target"), COLUMNS)
def test_every_pair_of_columns_is_recognised_in_json_and_jsonl(source: str, target: str, tmp_path: Path) -> None:
    content = [{"id": 7, source: "text\u2028one", target: "answer"}, {source: "", target: 3}]
    expected = (Example("text\u2028one", "answer"), Example("", "3"))
    assert read_rows(dump(tmp_path / "rows.json", content)) == expected
    lines = tmp_path / "rows.jsonl"
    lines.write_text("\n\n".join(json.dumps(row, ensure_ascii=False) for row in content) + "\n", encoding="utf-8")
    assert read_rows(lines) == expected


def test_the_fingerprint_changes_with_every_part_and_every_row() -> None:
    task = toy_task(rows=4)
    variants = [
        dataclasses.replace(task, name="other"),
        dataclasses.replace(task, instruction=task.instruction + " "),
        dataclasses.replace(task, suffix=""),
        dataclasses.replace(task, labels=("no", "yes")),
        dataclasses.replace(task, labels=()),
        dataclasses.replace(task, metric="rouge_l"),
        dataclasses.replace(task, train=task.train[::-1]),
        # The same rows, with the border between two splits elsewhere.
        dataclasses.replace(task, train=task.train[:-1], dev=(task.train[-1], *task.dev)),
    ]
    for split in ("train", "dev", "test"):
        first, *others = getattr(task, split)
        for changed in (
            dataclasses.replace(first, input=first.input + " "),
            dataclasses.replace(first, answer=first.answer + "!"),
            dataclasses.replace(first, history=(("u", "a"),)),
            dataclasses.replace(first, references=("u", "a")),
        ):
            variants.append(dataclasses.replace(task, **{split: (changed, *others)}))  # type: ignore[arg-type]
        variants.append(dataclasses.replace(task, **{split: tuple(others)}))  # type: ignore[arg-type]
    prints = [task_fingerprint(variant) for variant in [task, *variants]]
    assert len(set(prints)) == len(prints) == 1 + 8 + 3 * 5
    assert task_fingerprint(toy_task(rows=4)) == prints[0]
