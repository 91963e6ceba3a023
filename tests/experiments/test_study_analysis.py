"""Claims 1 and 2 against computations by hand and simulations with known truth; analyses of studies of any size."""

import itertools
import math
import random as shuffling
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from study_trainings import study, tables, training

from sapo.core.types import Floats
from sapo.experiments.study.analysis import analyse
from sapo.experiments.study.blocks import blocks_of
from sapo.experiments.study.components import Spread, moments, spread
from sapo.experiments.study.correlation import Agreement, agreements
from sapo.experiments.study.records import StudyRecord
from sapo.experiments.study.resampling import Measured, Sampling

FEW, LEAST = Sampling(draws=200, permutations=500), Sampling(draws=40, permutations=50)


# Claim 1


def test_components_of_a_table_are_those_of_its_analysis_of_variance() -> None:
    # Row means 2, 4, 9; column means 4, 6; grand mean 5. Squares: candidates 52, seeds 6, residual 4.
    table = np.array([[1.0, 3.0], [4.0, 4.0], [7.0, 11.0]])
    candidates, seeds, residual = 52 / 2, 6 / 1, 4 / 2
    within = (np.var([1, 4, 7], ddof=1) + np.var([3, 4, 11], ddof=1)) / 2
    found = moments(table)
    assert found == pytest.approx([(candidates - residual) / 2, (seeds - residual) / 3, residual, within])
    assert moments(np.stack([table, 2 * table]))[1] == pytest.approx(4 * found)
    assert np.isnan(moments(table[:, :1])[:3]).all() and moments(table[:, :1])[3] == pytest.approx(9.0)


def random_table(random: np.random.Generator, shape: tuple[int, int], deviations: Sequence[float]) -> Floats:
    c, s = shape
    a, b, e = deviations
    return np.asarray(
        a * random.normal(size=(c, 1)) + b * random.normal(size=(1, s)) + e * random.normal(size=shape) - 1
    )


def test_variance_estimates_are_unbiased() -> None:
    random, deviations = np.random.default_rng(0), (0.5, 0.3, 0.8)
    for shape in ((9, 3), (4, 2)):
        found = moments(np.stack([random_table(random, shape, deviations) for _ in range(4000)]))
        true = [*np.square(deviations), 0.5**2 + 0.8**2]
        errors = found.std(axis=0) / math.sqrt(4000)
        assert (np.abs(found.mean(axis=0) - true) < 3.5 * errors).all()


def spread_of(records: Sequence[StudyRecord]) -> Spread:
    return spread(blocks_of(records), "nll", FEW)


def test_spread_pools_variances_over_transitions_and_other_tasks() -> None:
    random = np.random.default_rng(1)
    one, two = (
        {task: random_table(random, shape, (1.0, 0.1, 0.1)) for task in tasks}
        for shape, tasks in (((5, 2), "bau"), ((9, 3), "bauv"))
    )
    found = spread_of([*tables(one), *tables(two, transition="a>c>b")])
    own, other, earlier, unseen = found.components
    assert [part.tasks for part in found.components] == ["own", "other", "earlier", "unseen"]
    variances = [moments(table["b"]) for table in (one, two)]
    pooled = (4 * variances[0] + 8 * variances[1]) / 12
    assert (own.candidates.value, own.seeds.value, own.residual.value, own.within.value) == pytest.approx(
        np.sqrt(pooled)
    )
    others = [np.mean([moments(table[task]) for task in table if task != "b"], axis=0) for table in (one, two)]
    pooled_other = (4 * others[0] + 8 * others[1]) / 12
    assert other.candidates.value == pytest.approx(math.sqrt(pooled_other[0]))
    assert found.ratio.value == pytest.approx(math.sqrt(pooled_other[0] / pooled[0]))
    assert found.ratio_within.value == pytest.approx(math.sqrt(pooled_other[3] / pooled[3]))
    mean_unseen = moments((two["u"] + two["v"]) / 2)
    assert unseen.residual.value == pytest.approx(math.sqrt((4 * moments(one["u"])[2] + 8 * mean_unseen[2]) / 12))
    assert earlier.transitions == own.transitions == 2 and own.negative == ()
    assert own.seeds.interval is None and own.candidates.interval is not None
    low, high = own.candidates.interval
    assert low < math.sqrt(pooled[0]) < high


