"""Claim 3: rank correlations, permutation tests and intervals, against scipy, enumeration by hand, and simulation."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from scipy.stats import kstest, spearmanr
from study_trainings import study

from sapo.core.types import Floats
from sapo.experiments.study.analysis import Analysis, analyse, compared, predicted
from sapo.experiments.study.blocks import blocks_of
from sapo.experiments.study.prediction import adjusted, associate, predictions
from sapo.experiments.study.resampling import (
    Measured,
    Part,
    Sampling,
    bootstrap,
    detectable,
    estimates,
    holm,
    permutation_test,
    point,
    rank_correlation,
    standardised,
)

FEW = Sampling(draws=200, permutations=1000)


def pairs_of(random: np.random.Generator, sizes: Sequence[int], link: float = 0.0) -> list[tuple[Floats, Floats]]:
    found = []
    for n in sizes:
        x = random.normal(size=n)
        found.append((x, link * x + np.sqrt(1 - link**2) * random.normal(size=n)))
    return found


@pytest.mark.parametrize("n", [2, 3, 9, 40])
def test_rank_correlation_is_scipys_with_and_without_ties(n: int) -> None:
    random = np.random.default_rng(n)
    for levels in (2, 4, 1000):
        x, y = random.integers(levels, size=(2, n)).astype(float)
        found = rank_correlation(x, y)
        if np.ptp(x) and np.ptp(y):
            assert found == pytest.approx(spearmanr(x, y).statistic)
        else:
            assert np.isnan(found)
    x, y = random.normal(size=(2, 5, n))
    assert rank_correlation(x, y) == pytest.approx([spearmanr(a, b).statistic for a, b in zip(x, y, strict=True)])


def test_values_that_differ_by_rounding_are_ties() -> None:
    assert np.isnan(rank_correlation(np.array([0.1 + 0.2, 0.3]), np.array([1.0, 2.0])))
    assert np.isnan(standardised(np.array([0.1 + 0.2, 0.3]))).all()
    assert standardised(np.array([1.0, 2.0, 6.0])) @ np.ones(3) == pytest.approx(0.0)


@pytest.mark.parametrize("sizes", [(4,), (6,), (3, 4), (2, 3, 4)])
def test_few_orders_are_enumerated_and_p_is_their_share(sizes: Sequence[int]) -> None:
    random = np.random.default_rng(sum(sizes))
    pairs = pairs_of(random, sizes)
    weights = [n - 1 for n in sizes]
    found = permutation_test(pairs, weights, Sampling())
    rhos = [[spearmanr(x, order).statistic for order in itertools.permutations(y)] for x, y in pairs]
    null = [np.average(orders, weights=weights) for orders in itertools.product(*rhos)]
    observed = null[0]
    assert found.p == pytest.approx(np.mean(np.abs(null) >= abs(observed) - 1e-9))
    reached = [v for v in np.abs(null) if np.mean(np.abs(null) >= v - 1e-9) < 0.05]
    assert found.critical == (pytest.approx(min(reached)) if reached else None)


def test_many_orders_are_drawn_with_one_added_and_agree_with_enumeration() -> None:
    pairs = pairs_of(np.random.default_rng(3), (7,), link=0.8)
    exact = permutation_test(pairs, [6], Sampling())
    drawn = permutation_test(pairs, [6], Sampling(permutations=4000))
    assert drawn.p == pytest.approx(exact.p, abs=0.01)
    assert drawn.p * 4001 == pytest.approx(round(drawn.p * 4001))
    assert drawn.critical is not None and exact.critical is not None
    assert drawn.critical == pytest.approx(exact.critical, abs=0.05)
    perfect = [(np.arange(9.0), np.arange(9.0))] * 3
    least = permutation_test(perfect, [1, 1, 1], Sampling(permutations=999))
    assert least.p == 1 / 1000


def test_null_p_values_are_uniform() -> None:
    random = np.random.default_rng(11)
    found = [permutation_test(pairs_of(random, (9, 8, 10)), [8, 7, 9], Sampling(0, 199, seed)) for seed in range(300)]
    p = [one.p for one in found]
    # p has steps of 1 / 200: spread over the step, it is continuous.
    assert kstest(np.array(p) - random.random(300) / 200, "uniform").pvalue > 0.01
    assert np.mean(np.array(p) < 0.05) < 0.08


# Two-sided critical values of Spearman's correlation at 5 %, from a printed table of the exact distribution.
@pytest.mark.parametrize(("n", "exact"), [(6, 0.886), (7, 0.786)])
def test_critical_values_are_those_of_printed_tables(n: int, exact: float) -> None:
    found = permutation_test([(np.arange(float(n)), np.arange(float(n)))], [n - 1], Sampling())
    assert found.critical == pytest.approx(exact, abs=5e-4)


def test_ten_candidates_need_a_correlation_of_about_two_thirds() -> None:
    one = detectable([10])
    assert one.critical == pytest.approx(0.632, abs=5e-4)
    found = permutation_test([(np.arange(10.0), np.arange(10.0))], [9], Sampling())
    assert found.critical == pytest.approx(0.648, abs=0.02)
    three = detectable([9, 9, 9])
    drawn = permutation_test(pairs_of(np.random.default_rng(0), (9, 9, 9)), [8] * 3, Sampling())
    assert drawn.critical is not None
    assert three.critical == pytest.approx(drawn.critical, abs=0.02)
    assert detectable([2]).critical is None and detectable([3]).powered is None
    assert detectable([]) == detectable([1])


def test_a_true_correlation_of_the_stated_size_is_found_in_four_of_five_studies() -> None:
    random, size = np.random.default_rng(2), detectable((9, 9, 9))
    assert size.powered is not None and size.critical is not None
    # Pearson's correlation of normal variables whose rank correlation it is.
    link = 2 * np.sin(np.pi * size.powered / 6)
    x, rest = random.normal(size=(2, 800, 3, 9))
    means = rank_correlation(x, link * x + np.sqrt(1 - link**2) * rest).mean(axis=1)
    assert np.mean(means > size.critical) == pytest.approx(0.8, abs=0.07)


def test_holm_is_the_step_down_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([]) == [] and holm([0.2]) == [0.2]


# Intervals


def test_weighted_means_leave_out_what_is_not_defined() -> None:
    def constant(*values: float) -> Part:
        return Part(5, values[0], lambda index: np.tile(np.array(values), (len(index), 1)))

    parts = [constant(1.0, 4.0), constant(3.0, np.nan)]
    assert point(parts) == pytest.approx([(1 * 1 + 3 * 3) / 4, 4.0])
    draws = bootstrap(parts, FEW)
    # Resamples of two transitions: both the first, both the second, or one of each.
    assert {round(x, 6) for x in draws[:, 0]} == {1.0, 2.5, 3.0}
    assert np.isnan(draws[draws[:, 0] == 3.0, 1]).all()
    both = estimates(parts, FEW, "why")
    assert [one.value for one in both] == [1.0, 4.0]
    nothing = estimates(parts[1:], FEW, "why")
    assert nothing == (Measured(None, None, "why"),) * 2


def test_the_bootstrap_of_a_mean_has_its_standard_error() -> None:
    values = np.random.default_rng(0).normal(size=30)
    part = Part(30, 1.0, lambda index: values[index].mean(axis=1, keepdims=True))
    draws = bootstrap([part], Sampling(draws=20_000))
    assert draws.std() == pytest.approx(values.std() / np.sqrt(30), rel=0.03)
    (found,) = estimates([part], Sampling(draws=20_000), "")
    assert found.interval == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])), abs=0.01)


@pytest.mark.parametrize(("transitions", "link"), [(1, 0.0), (3, 0.5)])
def test_intervals_of_a_rank_correlation_hold_the_true_one(transitions: int, link: float) -> None:
    random, n, held = np.random.default_rng(7), 9, 0
    # Its expectation for n pairs of normal variables (Moran 1948).
    true = 6 / np.pi / (n + 1) * (np.arcsin(link) + (n - 2) * np.arcsin(link / 2))
    for _ in range(100):
        found = associate("adamw", "x", "y", pairs_of(random, [n] * transitions, link), Sampling(200, 1)).rho.interval
        assert found is not None
        held += found[0] <= true <= found[1]
    assert held / 100 > 0.88


def test_too_few_candidates_have_a_value_and_no_interval() -> None:
    for n in (2, 3, 4):
        found = associate("adamw", "x", "y", pairs_of(np.random.default_rng(0), [n]), FEW)
        assert found.rho.value is not None and found.rho.interval is None and found.rho.reason is not None
        assert found.p is not None
    found = associate("adamw", "x", "y", [(np.ones(9), np.arange(9.0)), (None, np.arange(9.0))], FEW)
    assert found.by_transition == (None, None) and found.p is None and found.critical is None
    assert found.rho.value is None and "differ in both" in (found.rho.reason or "")


# Claim 3


def test_predictions_are_pooled_rank_correlations_of_means_over_seeds() -> None:
    records = study(np.random.default_rng(4), candidates=7, arms=("adamw",), link=0.6)
    blocks = blocks_of(records)
    found = {(one.x, one.y): one for one in predictions(blocks, FEW)}
    assert list(found) == [(x, y) for x in ("pre_update", "length", "edit") for y in ("forgetting", "generalisation")]
    rhos = []
    for transition in ("a>b", "a>b>c", "c>a"):
        x, y = [], []
        for candidate in range(7):
            mine = [r for r in records if (r.transition, r.candidate) == (transition, candidate)]
            x.append(mine[0].indicators["pre_update"])
            y.append(np.mean([r.mean_effect("earlier") for r in mine if r.mean_effect("earlier") is not None]))
        rhos.append(spearmanr(x, y).statistic)
    one = found["pre_update", "forgetting"]
    assert one.by_transition == pytest.approx(rhos) and one.rho.value == pytest.approx(np.mean(rhos))
    assert one.candidates == (7, 7, 7)


def test_larger_transitions_weigh_more() -> None:
    pairs = [(np.arange(3.0), np.arange(3.0)), (np.arange(9.0), -np.arange(9.0))]
    assert associate("adamw", "x", "y", pairs, FEW).rho.value == pytest.approx((2 * 1 - 8 * 1) / 10)


@pytest.fixture(scope="module")
def linked() -> Analysis:
    """The analysis of a study whose effects follow the loss."""
    return analyse(study(np.random.default_rng(4), link=0.9), sampling=FEW)


def test_one_test_is_primary_and_all_others_are_corrected_together(linked: Analysis) -> None:
    found = linked
    assert [arm.name for arm in found.arms] == ["adamw", "sgd"]
    assert (found.primary.arm, found.primary.x, found.primary.y) == ("adamw", "pre_update", "forgetting")
    assert found.primary.adjusted is None and found.primary in found.arms[0].predictions
    others = [one for arm in found.arms for one in arm.predictions if one != found.primary]
    assert found.secondary == len(others) == 11
    assert [one.adjusted for one in others] == pytest.approx(holm([one.p for one in others if one.p is not None]))
    assert found.detectable == detectable([9, 9, 9])
    undefined = associate("sgd", "x", "y", [(None, None)], FEW)
    assert [one.adjusted for one in adjusted([others[0], undefined])] == [others[0].p, None]


def test_verdicts_need_test_and_interval(linked: Analysis) -> None:
    found = linked.primary
    assert found.p is not None and found.p < 0.01 and predicted(found) == "in line with the claim"
    against = associate("adamw", "pre_update", "forgetting", [(np.arange(12.0), np.r_[1.0, 0.0, 2:12])], FEW)
    assert predicted(against) == "against the claim"
    assert predicted(associate("adamw", "x", "y", pairs_of(np.random.default_rng(0), [9]), FEW)) == "undecided"
    assert predicted(adjusted([against] * 60)[0]) == "undecided"
    assert compared(Measured(2.0, (0.5, np.inf)), 1.0, "above") == "undecided"
    assert compared(Measured(2.0, (1.5, np.inf)), 1.0, "above") == "in line with the claim"
    assert compared(Measured(0.5, (0.1, 0.9)), 1.0, "above") == "against the claim"
    assert compared(Measured(2.0, None, "why"), 1.0, "above") == "undecided"
