"""Sources asked in order, and which of the valid texts are kept."""

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files

import pytest
from rapidfuzz import fuzz

from sapo.candidates.gather import gather, most_different
from sapo.candidates.opening import HAND_WRITTEN
from sapo.core.types import Origin
from sapo.core.untrusted import folded
from sapo.integrations.testing import ListSource, toy_task
from sapo.tasks.builtin import BUILTIN, builtin_paraphrases, builtin_task

TASK = toy_task()
VALID = (
    "Does the text have many words? Answer yes then, and no otherwise.",
    "You count the words of a text. Few of them mean no, many of them mean yes.",
    "yes stands for a long text, no for a short one. Which is it?",
    "Look at how much there is to read. Is it a lot? Then the word is yes; if it is little, the word is no!",
    "Many words: yes. Few words: no.",
    "A reader wants to know if the text is long (yes) or short (no).",
)
BAD = ("", "It names no other label.", "Sure! Say yes or no.")


def told(*rounds: Sequence[str], origin: Origin = "local") -> ListSource:
    """A list that is recorded as what it is said to be."""
    source = ListSource(*rounds)
    source.origin = origin
    return source


def test_earlier_sources_are_preferred_and_later_ones_asked_for_what_is_missing() -> None:
    first, second, third = told(VALID[:2], origin="file"), told(VALID[2:3]), told(VALID[3:], origin="rules")
    found = gather(TASK, (first, second, third), 4)
    assert [(c.text, c.origin) for c in found.candidates[:4]] == [
        (TASK.instruction, "original"),
        (VALID[0], "file"),
        (VALID[1], "file"),
        (VALID[2], "local"),
    ]
    assert len(found.candidates) == 5 and found.candidates[4].origin == "rules"
    # Half as many again as are missing, so that there is a choice.
    assert (first.asked, second.asked, third.asked) == ([6], [3], [2])
    gather(TASK, (first, second), 1)
    assert (first.asked, second.asked) == ([6, 2], [3])


def test_what_an_earlier_source_gave_is_a_duplicate_in_a_later_one() -> None:
    found = gather(TASK, (told(VALID[:1]), told((VALID[0].upper(), VALID[1]), origin="rules")), 2)
    assert [(c.text, c.origin) for c in found.candidates[1:]] == [(VALID[0], "local"), (VALID[1], "rules")]
    assert found.rejected[0].reason.startswith("same as candidate 1 apart from case")


def test_rounds_behind_the_last_one_needed_are_never_asked_for() -> None:
    # Two are wanted, so three valid ones are looked for.
    source = told(VALID[:2], (*BAD, *VALID[2:4]), VALID[4:])
    found = gather(TASK, (source,), 2)
    assert (source.given, len(found.candidates)) == (2, 3)
    assert VALID[4] not in {c.text for c in found.spare}


def test_rounds_of_bad_texts_are_followed_by_others() -> None:
    source = told(BAD, BAD[1:], VALID[:1], VALID[1:3])
    found = gather(TASK, (source,), 1)
    assert source.given == 4
    # A round that was taken is judged to its end.
    assert len(found.candidates) == 2
    assert (len(found.rejected), len(found.spare)) == (len(BAD) + 2, 2)


def test_the_most_different_are_kept_in_order_and_the_rest_are_spare() -> None:
    near = VALID[0].replace("many", "many, many").replace("Answer", "Your answer is")
    texts = (VALID[0], near, VALID[3], VALID[4])
    found = gather(TASK, (told(texts),), 3)
    assert [c.text for c in found.candidates[1:]] == [t for t in texts if t in {c.text for c in found.candidates}]
    assert len({VALID[0], near} & {c.text for c in found.candidates}) == 1
    assert len(found.spare) == 1 and not found.rejected
    assert {c.text for c in found.spare} | {c.text for c in found.candidates} == {TASK.instruction, *texts}
    found = gather(TASK, (told((VALID[0], BAD[1], *VALID[1:])),), 2)
    assert [r.reason for r in found.rejected] == ["lacks the label 'yes' that the original instruction names"]
    assert len(found.spare) == 4 and BAD[1] not in {c.text for c in found.spare}


