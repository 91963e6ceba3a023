"""Rounds: what all rows of a candidate begin with is kept, equal rows are computed once, candidates share batches."""

import gc
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from exact_losses import Watch, by_hand, close, examples

from sapo.core.types import Encoded, Example
from sapo.integrations.testing import tiny_model, tiny_tokenizer
from sapo.models.batches import common_prefix, width
from sapo.models.losses import Scorer
from sapo.models.render import Renderer

INSTRUCTIONS = ("Say yes or no.", "Yes or no? Decide.", "Answer with yes or with no, and nothing else.")


@cache
def candidates() -> tuple[tuple[Encoded, ...], ...]:
    """Examples of three instructions whose shared beginnings have different lengths."""
    rows = [Example(text, "yes" if len(text) % 2 else "no") for text in ("a", "two words", "more of them", "")]
    renderer = Renderer(tiny_tokenizer(), 512)
    return tuple(tuple(renderer.encode(instruction, "Be brief.", rows)) for instruction in INSTRUCTIONS)


def decided(model: Any, batch_tokens: int | None = None) -> Scorer:
    """A scorer that has compared the routes."""
    scorer = Scorer(model, batch_tokens)
    scorer(examples())
    assert scorer.route == "shared prefix"
    return scorer


def test_the_shared_beginning_is_kept_for_later_rounds_until_released() -> None:
    model = tiny_model()
    scorer = decided(model)
    scoring = scorer.open(examples())
    with Watch(model) as watch:
        assert not watch.inputs and scorer._runner.kept.bytes == 0
        scoring.nll([4])
        # The same beginning whichever rows are asked for.
        assert watch.inputs[0] == (1, common_prefix(examples())) and common_prefix(examples()[4:5]) > watch.inputs[0][1]
        scoring.nll([0, 5])
        assert watch.passes(examples()) == 1 and len(watch.inputs) == 3
        scoring.release()
        scoring.release()
        again = scoring.nll([5, 0, 1])
        assert watch.passes(examples()) == 2
    assert close(again, by_hand(model, examples())[[5, 0, 1]])
    # A handle that nobody holds leaves nothing kept.
    assert scorer._runner.kept.bytes > 0
    del scoring
    gc.collect()
    assert scorer._runner.kept.bytes == 0


def test_no_batch_changes_what_is_kept() -> None:
    scorer = decided(tiny_model(), 100)
    scoring = scorer.open(examples())
    scoring.nll([0])
    prefix = scorer._runner.kept.find(scoring)
    assert prefix is not None and prefix.length == common_prefix(examples())
    before = [(layer.keys.clone(), layer.values.clone()) for layer in prefix.cache.layers]
    scoring.nll(range(len(examples())))
    assert scorer._runner.kept.find(scoring) is prefix
    for layer, (keys, values) in zip(prefix.cache.layers, before, strict=True):
        assert torch.equal(layer.keys, keys) and torch.equal(layer.values, values)
    assert prefix.bytes == sum(2 * keys.numel() * 4 for keys, _ in before)


def test_beyond_the_bound_the_least_recently_used_is_dropped() -> None:
    model = tiny_model()
    scorer = decided(model)
    # Two layers of two heads of 8 numbers, keys and values, 4 bytes each.
    sizes = [common_prefix(c) * 2 * 2 * 8 * 2 * 4 for c in candidates()]
    scorer._runner.kept.limit = sizes[0] + sizes[2]
    scorings = [scorer.open(c) for c in candidates()]
    with Watch(model) as watch:
        for number, row in ((0, 0), (1, 0), (0, 1), (2, 0)):
            found = scorings[number].nll([row])
            assert close(found, by_hand(model, candidates()[number])[[row]])
            assert scorer._runner.kept.bytes <= scorer._runner.kept.limit
        # The first was used after the second, which had to go.
        assert [watch.passes(c) for c in candidates()] == [1, 1, 1]
        for number in (0, 2, 1):
            assert close(scorings[number].nll([2]), by_hand(model, candidates()[number])[[2]])
        assert [watch.passes(c) for c in candidates()] == [1, 2, 1]
    # One beyond the bound alone is used, but not kept.
    scorer._runner.kept.limit = 100
    scoring = scorer.open(examples())
    with Watch(model) as watch:
        nll = np.concatenate([scoring.nll([0, 1, 2]), scoring.nll([3, 4, 5, 6])])
    assert watch.passes(examples()) == 2 and scorer._runner.kept.find(scoring) is None
    assert close(nll, by_hand(model, examples()))


def test_equal_rows_are_computed_once_and_all_are_told() -> None:
    model = tiny_model()
    few = examples()[:3]
    encoded = tuple(few[i] for i in (0, 1, 0, 0, 2, 1, 0, 0, 0))
    scorer, told = decided(model), list[int]()
    with Watch(model) as watch:
        losses = scorer(encoded, told.append)
    assert sum(rows for rows, _ in watch.inputs[1:]) == 3 and watch.passes(encoded) == 1
    assert close(losses.nll, by_hand(model, encoded)) and losses.nll[0] == losses.nll[8]
    assert losses.tokens.tolist() == [e.supervised for e in encoded]
    assert sum(told) == len(encoded)
    with Watch(model) as watch:
        Scorer(model).plain(encoded)
    assert sum(rows for rows, _ in watch.inputs) == len(encoded), "the reference computes every row for itself"


