"""What a few updates tell of the end: candidates of the regime study, tested after 4, 8 and 16 of 16 updates.

    python -m benchmarks.early OUT.jsonl [--seed 1]     # trains what OUT.jsonl lacks, a line for each candidate
    python -m benchmarks.early OUT.jsonl --report [--seed 1] [--seen 2]    # rank correlations with what is forgotten

Of ``--seen``, what is seen before the end is that of a training with another seed: other rows' order, the same wording.

Transitions, candidates and training are those of `examples/regime_study.yaml`; tasks are the built-in ones. A line
holds, before the training and after each of the three, the loss on two halves of the earlier task's test rows and on
the new task's own rows, KL to the start on 8 earlier rows, and the first-order interference: the gradient of the
earlier loss at the start, times the update so far; before and at the end also the mean loss on the own rows with up to
four other wordings of the task, so that its distance to the loss with the own prompt says how conditional the training
became. Predictors see one half of the earlier rows, the outcome is the other half, so that no row predicts itself.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from benchmarks.forgetting import DEFAULTS, Laboratory, Way
from sapo.core.types import Encoded, Task
from sapo.experiments.study.indicators import drift, gradient
from sapo.tasks.builtin import builtin_task
from sapo.training.finetune import finetune
from sapo.training.settings import TrainSettings
from sapo.training.trainer import Extras

TRANSITIONS = (("date-format", "count-letter"), ("extract-items", "date-format"), ("extract-items", "odd-one-out"))
CANDIDATES = Path("examples/regime_candidates.json")
SETTINGS = DEFAULTS | {"batch": 4, "updates": 16, "rate": 2e-3}
HALF, LOOKS, WORDINGS, PARAPHRASES = 16, (4, 8, 16), 4, ("original", "paraphrase")
# Candidates that a trial tries, as `selection.trial.leading`.
LEADING = 4
CONDITIONAL = "other wordings minus own prompt, new task"


class Looks(Way):
    """Tests a training after some of its updates."""

    def __init__(
        self, laboratory: Laboratory, earlier: list[Encoded], own: list[Encoded], others: list[list[Encoded]]
    ) -> None:
        self.laboratory, self.earlier, self.own, self.others = laboratory, earlier, own, others
        self.start = laboratory.weights()
        self.slope = gradient(laboratory.model, earlier[:HALF])
        self.found = [self.look(0)]

    def look(self, step: int) -> dict[str, float]:
        """Return what can be seen now."""
        loss = self.laboratory.scorer.on(self.laboratory.model)
        now = self.laboratory.weights()
        ends = {"wordings": float(np.mean([loss(x).per_token for x in self.others]))} if step in (0, LOOKS[-1]) else {}
        return ends | {
            "step": step,
            "seen": loss(self.earlier[:HALF]).per_token,
            "held out": loss(self.earlier[HALF:]).per_token,
            "own": loss(self.own).per_token,
            "drift": drift(self.laboratory.model, self.start, self.earlier[:8]),
            "interference": sum(float((self.slope[n] * (now[n] - self.start[n])).sum()) for n in now),
        }

    def after(self, model: Any, step: int, last: bool) -> bool:
        """Look, if it is time."""
        if step in LOOKS:
            model.eval()
            self.found.append(self.look(step))
            model.train()
        return False


def train(
    laboratory: Laboratory, earlier: Task, task: Task, text: str, wordings: list[str], seed: int
) -> list[dict[str, float]]:
    """Train a task with an instruction from the present state, and return the looks."""
    rows = laboratory.renderer.encode(text, task.suffix, task.train[: SETTINGS["updates"] * SETTINGS["batch"]])
    old = laboratory.renderer.encode(earlier.instruction, earlier.suffix, earlier.test[: 2 * HALF])
    own, *others = [laboratory.renderer.encode(one, task.suffix, task.test[:HALF]) for one in (text, *wordings)]
    looks = Looks(laboratory, old, own, others)
    size = SETTINGS["batch"]
    settings = TrainSettings(epochs=1, learning_rate=SETTINGS["rate"], batch_size=size, micro_batch_size=size)
    finetune(laboratory.model, rows, settings, seed, extras=Extras(watchers=(looks,)))
    return looks.found


def make(out: Path, seed: int) -> None:
    """Train with every candidate that is not there yet."""
    there = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    known = {(line["earlier"], line["task"], line["text"], line["seed"]) for line in there}
    laboratory = Laboratory(SETTINGS, 2 * HALF, 12)
    for earlier, task in [(builtin_task(a), builtin_task(b)) for a, b in TRANSITIONS]:
        state, _ = laboratory.alone(earlier)
        entries = json.loads(CANDIDATES.read_text(encoding="utf-8"))[task.name]
        texts = [("original", task.instruction), *((entry["kind"], entry["text"]) for entry in entries)]
        for kind, text in texts:
            if (earlier.name, task.name, text, seed) not in known:
                laboratory.put(state)
                wordings = [t for k, t in texts if k in PARAPHRASES and t != text][:WORDINGS]
                looks = train(laboratory, earlier, task, text, wordings, seed)
                line = {"earlier": earlier.name, "task": task.name, "kind": kind, "text": text, "seed": seed}
                with out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line | {"looks": looks}) + "\n")
                print(earlier.name, task.name, kind, flush=True)


def report(out: Path, seed: int, seen: int) -> None:
    """Print how well each thing seen before the end, with a seed, goes with the rise of the earlier loss at the end."""
    every = [*map(json.loads, out.read_text(encoding="utf-8").splitlines())]
    known = {(line["earlier"], line["task"], line["text"]): line["looks"] for line in every if line["seed"] == seen}
    lines = [
        {**line, "looks": [*known[key][:-1], line["looks"][-1]]}
        for line in every
        if line["seed"] == seed and (key := (line["earlier"], line["task"], line["text"])) in known
    ]
    fields = {
        "loss before the training": lambda looks, k: looks[0]["own"],
        "rise on earlier rows": lambda looks, k: looks[k]["seen"] - looks[0]["seen"],
        "mean loss, own and earlier": lambda looks, k: (looks[k]["seen"] + looks[k]["own"]) / 2,
        "drift (KL) on earlier rows": lambda looks, k: looks[k]["drift"],
        "first-order interference": lambda looks, k: looks[k]["interference"],
        CONDITIONAL: lambda looks, k: looks[k]["wordings"] - looks[k]["own"],
    }
    ends = {"loss before the training": (0,), CONDITIONAL: (3,)}
    print("| seen | after updates | " + " | ".join(f"{a} > {b}" for a, b in TRANSITIONS) + " | mean | paraphrases |")
    print("|---|---:|" + "---:|" * (len(TRANSITIONS) + 2))
    for name, field in fields.items():
        for k in ends.get(name, (1, 2)):
            both = [[rank(lines, pair, field, k, controls=on) for pair in TRANSITIONS] for on in (True, False)]
            cells = " | ".join(f"{rho:+.2f}" for rho in (*both[0], *map(np.nanmean, both)))
            print(f"| {name} | {(0, *LOOKS)[k]} | {cells} |")

    print("\n| earlier loss at the end, paraphrases | " + " | ".join(f"{a} > {b}" for a, b in TRANSITIONS) + " |")
    print("|---|" + "---:|" * len(TRANSITIONS))
    found = [choices(lines, pair) for pair in TRANSITIONS]
    for way in found[0]:
        print(f"| {way} | " + " | ".join(f"{of[way]:.2f}" for of in found) + " |")


def choices(lines: list[dict[str, Any]], pair: tuple[str, str]) -> dict[str, float]:
    """Return the earlier loss at the end (held-out half) of what each way of choosing takes; NaN without lines."""
    of = [line for line in lines if (line["earlier"], line["task"]) == pair and line["kind"] in PARAPHRASES]
    by_loss = sorted(of, key=lambda line: line["looks"][0]["own"])
    original = [line for line in by_loss if line["kind"] == "original"]
    leading = [*original, *[line for line in by_loss if line["kind"] != "original"][: LEADING - 1]]
    after = {k: sorted(leading, key=lambda line: line["looks"][k]["seen"] + line["looks"][k]["own"]) for k in (1, 2)}
    ends = [line["looks"][-1]["held out"] for line in of]
    found = {
        "original": original,
        "lowest loss": by_loss,
        f"trial of {LEADING} for {LOOKS[0]} updates": after[1],
        f"trial of {LEADING} for {LOOKS[1]} updates": after[2],
    }
    taken = {way: ranked[0]["looks"][-1]["held out"] if ranked else float("nan") for way, ranked in found.items()}
    return taken | {"mean of all": float(np.mean(ends or [np.nan])), "best of all": min(ends, default=float("nan"))}


def rank(lines: list[dict[str, Any]], pair: tuple[str, str], field: Any, k: int, *, controls: bool) -> float:
    """Return the rank correlation over candidates of one transition."""
    kept = [line for line in lines if (line["earlier"], line["task"]) == pair]
    if k == len(LOOKS):
        kept = [line for line in kept if "wordings" in line["looks"][k]]
    kept = [line for line in kept if controls or line["kind"] in PARAPHRASES]
    rises = [line["looks"][-1]["held out"] - line["looks"][0]["held out"] for line in kept]
    if len(kept) < 3:
        return float("nan")
    return float(spearmanr([field(line["looks"], k) for line in kept], rises).statistic)


def main() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--seen", type=int, help="the seed of what is seen before the end; by default --seed")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.report:
        report(given.out, given.seed, given.seed if given.seen is None else given.seen)
    else:
        make(given.out, given.seed)


if __name__ == "__main__":
    main()