def test_without_a_count_everything_valid_is_taken_from_every_source() -> None:
    first, second = told(VALID[:2], BAD, VALID[2:3]), told(VALID[3:], origin="rules")
    found = gather(TASK, (first, second), None)
    assert [c.text for c in found.candidates[1:]] == list(VALID)
    assert [r.text for r in found.rejected] == list(BAD)
    assert (first.given, second.given) == (3, 1) and first.asked[0] > 0


def test_no_valid_text_leaves_the_original_and_a_note() -> None:
    found = gather(TASK, (told(BAD),), 3)
    assert [(c.text, c.origin) for c in found.candidates] == [(TASK.instruction, "original")]
    assert found.notes == ("toy: no valid paraphrase, so there is only the original instruction (3 rejected)",)
    assert gather(TASK, (told(),), None).notes == (
        "toy: no valid paraphrase, so there is only the original instruction",
    )
    assert gather(TASK, (), 2).candidates == found.candidates


def test_fewer_than_asked_for_is_a_note() -> None:
    notes = gather(TASK, (told((*VALID[:2], *BAD)),), 5).notes
    assert notes[0] == "toy: only 2 of 5 paraphrases are usable (3 rejected)"
    assert gather(TASK, (told(VALID[:2]),), 3).notes == ("toy: only 2 of 3 paraphrases are usable",)


def test_a_file_of_candidates_that_was_not_needed_is_named() -> None:
    for origin in ("file", "unchecked"):
        notes = gather(TASK, (told(VALID[:2], origin="rules"), told(VALID[2:], origin=origin)), 2).notes
        assert notes[-1] == "toy: the file of candidates was not needed: sources before it gave all 2"
    assert not gather(TASK, (told(VALID[:2], origin="file"), told(VALID[2:], origin="rules")), 2).notes[1:]


def test_progress_hears_every_text() -> None:
    heard: list[int] = []
    first, second = told(VALID[:1], BAD, origin="file"), told(VALID[1:3], origin="rules")
    gather(TASK, (first, second), 3, heard.append)
    assert heard == [1, 3, 2]


def test_the_library_has_candidates_for_its_own_tasks_and_for_published_ones() -> None:
    for name in BUILTIN:
        task = builtin_task(name)
        assert [*HAND_WRITTEN.paraphrases(replace(task, name="other"), 3)] == [builtin_paraphrases(name)]
        # Another instruction has other paraphrases, though the task may be called the same.
        assert [*HAND_WRITTEN.paraphrases(replace(task, instruction="Write a poem."), 3)] == []
    room = files("sapo.candidates")
    index, texts = (json.loads(room.joinpath(f"{name}.json").read_text()) for name in ("hand_written", "published"))
    assert sorted(index.values()) == sorted([*BUILTIN, *texts])
    assert all(len(set(several)) == 20 for several in texts.values())


# Which ones are kept.


def by_hand(given: Sequence[str], texts: Sequence[str], count: int) -> list[int]:
    """One after another, the text whose nearest neighbour among those taken is the farthest; ties to the earlier."""
    taken: list[int] = []
    while len(taken) < min(count, len(texts)):
        near = {
            i: max(fuzz.ratio(folded(text), folded(other)) for other in [*given, *(texts[j] for j in taken)])
            for i, text in enumerate(texts)
            if i not in taken
        }
        least = min(near.values())
        taken.append(next(i for i, value in near.items() if value - least < 1e-4))
    return sorted(taken)


@pytest.mark.parametrize("seed", range(30))
def test_each_step_takes_the_farthest_text(seed: int) -> None:
    draw = random.Random(seed)
    texts = ["".join(draw.choices("abcd", k=draw.randint(1, 9))) for _ in range(draw.randint(2, 12))]
    given, rest = texts[: (cut := draw.randint(1, 2))], texts[cut:]
    count = draw.randint(1, 8)
    assert most_different(given, rest, count) == by_hand(given, rest, count)


def test_case_and_spacing_are_no_difference_and_no_text_is_taken_twice() -> None:
    assert most_different(["say it"], ["SAY  IT", "tell it", "say\nit"], 1) == [1]
    assert most_different(["aaaa"], ["aaaa", "AAAA", "aaaa"], 2) == [0, 1]
