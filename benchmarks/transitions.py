"""Does choosing the instruction keep more of what was learned before? Over many transitions from one task to another.

    python -m benchmarks.transitions OUT.jsonl --data-dir PATH/SUPERNI --screen     # which transitions forget
    python -m benchmarks.transitions OUT.jsonl --data-dir PATH/SUPERNI --seeds 2 3  # trains what OUT.jsonl lacks
    python -m benchmarks.transitions OUT.jsonl --report --seeds 2 3

Training is that of `examples/regime_policies.yaml`. To screen, each of 19 tasks of at most 265 tokens a row (built-in
and SuperNI) is trained after another one, drawn at random, with the original instructions and seed 1; transitions that
raise the earlier loss by 0.2 nats per token are kept, up to three are drawn for a task. In each of these, with other
seeds, from the state that knows the first task, the rules trial and lowest choose among 20 paraphrases; "shown" is the
text of lowest loss among those with demonstrations (of rows that are not trained on). The four that were tried, the
original among them, what was chosen and a random paraphrase are then trained with to the end, and both tasks are tested
on 32 rows: the second one with its training instruction, the first one with its original.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import ttest_1samp

import sapo
from benchmarks.forgetting import DEFAULTS, SEED, Laboratory
from sapo.candidates.demonstrations import demonstrations
from sapo.candidates.gather import gather
from sapo.core.types import Task
from sapo.experiments.study.resampling import holm
from sapo.report.differences import spread
from sapo.report.numbers import estimate
from sapo.selection.selection import Selection
from sapo.selection.settings import TrialSettings
from sapo.tasks.builtin import BUILTIN
from sapo.tasks.load import load_task
from sapo.training.finetune import finetune
from sapo.training.settings import TrainSettings
from sapo.training.trial import other_rows, try_leading

SUPERNI = (
    "task024_cosmosqa_answer_generation", "task1310_amazonreview_rating_classification",
    "task1343_amazon_us_reviews_rating", "task141_odd-man-out_classification_category",
    "task1510_evalution_relation_extraction", "task195_sentiment140_classification", "task273_europarl_classification",
    "task360_spolin_yesand_response_generation", "task363_sst2_polarity_classification",
    "task589_amazonfood_summary_text_generation", "task611_mutual_multi_turn_dialogue",
    "task618_amazonreview_summary_text_generation",
)  # fmt: skip
# The transitions with which the rule trial was made.
SEEN = {("date-format", "count-letter"), ("extract-items", "date-format"), ("extract-items", "odd-one-out")}
ROWS, TESTED, KEPT, LENGTH, LONGEST = 64, 32, 0.2, 1024, 2000
TRAIN = TrainSettings(epochs=1, learning_rate=2e-3, batch_size=4, micro_batch_size=4)
TESTED_WAYS = ("trial", "lowest", "shown")
WAYS, BEST = (*TESTED_WAYS, "random"), "best of the tried"


def draws() -> Iterator[tuple[str, str]]:
    """Yield a transition into each task, three times; none twice, and none of those seen before."""
    chance, names, known = random.Random(0), (*BUILTIN, *SUPERNI), set(SEEN)
    for second in names * 3:
        found = (chance.choice([name for name in names if name != second]), second)
        if found not in known:
            known.add(found)
            yield found


class Bench:
    """The model in a state that knows one task."""

    def __init__(self, data_dir: Path) -> None:
        self.laboratory = Laboratory(DEFAULTS | {"batch": 4, "updates": 16, "rate": 2e-3}, TESTED, 1)
        self.data_dir = data_dir
        self.states: dict[tuple[str, int], dict[str, torch.Tensor]] = {}

    def task(self, name: str, rows: slice = slice(ROWS)) -> Task:
        """Return a task with the rows that are trained on, or others."""
        task = load_task(name, self.data_dir)
        return replace(task, train=task.train[rows])

    def put(self, first: Task, seed: int) -> None:
        """Bring the model into the state that knows a task."""
        if (first.name, seed) not in self.states:
            self.laboratory.put(self.laboratory.start)
            self.laboratory.train(first, seed)
            self.states[first.name, seed] = self.laboratory.weights()
        self.laboratory.put(self.states[first.name, seed])

    def losses(self, first: Task, second: Task, text: str) -> list[float]:
        """Return the losses of the first task and, with an instruction, of the second one, in nats per token."""
        laboratory = self.laboratory
        pairs = ((first, first.instruction), (second, text))
        scorer = laboratory.scorer.on(laboratory.model)
        return [
            scorer(laboratory.renderer.encode(with_, task.suffix, task.test[:TESTED])).per_token
            for task, with_ in pairs
        ]

    def train(self, first: Task, second: Task, text: str, seed: int) -> list[float]:
        """Return the losses after training the second task from the state that knows the first one."""
        self.put(first, seed)
        rows = self.laboratory.renderer.encode(text, second.suffix, second.train)
        finetune(self.laboratory.model, rows, TRAIN, seed)
        self.laboratory.model.eval()
        return self.losses(first, second, text)

    def screen(self, names: tuple[str, str]) -> dict[str, Any]:
        """Return by how much training the second task raises the loss of the first one."""
        first, second = map(self.task, names)
        self.put(first, SEED)
        before = self.losses(first, second, second.instruction)
        return {"before": before, "after": self.train(first, second, second.instruction, SEED)}

    def unit(self, names: tuple[str, str], seed: int) -> dict[str, Any]:
        """Return what each way takes, what the trial saw, and the losses at the end of all that were trained with."""
        first, second = map(self.task, names)
        laboratory, chance, settings = self.laboratory, random.Random(f"{names} {seed}"), TrialSettings(rows=32)
        model, renderer = laboratory.model, laboratory.renderer

        def lowest(texts: list[str] | None) -> Selection:
            return sapo.select(model, laboratory.tokenizer, second, texts, ROWS, seed=seed)

        self.put(first, seed)
        frames = gather(self.task(names[1], slice(ROWS, 2 * ROWS)), (demonstrations(LONGEST),), None)
        shown = lowest([one.text for one in frames.candidates[1:]])
        best = shown.candidates[next(i for i in shown.ranked if i)]
        found = lowest(None)
        others = other_rows({first.name: (first, first.instruction, renderer)}, settings, seed, renderer, LENGTH)
        tried = try_leading(found, model, laboratory.scorer, renderer, second, others, settings, TRAIN, seed=seed)
        assert tried.trial is not None
        texts = [one.instruction.text for one in found.candidates]
        ways = {
            "trial": texts[tried.chosen], "lowest": texts[found.chosen], "shown": best.instruction.text,
            "random": chance.choice(texts[1:]),
        }  # fmt: skip
        trained = [texts[0], *(texts[one.candidate] for one in tried.trial.tried), *ways.values()]
        return {
            "ways": ways,
            "before": [asdict(one.instruction) | {"loss": one.loss} for one in (*found.candidates, *shown.candidates)],
            "tried": [asdict(one) | {"text": texts[one.candidate]} for one in tried.trial.tried],
            "ends": [
                {"text": text, "losses": self.train(first, second, text, seed)} for text in dict.fromkeys(trained)
            ],
        }


def report(lines: list[dict[str, Any]], seeds: list[int]) -> None:
    """Print AP in nats of each way minus the original, paired, over transitions (means over seeds).

    Three comparisons are tested (p after Holm), and only where all units are there.
    """
    kept = [(one["first"], one["second"]) for one in lines if "after" in one and rise(one) >= KEPT]
    made = {(one["first"], one["second"], one["seed"]): one for one in lines if "ends" in one}
    missing = [(*names, seed) for names in kept for seed in seeds if (*names, seed) not in made]
    if missing or not kept:
        raise SystemExit(f"{len(missing)} units are missing, the first one {missing[:1]}: nothing is tested yet")
    units = {names: [differences(made[*names, seed]) for seed in seeds] for names in kept}
    points = {
        name: [float(np.mean([one[name] for one in several])) for several in units.values()]
        for name in units[kept[0]][0]
    }
    p = {name: float(ttest_1samp(of, 0).pvalue) for name, of in points.items()}
    adjusted = dict(zip(TESTED_WAYS, holm([p[way] for way in TESTED_WAYS]), strict=True))
    print(f"{len(kept)} transitions x {len(seeds)} seeds; minus the original, nats per token")
    for name, of in points.items():
        after = f" ({adjusted[name]:.3f} after Holm)" if name in adjusted else ""
        below = sum(point < 0 for point in of)
        print(f"{name}: {estimate(spread(of), 3, sign=True)}, p = {p[name]:.3f}{after}, below 0 in {below}")
    for n, (first, second) in enumerate(kept):
        print(f"{first} > {second}: {', '.join(f'{way} {points[way][n]:+.3f}' for way in (*WAYS, BEST))}")


def rise(line: dict[str, Any]) -> float:
    """Return by how much the loss of the first task rose."""
    return float(line["after"][0] - line["before"][0])


def differences(line: dict[str, Any]) -> dict[str, float]:
    """Return AP of each way in one unit minus that of the original, and the same of each task."""
    ends = {one["text"]: np.array(one["losses"]) for one in line["ends"]}
    original = ends[line["tried"][0]["text"]]
    taken = {way: ends[line["ways"][way]] - original for way in WAYS}
    best = min((ends[one["text"]] for one in line["tried"]), key=np.mean) - original
    found = {way: float(end.mean()) for way, end in taken.items()} | {BEST: float(best.mean())}
    return found | {f"{way}, {of}": float(taken[way][n]) for way in WAYS for n, of in enumerate(("earlier", "own"))}


def main() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[])
    parser.add_argument("--screen", action="store_true")
    parser.add_argument("--report", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    lines = (
        [json.loads(line) for line in given.out.read_text(encoding="utf-8").splitlines()] if given.out.exists() else []
    )
    if given.report:
        report(lines, given.seeds)
        return
    bench = Bench(given.data_dir)

    def add(names: tuple[str, str], seed: int, found: dict[str, Any]) -> None:
        line = {"first": names[0], "second": names[1], "seed": seed, **found}
        lines.append(line)
        with given.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(*names, seed, flush=True)

    def rises() -> dict[tuple[str, str], float]:
        return {(o["first"], o["second"]): rise(o) for o in lines if "after" in o}

    if given.screen:
        for names in draws():
            kept = {second for (_, second), found in rises().items() if found >= KEPT}
            if names not in rises() and names[1] not in kept:
                add(names, SEED, bench.screen(names))
    for seed in given.seeds:
        for names in [names for names, found in rises().items() if found >= KEPT]:
            if not any((o["first"], o["second"], o["seed"]) == (*names, seed) for o in lines):
                add(names, seed, bench.unit(names, seed))


if __name__ == "__main__":
    main()
