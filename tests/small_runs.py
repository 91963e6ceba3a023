"""Runs of about a second: the tiny model on tasks of a benchmark folder, and what such runs leave behind."""

import json
import pickle
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from assignments import nll_by_hand as of_encoded
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from sapo.cli import main
from sapo.core.progress import Reporter, Silent
from sapo.core.types import Encoded, Example, Standing
from sapo.experiments.study.training import forget
from sapo.experiments.where import Place
from sapo.integrations.testing import tiny_model, tiny_tokenizer
from sapo.models.passes import untouched
from sapo.runs.config.loading import make_config
from sapo.runs.config.schema import Config
from sapo.runs.results import RunResult

Json = dict[str, Any]
SUFFIX = "One letter."
SMALL: Mapping[str, Any] = MappingProxyType(
    {
        "candidates": {"count": 3},
        "selection": {"examples": 4},
        "train": {
            "rows": 6, "epochs": 2, "batch_size": 4, "micro_batch_size": 2, "learning_rate": 2e-2, "warmup": 0.0,
        },
        "lora": {"r": 4, "alpha": 8},
        "evaluate": {"rows": 3, "max_new_tokens": 2},
    }
)  # fmt: skip


def save(directory: Path, *, seed: int = 0, context: int = 512, **tokenizer: Any) -> Path:
    """The tiny model and its tokenizer on disk."""
    tiny_model(seed=seed, context=context).save_pretrained(directory)
    tiny_tokenizer(**tokenizer).save_pretrained(directory)
    return directory


def save_model(directory: Path) -> Path:
    """The same with weights with which candidates differ."""
    return save(directory, seed=2, context=1024)


def original_of(task: str) -> str:
    return f"Say y or n for {task}."


def paraphrases_of(task: str) -> list[str]:
    return [
        f"For {task}, answer y or n.",
        f"Is it y or n? It is {task}.",
        f"What would you say to {task}: is this a y, or is it an n?",
    ]


def more_paraphrases_of(task: str) -> list[str]:
    """Where three are to be candidates and two held out."""
    return [
        *paraphrases_of(task),
        f"So is {task} a y here, or an n?",
        f"Please choose between n and y when it comes to {task}.",
    ]


def rows_of(task: str, split: str, count: int) -> list[Json]:
    return [{"sentence": f"{task} {split} {i}", "label": "yn"[i % 2]} for i in range(count)]


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def write_bench(directory: Path, *, dev: int = 0, train: int = 8, tasks: Sequence[str] = ("alpha", "beta")) -> Path:
    """A benchmark folder with 4 test rows a task, and paraphrases in candidates.json."""
    for task in tasks:
        for split, count in (("train", train), ("dev", dev), ("test", 4)):
            if count:
                write(directory / task / f"{split}.json", rows_of(task, split, count))
    index = {t: {"instruction": original_of(t), "suffix": SUFFIX, "labels": ["y", "n"]} for t in tasks}
    write(directory / "instructions.json", index)
    write(directory / "candidates.json", {t: paraphrases_of(t) for t in tasks})
    return directory


def other_answers(bench: Path) -> Path:
    """Give the second task answers that the first one does not have, so that training on it forgets the first."""
    for split in ("train", "dev", "test"):
        path = bench / "beta" / f"{split}.json"
        if path.exists():
            write(path, [{**row, "label": "km"[i % 2]} for i, row in enumerate(read(path))])
    index = read(bench / "instructions.json")
    write(bench / "instructions.json", index | {"beta": {**index["beta"], "labels": ["k", "m"]}})
    return bench


def plain_config(model_dir: Path, bench: Path, run_dir: Path, **changes: Any) -> Json:
    """The values of a configuration; the keys of a part are changed one by one."""
    data: Json = {
        **SMALL, "model": {"base": str(model_dir), "device": "cpu"}, "sequence": ["alpha", "beta"],
        "data_dir": str(bench), "run_dir": str(run_dir),
    }  # fmt: skip
    data["candidates"] = {**data["candidates"], "file": str(bench / "candidates.json")}
    for key, value in changes.items():
        data[key] = {**data.get(key, {}), **value} if isinstance(value, dict) else value
    return data


def configure(model_dir: Path, bench: Path, run_dir: Path, **changes: Any) -> Config:
    return make_config(plain_config(model_dir, bench, run_dir, **changes))


def cell(run_dir: Path, stage: int, task: str, kind: str) -> Json:
    """What one cell's file holds, without its time."""
    value: Json = read(run_dir / "cells" / str(stage) / f"{task}.{kind}.json")["value"]
    return {key: found for key, found in value.items() if key != "seconds"}


def cells(run_dir: Path) -> dict[str, Json]:
    """All cells by file, without their times."""
    found = sorted((run_dir / "cells").rglob("*.json"))
    return {f"{p.parent.name}/{p.name}": cell(run_dir, int(p.parent.name), *p.stem.split(".")) for p in found}


def adapters(run_dir: Path) -> dict[str, bytes]:
    return {str(p.relative_to(run_dir)): p.read_bytes() for p in sorted(run_dir.rglob("*.safetensors"))}


def lasting(results: RunResult | Mapping[str, Any]) -> Json:
    """What a run found, without times and settings."""
    data = results.to_json() if isinstance(results, RunResult) else results
    return {key: value for key, value in data.items() if key not in ("seconds", "config")}


def near(found: Any, expected: Any) -> bool:
    """Whether two values are the same but for rounding: processes may have another number of threads."""
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(near(found[key], expected[key]) for key in expected)
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(near, found, expected))
    return (
        bool(found == pytest.approx(expected, rel=1e-3, abs=1e-3)) if isinstance(expected, float) else found == expected
    )


