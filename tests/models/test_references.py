"""Several right answers: any of them counts when answers are scored, the first one alone is learned."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sapo.models.answers
from sapo.core.types import Example
from sapo.integrations.testing import tiny_model, tiny_tokenizer, toy_task
from sapo.models.answers import Evaluation, evaluate
from sapo.models.render import Renderer
from sapo.models.text_metrics import TEXT_METRICS

SAID = "a b"
often = settings(max_examples=20, deadline=None, derandomize=True, database=None)
answers = st.sampled_from(["a b", "a", "b, c", "a, b", "b a", "c", "A B.", "a b c d"])


def evaluated(*rows: Example, said: str = SAID) -> Evaluation:
    """An evaluation in which the model says the same thing to every row; its losses are real."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sapo.models.answers, "generate", lambda model, renderer, i, s, rows, *rest: [said] * len(rows))
        return evaluate(tiny_model(), Renderer(tiny_tokenizer(), 512), toy_task(), "Say it.", rows, 4)


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("metric", TEXT_METRICS)
def test_an_answer_that_equals_any_right_one_scores_100(metric: str, place: int) -> None:
    right = ["c d", "e", "f, g"]
    right[place] = SAID
    row = Example("x", right[0], (), tuple(right[1:]))
    none = Example("x", "c d", (), ("e", "f, g"))
    assert evaluated(row, none).scores[metric].tolist() == [100.0, 0.0]


def test_scores_are_maxima_over_the_right_answers_metric_by_metric() -> None:
    # By words the second is closest, as a list the third.
    row = Example("x", "z", (), ("a, b c d", "c, a"))
    found = {metric: float(scores[0]) for metric, scores in evaluated(row, said="a, b").scores.items()}
    alone = {
        metric: [float(evaluated(Example("x", text), said="a, b").scores[metric][0]) for text in ("z", *row.references)]
        for metric in TEXT_METRICS
    }
    assert found == {metric: max(scores) for metric, scores in alone.items()}
    assert alone["rouge_l"] == pytest.approx([0.0, 200 * 2 / 6, 50.0])
    assert alone["list_f1"] == pytest.approx([0.0, 50.0, 50.0])


@often
@given(st.lists(answers, min_size=1, max_size=4))
def test_more_right_answers_never_lower_a_score_and_their_order_does_not_matter(right: list[str]) -> None:
    first, *others = right
    rows = [Example("x", first, (), tuple(others)), Example("x", right[-1], (), tuple(right[:-1])), Example("x", first)]
    for metric, scores in evaluated(*rows).scores.items():
        assert scores[0] == scores[1] == max(TEXT_METRICS[metric](SAID, text) for text in right) >= scores[2]


def test_losses_are_those_of_the_answer_alone() -> None:
    several, alone, other = evaluated(
        Example("x", "yes", (), ("no", "maybe")), Example("x", "yes"), Example("x", "no", (), ("yes",))
    ).losses.nll
    assert several == pytest.approx(alone, abs=1e-5)
    assert abs(several - other) > 0.1