def test_rows_known_from_earlier_rounds_are_not_computed_again() -> None:
    model = tiny_model()
    encoded = (*examples(), *examples())
    scoring, told = decided(model).open(encoded), list[int]()
    first = scoring.nll([0, 1, 2])
    with Watch(model) as watch:
        assert np.array_equal(scoring.nll([7, 2, 8, 9], told.append), first[[0, 2, 1, 2]])
        assert told == [4] and not watch.inputs
        scoring.nll([10, 3, 7], told.append)
    assert [rows for rows, _ in watch.inputs] == [1] and sum(told) == 7
    assert scoring.nll([]).shape == (0,)


def test_the_same_tokens_with_another_prompt_are_another_row() -> None:
    ids = examples()[2].ids
    rows = (Encoded(ids, 60), Encoded(ids, 70), Encoded(ids, 60, cut=3))
    losses = Scorer(tiny_model())(rows)
    assert close(losses.nll, by_hand(tiny_model(), rows)) and abs(losses.nll[0] - losses.nll[1]) > 1
    assert losses.cut.tolist() == [0, 0, 3]


# Common batches.


def joined(scorer: Scorer, *rows: range) -> list[Any]:
    """Handles on the candidates, the first of which have been computed together on these rows."""
    scorings = [scorer.open(encoded) for encoded in candidates()]
    told = list[int]()
    assert scorer.join(list(zip(scorings, rows, strict=False)), told.append)
    assert sum(told) == sum(map(len, rows))
    return scorings


def test_rows_of_all_candidates_share_batches_of_falling_length_without_prefixes() -> None:
    model = tiny_model()
    scorer = Scorer(model, batch_tokens=400)
    with Watch(model) as watch:
        scorings = joined(scorer, range(4), range(4), range(1, 3))
        shapes = [tuple(shape) for shape in watch.inputs]
        found = [scoring.nll(rows) for scoring, rows in zip(scorings, (range(4), range(4), range(1, 3)), strict=True)]
        assert len(watch.inputs) == len(shapes), "nothing is computed twice"
    assert sum(rows for rows, _ in shapes) == 10 and max(rows * columns for rows, columns in shapes) <= 400
    assert [columns for _, columns in shapes] == sorted((columns for _, columns in shapes), reverse=True)
    assert len(shapes) < len(candidates()) * 2
    for scoring, nll, encoded in zip(scorings, found, candidates(), strict=True):
        rows = range(1, 3) if len(nll) == 2 else range(4)
        assert close(nll, by_hand(model, encoded)[list(rows)])
        assert scoring.tokens == sum(width(encoded[i], 0) for i in rows)


def test_equal_and_known_rows_are_computed_once() -> None:
    model = tiny_model()
    scorer = Scorer(model)
    one, other = scorer.open((*examples(), *examples())), scorer.open(examples())
    first = other.nll([0, 1])
    with Watch(model) as watch:
        told = list[int]()
        assert scorer.join([(one, range(10)), (other, range(4))], told.append) and sum(told) == 14
    assert sum(rows for rows, _ in watch.inputs) == 7 + 2
    assert close(one.nll(range(10)), by_hand(model, examples())[[*range(7), 0, 1, 2]])
    assert (other.nll([0, 1]) == first).all()
    assert not scorer.join([(one, range(10)), (other, range(4))], told.append), "nothing is left to compute"


def test_a_candidate_that_is_alone_or_fills_a_batch_goes_by_itself() -> None:
    scorer = Scorer(tiny_model(), batch_tokens=400)
    one, other = (scorer.open(encoded) for encoded in candidates()[:2])
    silent = lambda rows: None  # noqa: E731
    assert not scorer.join([(one, range(4))], silent)
    assert scorer.join([(one, range(2)), (other, range(2))], silent)
    scorer._runner.batch_tokens = 150
    assert not scorer.join([(one, range(4)), (other, range(4))], silent)


def test_only_accelerators_share_batches_unless_it_is_asked_for() -> None:
    assert not Scorer(tiny_model()).common and Scorer(tiny_model(), common=True).common
    with torch.device("meta"):
        assert Scorer(type(tiny_model())(tiny_model().config)).common


def test_losses_leave_the_device_once_after_the_last_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    model, moved = tiny_model(), list[int]()
    scorer = decided(model, 100)
    move = torch.Tensor.cpu

    def cpu(tensor: torch.Tensor) -> torch.Tensor:
        moved.append(tensor.numel())
        return move(tensor)

    monkeypatch.setattr(torch.Tensor, "cpu", cpu)
    with Watch(model) as watch:
        scorer.open(examples()).nll(range(len(examples())))
    assert len(watch.inputs) > 3 and moved == [sum(e.supervised for e in examples())]


def test_logarithms_in_float32_as_on_accelerators_are_exact_to_the_fifth_digit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sapo.models.passes._precise", lambda device: torch.float32)
    # Several tiles a batch.
    monkeypatch.setattr("sapo.models.passes._PRECISE", 3 * 258)
    scorings = joined(Scorer(tiny_model()), range(4), range(4), range(4))
    for scoring, encoded in zip(scorings, candidates(), strict=True):
        assert close(scoring.nll(range(4)), by_hand(tiny_model(), encoded))
