"""A result as JSON, and a file of them that survives crashes, repetition and hostile texts."""

import json
from pathlib import Path
from typing import Any

import pytest

from sapo.core.errors import RecordError
from sapo.report.publish import read_report
from sapo.runs.records import append_record, read_records
from sapo.runs.results import RunResult

TASKS = ("alpha", "be[red]ta|\u2028")


def results(**changes: Any) -> dict[str, Any]:
    """What results.json of a small run holds, and what a sweep adds."""
    matrix = [[10.0, 20.0], [30.0, 25.5], [28.0, None]]
    estimate = {"value": 28.0, "interval": [20.0, 35.5], "reason": None}
    undefined = {"value": None, "interval": None, "reason": "no cell"}
    prompts = ("own", "original")
    measures = ("primary", "exact_match", "nll")
    return {
        "format": 3,
        "name": "demo/seq-lora-sapo-s7",
        "sequence": "demo",
        "tasks": list(TASKS),
        "primary_metric": "mixed",
        "primary_metrics": {TASKS[0]: "exact_match", TASKS[1]: "rouge_l", "other": "rouge_l"},
        "test_prompt": "own",
        "matrix": matrix,
        "metrics": {"ap": estimate, "bwt_final": undefined},
        "matrices": {m: dict.fromkeys(prompts, matrix) for m in measures},
        "metrics_all": {m: {p: {"ap": estimate, "bwt_final": undefined} for p in prompts} for m in measures},
        "watch": {"other": {m: {p: [1.0, None, 3.0] for p in prompts} for m in measures}},
        "instructions": {
            TASKS[0]: {"text": "t", "origin": "file", "original": "o", "suffix": "s", "losses": {"t": 1.0}},
            TASKS[1]: {"text": "t", "origin": "file", "original": "o", "suffix": "", "losses": None, "mixture": ["a"]},
        },
        "test_data": dict.fromkeys(TASKS, "f00"),
        "test_rows": dict.fromkeys(TASKS, 5),
        "config": {"model": {"base": "tiny"}, "method": "seq-lora", "policy": "sapo", "seed": 7, "lr": 1e-4},
        "seconds": {"training": 61.0, "total": 80.25},
        "versions": {"torch": "2.9"},
    } | changes  # fmt: skip


def make(**changes: Any) -> RunResult:
    return RunResult.from_json(results(**changes))


EXTRAS: dict[str, Any] = {
    "crossed": {"by": "sapo", "primary": dict.fromkeys(TASKS, 50.0), "nll": dict.fromkeys(TASKS, 1.5)},
    "robustness": {TASKS[0]: {"texts": ["a", "b"], "primary": [1.0, 2.0], "nll": [5.0, 6.0]}},
    "ability": [{"stage": 0, "loss": 3.25}, {"stage": 2, "loss": 3.5}],
    "guard": [
        {"task": "b", "step": 40, "back_to": 20, "watched": "a", "increase": 0.2, "low": 0.1, "updates": 80},
        {"task": "b", "step": 60, "back_to": None, "watched": "a", "increase": None, "low": None, "updates": 80},
    ],
}


@pytest.mark.parametrize("extras", [{}, EXTRAS])
def test_json_comes_back_as_it_was_and_holds_nothing_that_was_not_measured(extras: dict[str, Any]) -> None:
    result = make(**extras)
    assert result.to_json() == results(**extras)
    assert RunResult.from_json(json.loads(json.dumps(result.to_json()))) == result


def test_the_committed_sweeps_are_read() -> None:
    folder = Path(__file__).parents[2] / "results"
    sizes = {"grid": 30, "policies": 45, "seeds": 6, "regime_policies": 57, "regime_trial": 30, "regime_orders": 20}
    assert {name: len(read_records(folder / f"{name}.jsonl")) for name in sizes} == sizes


def test_the_last_stage_that_tested_a_task_counts() -> None:
    assert make().final("primary", "own") == (28.0, 25.5)
    alone = [[1.0, 2.0], [3.0, None], [None, None]]
    matrices = {m: {"own": alone} for m in ("primary", "nll")}
    metrics: dict[str, Any] = {m: {"own": {}} for m in ("primary", "nll")}
    record = make(matrices=matrices, metrics_all=metrics)
    assert record.final("nll", "own") == (3.0, None)
    assert record.final("nll", "original") == (None, None)
    assert record.estimate("nll", "original", "ap")["value"] is None


