"""The course of a race: round by round on losses made by hand, then with a tiny model against exhaustive scoring."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import Told

from sapo.core.types import Example, Floats, Instruction, Standing, Task
from sapo.integrations.testing import tiny_model, tiny_tokenizer, toy_task
from sapo.models.losses import Scorer
from sapo.models.render import Renderer
from sapo.runs.config.schema import Config
from sapo.runs.prepare import prepare
from sapo.selection.boundary import nominal_level
from sapo.selection.cache import LossCache
from sapo.selection.prediction import Rows
from sapo.selection.race import FIRST, Finish, race, round_sizes
from sapo.selection.scoring import score_candidates
from sapo.selection.selection import Selection
from sapo.selection.settings import SelectionSettings
from sapo.selection.standings import quantile, standing

N = 250
WAVE = np.where(np.arange(N) % 2, 1.0, -1.0)


def run(nll: Any, tokens: Any = None, groups: Any = None, costs: Any = None, **settings: Any) -> Finish:
    """A race on losses that are known, in which nobody may be measured twice on a row."""
    known = np.array(nll, dtype=np.float64)
    candidates, n = known.shape
    done, heard = [0] * candidates, list[Standing]()

    def measure(wanted: Mapping[int, range]) -> list[Floats]:
        assert all(places.start == done[i] for i, places in wanted.items())
        done[:] = [wanted[i].stop if i in wanted else n for i, n in enumerate(done)]
        return [known[i, places.start : places.stop] for i, places in wanted.items()]

    tokens, groups = (np.full(n, x) if given is None else given for x, given in ((1, tokens), (0, groups)))
    chosen = {"delta": 0.05, "epsilon": 0.01, **settings}
    finish = race(measure, round_sizes(n), costs or [1.0] * candidates, tokens, groups, **chosen, watch=heard.append)
    assert tuple(heard) == finish.standings and [s.round for s in heard] == [*range(1, len(heard) + 1)]
    assert [len(x) for x in finish.nll] == finish.last.counts.tolist() == done
    assert all(np.array_equal(x, known[i, : done[i]]) for i, x in enumerate(finish.nll))
    return finish


def field(count: int = 8, n: int = N) -> Floats:
    """Losses of candidates that are each 0.05 worse than the one before; the original is the worst."""
    rng = np.random.default_rng(6)
    nll: Floats = rng.gamma(2, 1, n) + np.roll(np.arange(count), 1)[:, None] * 0.05 + rng.normal(0, 0.2, (count, n))
    return nll


# Rounds.


def test_all_are_measured_on_the_first_rows_and_only_who_races_on_the_next() -> None:
    finish = run(field())
    sizes = [0, *round_sizes(N)]
    racing: tuple[int, ...] = tuple(range(8))
    for s in finish.standings:
        assert all(s.counts[i] == sizes[s.round] for i in racing)
        assert all(s.counts[i] < sizes[s.round] for i in range(8) if i not in racing)
        assert s.counts.max() == s.counts[s.leader] and (not s.racing or s.racing[0] == s.leader)
        assert s.racing[1:] == tuple(i for i in np.argsort(s.low, kind="stable") if s.low[i] < -0.01)
        racing = s.racing
    assert len(finish.standings) > 3 and finish.end == "decided" and finish.last.leader == 1
    assert len({len(x) for x in finish.nll}) > 2


def test_bounds_are_those_of_student_at_the_level_of_all_looks_with_variances_of_all_who_were_there() -> None:
    nll = field()
    finish = run(nll, np.full(N, 2), delta=0.1)
    level = nominal_level(tuple(round_sizes(N)), N, 0.1 / 7)
    for s in finish.standings:
        for i in set(range(8)) - {s.leader}:
            k = int(s.counts[i])
            others = [j for j in range(8) if s.counts[j] >= k and j != s.leader]
            differences = (nll[others, :k] - nll[s.leader, :k]) / 2
            variances, gap = differences.var(axis=1, ddof=1), differences[others.index(i)].mean()
            variance = ((k - 1) * variances[others.index(i)] + 8 * variances.mean()) / (k + 7)
            reach = quantile(level, k - 1) * math.sqrt(variance * (1 / k - 1 / N))
            assert (s.gap[i], s.low[i], s.high[i]) == pytest.approx((gap, gap - reach, gap + reach))
            assert s.loss[i] == pytest.approx(nll[s.leader, : s.counts[s.leader]].mean() / 2 + gap)
        assert s.gap[s.leader] == s.low[s.leader] == s.high[s.leader] == 0


def test_a_dropped_candidate_comes_back_when_the_leader_changes() -> None:
    # After 8 rows the third is out against the original, but not against the second, which leads from then on.
    first = np.where(np.arange(N) < 8, 0.0, 100.0)
    finish = run([first, 3 + 3 * WAVE, np.full(N, 4.0)])
    one, two, three = finish.standings[:3]
    assert (one.leader, one.racing) == (0, (0, 1))
    assert (two.leader, two.counts.tolist(), set(two.racing)) == (1, [11, 11, 8], {0, 1, 2})
    assert three.counts.tolist() == [15, 15, 15]
    # Its difference came from the 8 rows that both were measured on.
    assert two.gap[2] == pytest.approx(1.0) and one.gap[2] == pytest.approx(4.0)
    assert finish.last.leader == 1 and len(finish.nll[0]) < len(finish.nll[2])


@pytest.mark.parametrize("settings", [{"epsilon": 0.0}, {"delta": 1e-9}, {"epsilon": 1e9}])
def test_equal_and_single_candidates_and_few_rows_end_at_once(settings: Any) -> None:
    base = np.random.default_rng(0).gamma(2, 1, N)
    for nll in ([base], [base, base], np.ones((4, N)), [base[:1], base[:1] + 1], [base[:8], base[:8] + WAVE[:8] + 1]):
        finish = run(nll, **settings)
        assert len(finish.standings) == 1 and finish.last.leader == 0 and finish.last.tolerance == 0
        assert finish.end == ("decided" if np.shape(nll)[1] > FIRST else "all rows")
    # Of two equal ones the earlier wins.
    finish = run([base + 9 + WAVE, base, base], epsilon=0.0)
    assert finish.last.leader == 1 and finish.end == "decided"


def test_a_race_to_the_last_row_is_exact_for_those_who_ran_it() -> None:
    nll = np.random.default_rng(2).gamma(2, 1, N) + np.outer([3, -1, 1], 2 * WAVE) + np.array([[9], [0], [0.02]])
    finish = run(nll)
    assert finish.end == "all rows" and [len(x) == N for x in finish.nll] == [False, True, True]
    assert finish.last.leader == 1 and finish.last.gap[2] == finish.last.low[2] == pytest.approx(0.02)
    assert finish.last.loss[1:] == pytest.approx(nll[1:].mean(axis=1))


@pytest.mark.parametrize("budget", [1.0, 230.0, 650.0])
def test_the_budget_ends_a_race_and_the_tolerance_reached_is_reported(budget: float) -> None:
    nll, costs = field() * 2, [1.0, 2.0, 3.0, 1.0, 2.0, 3.0, 1.0, 2.0]
    finish = run(nll, costs=costs, budget=budget)
    spent = sum(cost * len(x) for cost, x in zip(costs, finish.nll, strict=True))
    first, last = FIRST * sum(costs), finish.last
    assert finish.end == "budget" and len(last.racing) > 1
    assert spent == first if budget <= first else first < spent <= budget
    # Not one more row for everyone still in.
    assert spent + sum(costs[i] for i in last.racing) > budget
    rows = Rows(np.ones(N, dtype=np.int64), np.zeros(N, dtype=np.int64))
    level = nominal_level(tuple(round_sizes(N)), N, 0.05 / 7)
    over, open_ = (standing(1, rows, finish.nll, level, last.tolerance * x).racing for x in (1.0001, 0.9999))
    # The original may still be brought up to the leader.
    assert last.tolerance > 0.01 and over in ((), (last.leader, 0)) and open_[0] == last.leader and len(open_) == 2


@pytest.mark.parametrize("seed", [2, 21, 44, 53, 54])
def test_an_original_that_was_dropped_and_is_as_good_on_the_leaders_rows_wins(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.gamma(2, 1, N)
    gaps = np.concatenate([[rng.uniform(0, 0.008)], [0], rng.uniform(0.0, 0.06, 6)])
    spread = np.concatenate([[0.02], [0.02], rng.uniform(0.02, 0.4, 6)])
    nll = np.stack([rows + 4 * gap + rng.normal(0, sd, N) for gap, sd in zip(gaps, spread, strict=True)])
    last = run(nll, tokens=np.full(N, 4)).last
    assert last.leader == 0 and last.counts[0] == last.counts.max()


@pytest.mark.parametrize("budget", [29.0, 32.0, 34.0])
def test_a_budget_that_brings_nobody_up_to_the_leader_ends_the_race(budget: float) -> None:
    # After 11 rows the third comes back at 8; `run` demands that nobody is measured backwards.
    finish = run([np.where(np.arange(N) < 8, 0.0, 100.0), 3 + 3 * WAVE, np.full(N, 4.0)], budget=budget)
    assert finish.end == "budget" and sum(map(len, finish.nll)) <= max(budget, 30)
    assert finish.last.counts[2] in (8, 11) and finish.last.counts.max() == (10 if budget < 30 else 11)


def test_where_losses_are_noisy_leader_and_runner_up_are_measured_once_more_before_the_end() -> None:
    """Measured, 1 is the best; side by side, 2 is. The others are far behind."""
    true = np.array([1.0, 0.52, 0.5, 3.0])[:, None] + np.zeros(40)
    noise = np.array([0.0, -0.1, 0.0, 0.0])[:, None]
    asked = list[tuple[tuple[int, ...], int]]()

    def confirm(pair: Sequence[int], rows: int) -> list[Floats]:
        asked.append((tuple(pair), rows))
        return [true[i, :rows] for i in pair]

    def measure(wanted: Mapping[int, range]) -> list[Floats]:
        return [(true + noise)[i, places.start : places.stop] for i, places in wanted.items()]

    ones, zeros = np.ones(40, dtype=np.int64), np.zeros(40, dtype=np.int64)
    raced = partial(race, measure, round_sizes(40), [1.0] * 4, ones, zeros, delta=0.05, epsilon=0.01)
    finish = raced(confirm=confirm)
    assert asked == [((1, 2), FIRST)] and finish.last.leader == 2 and finish.end == "decided"
    assert [x[0] for x in finish.nll] == [1.0, 0.52, 0.5, 3.0]
    assert finish.last.gap.tolist() == pytest.approx([0.5, 0.02, 0.0, 2.5])
    assert raced().last.leader == 1


# With a model.
TEXTS = (
    "Say yes if the text has many words, or no if it has few.", "Reply yes if it is long and no if it is short.",
    "Are there many words? If so yes, if not no.", "yes for a long text, no for a short one.", "no or yes?", "yes? no?",
)  # fmt: skip
ROWS = tuple(range(4, 44))


def wordy() -> Task:
    """Answers of different lengths, one of them no label, and texts of which the longest are cut; 50 rows."""
    train = (Example(f"row {i} has {'words ' * (i * 7 % 23)}", ("yes", "no", "maybe so")[i % 3]) for i in range(50))
    return replace(toy_task(), train=tuple(train))


@dataclass(frozen=True)
class Course:
    """A selection; the standings and the number of rows that were told on the way; and the number of forward passes."""

    selection: Selection
    standings: tuple[Standing, ...]
    told: int
    passes: int


def scored(
    losses: LossCache | None = None,
    *,
    seed: int = 0,
    budget: float | None = None,
    scorer: Any = Scorer,
    **settings: Any,
) -> Course:
    model, told, passes = tiny_model(seed=2), Told(), list[int]()
    model.get_input_embeddings().register_forward_hook(lambda m, given, out: passes.append(1))
    selection = score_candidates(
        scorer(model), Renderer(tiny_tokenizer(), 230), wordy(), [Instruction(text, "given") for text in TEXTS], ROWS,
        SelectionSettings(**settings), seed=seed, budget=budget, cache=losses, progress=told,
    )  # fmt: skip
    return Course(selection, tuple(told.standings), told.done, len(passes))


raced = cache(scored)


def test_in_half_precision_the_noise_of_batches_is_added_to_the_tolerance() -> None:
    def half(model: Any) -> Scorer:
        return Scorer(model.to(torch.bfloat16))

    with_noise, exact = scored(scorer=half).selection, raced(strategy="exhaustive").selection
    assert with_noise.race is not None and 0.01 < with_noise.race.epsilon < 0.1
    # By hand: the first rows of the original, each row alone, against what the race began with.
    task, renderer = wordy(), Renderer(tiny_tokenizer(), 230)
    rows = renderer.encode(TEXTS[0], task.suffix, [task.train[i] for i in with_noise.rows[:8]])
    scorer = half(tiny_model(seed=2))
    moved = scorer(rows).nll - [float(scorer.plain([row]).nll[0]) for row in rows]
    noise = 2 * math.sqrt(float((moved**2).sum())) / sum(row.supervised for row in rows)
    assert with_noise.race is not None and with_noise.race.epsilon == pytest.approx(0.01 + noise)
    # The winner is within it of the best by float32, which knows no noise.
    losses = [candidate.loss for candidate in exact.candidates]
    assert losses[with_noise.chosen] - min(losses) < 0.01 + noise
    calm = raced().selection.race
    assert calm is not None and calm.epsilon == 0.01


def same(one: Selection, other: Selection) -> bool:
    """Whether all but times and memory is equal, to the last bit."""
    a, b = ({**x.to_json(), "seconds": 0, "peak_memory": 0} for x in (one, other))
    return a == b


def test_losses_of_a_race_are_those_of_exhaustive_scoring_on_the_same_rows() -> None:
    some, every = raced().selection, raced(strategy="exhaustive").selection
    assert (some.strategy, every.strategy, every.rows) == ("racing", "exhaustive", ROWS)
    assert tuple(sorted(some.rows)) == ROWS != some.rows
    place = [ROWS.index(row) for row in some.rows]
    for one, other in zip(some.candidates, every.candidates, strict=True):
        at = place[: len(one.losses.nll)]
        assert one.losses.nll == pytest.approx(other.losses.nll[at], rel=1e-6)
        assert np.array_equal(one.losses.tokens, other.losses.tokens[at])
        assert np.array_equal(one.losses.cut, other.losses.cut[at])
        assert one.gap is not None and other.gap is None and other.round is None
    assert some.candidates[2].losses.cut.any() and len(set(some.candidates[2].losses.tokens.tolist())) == 3
    assert every.candidates[some.chosen].loss <= min(c.loss for c in every.candidates) + 0.01
    assert some.tolerance == 0.01 and some.tokens < every.tokens
    # The race knows labels and tokens, and an answer that is no label.
    answers = [("yes", "no", "maybe so").index(wordy().train[row].answer) for row in some.rows]
    known = np.stack([c.losses.nll[place] for c in every.candidates])
    again = run(known, every.candidates[0].losses.tokens[place], np.array(answers)).last
    assert again.counts.tolist() == raced().standings[-1].counts.tolist()
    assert again.low == pytest.approx(raced().standings[-1].low, abs=1e-5)


def test_what_is_recorded_of_a_race_is_what_was_told_on_the_way() -> None:
    found, standings = raced().selection, raced().standings
    last = standings[-1]
    assert found.race is not None and (found.race.delta, found.race.epsilon, found.race.budget) == (0.05, 0.01, None)
    assert (found.race.rounds, found.race.end, found.race.tolerance) == (len(standings), "decided", last.tolerance)
    assert found.chosen == last.leader != 0 and not last.racing
    counts = [len(c.losses.nll) for c in found.candidates]
    assert found.evaluations == sum(counts) == last.counts.sum() == raced().told < len(TEXTS) * len(ROWS)
    assert sorted({c.status for c in found.candidates}) == ["chosen", "dropped", "scored"]
    for i, c in enumerate(found.candidates):
        assert (c.loss, c.gap) == (last.loss[i], (last.low[i], last.high[i]))
        assert c.delta == pytest.approx(last.loss[i] - last.loss[0])
        assert (c.status == "dropped") == (counts[i] < max(counts)) == (c.round is not None)
        assert (c.status == "chosen") == (i == found.chosen)
        if c.round is not None:
            assert i not in standings[c.round - 1].racing and standings[c.round - 1].counts[i] == counts[i]
            assert c.round == 1 or i in standings[c.round - 2].racing


def test_intervals_after_a_race_rest_on_the_rows_shared_with_the_original() -> None:
    original, *others = raced().selection.candidates
    assert original.interval is None and len({len(c.losses.nll) for c in others}) > 1
    for c in others:
        k = min(len(c.losses.nll), len(original.losses.nll))
        tokens, d = original.losses.tokens[:k], c.losses.nll[:k] - original.losses.nll[:k]
        error = math.sqrt(k / (k - 1) * float(((d - d.sum() / tokens.sum() * tokens) ** 2).sum())) / tokens.sum()
        # Two-sided, for five candidates at once.
        width = quantile(0.05 / 2 / 5, k - 1) * error
        assert c.interval == pytest.approx((c.delta - width, c.delta + width))


@pytest.mark.parametrize(
    ("policy", "rule"), [("sapo", "lowest"), ("sapo", "confident"), ("highest", "lowest"), ("random", "lowest")]
)
def test_a_run_that_needs_every_loss_does_not_race_and_says_so(
    policy: str, rule: str, configured: Callable[..., Config]
) -> None:
    setup = prepare(configured(policy=policy, selection={"rule": rule, "budget": 0.5}, candidates={"count": 2}))
    why = {"sapo": "selection.rule confident" if rule == "confident" else "", "random": ""}.get(
        policy, f"policy {policy}"
    )
    said = f"{why} needs every loss: all candidates are scored on all selection rows (exhaustive)"
    assert [note for note in setup.notes if "every loss" in note] == [said] * bool(why)
    races = (policy, rule) == ("sapo", "lowest")
    assert setup.chooser.settings.races == races


def test_the_seed_orders_a_race_the_budget_ends_it_and_the_confident_rule_takes_every_loss() -> None:
    other = scored(seed=1, budget=9000.0)
    found, last = other.selection, other.standings[-1]
    assert sorted(found.rows) == sorted(raced().selection.rows) and found.rows != raced().selection.rows
    assert found.race is not None and (found.race.end, found.race.budget) == ("budget", 9000.0)
    assert found.race.tolerance == last.tolerance > found.race.epsilon == 0.01
    assert found.chosen == last.leader and len(last.racing) > 1 and 0.8 * 9000 < found.tokens <= 9000
    every = scored(rule="confident", strategy="racing")
    assert every.selection.race is None and every.standings == () and every.selection.rows == ROWS
    assert every.selection.evaluations == every.told == len(TEXTS) * len(ROWS)


def test_candidates_that_share_batches_race_as_those_that_do_not(tmp_path: Path) -> None:
    accelerated = partial(Scorer, batch_tokens=16384, common=True)
    alone = raced()
    first, second = (scored(LossCache(tmp_path, "state", "cpu"), scorer=accelerated) for _ in range(2))
    found = first.selection
    assert (found.route, alone.selection.route) == ("common batches", "shared prefix")
    for one, other in zip(found.candidates, alone.selection.candidates, strict=True):
        assert np.abs(one.losses.nll - other.losses.nll).max() < 1e-5
        assert (one.status, one.round) == (other.status, other.round)
    assert [s.racing for s in first.standings] == [s.racing for s in alone.standings]
    assert found.chosen == alone.selection.chosen and first.told == alone.told
    # A batch for all candidates of a round; what they begin with is read in every row.
    assert first.passes == len(first.standings) < alone.passes and found.tokens > alone.selection.tokens
    assert second.passes == 0 and second.selection.cached == len(TEXTS) and second.told == first.told
    assert same(replace(second.selection, cached=0, tokens=found.tokens), found)


def test_known_losses_change_nothing_in_a_race_but_its_cost(tmp_path: Path) -> None:
    first, second = (scored(LossCache(tmp_path, "state", "cpu")) for _ in range(2))
    assert first.passes == raced().passes > 0 == second.passes and first.told == second.told
    assert (first.selection.cached, second.selection.cached, second.selection.tokens) == (0, len(TEXTS), 0)
    # The same as without, every time.
    assert same(first.selection, raced().selection)
    assert same(replace(second.selection, cached=0, tokens=first.selection.tokens), first.selection)
    assert second.selection.seconds == first.selection.seconds > 0
    # Where some are known, the others alone are computed.
    partly = LossCache(tmp_path / "partly", "state", "cpu")
    assert scored(partly, budget=9000.0).passes > 0 and 0 < (rest := scored(partly)).passes < first.passes
    assert same(replace(rest.selection, cached=0, tokens=first.selection.tokens), first.selection)
