"""The runs whose values are recorded: each of a second or less, on a tiny model and two tasks of a few rows."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from golden import reading
from golden.reading import Found
from small_runs import Json, command, plain_config, save_model, write

import sapo
from sapo.integrations.testing import tiny_model, tiny_tokenizer, toy_task

METHODS = ("seq-lora", "inc-lora", "o-lora", "ewc", "replay", "lwf", "osf", "full", "multitask", "single")
POLICIES = ("original", "sapo", "per-example")
TASKS = ("alpha", "beta")
# Every method's own setting is felt.
METHOD_KEYS: Mapping[str, Json] = {
    "o_lora": {"weight": 0.5},
    "ewc": {"weight": 1e3, "examples": 4},
    "replay": {"buffer": 5, "share": 0.5},
    "lwf": {"weight": 1.0},
    "osf": {"learning_rate": 5e-3},
    "full": {"learning_rate": 2e-3},
}
# One run each, with seq-lora.
VARIANTS: Mapping[str, Json] = {
    "random": {"policy": "random", "seed": 3},
    "highest": {"policy": "highest"},
    "median": {"policy": "median"},
    "paft": {"policy": "paft", "paft": {"steps": 2}},
    "reselect": {
        "policy": "reselect", "reselect": {"every": 1, "k": 4, "rows": 2}, "seed": 3, "train": {"learning_rate": 0.1},
        "lora": {"dropout": 0.3},
    },
    "confident": {"selection": {"rule": "confident", "examples": 6}},
    "exhaustive": {"selection": {"strategy": "exhaustive", "examples": 6}, "seed": 5},
    "first-rows": {"selection": {"sample": "first"}, "evaluate": {"prompts": ["original"]}},
    "guard-stop": {"guard": {"every": 1, "rows": 4, "limit": 0.05, "action": "stop"}},
    "guard-warn": {"guard": {"every": 2, "rows": 4, "limit": 0.05}, "policy": "original"},
    "wordings": {
        "evaluate": {"prompts": ["own", "original", {"wordings": 1}]}, "candidates": {"count": 2}, "policy": "original",
    },
    "keep-last": {"keep": "last", "lora": {"dropout": 0.0}, "train": {"warmup": 0.3, "weight_decay": 0.1}},
}  # fmt: skip
# What a killed process is to arrive at, too: it goes on from a checkpoint, with rows that it remembers.
CHECKPOINTED: Json = {"method": "replay", "train": {"epochs": 5, "checkpoint_every": 2, "learning_rate": 0.02}}
# The last one is turned away: it names no label.
PARAPHRASES = (
    "Answer yes if the text has many words, and no if it has few.",
    "If the text has many words, say yes; if it has few words, say no.",
    "Does the text have many words? Say yes if it has, or no if it has few.",
    "Say no if the text has few words, or yes if it has many words.",
    "Are there many words or few?",
)


@dataclass(frozen=True, slots=True)
class Ground:
    """What runs start from.

    Attributes:
        model: directory of the tiny model.
        bench: directory of the tasks.
    """

    model: Path
    bench: Path


def lay(directory: Path) -> Ground:
    """Write the tiny model and the tasks."""
    ground = Ground(directory / "model", directory / "bench")
    save_model(ground.model)
    # The second task has answers that the first one does not have: training on it forgets the first.
    labels = {"alpha": ("y", "n"), "beta": ("k", "m"), "gamma": ("y", "n")}
    for task, (one, other) in labels.items():
        for split, count in (("train", 12), ("test", 4)):
            rows = [{"sentence": f"{task} {split} {i}", "label": (one, other)[i % 2]} for i in range(count)]
            write(ground.bench / task / f"{split}.json", rows)
    index = {
        task: {"instruction": f"Say {a} or {b} for {task}.", "suffix": "One letter.", "labels": [a, b]}
        for task, (a, b) in labels.items()
    }
    write(ground.bench / "instructions.json", index)
    texts = {task: _paraphrases(task, a, b) for task, (a, b) in labels.items()}
    write(ground.bench / "candidates.json", texts)
    return ground


def _paraphrases(task: str, one: str, other: str) -> list[str]:
    """Two of them are turned away: one repeats the original, one names no label."""
    return [
        f"For {task}, answer {one} or {other}.",
        f"Say {one} or {other} for {task}.",
        f"Is it {one} or {other}? It is {task}.",
        f"Say something for {task}.",
        f"What would you say to {task}: is this a {one}, or is it an {other}?",
        f"Is this {task} {one} or is it {other}? Say which.",
    ]


def settings(ground: Ground, run_dir: Path, **changes: Any) -> Json:
    """The configuration of a run; the keys of a part are changed one by one."""
    # Every run computes its losses itself.
    own: Json = {
        "model": {"dtype": "float32"}, "selection": {"cache": False}, "train": {"learning_rate": 0.05},
        "evaluate": {"prompts": ["own", "original"]},
    }  # fmt: skip
    for key, value in changes.items():
        own[key] = {**own.get(key, {}), **value} if isinstance(value, dict) else value
    return plain_config(ground.model, ground.bench, run_dir, **own)


def run_once(ground: Ground, directory: Path, **changes: Any) -> Found:
    run_dir = directory / "run"
    sapo.run(sapo.make_config(settings(ground, run_dir, **changes)))
    return reading.of_run(run_dir)


def method_run(method: str, policy: str, ground: Ground, directory: Path) -> Found:
    key = method.replace("-", "_")
    own = {key: METHOD_KEYS[key]} if key in METHOD_KEYS else {}
    watch = {"watch": ["gamma"]} if method == "seq-lora" else {}
    return run_once(ground, directory, method=method, policy=policy, **own, **watch)


def variant(changes: Json, ground: Ground, directory: Path) -> Found:
    return run_once(ground, directory, **changes)


def sweep(ground: Ground, directory: Path) -> Found:
    grid = {"policy": ["original", "sapo"], "seed": [1, 2]}
    write(directory / "sweep.yaml", settings(ground, directory / "sweep", sweep=grid, train={"epochs": 1}))
    assert command("run", directory / "sweep.yaml") == 0
    return reading.of_sweep(directory / "sweep")


def study(ground: Ground, directory: Path) -> Found:
    data = settings(ground, directory / "study", lora={"dropout": 0.0}, train={"epochs": 1})
    taken = ("model", "data_dir", "candidates", "train", "lora", "run_dir")
    own = {
        "transitions": [list(TASKS)], "unseen": ["gamma"], "seeds": [1], "arms": ["adamw", "sgd"], "examples": 4,
        "rows": 3, "scores": True, "max_new_tokens": 2,
    }  # fmt: skip
    write(directory / "study.yaml", {key: data[key] for key in taken} | own)
    assert command("study", directory / "study.yaml") == 0
    return reading.of_study(directory / "study")


def own_loop(ground: Ground, directory: Path) -> Found:
    """Plain gradient descent on whole texts: what is learned matters little, that it is followed does."""
    model, tokenizer = tiny_model(seed=2), tiny_tokenizer()
    tasks = [toy_task("one", rows=8), toy_task("two", rows=8)]
    sequence = sapo.TaskSequence(directory / "own", model, tokenizer, tasks, max_new_tokens=2)
    for task in sequence.open:
        instruction = sequence.before(task, list(PARAPHRASES))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
        for row in task.train:
            ids = torch.tensor([tokenizer(f"{instruction.text}\n{row.input}\n{row.answer}").input_ids])
            loss = model(input_ids=ids, labels=ids).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        sequence.after(task)
    found, weights = reading.of_run(directory / "own"), reading.of_weights(model)
    return Found({**found.values, **weights.values}, weights.bits)


def select_racing(ground: Ground, directory: Path) -> Found:
    """Enough rows, and unlike enough, for candidates to drop out on the way."""
    task = toy_task(rows=60)
    words = ("apple", "river", "stone", "cloud", "window", "paper")
    ends = [" ".join(words[i * k % len(words)] for k in range(1, 1 + i % 5)) for i in range(len(task.train))]
    rows = tuple(replace(row, input=f"{row.input}, {end}") for row, end in zip(task.train, ends, strict=True))
    found = sapo.select(
        tiny_model(seed=4), tiny_tokenizer(), replace(task, train=rows), list(PARAPHRASES[1:]), 60,
        delta=0.01,
    )  # fmt: skip
    return Found({"selections": {"toy": reading.of_selection(found.to_json())}})


def select_within_tolerance(ground: Ground, directory: Path) -> Found:
    """A paraphrase is better, by less than matters."""
    found = sapo.select(tiny_model(seed=2), tiny_tokenizer(), toy_task(rows=8), list(PARAPHRASES), epsilon=5.0)
    return Found({"selections": {"toy": reading.of_selection(found.to_json())}})


def select_equal(ground: Ground, directory: Path) -> Found:
    """A model that looks at the last token alone, for which all instructions are the same."""
    model = tiny_model(seed=2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("o_proj.weight"):
                parameter.zero_()
    found = sapo.select(model, tiny_tokenizer(), toy_task(rows=8), list(PARAPHRASES), strategy="exhaustive")
    values = reading.of_selection(found.to_json())
    # Noise, all of it.
    for one in values["candidates"]:
        one.update(delta=0.0, interval=None)
    return Found({"selections": {"toy": values}})


CASES: Mapping[str, Callable[[Ground, Path], Found]] = {
    **{f"{method}-{policy}": partial(method_run, method, policy) for method, policy in product(METHODS, POLICIES)},
    **{name: partial(variant, changes) for name, changes in VARIANTS.items()},
    "checkpointed": partial(variant, CHECKPOINTED),
    "sweep": sweep,
    "study": study,
    "own-loop": own_loop,
    "select-racing": select_racing,
    "select-within-tolerance": select_within_tolerance,
    "select-equal": select_equal,
}
# Cases in which candidates are equal on purpose.
EQUAL = ("select-equal",)