class Told(Silent):
    """A reporter that keeps what it hears, and may stop the work after so many updates of a step.

    Attributes:
        steps: labels of what was computed; ``found`` of what was read back, and ``spared`` what that had cost.
        work: units and costs of steps, by label, and ``advanced`` how far they came.
    """

    def __init__(self, stop_in: str = "", after: int = 1) -> None:
        self.notes, self.steps, self.found = list[str](), list[str](), list[str]()
        self.planned, self.spared, self.standings = list[float](), list[float](), list[Standing]()
        self.boards = list[list[tuple[str, ...]]]()
        self.work, self.advanced, self.done = dict[str, tuple[int, float]](), dict[str, int](), 0
        self._stop_in, self._after = stop_in, after

    @contextmanager
    def step(self, label: str, units: int, cost: float) -> Iterator[Callable[[int], None]]:
        self.steps.append(label)
        self.work[label], self.done = (units, cost), 0

        def advance(n: int) -> None:
            self.done += n
            if self._stop_in and self._stop_in in label and self.done >= self._after:
                raise KeyboardInterrupt

        yield advance
        self.advanced[label] = self.done

    def plan(self, cost: float) -> None:
        self.planned.append(cost)

    @contextmanager
    def race(self, texts: Sequence[str], rows: int) -> Iterator[Callable[[Standing], None]]:
        yield self.standings.append

    def reused(self, label: str, cost: float) -> None:
        self.found.append(label)
        self.spared.append(cost)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def board(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        self.boards.append([tuple(row) for row in rows])

    def of(self, word: str) -> list[str]:
        """The steps that were computed whose label holds a word."""
        return [label for label in self.steps if word in label]

    @property
    def computed(self) -> list[str]:
        """Labels of the steps of the sequence that were computed."""
        return [label for label in self.steps if "gathering" not in label]


class Stops(Told):
    """A reporter that stops the work at the second step that is computed: before it, or before it is written."""

    def __init__(self, *, done: bool) -> None:
        super().__init__()
        self._stops_when_done = done

    @contextmanager
    def step(self, label: str, units: int, cost: float) -> Iterator[Callable[[int], None]]:
        with super().step(label, units, cost) as advance:
            if len(self.computed) == 2 and not self._stops_when_done:
                raise KeyboardInterrupt
            yield advance
            if len(self.computed) == 2:
                raise KeyboardInterrupt


def command(*arguments: object) -> int:
    """Run `sapo` with arguments in this process, on a wide terminal, and return its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "200")
        patch.setattr(sys, "argv", ["sapo", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
    return int(stopped.value.code or 0)


def _from_the_start(work: Any, *arguments: Any) -> Any:
    forget()
    return work(*arguments)


@contextmanager
def workers(progress: Reporter) -> Iterator[Place]:
    """Workers that get everything by pickle and remember nothing; processes take long to start."""
    with ThreadPoolExecutor(1) as pool:
        yield Place(progress, lambda *work: pool.submit(_from_the_start, *pickle.loads(pickle.dumps(work))))  # noqa: S301


Seen = tuple[int, str, str, str]


def watch_training(patch: Any, told: Told) -> list[Seen]:
    """Keep (updates made, instruction, input, answer) of every row that goes forward while a model is trained."""
    seen: list[Seen] = []
    tokenizer, forward = tiny_tokenizer(), LlamaForCausalLM.forward

    def spy(self: Any, input_ids: torch.Tensor, **rest: Any) -> Any:
        if self.training and torch.is_grad_enabled():
            seen.extend((told.done, *taken_apart(tokenizer.decode(ids))) for ids in input_ids)
        return forward(self, input_ids=input_ids, **rest)

    patch.setattr(LlamaForCausalLM, "forward", spy)
    return seen


def taken_apart(text: str) -> tuple[str, str, str]:
    """Instruction, input and answer of a row as the model sees it, padding taken off."""
    user, answer = text.removeprefix("<|im_start|>user\n").split("<|im_end|>\n<|im_start|>assistant\n")
    instruction, _, shown = user.rpartition("\n\nText:\n")
    return instruction, shown.removesuffix(f"\n\n{SUFFIX}"), answer.split("<|im_end|>")[0]


def prompt_by_hand(instruction: str, suffix: str, text: str) -> str:
    turn = (instruction + "\n\nText:\n" if instruction else "") + text + ("\n\n" + suffix if suffix else "")
    return f"<|im_start|>user\n{turn}<|im_end|>\n<|im_start|>assistant\n"


def nll_by_hand(model: Any, tokenizer: Any, instruction: str, suffix: str, rows: Sequence[Example]) -> list[float]:
    """Sum of the NLL of answer and end of turn for each row: full logits, row by row, in eval mode."""
    found = []
    with untouched(model):
        for row in rows:
            asked = tokenizer(prompt_by_hand(instruction, suffix, row.input)).input_ids
            ids = (*asked, *tokenizer(row.answer + "<|im_end|>\n").input_ids)
            found.append(float(of_encoded(model, [Encoded(ids, len(asked))])))
    return found


def stage_weights(run_dir: Path, stage: str) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_file(run_dir / "stages" / stage / "adapter_model.safetensors")
    return found


def same_weights(stage: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor]) -> bool:
    """Whether a stage holds these weights of the model that was trained, to the bit."""
    named = {name.replace(".default.", "."): tensor for name, tensor in weights.items()}
    assert set(stage) == set(named)
    return all(torch.equal(tensor, named[name]) for name, tensor in stage.items())