def test_a_variance_below_zero_counts_as_zero_after_pooling_and_is_named() -> None:
    # No differences between candidates' means, much between cells: the estimate is minus the residual's half.
    table = np.array([[1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, 1.0]])
    assert moments(table)[0] < 0
    own, other, *_ = spread_of(tables({"b": table, "a": 3 * table})).components
    assert own.candidates.value == other.candidates.value == 0.0
    assert own.negative == ("candidates", "seeds") and own.residual.value is not None
    strong = 3 * np.arange(4.0)[:, None] + table
    pooled = spread_of([*tables({"b": table}), *tables({"b": strong}, transition="c>b")]).components[0]
    assert pooled.negative == ("seeds",)
    assert pooled.candidates.value == pytest.approx(math.sqrt((moments(table)[0] + moments(strong)[0]) / 2))


def test_with_one_seed_candidates_and_noise_cannot_be_told_apart() -> None:
    found = spread_of(tables({"b": np.arange(6.0)[:, None], "a": 2 * np.arange(6.0)[:, None]}))
    own = found.components[0]
    for figure in (own.candidates, own.seeds, own.residual, found.ratio):
        assert figure.value is None and figure.reason == "one seed: candidates cannot be told from noise"
    assert own.within.value == pytest.approx(np.arange(6).std(ddof=1))
    assert found.ratio_within.value == pytest.approx(2.0)
    assert found.components[3].candidates.reason == found.components[3].within.reason
    assert "tested on such tasks" in (found.components[3].within.reason or "")


def test_intervals_of_spread_and_ratio_hold_the_truth() -> None:
    random, held, reps = np.random.default_rng(3), np.zeros(3), 40
    for _ in range(reps):
        records = []
        for transition in ("a>b", "c>b", "d>b"):
            shape = (9, 3)
            own, other = (random_table(random, shape, (size, 0.1, 0.05)) for size in (0.1, 0.2))
            records += tables({"b": own, transition[0]: other}, transition=transition)
        found = spread_of(records)
        figures = (found.components[0].candidates, found.components[1].candidates, found.ratio)
        for n, (figure, true) in enumerate(zip(figures, (0.1, 0.2, 2.0), strict=True)):
            held[n] += figure.interval is not None and figure.interval[0] <= true <= figure.interval[1]
    assert (held / reps > 0.83).all()


def test_scores_have_a_spread_of_their_own() -> None:
    def scored(candidate: int, seed: int) -> StudyRecord:
        after = {"b": 50.0 + candidate, "a": 60.0 - 3 * candidate + seed}
        return training(candidate, seed, scores={task: {"before": 60.0, "after": x} for task, x in after.items()})

    (arm,) = analyse([scored(c, s) for c in range(6) for s in (1, 2)], sampling=FEW).arms
    loss, score = arm.spreads
    assert (loss.measure, score.measure) == ("nll", "score")
    # The unseen task has no scores, so there is no mean over all other tasks.
    assert score.components[0].candidates.value == pytest.approx(np.arange(6).std(ddof=1))
    assert score.components[2].candidates.value == pytest.approx(3 * np.arange(6).std(ddof=1))
    assert score.components[1].candidates.value is None
    assert len(analyse([training()], sampling=FEW).arms[0].spreads) == 1


# Claim 2


def agreement(records: Sequence[StudyRecord], group: str = "all") -> Agreement:
    return next(one for one in agreements(blocks_of(records), FEW) if one.group == group)