def test_test_prompts_are_the_same_where_only_originals_were_trained_with() -> None:
    originals = {task: {**used, "text": "o"} for task, used in results()["instructions"].items()}
    one: dict[str, Any] = {
        key: {m: {"own": results()[key][m]["own"]} for m in ("primary", "nll")} for key in ("matrices", "metrics_all")
    }
    assert make(**one).key("original") is None
    record = make(**one, instructions=originals)
    assert record.only_originals and record.key("original") == "own"
    assert record.final("primary", "original") == (28.0, 25.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 0}, "format 0, but this version of sapo reads 3 only"),
        ({"test_rows": dict.fromkeys(TASKS, "x")}, "test_rows.alpha: Input should be a valid integer"),
        ({"tasks": [*TASKS, "third"]}, "task third lacks"),
        ({"test_prompt": "neither"}, "needs a matrix and metrics for test prompt neither"),
        ({"instructions": {}}, "task alpha lacks its instruction"),
        ({"config": {"model": {"base": "x"}}}, "config lacks method"),
        ({"seconds": {"total": float("inf")}}, "seconds.total"),
        ({"matrices": {"primary": {"own": [[1.0]]}}}, "matrices|matrix|measure"),
        ({"robustness": {"a": {"texts": ["x"], "primary": [], "nll": []}}}, "1 texts have 0 scores"),
    ],
)
def test_what_is_not_a_result_is_refused_with_the_reason(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RunResult.from_json(results(**changes))
    with pytest.raises(ValueError, match="result: "):
        RunResult.from_json([1])


def test_a_record_is_a_line_more_and_the_last_one_of_a_name_counts(tmp_path: Path) -> None:
    path = tmp_path / "sweep" / "records.jsonl"
    first, second, third = make(name="a"), make(name="b"), make(name="c")
    changed = make(name="b", config={**results()["config"], "seed": 8})
    written = b""
    for n, record in enumerate((first, second, third, changed), start=1):
        append_record(path, record)
        assert path.read_bytes().startswith(written) and path.read_bytes().count(b"\n") == n
        written = path.read_bytes()
    assert read_records(path) == (first, changed, third)
    assert [file.name for file in path.parent.iterdir()] == ["records.jsonl"]


@pytest.mark.parametrize("keep", [1, 40, -1])
def test_a_last_line_that_was_cut_off_is_told_and_makes_room_for_the_next(tmp_path: Path, keep: int) -> None:
    path, notes = tmp_path / "records.jsonl", list[str]()
    append_record(path, make(name="a"))
    whole = path.read_bytes()
    append_record(path, make(name="b"))
    # Not even a character need be whole: the names hold one of several bytes.
    line = path.read_bytes()[len(whole) :].rstrip(b"\n")
    path.write_bytes(whole + line[:keep])
    assert read_records(path, notes.append) == (make(name="a"),)
    assert notes == [f"{path}: the last line was cut off while it was written, and is dropped"]
    page, _ = read_report([path])
    assert "cut off" in page.verdict[0].text and "`sapo run` records that run again" in page.verdict[0].text
    append_record(path, make(name="b"))
    assert path.read_bytes() == whole + line + b"\n"
    # What lacks nothing but the line break is a record.
    path.write_bytes(whole + line)
    assert read_records(path, notes.append) == (make(name="a"), make(name="b")) and len(notes) == 1
    append_record(path, make(name="c"))
    assert [record.name for record in read_records(path)] == ["a", "b", "c"]


@pytest.mark.parametrize("line", ["{", "[]", '{"format": 1}', '{"format": 0}', '{"format": "x"}', "NaN", "\udc80"])
def test_a_damaged_line_is_an_error_that_names_file_and_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "records.jsonl"
    append_record(path, make(name="a"))
    good = path.read_text(encoding="utf-8")
    path.write_text(f"{good}\n{line}\n{good}", encoding="utf-8", errors="surrogatepass")
    with pytest.raises(RecordError, match=r"records\.jsonl, line 3 is damaged .*Delete the line"):
        read_records(path)


def test_an_unreadable_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"none\.jsonl cannot be read: No such file"):
        read_records(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").touch()
    assert read_records(tmp_path / "empty.jsonl") == ()


def test_texts_survive_a_file_whatever_they_hold(tmp_path: Path) -> None:
    texts = ["line\nbreak", "\u2028\x85", "\ud800", "[red]|`", "北京", "\\n"]
    entries = {TASKS[0]: texts[0], TASKS[1]: "|".join(texts)}
    instructions = {task: {**results()["instructions"][task], "text": text} for task, text in entries.items()}
    record = make(instructions=instructions)
    append_record(tmp_path / "r.jsonl", record)
    assert read_records(tmp_path / "r.jsonl") == (record,)


def test_a_line_without_a_name_and_one_of_a_newer_version_are_refused(tmp_path: Path) -> None:
    for change, message in (({"name": ""}, "name: missing"), ({"format": 4}, "has format 4.*use a newer one")):
        (tmp_path / "r.jsonl").write_text(json.dumps(results(**change)) + "\n")
        with pytest.raises(RecordError, match=rf"r\.jsonl, line 1.*{message}"):
            read_records(tmp_path / "r.jsonl")
