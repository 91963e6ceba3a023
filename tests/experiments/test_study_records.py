"""Records of a study: what they hold, a file that survives crashes and hostile texts, and full tables of them."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from study_trainings import study, training

from sapo.core.errors import RecordError
from sapo.experiments.study.blocks import blocks_of
from sapo.experiments.study.records import StudyRecord, append_study, is_study, read_study

SCORES = {"b": {"before": 20.0, "after": 80.0}, "a": {"before": 70.0, "after": 65.0}}


def test_a_record_comes_back_from_json_as_it_was() -> None:
    record = training(3, 7, scores=SCORES, indicators={"pre_update": 1.25, "pmi": None})
    data = record.to_json()
    assert set(data) == {
        "format", "study", "transition", "earlier", "task", "arm", "seed", "candidate", "text", "origin", "indicators",
        "mediators", "losses", "scores", "seconds", "config", "versions", "data",
    }  # fmt: skip
    assert data["format"] == 1 and data["losses"]["a"]["role"] == "earlier" and data["indicators"]["pmi"] is None
    assert StudyRecord.from_json(json.loads(json.dumps(data))) == record
    assert StudyRecord.from_json(data | {"of a later version": 1}) == record
    assert record.name == "a>b/adamw-c3-s7" and record.tasks("unseen") == ("u",)


def test_effects_are_changes_of_token_weighted_losses_higher_is_better() -> None:
    losses = {
        "b": {"role": "own", "before": [9.0, 9.0], "after": [1.0, 4.0], "tokens": [1, 4]},
        "a": {"role": "earlier", "before": [2.0, 4.0], "after": [3.0, 5.0], "tokens": [2, 2]},
        "c": {"role": "earlier", "before": [1.0], "after": [0.0], "tokens": [10]},
        "u": {"role": "unseen", "before": [1.0, 1.0, 4.0], "after": [1.0, 1.0, 1.0], "tokens": [1, 1, 1]},
    }
    record = training(transition="a>c>b", losses=losses, scores=SCORES)
    assert record.mean_effect("own") == -1.0
    assert record.effect("a") == -0.5 and record.effect("c") == pytest.approx(0.1)
    assert record.mean_effect("earlier") == pytest.approx((-0.5 + 0.1) / 2)
    assert record.mean_effect("unseen") == 1.0
    assert record.effect("b", "score") == 80.0 and record.effect("a", "score") == -5.0
    assert record.effect("u", "score") is None and record.effect("nothing") is None
    alone = training(transition="b", effects={"b": -1.0})
    assert alone.mean_effect("earlier") is None and alone.mean_effect("unseen") is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 0}, "format 0, but this version of sapo reads 1 only"),
        ({"task": "c"}, "task c is the one that was trained"),
        ({"earlier": []}, "task a has losses of an earlier task"),
        ({"scores": {"z": {"before": 1.0, "after": 2.0}}}, "task z has scores and no losses"),
        ({"indicators": {"pre_update": float("nan")}}, "indicators.pre_update: "),
        ({"losses": {"b": {"role": "own", "before": [1.0], "after": [1.0, 2.0], "tokens": [1]}}}, "1 and 2 losses"),
        ({"losses": {"b": {"role": "own", "before": [1.0], "after": [1.0], "tokens": [0]}}}, "1 token counts"),
        ({"losses": {"b": {"role": "own", "before": [], "after": [], "tokens": []}}}, "0 token counts"),
    ],
)
def test_what_is_no_record_is_refused_with_the_reason(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StudyRecord.from_json(training().to_json() | changes)
    with pytest.raises(ValueError, match="record: "):
        StudyRecord.from_json([1])


# Files; how lines are read and written is tested with those of runs.


def test_a_training_is_a_line_more_and_the_last_one_of_a_name_counts(tmp_path: Path) -> None:
    path = tmp_path / "study" / "study.jsonl"
    records = [training(candidate, seed) for seed in (1, 2) for candidate in (0, 1)]
    records[0] = replace(records[0], text="line\nbreak|\u2028\x85|\ud800|[red]|`|北京|\\n")
    changed, other = replace(training(1, 1), seconds=60.0), replace(training(0, 1), study="another")
    for record in (*records, changed, other):
        append_study(path, record)
    assert read_study(path) == (records[0], changed, *records[2:], other)
    assert path.read_bytes().count(b"\n") == 6
    path.write_text('{"format": 1}\n', encoding="utf-8")
    with pytest.raises(RecordError, match=r"study\.jsonl, line 1 is damaged .*Delete the line: the same `sapo study`"):
        read_study(path)


# Blocks


def test_blocks_hold_full_tables_in_any_order_of_the_records() -> None:
    records = study(np.random.default_rng(1), candidates=3, seeds=(5, 1))
    blocks = blocks_of(records)
    assert [(b.transition, b.arm) for b in blocks] == [
        (t, a) for t in ("a>b", "a>b>c", "c>a") for a in ("adamw", "sgd")
    ]
    assert blocks[0].candidates == (0, 1, 2) and blocks[0].seeds == (1, 5) and blocks[0].left_out == 0
    assert blocks[2].tasks("earlier", "unseen") == ("a", "b", "u", "v")
    by_hand = {(r.candidate, r.seed): r for r in records if (r.transition, r.arm) == ("a>b>c", "sgd")}
    found = blocks[3].outcome("forgetting")
    assert found is not None and found.shape == (3, 2)
    assert found[2, 0] == pytest.approx(by_hand[2, 1].mean_effect("earlier"))
    for n in range(3):
        assert blocks_of(random.Random(n).sample(records, len(records))) == blocks


def test_an_interrupted_seed_costs_the_fewest_differences_between_candidates() -> None:
    full = [training(c, 1) for c in range(9)]
    few, most = ([*full, *(training(c, 2) for c in range(n))] for n in (3, 8))
    (block,) = blocks_of(few)
    assert (len(block.candidates), block.seeds, block.left_out) == (9, (1,), 3)
    (block,) = blocks_of(most)
    assert (block.candidates, block.seeds, block.left_out) == (tuple(range(8)), (1, 2), 1)


def test_what_some_trainings_lack_is_not_defined_for_the_block() -> None:
    more = {"b": -1.0, "a": -0.5, "u": 0.25, "later": 0.5}
    (block,) = blocks_of([training(0), training(1, effects=more, indicators={"pre_update": 1.0})])
    assert block.tasks("unseen") == ("u",) and block.effects("later") is None
    assert block.indicator("length") is None and block.indicator("pre_update") is not None
    assert block.outcome("in_task", "score") is None and block.mediator("drift") is None


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"seconds": 1.0}, "two different records of a>b/adamw-c0-s1"),
        ({"seed": 2, "text": "other"}, "a>b/adamw-c0-s1 and a>b/adamw-c0-s2 were trained with different texts"),
        ({"seed": 2, "study": "g00"}, "are of studies with different configurations"),
    ],
)
def test_records_that_cannot_be_on_one_page_are_refused_with_both_named(other: dict[str, Any], message: str) -> None:
    with pytest.raises(RecordError, match=message):
        blocks_of([training(), StudyRecord.from_json(training().to_json() | other)])


def test_trainings_that_did_not_start_from_the_same_state_are_refused() -> None:
    data = training(1).to_json()
    data["losses"]["u"]["before"] = [x + 0.01 for x in data["losses"]["u"]["before"]]
    with pytest.raises(RecordError, match=r"c0-s1 and .*c1-s1 did not start from the same state: the loss of task u"):
        blocks_of([training(), StudyRecord.from_json(data)])
    # Rounding, and another machine's arithmetic, are no other state.
    data["losses"]["u"]["before"] = [x - 0.0099 for x in data["losses"]["u"]["before"]]
    assert len(blocks_of([training(), StudyRecord.from_json(data)])) == 1
    one, other = (training(1, seed, indicators={"pre_update": 1.0 + seed / 100}) for seed in (1, 2))
    with pytest.raises(RecordError, match=r"c1-s1 and .*c1-s2 .*the pre-update loss is 1\.0100 and 1\.0200"):
        blocks_of([one, other])


def test_a_newer_record_is_no_damage_and_a_mark_before_the_first_line_is_nothing(tmp_path: Path) -> None:
    path = tmp_path / "study.jsonl"
    append_study(path, training())
    line = path.read_bytes()
    path.write_bytes(b"\xef\xbb\xbf" + line)
    assert read_study(path) == (training(),) and is_study(path)
    path.write_bytes(line.replace(b'"format": 1', b'"format": 2'))
    with pytest.raises(RecordError, match=r"line 1: it has format 2, .* reads 1: use a newer one$"):
        read_study(path)
    path.write_text("{")
    assert not is_study(path)


def test_other_test_rows_are_refused_and_nothing_is_an_error_too() -> None:
    data = training(1).to_json()
    data["losses"]["u"]["tokens"] = [2, 4]
    with pytest.raises(RecordError, match="were tested on different rows of task u"):
        blocks_of([training(), StudyRecord.from_json(data)])
    with pytest.raises(RecordError, match="no finished training yet"):
        blocks_of([])


@pytest.mark.parametrize("name", ["study", "regime_study"])
def test_committed_records_are_read(name: str) -> None:
    records = read_study(Path(__file__).parents[2] / "results" / f"{name}.jsonl")
    assert len({record.study for record in records}) == 1 and len(blocks_of(records)) > 1