def test_agreement_is_the_mean_correlation_over_pairs_and_ordered_pairs_of_seeds() -> None:
    random = np.random.default_rng(5)
    effects = {task: random.normal(size=(7, 3)) for task in "bacuv"}
    records = tables(effects, transition="a>c>b")
    across: list[float] = []
    same: list[float] = []
    for x, y in itertools.combinations("acuv", 2):
        for s, other in itertools.product(range(3), repeat=2):
            r = np.corrcoef(effects[x][:, s], effects[y][:, other])[0, 1]
            (same if s == other else across).append(r)
    found = agreement(records)
    assert (found.across.value, found.same.value, found.pairs) == pytest.approx((np.mean(across), np.mean(same), 6))
    assert found.by_transition == pytest.approx((np.mean(across),))
    r = [np.corrcoef(effects["a"][:, s], effects["c"][:, o])[0, 1] for s, o in itertools.permutations(range(3), 2)]
    earlier = agreement(records, "earlier with earlier")
    assert earlier.across.value == pytest.approx(np.mean(r)) and earlier.pairs == 1
    assert agreement(records, "earlier with unseen").pairs == 4 and agreement(records, "unseen with unseen").pairs == 1


def test_shared_noise_shows_within_a_seed_only_and_superior_candidates_in_both() -> None:
    random = np.random.default_rng(6)
    noise, good = [], []
    for n in range(10):
        shared = random.normal(size=(20, 2))
        own = {task: shared + 0.5 * random.normal(size=(20, 2)) for task in "bau"}
        noise += tables(own, transition=f"a>x{n}>b")
        superior = random.normal(size=(20, 1))
        good += tables({task: superior + random.normal(size=(20, 2)) for task in "bau"}, transition=f"a>x{n}>b")
    found = agreement(noise)
    # Of the variance 1.25 of an effect, 1 is shared within a seed.
    assert found.across.value == pytest.approx(0.0, abs=0.1) and found.same.value == pytest.approx(0.8, abs=0.05)
    found = agreement(good)
    assert found.across.value == pytest.approx(0.5, abs=0.1) and found.same.value == pytest.approx(0.5, abs=0.1)


def test_one_seed_has_the_upper_reading_alone() -> None:
    random = np.random.default_rng(7)
    found = agreement(tables({task: random.normal(size=(8, 1)) for task in "bau"}))
    assert found.across.value is None and "one seed" in (found.across.reason or "")
    assert found.same.value is not None and found.same.interval is not None
    assert found.by_transition == (found.same.value,)


# All together


def found_in(value: object, kind: type[Any]) -> list[Any]:
    """All values of a kind in a value made of dataclasses, tuples and numbers, records left out."""
    if isinstance(value, kind | StudyRecord):
        return [] if isinstance(value, StudyRecord) else [value]
    names = getattr(value, "__dataclass_fields__", ())
    parts = value if isinstance(value, tuple) else [getattr(value, name) for name in names]
    return [one for part in parts for one in found_in(part, kind)]


@pytest.mark.parametrize(("candidates", "seeds"), [(1, 1), (1, 2), (2, 1), (3, 1), (9, 2)])
@pytest.mark.parametrize("constant", [True, False])
def test_studies_of_any_size_have_figures_or_reasons_and_never_nan(candidates: int, seeds: int, constant: bool) -> None:
    random = np.random.default_rng(candidates)
    for transitions in (("a>b",), ("b",), ("a>b", "a>c>b")):
        records = []
        for transition, c, s in itertools.product(transitions, range(candidates), range(1, seeds + 1)):
            tasks = [task for task in "bau" if task != "a" or "a" in transition]
            values = [-0.5] * 3 if constant else random.normal(size=3).tolist()
            effects = dict(zip(tasks, values, strict=False))
            records.append(training(c, s, transition=transition, effects=effects))
        found = analyse(records[: len(records) - (candidates > 2)], sampling=LEAST)
        assert not any(math.isnan(number) for number in found_in(found, float))
        assert all(one.value is not None or one.reason for one in found_in(found, Measured))


def test_an_analysis_depends_on_records_and_seed_alone() -> None:
    records = study(np.random.default_rng(12), candidates=5, seeds=(1, 2), transitions=("a>b", "b>a"))
    found = analyse(records, sampling=LEAST)
    assert analyse(shuffling.Random(1).sample(records, len(records)), sampling=LEAST) == found
    other = analyse(records, sampling=replace(LEAST, seed=1))
    assert other.primary.rho.value == found.primary.rho.value
    assert other.primary.rho.interval != found.primary.rho.interval
