"""Does the lower loss before training forget less? The secondary questions of two studies in examples/.

    python benchmarks/regime.py results/regime_study.jsonl results/regime_states
    python benchmarks/regime.py results/regime_paraphrases.jsonl results/regime_paraphrases_states

Rank correlations of pre-update loss with the effect on earlier tasks (below 0: lower loss, less forgotten), for all
candidates, without the controls, and for the controls with the original. Then pairs of candidates of one transition
whose pre-update losses differ significantly (paired t-test over the rows, p < 0.05): the share in which the lower
loss forgets less, with a 95 % interval from resampled candidates.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr, ttest_rel

from sapo.core.types import Floats
from sapo.experiments.study.blocks import Block, blocks_of
from sapo.experiments.study.components import moments
from sapo.experiments.study.prediction import PRIMARY, associate
from sapo.experiments.study.records import read_study
from sapo.experiments.study.resampling import Sampling, detectable


def kinds(block: Block, file: Path) -> list[str]:
    """Return the kind of each candidate of a transition: original, paraphrase, or which control."""
    entries = json.loads(file.read_text(encoding="utf-8"))[block.first.task]
    known = {entry["text"].strip(): entry["kind"] for entry in entries}
    places = zip(block.candidates, block.records, strict=True)
    return [known.get(row[0].text, "paraphrase" if n else "original") for n, row in places]


def correlation(name: str, blocks: Sequence[Block], keep: Sequence[Sequence[int]]) -> None:
    """Print the rank correlation over the kept candidates of each transition."""
    pairs: list[tuple[Floats | None, Floats | None]] = []
    for block, places in zip(blocks, keep, strict=True):
        losses, effects = block.indicator(PRIMARY), block.outcome("forgetting")
        assert losses is not None and effects is not None
        pairs.append((losses[list(places)], effects.mean(axis=1)[list(places)]))
    found = associate("adamw", PRIMARY, "forgetting", pairs, Sampling())
    by = ", ".join("-" if rho is None else f"{rho:+.2f}" for rho in found.by_transition)
    rho = "-" if found.rho.value is None else f"{found.rho.value:+.2f}"
    interval = "" if found.rho.interval is None else " [{:+.2f}, {:+.2f}]".format(*found.rho.interval)
    p = "-" if found.p is None else f"{found.p:.3f}"
    least = detectable(found.candidates).critical
    undetectable = "-" if least is None else f"{least:.2f}"
    print(f"{name}: {rho}{interval}, p = {p}; by transition {by}; detectable from {undetectable} on")


def reproducible(name: str, blocks: Sequence[Block], keep: Sequence[Sequence[int]]) -> None:
    """Print how much of the variance of one training's effect belongs to its wording, whatever the seed.

    Of candidates x seeds, without the means of seeds: the variance between candidates over that and the rest's (the
    intraclass correlation of a single training, two-way ANOVA).
    """
    shares = []
    for block, places in zip(blocks, keep, strict=True):
        effects = block.outcome("forgetting")
        assert effects is not None
        between, _, rest, _ = moments(effects[list(places)])
        wording = max(between, 0.0)
        shares.append(f"{wording / (wording + rest):.2f} (sd {wording**0.5:.2f} and {rest**0.5:.2f})")
    print(f"{name}, share of the variance of one training that is the wording's, by transition: {', '.join(shares)}")


def best_of(block: Block, places: Sequence[int]) -> str:
    """Return what the best of as many wordings in one order forgets, of as many orders with one wording, and the mean.

    As many as there are seeds; exact means over all choices, nats per token.
    """
    effects = block.outcome("forgetting")
    assert effects is not None
    rises = -effects[list(places)]
    seeds = rises.shape[1]
    wordings = np.mean([rises[list(some)].min(axis=0) for some in combinations(range(len(rises)), seeds)])
    return f"{wordings:.2f}, {rises.min(axis=1).mean():.2f}, {rises.mean():.2f}"


def partial(name: str, blocks: Sequence[Block], keep: Sequence[Sequence[int]]) -> None:
    """Print mean rank correlations of loss and length with the effect, each also with the other one held fixed."""
    found = []
    for block, places in zip(blocks, keep, strict=True):
        loss, length, effects = block.indicator(PRIMARY), block.indicator("length"), block.outcome("forgetting")
        assert loss is not None and length is not None and effects is not None
        x, z, y = (values[list(places)] for values in (loss, length, effects.mean(axis=1)))
        xy, xz, zy = (float(spearmanr(*pair).statistic) for pair in ((x, y), (x, z), (z, y)))
        scale = (1 - xz**2) ** 0.5
        fixed = ((xy - xz * zy) / (scale * (1 - zy**2) ** 0.5), (zy - xz * xy) / (scale * (1 - xy**2) ** 0.5))
        found.append((xz, xy, fixed[0], zy, fixed[1]))
    both, *others = np.mean(found, axis=0)
    print(f"{name}: loss with length {both:+.2f}; with the effect: loss {others[0]:+.2f}, {others[1]:+.2f} with length "
          f"held fixed, length {others[2]:+.2f}, {others[3]:+.2f} with the loss held fixed")  # fmt: skip


def agreement(block: Block, losses: dict[int, Floats], places: Sequence[int]) -> list[tuple[int, int, bool]]:
    """Return the pairs whose losses differ significantly, and whether the lower loss forgets less."""
    effects = block.outcome("forgetting")
    assert effects is not None
    found = []
    for a, b in combinations(places, 2):
        one, other = losses[block.candidates[a]], losses[block.candidates[b]]
        if ttest_rel(one, other).pvalue < 0.05:
            low, high = (a, b) if one.sum() < other.sum() else (b, a)
            found.append((low, high, bool(effects[low].mean() > effects[high].mean())))
    return found


def main() -> None:
    """Print all of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("study", type=Path)
    parser.add_argument("states", type=Path)
    parser.add_argument("--candidates", type=Path, default=Path("examples/regime_candidates.json"))
    parser.add_argument("--seeds", type=int, nargs="+", help="of the trainings that count, by default all")
    given = parser.parse_args()
    records = [one for one in read_study(given.study) if given.seeds is None or one.seed in given.seeds]
    blocks = [block for block in blocks_of(records) if len(block.candidates) > 1]
    what = [kinds(block, given.candidates) for block in blocks]
    everything = [list(range(len(kind))) for kind in what]
    good = [[n for n, k in enumerate(kind) if k in ("original", "paraphrase")] for kind in what]
    controls = [[n for n, k in enumerate(kind) if k != "paraphrase"] for kind in what]
    for block, kind in zip(blocks, what, strict=True):
        losses, effects, own = block.indicator(PRIMARY), block.outcome("forgetting"), block.outcome("in_task")
        assert losses is not None and effects is not None and own is not None
        print(f"\n{block.transition}, seeds {block.seeds}")
        for n in np.argsort(losses):
            each = " ".join(f"{value:+.3f}" for value in effects[n])
            text = block.records[n][0].text[:40].replace("\n", "/")
            print(f"  {losses[n]:.3f}  earlier {each}  own {own[n].mean():+.3f}  {kind[n]}: {text}")
    print()
    sets = [("all", everything)]
    if everything != good:
        sets += [("without controls", good), ("original and controls", controls)]
    for name, keep in sets:
        correlation(name, blocks, keep)
        if given.seeds is None or len(given.seeds) > 1:
            reproducible(name, blocks, keep)
        partial(name, blocks, keep)
    best = "; ".join(best_of(block, places) for block, places in zip(blocks, good, strict=True))
    print(f"paraphrases, best of wordings in one order, of orders with one wording, mean: {best}")
    rng = np.random.default_rng(0)
    for name, keep in sets:
        pairs = []
        for block, places in zip(blocks, keep, strict=True):
            stored = json.loads((given.states / f"{block.transition}.json").read_text(encoding="utf-8"))
            measured = stored["value"]["candidates"]
            rows = {n: np.array(one["nll"]) for n, one in enumerate(measured)}
            pairs.append((places, agreement(block, rows, places)))
        right = sum(sum(ok for *_, ok in found) for _, found in pairs)
        count = sum(len(found) for _, found in pairs)
        shares = []
        for _ in range(2000):
            hits = total = 0
            for places, found in pairs:
                drawn = np.bincount(rng.choice(places, len(places)), minlength=max(places) + 1)
                hits += sum(int(drawn[a] * drawn[b]) * ok for a, b, ok in found)
                total += sum(int(drawn[a] * drawn[b]) for a, b, _ in found)
            if total:
                shares.append(hits / total)
        low, high = np.percentile(shares, [2.5, 97.5]) if shares else (float("nan"), float("nan"))
        print(f"pairs, {name}: the lower loss forgets less in {right} of {count} [{low:.0%}, {high:.0%}]")


if __name__ == "__main__":
    main()
