"""A user's own data as tasks: directories and hub ids, splits, labels, held-out rows, and their place in a sequence."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import own_data
import pytest
from own_data import own

from sapo.core.errors import DataError
from sapo.core.types import Example, Task
from sapo.tasks.load import load_task


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def bars_as_before() -> Iterator[None]:
    import datasets

    assert not datasets.are_progress_bars_disabled()
    yield
    assert not datasets.are_progress_bars_disabled()


def rows(*texts: str) -> list[dict[str, str]]:
    return [{"text": text, "label": f"{text}!"} for text in texts]


def dump(path: Path, *texts: str) -> Path:
    return own_data.dump(path, rows(*texts))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], list[Any]]:
    """Let the library load something that is not made of files, or fail so; returns what it is asked for."""
    asked: list[Any] = []
    script = SimpleNamespace(config=SimpleNamespace(data_files=None), info=SimpleNamespace(features=None))

    def holds(outcome: Any) -> list[Any]:
        def load(name: str, subset: str | None) -> Any:
            asked.append((name, subset))
            if isinstance(outcome, Exception):
                raise outcome from OSError("the cause")
            return outcome

        monkeypatch.setattr("datasets.load_dataset_builder", lambda name, subset: script)
        monkeypatch.setattr("datasets.load_dataset", load)
        return asked

    return holds


def inputs(task: Task) -> list[list[str]]:
    return [[row.input for row in split] for split in (task.train, task.dev, task.test)]


@pytest.mark.parametrize("dev", ["validation", "valid", "dev", "val"])
def test_files_of_a_directory_are_its_splits(dev: str, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    (folder / "more").mkdir(parents=True)
    for name, text in (("train", "a"), (dev, "b"), ("test", "c"), ("extra", "d")):
        dump(folder / f"{name}.json", text)
    assert inputs(own(folder)) == [["a"], ["b"], ["c"]]
    swapped = own(folder, test=dev)
    assert inputs(swapped) == [["a"], [], ["b"]] and "splits that are not used: 'test' (1 rows)" in swapped.notes
    assert "files that are not used, as their names tell no split: extra.json" in swapped.notes
    # One file of any name is the training rows; the datasets library would read this text as a missing value.
    own_data.dump(tmp_path / "one" / "anything.csv", "text,label\na,None\n")
    assert own(tmp_path / "one").train == (Example("a", "None"),)
    dump(tmp_path / "one" / "test.json", "b")
    assert inputs(own(tmp_path / "one")) == [["a"], [], ["b"]]
    for shard, text in enumerate("ab"):
        dump(tmp_path / "shards" / f"train-0000{shard}-of-00002.json", text)
    assert inputs(own(tmp_path / "shards")) == [["a", "b"], [], []]
    dump(folder / "train.csv", "e")
    with pytest.raises(DataError, match=r"mine holds train\.csv, train\.json: one file per split"):
        own(folder)


@pytest.mark.usefixtures("bars_as_before")
def test_what_the_datasets_library_wrote_is_read(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

    features = Features({"text": Value("string"), "label": ClassLabel(names=["neg", "pos"])})
    part = Dataset.from_dict({"text": ["a", "b", "c"], "label": [0, 1, -1]}, features=features)
    part.select([1, 2]).save_to_disk(tmp_path / "saved")
    DatasetDict(train=part, validation=part, test=part).save_to_disk(tmp_path / "splits")
    for split in ("train", "test"):
        (tmp_path / "hub" / "data").mkdir(parents=True, exist_ok=True)
        part.to_parquet(tmp_path / "hub" / "data" / f"{split}-00000-of-00001.parquet")
    capfd.readouterr()
    assert own(tmp_path / "saved").train == (Example("b", "pos"),)
    assert inputs(own(tmp_path / "splits")) == [["a", "b"]] * 3
    assert inputs(own(tmp_path / "hub")) == [["a", "b"], [], ["a", "b"]]
    assert own(tmp_path / "hub").train[0].answer == "neg"
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("bars_as_before")
def test_a_hub_id_is_loaded_by_the_library(hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets import Dataset, DatasetDict

    part = Dataset.from_list(rows("a"))
    asked = hub(DatasetDict(train=part, unsupervised=part))
    monkeypatch.chdir(tmp_path)
    task = load_task("owner/na.me", instruction="Do.", subset="en")
    assert asked == [("owner/na.me", "en")]
    assert task.name == "na.me" and inputs(task) == [["a"], [], []]
    assert "splits that are not used: 'unsupervised' (1 rows)" in task.notes
    for outcome, message in (
        (KeyError("features"), r"owner/name \(hub\) cannot be loaded: .*the cause\. .*download it where"),
        (DatasetDict(), "has no rows"),
        (DatasetDict(train=part.select([]), test=part), "has no training rows: the split 'train' is empty"),
    ):
        hub(outcome)
        with pytest.raises(DataError, match=message):
            own("owner/name")


def test_what_the_library_logs_stays_off_the_terminal(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    library = logging.getLogger("datasets")
    level = library.level
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: '*.txt'\n---\n"
    )
    library.addHandler(caplog.handler)
    try:
        with pytest.raises(DataError, match=r"mine cannot be loaded: "):
            own(tmp_path / "mine")
    finally:
        library.removeHandler(caplog.handler)
    assert caplog.records == [] and library.level == level < logging.CRITICAL


def test_directories_without_data_and_with_a_benchmark_say_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nconfigs: [3]\n---\n")
    with pytest.raises(DataError, match=r"cannot be loaded: .*Allowed: files named train, validation and test"):
        own(tmp_path)
    (tmp_path / "instructions.json").write_text("{}")
    (tmp_path / "task").mkdir()
    with pytest.raises(DataError, match=r"holds a benchmark \(instructions\.json\): give it as data_dir"):
        own(tmp_path)


def test_test_rows_come_from_another_file(tmp_path: Path) -> None:
    train, test = dump(tmp_path / "a.json", "a", "b"), dump(tmp_path / "b.json", "c")
    assert inputs(own(train, test=str(test))) == [["a", "b"], [], ["c"]]
    folder = tmp_path / "mine"
    dump(folder / "train.json", "d")
    dump(folder / "test.json", "e")
    assert inputs(own(folder, test=str(test))) == [["d"], [], ["c"]]
    assert inputs(own(train, test=str(folder))) == [["a", "b"], [], ["e"]]


def test_splits_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    for name in ("dev", "test"):
        dump(folder / f"{name}.json", "a")
    with pytest.raises(DataError, match="has no training rows: its splits are 'dev', 'test'"):
        own(folder)
    dump(folder / "train.json", "a")
    with pytest.raises(DataError, match=r"has no split 'tset'.*Did you mean 'test'\? Its splits: 'dev', 'test', 't"):
        own(folder, test="tset")
    with pytest.raises(DataError, match=r"has no training rows: .* and 'train' is for testing"):
        own(folder, test="train")
    dump(folder / "val.json", "a")
    with pytest.raises(DataError, match="has two dev splits, 'dev' and 'val'"):
        own(folder)
    (folder / "val.json").unlink()
    (folder / "test.json").write_text('[{"text": "a", "label": null}]')
    task = own(folder)
    assert task.test == () and "none of the 1 test rows can be used, most often because 'label' is miss" in str(
        task.notes
    )
    with pytest.raises(DataError, match="none of the 1 test rows can be used"):
        own(folder, test="test")
    only = dump(tmp_path / "only" / "test.json", "a").parent
    with pytest.raises(DataError, match=r"has no training rows: its splits are 'test'\. .* name the split"):
        own(only)
    assert inputs(own(only, train="test")) == [["a"], [], []]
    with pytest.raises(DataError, match=r"subset = 'en': .* is a file"):
        own(folder / "train.json", subset="en")


def many(path: Path, counts: dict[str, int]) -> Path:
    return own_data.dump(path, [{"text": f"{a}{i}", "label": a} for a, n in counts.items() for i in range(n)])


def test_a_closed_set_of_answers_is_taken_for_labels(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    task = own(many(path, {"b": 3, "c": 4, "a": 3, "x" * 60: 10}))
    assert task.labels == ("x" * 60, "c", "a", "b") and task.metric == "exact_match"
    assert any(note.startswith("labels recognised: the training answers are 4 different") for note in task.notes)
    assert "metric: exact_match, as the answers are labels" in task.notes
    assert len(own(many(path, {str(i): 5 for i in range(20)})).labels) == 20
    for counts in ({"b": 5, "a": 4}, {"x" * 61: 10}, {str(i): 9 for i in range(21)}):
        task = own(many(path, counts))
        assert task.labels == () and "metric: exact_match, as most answers are numbers, single words" in str(task.notes)
    assert own(path, [{"question": "q", "answers": ["a", "b"]}] * 10).labels == ()


def test_given_labels_and_metric_are_kept_and_answers_outside_are_named(tmp_path: Path) -> None:
    path = many(tmp_path / "m.json", {"b": 9, "a": 5, "c": 1})
    task = own(path, labels=("a", "z"), metric="list_f1")
    assert (task.labels, task.metric) == (("a", "z"), "list_f1")
    assert "10 of 15 training answers lie outside the labels, such as 'b'" in task.notes
    assert not any("metric" in note or "recognised: the" in note for note in task.notes)
    assert own(path, labels=()).labels == () and own(path, labels=()).metric == "exact_match"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric": "rouge"}, r"metric: there is no 'rouge'\. Did you mean 'rouge_l'\? Allowed: exact_match"),
        ({"labels": ("a", "a")}, "labels: 'a' occurs twice"),
        ({"labels": ("a", " ")}, "labels: ' ' is empty"),
        ({"labels": ("\ud800",)}, "the labels holds half a character"),
        ({"instruction": "\ud800"}, "the instruction holds half a character"),
        ({"suffix": "\ud800"}, "the suffix holds half a character"),
        ({"instruction": " "}, "the instruction given is empty"),
        ({"instruction": ""}, "given is empty"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        own(dump(tmp_path / "m.json", "a"), **changes)
