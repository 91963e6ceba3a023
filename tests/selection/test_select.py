"""Choosing among candidates: rows by hand, intervals against a slow loop and by their coverage."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from sapo.core.errors import CandidateError, DataError, SapoError, ScoreError
from sapo.core.types import Example, Floats, Instruction, Ints, Task
from sapo.integrations.testing import tiny_model, tiny_tokenizer, toy_task
from sapo.models.fingerprint import state_fingerprint
from sapo.models.render import Renderer
from sapo.selection.differences import choose, compare
from sapo.selection.rows import context_length, selection_rows
from sapo.selection.select import select

PARAPHRASES = (
    "Reply yes when there are many words and no when there are few.",
    "Are there many words? If so yes, if not no.",
    "yes for a long text, no for a short one.",
)


def labelled(answers: str, labels: tuple[str, ...] = ("a", "b", "c")) -> Task:
    """A task whose training rows have the given one-letter answers."""
    rows = tuple(Example(f"row {i}", answer) for i, answer in enumerate(answers))
    return replace(toy_task(), labels=labels, train=rows)


def drawn(task: Task, rows: tuple[int, ...]) -> dict[str, int]:
    return dict(Counter(task.train[i].answer for i in rows))


@pytest.mark.parametrize(
    ("answers", "examples", "shares"),
    [
        ("aaaaabbbcc", 10, {"a": 5, "b": 3, "c": 2}),
        # 2.0, 1.2, 0.8: one place is left, c has the largest remainder.
        ("aaaaabbbcc", 4, {"a": 2, "b": 1, "c": 1}),
        # 2.8, 0.8, 0.4: two places are left, for a and b.
        ("aaaaaaabbc", 4, {"a": 3, "b": 1}),
        # 3.5, 1.0, 0.5: the tie goes to the label that comes first.
        ("caaaaaaabb", 5, {"a": 4, "b": 1}),
        # x and y are no labels: together they are one stratum, 1.6 of 2.4 + 1.6.
        ("aaaaaaxxxy", 4, {"a": 2}),
    ],
)
def test_every_label_has_its_share_of_the_rows_by_largest_remainder(
    answers: str, examples: int, shares: dict[str, int]
) -> None:
    for seed in range(20):
        task = labelled(answers)
        rows = selection_rows(task, examples, "stratified", seed)
        counts = drawn(task, rows)
        assert len(rows) == examples
        assert {label: n for label, n in counts.items() if label in "abc"} == shares


def test_rows_are_drawn_without_replacement_in_ascending_order_and_by_seed() -> None:
    task = labelled("ab" * 50)
    rows = selection_rows(task, 30, "stratified", 1)
    assert list(rows) == sorted(set(rows)) and len(rows) == 30 and rows[-1] < 100
    assert rows == selection_rows(task, 30, "stratified", 1)
    assert rows != selection_rows(task, 30, "stratified", 2)


def test_every_row_of_a_label_is_equally_likely() -> None:
    task = labelled("aab" * 4)
    seen = Counter(row for seed in range(600) for row in selection_rows(task, 6, "stratified", seed))
    # 600 draws with probability 1/2: five standard deviations are 61.
    assert all(abs(seen[row] - 300) < 61 for row in range(12))


def test_a_task_without_labels_is_one_stratum() -> None:
    task = labelled("abcdefghij", labels=())
    seen = {selection_rows(task, 3, "stratified", seed) for seed in range(30)}
    assert len(seen) > 20 and all(len(set(rows)) == 3 for rows in seen)


def test_first_takes_the_first_rows_and_more_than_there_are_means_all_of_them() -> None:
    task = labelled("aaaaabbbcc")
    assert selection_rows(task, 4, "first", 0) == selection_rows(task, 4, "first", 9) == (0, 1, 2, 3)
    assert selection_rows(task, 250, "first", 0) == selection_rows(task, 250, "stratified", 0) == tuple(range(10))


def test_a_task_without_training_rows_is_an_error_that_names_it() -> None:
    with pytest.raises(DataError, match="'toy' has no training rows"):
        selection_rows(labelled(""), 4, "stratified", 0)


@pytest.mark.parametrize("examples", [0, -3])
def test_an_impossible_number_of_rows_is_refused_by_name(examples: int) -> None:
    with pytest.raises(SapoError, match="examples"):
        select(tiny_model(), tiny_tokenizer(), toy_task(), PARAPHRASES, examples)


@pytest.mark.parametrize(
    ("losses", "tolerance", "winner"),
    [
        ([3.0, 1.0, 2.0], 0.0, 1), ([1.0, 2.0, 3.0], 0.0, 0), ([2.0, 2.0, 2.0], 0.0, 0), ([3.0, 1.0, 1.0], 0.0, 1),
        ([1.00001, 1.0, 2.0], 1e-4, 0), ([1.001, 1.0, 2.0], 1e-4, 1), ([3.0, 1.00001, 1.0], 1e-4, 1),
        ([3.0, 1.001, 1.0], 1e-4, 2),
    ],
)  # fmt: skip
def test_the_lowest_loss_wins_and_ties_go_to_the_original_then_to_the_earlier(
    losses: list[float], tolerance: float, winner: int
) -> None:
    assert choose(losses, [None, *[(-1.0, 1.0)] * 2], "lowest", tolerance) == winner


@pytest.mark.parametrize(
    ("losses", "intervals", "winner"),
    [
        ([3.0, 1.0, 2.0], [(-3.0, 0.5), (-2.0, -0.5)], 2), ([3.0, 1.0, 2.0], [(-3.0, -1.0), (-2.0, -0.5)], 1),
        ([3.0, 1.0, 2.0], [(-3.0, 0.0), (-2.0, 0.1)], 0), ([3.0, 4.0, 5.0], [(0.5, 1.5), (1.0, 3.0)], 0),
        ([3.0, 1.0, 2.0], [None, None], 0),
    ],
)  # fmt: skip
def test_the_confident_rule_leaves_the_original_only_below_zero(
    losses: list[float], intervals: list[tuple[float, float] | None], winner: int
) -> None:
    assert choose(losses, [None, *intervals], "confident", 0.0) == winner


def simulated(
    rng: np.random.Generator, n: int, truth: Floats, *, spread: float = 1.0, shared: float = 1.0
) -> tuple[Floats, Ints]:
    """Losses whose expected differences to the first candidate are truth x tokens; answers of 1 to 6 tokens."""
    tokens = rng.integers(1, 7, n)
    base = rng.gamma(2, 1, n) * tokens
    example = rng.normal(0, shared, n)
    noise = rng.normal(0, spread, (len(truth), n)) + example
    return np.vstack([base, base + truth[:, None] * tokens + noise * np.sqrt(tokens)]), tokens


def test_the_difference_is_a_ratio_of_sums() -> None:
    nll = np.array([[1.0, 9.0], [3.0, 8.0], [1.0, 5.0]])
    delta, _ = compare(nll, np.array([1, 3]), 0)
    assert delta == [0.0, 0.25, -1.0]


def by_loop(nll: Floats, tokens: Ints, seed: int, draws: int) -> list[tuple[float, float]]:
    """Studentised max-t bootstrap as plain loops over resampled examples."""
    candidates, n = nll.shape

    def ratio_and_error(c: int, rows: list[int]) -> tuple[float, float]:
        d = [float(nll[c, i] - nll[0, i]) for i in rows]
        t = [int(tokens[i]) for i in rows]
        ratio = sum(d) / sum(t)
        return ratio, math.sqrt(sum((x - ratio * y) ** 2 for x, y in zip(d, t, strict=True))) / sum(t)

    whole = [ratio_and_error(c, list(range(n))) for c in range(candidates)]
    counts = np.random.default_rng(seed).multinomial(n, [1 / n] * n, size=draws)
    largest = []
    for row in counts:
        rows = [i for i, times in enumerate(row) for _ in range(times)]
        ts = []
        for c in range(1, candidates):
            ratio, error = ratio_and_error(c, rows)
            # A resample's spread counts for at least a fifth of the sample's.
            ts.append(abs(ratio - whole[c][0]) / max(error, whole[c][1] / 5))
        largest.append(max(ts))
    largest.sort()
    # The 95 % point, by linear interpolation between order statistics.
    place = 0.95 * (draws - 1)
    low = math.floor(place)
    q = largest[low] + (place - low) * (largest[min(low + 1, draws - 1)] - largest[low])
    return [(ratio - q * error, ratio + q * error) for ratio, error in whole[1:]]


@pytest.mark.parametrize(("n", "candidates", "seed"), [(12, 4, 0), (12, 1, 1), (3, 2, 2), (25, 3, 3)])
def test_intervals_equal_those_of_a_slow_loop(
    n: int, candidates: int, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sapo.selection.differences.DRAWS", 150)
    nll, tokens = simulated(np.random.default_rng(seed), n, np.linspace(-0.5, 0.5, candidates))
    _, intervals = compare(nll, tokens, seed)
    assert intervals[0] is None
    assert np.allclose(np.array(intervals[1:]), np.array(by_loop(nll, tokens, seed, 150)), rtol=1e-7)


@pytest.mark.parametrize(("shared", "truth"), [(0.0, [0.0] * 5), (2.0, [0.0] * 5), (1.0, [-0.8, -0.2, 0.0, 0.3, 2.0])])
def test_all_intervals_hold_together_in_about_95_of_100_data_sets(
    shared: float, truth: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sapo.selection.differences.DRAWS", 200)
    rng = np.random.default_rng(7)
    held = 0
    for seed in range(200):
        nll, tokens = simulated(rng, 60, np.array(truth), shared=shared)
        _, intervals = compare(nll, tokens, seed)
        held += all(ci is not None and ci[0] <= x <= ci[1] for ci, x in zip(intervals[1:], truth, strict=True))
    # The standard error of a coverage of 0.95 over 200 data sets is 0.015.
    assert 0.90 <= held / 200 <= 0.99


@pytest.mark.parametrize(("candidates", "quantile"), [(1, 1.960), (5, 2.569)])
def test_with_many_examples_the_width_is_that_of_the_largest_of_independent_normals(
    candidates: int, quantile: float
) -> None:
    # P(|z| < q)^m = 0.95 for m independent candidates.
    nll, tokens = simulated(np.random.default_rng(0), 3000, np.zeros(candidates), shared=0.0)
    _, intervals = compare(nll, tokens, 0)
    for row, interval in zip(nll[1:], intervals[1:], strict=True):
        assert interval is not None
        d = row - nll[0]
        error = math.sqrt(float(((d - d.sum() / tokens.sum() * tokens) ** 2).sum())) / int(tokens.sum())
        assert (interval[1] - interval[0]) / 2 / error == pytest.approx(quantile, rel=0.06)


def test_one_example_and_the_original_alone_give_no_interval() -> None:
    assert compare(np.array([[3.0], [1.0]]), np.array([2]), 0) == ([0.0, -1.0], [None, None])
    assert compare(np.array([[3.0, 2.0]]), np.array([2, 1]), 0) == ([0.0], [None])


def test_a_candidate_with_the_same_losses_has_an_interval_of_no_width_and_leaves_the_others_alone() -> None:
    nll, tokens = simulated(np.random.default_rng(3), 30, np.array([-0.3, 0.4]))
    _, without = compare(nll, tokens, 0)
    delta, intervals = compare(np.vstack([nll, nll[0]]), tokens, 0)
    assert delta[3] == 0.0 and intervals[3] == (0.0, 0.0)
    assert intervals[:3] == without
    assert compare(np.vstack([nll[0], nll[0]]), tokens, 0) == ([0.0, 0.0], [None, (0.0, 0.0)])


def test_intervals_do_not_depend_on_the_order_of_candidates_or_on_the_unit() -> None:
    nll, tokens = simulated(np.random.default_rng(5), 20, np.array([-0.3, 0.4, 0.0]))
    _, intervals = compare(nll, tokens, 0)
    _, turned = compare(nll[[0, 3, 2, 1]], tokens, 0)
    assert np.allclose(np.array(turned[1:]), np.array(intervals[:0:-1]))
    _, scaled = compare(nll / math.log(2), tokens, 0)
    assert np.allclose(np.array(scaled[1:]), np.array(intervals[1:]) / math.log(2))
    assert compare(nll, tokens, 0) == compare(nll, tokens, 0) != compare(nll, tokens, 1)


def uneven(rows: int = 12) -> Task:
    """Free answers from two to forty characters."""
    train = tuple(Example(f"row {i}", "so " * (1 + 13 * (i % 2)) + str(i)) for i in range(rows))
    return replace(toy_task(), labels=(), train=train)


def pooled(model: Any, task: Task, instruction: str, rows: tuple[int, ...]) -> tuple[float, float]:
    """(sum over sum, mean of per-example means) from one full pass an example."""
    nll, tokens = [], []
    for row in Renderer(tiny_tokenizer(), 512).encode(instruction, task.suffix, [task.train[i] for i in rows]):
        with torch.no_grad():
            logs = model(input_ids=torch.tensor([row.ids])).logits[0].log_softmax(-1)
        places = range(row.prompt_length, len(row.ids))
        nll.append(-sum(float(logs[i - 1, row.ids[i]]) for i in places))
        tokens.append(len(places))
    return sum(nll) / sum(tokens), sum(x / n for x, n in zip(nll, tokens, strict=True)) / len(rows)


def test_the_lowest_pooled_loss_is_chosen_and_reported() -> None:
    model, task = tiny_model(), uneven()
    before = state_fingerprint(model), torch.get_rng_state().tolist(), repr(np.random.get_state())
    selection = select(model, tiny_tokenizer(), task, PARAPHRASES, 8)
    assert before == (state_fingerprint(model), torch.get_rng_state().tolist(), repr(np.random.get_state()))
    texts = [task.instruction, *PARAPHRASES]
    expected, means = zip(*(pooled(model, task, text, selection.rows) for text in texts), strict=True)
    assert [c.instruction.text for c in selection.candidates] == texts
    assert [c.losses.per_token for c in selection.candidates] == pytest.approx(expected, rel=1e-6)
    assert [c.delta for c in selection.candidates] == pytest.approx([x - expected[0] for x in expected], abs=1e-5)
    assert selection.chosen == int(np.argmin(expected))
    assert selection.instruction.text == texts[selection.chosen]
    assert list(selection.ranked) == np.argsort(expected).tolist()
    # The premise: with these answers the two definitions are far apart.
    assert min(abs(a - b) for a, b in zip(expected, means, strict=True)) > 1e-3


def test_a_selection_records_how_it_was_made() -> None:
    task = toy_task()
    selection = select(tiny_model(), tiny_tokenizer(), task, PARAPHRASES, 6, rule="confident", sample="first", seed=3)
    assert (selection.task, selection.rule, selection.sample) == ("toy", "confident", "first")
    assert selection.rows == tuple(range(6)) and selection.route == "shared prefix"
    assert selection.tolerance == 1e-5 and 0 < selection.seconds < 60
    assert [c.status for c in selection.candidates].count("chosen") == 1
    assert selection.candidates[selection.chosen].status == "chosen"
    assert selection.candidates[0].delta == 0 and selection.candidates[0].interval is None
    for c in selection.candidates[1:]:
        assert c.interval is not None and c.interval[0] < c.delta < c.interval[1]


def test_selection_is_the_same_every_time_and_its_rows_follow_the_seed() -> None:
    def run(seed: int) -> Any:
        return select(tiny_model(), tiny_tokenizer(), toy_task(rows=40), PARAPHRASES, 6, seed=seed)

    def values(selection: Any) -> Any:
        return selection.rows, [(c.losses.nll.tolist(), c.interval) for c in selection.candidates]

    assert values(run(1)) == values(run(1))
    assert sorted(run(1).rows) == list(selection_rows(toy_task(rows=40), 6, "stratified", 1)) != sorted(run(2).rows)


def test_the_original_is_always_first_also_when_it_is_given_again() -> None:
    task = toy_task()
    given = (PARAPHRASES[0], task.instruction.upper(), f"  {task.instruction} ", PARAPHRASES[1])
    selection = select(tiny_model(), tiny_tokenizer(), task, given, 4)
    assert [c.instruction for c in selection.candidates] == [
        Instruction(task.instruction, "original"),
        Instruction(PARAPHRASES[0], "given"),
        Instruction(PARAPHRASES[1], "given"),
    ]
    assert [(r.text, "original" in r.reason) for r in selection.rejected] == [(given[1], True), (given[2], True)]


def test_rejected_texts_are_recorded_with_reasons() -> None:
    given = ("", PARAPHRASES[0], "Say something.", PARAPHRASES[0])
    selection = select(tiny_model(), tiny_tokenizer(), toy_task(), given, 4)
    assert [r.text for r in selection.rejected] == ["", "Say something.", PARAPHRASES[0]]
    empty, missing, twice = (r.reason for r in selection.rejected)
    assert empty == "empty" and "'yes', 'no'" in missing and "candidate 2" in twice


def test_no_candidate_beside_the_original_is_an_error_with_the_reasons() -> None:
    with pytest.raises(CandidateError, match=r"'toy'.*'Say something\.'.*lacks the label 'yes', 'no'.*empty"):
        select(tiny_model(), tiny_tokenizer(), toy_task(), ("Say something.", " "))
    with pytest.raises(CandidateError, match="none were given"):
        select(tiny_model(), tiny_tokenizer(), toy_task(), ())


def test_equal_losses_choose_the_original() -> None:
    model = tiny_model()
    with torch.no_grad():
        model.lm_head.weight.zero_()
    for rule in ("lowest", "confident"):
        selection = select(model, tiny_tokenizer(), toy_task(), PARAPHRASES, 6, rule=rule)
        assert selection.chosen == 0
        assert selection.candidates[2].losses.per_token == pytest.approx(math.log(258))


# Id of "~" in the tiny tokenizer: code point 126 minus 33.
TILDE = 93


def poisoned() -> Any:
    """A model that gives NaN for whatever holds a tilde."""
    model = tiny_model()
    with torch.no_grad():
        model.get_input_embeddings().weight[TILDE] = math.nan
    return model


def test_a_loss_that_is_not_a_number_names_the_candidate() -> None:
    given = (PARAPHRASES[0], f"{PARAPHRASES[1][:-1]} ~.", PARAPHRASES[2])
    rows = selection_rows(toy_task(), 4, "stratified", 42)
    with pytest.raises(
        ScoreError, match=rf"'toy': candidate 2 \('Are there many.*nan on training row {rows[0]} \(4 such rows\)"
    ):
        select(poisoned(), tiny_tokenizer(), toy_task(), given, 4, strategy="exhaustive")


def test_a_loss_that_is_not_a_number_names_the_row_among_the_training_rows() -> None:
    task = toy_task()
    rows = selection_rows(task, 5, "stratified", 42)
    bad = rows[3]
    train = tuple(Example("~", e.answer) if i == bad else e for i, e in enumerate(task.train))
    assert bad != 3
    with pytest.raises(ScoreError, match=rf"candidate 0 .*on training row {bad} \(1 such rows\)"):
        select(poisoned(), tiny_tokenizer(), replace(task, train=train), PARAPHRASES, 5)


def gpt2(context: int) -> Any:
    with torch.random.fork_rng():
        return GPT2LMHeadModel(GPT2Config(vocab_size=258, n_embd=16, n_layer=1, n_head=2, n_positions=context)).eval()


@pytest.mark.parametrize("make", [lambda: tiny_model(context=192), lambda: gpt2(192)], ids=["llama", "gpt2"])
def test_inputs_are_cut_to_what_the_model_was_made_for(make: Any) -> None:
    long = tuple(Example("many words " * 40, "yes") for _ in range(3))
    model = make()
    assert context_length(model) == 192
    selection = select(model, tiny_tokenizer(), replace(toy_task(), train=long), PARAPHRASES)
    assert all(c.losses.cut.min() > 0 for c in selection.candidates)
