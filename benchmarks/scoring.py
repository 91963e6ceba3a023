"""Speed of exact scoring and racing: beside the naive route, and against what the machine can do.

    python benchmarks/scoring.py DATA_DIR [--json FILE] [--only SECTION ...] [--tasks short medium long] [--rows N]
        [--naive-rows 8 16 32] [--race-tasks short] [--exhaustive] [--processes 2] [--threads N]

DATA_DIR holds the SuperNI benchmark; the model is the embedded one in float32 on a CPU. The naive route is what
transformers offers: one `Trainer.evaluate` per candidate, rows in file order in batches of 8 padded on the left, prompt
and whole both tokenised, logits of the whole vocabulary at every position, batch means averaged. What is compared runs
in turn, in rounds of which the first is not counted; figures are medians. The naive time of a whole selection is
extrapolated by padded tokens, since rows and candidates differ in length. The length limit is the model's context, so
that neither route cuts a row. Accelerators have `benchmarks/gpu.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from itertools import chain, product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from transformers import PrinterCallback, Trainer, TrainingArguments

from sapo.candidates.gather import gather
from sapo.candidates.opening import HAND_WRITTEN
from sapo.core.processes import join, leave
from sapo.core.types import Encoded, Example, Instruction, Losses, Sample, Strategy, Task
from sapo.models.batches import IGNORED, common_prefix
from sapo.models.fit import context_length
from sapo.models.layout import user_turn
from sapo.models.load import load_model
from sapo.models.losses import Scorer
from sapo.models.memory import peak_memory
from sapo.models.render import Renderer
from sapo.selection.scoring import score_candidates
from sapo.selection.settings import SelectionSettings
from sapo.tasks.load import load_task
from sapo.tasks.sampling import selection_rows

SECTIONS = {
    "routes": "naive and exact route, tokenisation included, and how far their losses differ",
    "linearity": "naive route by the number of rows (short task), and a selection, extrapolated",
    "rate": "exact scoring, tokenisation not included, against matrix products measured in between",
    "race": "a selection by racing against the naive route, extrapolated",
    "memory": "peak of each route in a process of its own, model and libraries before it, in MiB",
    "processes": "exact scoring by processes of one thread each (short task, twice the rows)",
}
TASKS = {
    "short": "task195_sentiment140_classification",
    "medium": "task339_record_answer_generation",
    "long": "task224_scruples_anecdotes_ethical_judgment",
}
ROWS = {"short": 32, "medium": 16, "long": 16}
BATCH, SEED, CHECKED, MIB = 8, 42, 4, 1 << 20
# Size of the square matrices, and how many products are timed together.
PRODUCT = (2048, 5)

# A row of a table: what is neither number nor text is only written to the file.
Record = dict[str, Any]
Act = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Bench:
    """A model, its tokenizer, the exact route's renderer, and how many rounds count."""

    model: Any
    tokenizer: Any
    renderer: Renderer
    rounds: int


@dataclass(frozen=True, slots=True)
class Work:
    """Losses to compute: every candidate, the original first, on training rows of a task."""

    kind: str
    task: Task
    candidates: tuple[Instruction, ...]
    rows: tuple[int, ...]

    @property
    def losses(self) -> int:
        """How many."""
        return len(self.candidates) * len(self.rows)

    @property
    def examples(self) -> list[Example]:
        """The rows."""
        return [self.task.train[i] for i in self.rows]

    def encoded(self, renderer: Renderer) -> list[list[Encoded]]:
        """Return every candidate's examples as tokens."""
        return [renderer.encode(candidate.text, self.task.suffix, self.examples) for candidate in self.candidates]


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of the counted rounds, and what the last one gave."""

    median: float
    seconds: tuple[float, ...]
    value: Any


class Naive:
    """The naive route on rows of one task."""

    def __init__(self, bench: Bench, task: Task) -> None:
        self._tokenizer, self._suffix = bench.tokenizer, task.suffix
        self._output = tempfile.TemporaryDirectory()
        arguments = TrainingArguments(
            self._output.name, per_device_eval_batch_size=BATCH, label_names=["labels"], report_to=[], use_cpu=True,
            remove_unused_columns=False, disable_tqdm=True, dataloader_pin_memory=False,
        )  # fmt: skip
        self._trainer = Trainer(bench.model, arguments, data_collator=self._collate)
        self._trainer.remove_callback(PrinterCallback)

    def __call__(self, instruction: str, examples: Sequence[Example]) -> float:
        """Return the mean over examples of their batch's mean over supervised tokens, in nats."""
        return float(self._trainer.evaluate([(instruction, example) for example in examples])["eval_loss"])

    def _collate(self, rows: Sequence[tuple[str, Example]]) -> dict[str, torch.Tensor]:
        render, prompts, wholes = self._tokenizer.apply_chat_template, [], []
        for instruction, example in rows:
            user = {"role": "user", "content": user_turn(instruction, example.input, self._suffix)}
            prompts.append(render([user], tokenize=False, add_generation_prompt=True))
            wholes.append(render([user, {"role": "assistant", "content": example.answer}], tokenize=False))
        batch = self._tokenizer(wholes, padding=True, padding_side="left", return_tensors="pt")
        answers = batch["attention_mask"].sum(1) - torch.tensor([len(x) for x in self._tokenizer(prompts).input_ids])
        from_the_end = torch.arange(batch["input_ids"].shape[1], 0, -1)
        return {**batch, "labels": batch["input_ids"].masked_fill(from_the_end > answers[:, None], IGNORED)}


def naive_route(bench: Bench, work: Work) -> Act:
    """Return what gives the naive loss of every candidate."""
    naive = Naive(bench, work.task)
    return lambda: [naive(candidate.text, work.examples) for candidate in work.candidates]


def exact_route(bench: Bench, work: Work) -> Act:
    """Return what gives the exact losses of every candidate, from text."""
    scorer = Scorer(bench.model)
    return lambda: [scorer(rows) for rows in work.encoded(bench.renderer)]


def timed(act: Act) -> tuple[float, Any]:
    """Return seconds and what ``act`` gives."""
    began = time.perf_counter()
    value = act()
    return time.perf_counter() - began, value


def in_turn(rounds: int, acts: Mapping[str, Act]) -> dict[str, Timing]:
    """Return the counted rounds of every act; one more comes first."""
    found: dict[str, Timing] = {}
    for number in range(rounds + 1):
        for name, act in acts.items():
            passed, value = timed(act)
            seconds = (*found[name].seconds, passed) if number > 1 else (passed,)
            found[name] = Timing(statistics.median(seconds), seconds, value)
    return found


def routes(bench: Bench, work: Work) -> Record:
    """Compare both routes.

    ``exact_to_plain`` is the largest difference per supervised token, over a few rows, to a pass of one row alone with
    all logits, logarithms in float64; ``naive_to_exact`` the largest one, over candidates, between the naive loss and
    exact losses averaged in the naive way.
    """
    found = in_turn(bench.rounds, {"naive": naive_route(bench, work), "exact": exact_route(bench, work)})
    naive, exact, encoded = found["naive"], found["exact"], work.encoded(bench.renderer)
    means, first = [batch_means(losses) for losses in exact.value], exact.value[0]
    checked = np.argsort([len(e.ids) for e in encoded[0]])[:: -max(len(work.rows) // CHECKED, 1)]
    plain = np.array([plain_nll(bench.model, encoded[0][i]) for i in checked])
    return {
        "task": work.kind, "losses": work.losses,
        "tokens_per_row": statistics.mean(len(e.ids) for rows in encoded for e in rows),
        "naive_s_per_loss": naive.median / work.losses, "exact_s_per_loss": exact.median / work.losses,
        "ratio": naive.median / exact.median,
        "exact_to_plain": float((abs(first.nll[checked] - plain) / first.tokens[checked]).max()),
        "naive_to_exact": max(abs(a - b) for a, b in zip(naive.value, means, strict=True)),
        "seconds": {name: timing.seconds for name, timing in found.items()},
        "values": {"naive": naive.value, "batch_means": means, "exact": [x.per_token for x in exact.value]},
    }  # fmt: skip


def batch_means(losses: Losses) -> float:
    """Return the naive mean of losses: over rows, of their batch's NLL per token."""
    starts = np.arange(0, len(losses.nll), BATCH)
    means = np.add.reduceat(losses.nll, starts) / np.add.reduceat(losses.tokens, starts)
    return float(np.average(means, weights=np.minimum(BATCH, len(losses.nll) - starts)))


def plain_nll(model: Any, row: Encoded) -> float:
    """Return the NLL sum of one row from the logits of all its positions, in nats."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([row.ids], device=model.device), use_cache=False).logits[0]
    answer = torch.tensor(row.ids[row.prompt_length :])[:, None]
    return -float(logits[row.prompt_length - 1 : -1].double().cpu().log_softmax(-1).gather(1, answer).sum())


def padded_tokens(encoded: Sequence[Sequence[Encoded]]) -> int:
    """Return how many tokens the naive route puts through the model, padding included."""
    batches = [rows[n : n + BATCH] for rows in encoded for n in range(0, len(rows), BATCH)]
    return sum(len(batch) * max(len(e.ids) for e in batch) for batch in batches)


def linearity(bench: Bench, work: Work, sizes: Sequence[int], whole: Work) -> list[Record]:
    """Time the naive route once for each number of rows, with the original; extrapolate the last to ``whole``."""
    naive, encoded = Naive(bench, work.task), work.encoded(bench.renderer)[0]

    def record(name: str, losses: int, seconds: float, padded: int) -> Record:
        rates = {"s_per_loss": seconds / losses, "us_per_padded_token": 1e6 * seconds / padded}
        return {"rows": name, "losses": losses, "seconds": seconds, "padded_tokens": padded, **rates}

    naive(work.task.instruction, work.examples[:BATCH])
    records = []
    for n in sizes:
        seconds = timed(lambda: naive(work.task.instruction, work.examples[:n]))[0]  # noqa: B023
        records.append(record(f"{n}", n, seconds, padded_tokens([encoded[:n]])))
    padded = padded_tokens(whole.encoded(bench.renderer))
    seconds = records[-1]["seconds"] * padded / records[-1]["padded_tokens"]
    name = f"{len(whole.candidates)} x {len(whole.rows)}, extrapolated"
    return [*records, record(name, whole.losses, seconds, padded)]


def scored(scorer: Scorer, encoded: Sequence[Sequence[Encoded]]) -> int:
    """Score all candidates and return how many tokens went through the model."""
    tokens = 0
    for rows in encoded:
        scoring = scorer.open(rows)
        scoring.nll(range(len(rows)))
        tokens += scoring.tokens
        scoring.release()
    return tokens


def rate(bench: Bench, work: Work) -> Record:
    """Hold the operations that exact scoring needs against what a large matrix product does in the same time.

    ``layers_limit``: tokens per second if the layers' products took all the time. ``limit`` and ``share`` also count
    attention under the causal mask and the vocabulary's logits at supervised positions.
    """
    encoded, scorer = work.encoded(bench.renderer), Scorer(bench.model)
    size, times = PRODUCT
    torch.manual_seed(SEED)
    one, other, result = torch.randn(3, size, size)

    def multiply() -> None:
        for _ in range(times):
            torch.mm(one, other, out=result)

    found = in_turn(bench.rounds, {"product": multiply, "scoring": lambda: scored(scorer, encoded)})
    speed = times * 2 * size**3 / found["product"].median
    seconds, tokens = found["scoring"].median, found["scoring"].value
    parts = operations(bench.model, encoded, tokens, shared=scorer.route == "shared prefix")
    needed = sum(parts.values())
    return {
        "task": work.kind, "product_gflops": speed / 1e9, "tokens": tokens, "tokens_per_s": tokens / seconds,
        "layers_limit": speed * tokens / parts["layers"], "limit": speed * tokens / needed,
        "share": needed / (seconds * speed), "operations": parts,
        "seconds": {name: timing.seconds for name, timing in found.items()},
    }  # fmt: skip


def operations(model: Any, encoded: Sequence[Sequence[Encoded]], tokens: int, *, shared: bool) -> dict[str, float]:
    """Return the floating-point operations that exact scoring needs, two for each weight that a token meets."""
    head, config, seen, supervised = model.get_output_embeddings().weight.numel(), model.config, 0, 0
    for rows in encoded:
        prefix = common_prefix(rows) if shared else 0
        seen += prefix * (prefix + 1) // 2
        # Equal rows are scored once, and the last token of a row predicts nothing.
        for ids, prompt in {(e.ids, e.prompt_length) for e in rows}:
            seen += (len(ids) - 1) * len(ids) // 2 - prefix * (prefix + 1) // 2
            supervised += len(ids) - prompt
    layers = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear)) - head
    # Queries by keys, and their weights by values.
    attention = 4.0 * config.num_hidden_layers * config.num_attention_heads * config.head_dim * seen
    return {"layers": 2.0 * layers * tokens, "attention": attention, "head": 2.0 * head * supervised}


def race(bench: Bench, whole: Work, sample: Work, *, exhaustive: bool) -> list[Record]:
    """Time a selection, tokenisation and the decision about routes included.

    Args:
        bench: the model.
        whole: the selection.
        sample: what the naive route is timed on before and after, to be extrapolated.
        exhaustive: whether to score everything as well, which tells how far the race's winner lies above the best.
    """
    naive, found = naive_route(bench, sample), {}
    times = [timed(naive)[0]]
    strategies: tuple[Strategy, ...] = ("racing", "exhaustive") if exhaustive else ("racing",)
    for strategy in strategies:
        settings = SelectionSettings(rule="lowest", sample="stratified", strategy=strategy, delta=0.05, epsilon=0.01)
        given = (bench.renderer, whole.task, whole.candidates, whole.rows, settings)
        found[strategy] = timed(lambda: score_candidates(Scorer(bench.model), *given, seed=SEED))  # noqa: B023
        times.append(timed(naive)[0])
    factor = padded_tokens(whole.encoded(bench.renderer)) / padded_tokens(sample.encoded(bench.renderer))
    longest = factor * statistics.median(times)
    records: list[Record] = [
        {"task": whole.kind, "way": "naive, extrapolated", "losses": whole.losses, "seconds": longest, "timed": times}
    ]
    for strategy, (seconds, selection) in found.items():
        record = {
            "task": whole.kind, "way": strategy, "losses": selection.evaluations, "seconds": seconds,
            "ratio": longest / seconds, "tokens": selection.tokens, "winner": selection.chosen,
        }  # fmt: skip
        if exhaustive:
            losses = [candidate.loss for candidate in found["exhaustive"][1].candidates]
            record["above_best"] = losses[selection.chosen] - min(losses)
        records.append(record)
    return records


def elsewhere(given: argparse.Namespace, kind: str, part: str, *launcher: str) -> Record:
    """Return what this script prints as a worker in a fresh process."""
    job = [sys.executable, *launcher, __file__, str(given.data_dir), "--worker", part, "--tasks", kind]
    for name in ("rows", "candidates", "threads"):
        job += [f"--{name}", str(getattr(given, name))] if getattr(given, name) else []
    variables = {**os.environ, "OMP_NUM_THREADS": "1"} if launcher else None
    ended = subprocess.run(job, env=variables, capture_output=True, text=True)
    if ended.returncode:
        raise SystemExit(f"{' '.join(job)} ended with {ended.returncode}:\n{ended.stderr}")
    found: Record = json.loads(ended.stdout.splitlines()[-1])
    return found


def processes(given: argparse.Namespace) -> list[Record]:
    """Time exact scoring by one process and by several, in turn."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node")
    seconds: dict[int, list[float]] = {1: [], given.processes: []}
    for _ in range(given.rounds):
        for n, times in seconds.items():
            times.append(elsewhere(given, "short", "share", *launcher, f"{n}")["seconds"])
    medians = {n: statistics.median(times) for n, times in seconds.items()}
    return [
        {"processes": n, "median": x, "efficiency": medians[1] / (n * x), "seconds": seconds[n]}
        for n, x in medians.items()
    ]


def worker(given: argparse.Namespace) -> None:
    """Do one part in this process and print its figures."""
    kind, job, bench = given.tasks[0], join("cpu"), embedded(given.rounds)
    rows = given.rows or ROWS[kind]
    if given.worker == "share":
        torch.set_num_threads(1)
        encoded = work_of(given.data_dir, kind, given.candidates, 2 * rows).encoded(bench.renderer)
        scorer = Scorer(bench.model, processes=job)
        scored(scorer, [encoded[0][:BATCH]])
        # Whoever is ready first waits here.
        job.gather(None)
        figures: Record = {"seconds": timed(lambda: scored(scorer, encoded))[0]}
    else:
        work, before = work_of(given.data_dir, kind, given.candidates, rows), own_peak() / MIB
        (naive_route if given.worker == "naive" else exact_route)(bench, work)()
        peak = own_peak() / MIB
        figures = {"model": bytes_of(bench.model) / MIB, "before": before, "peak": peak, "route": peak - before}
    if job.first:
        print(json.dumps(figures))
    leave()


def bytes_of(model: Any) -> int:
    """Return the size of the weights."""
    return sum(p.numel() * p.element_size() for p in model.parameters())


def own_peak() -> int:
    """Return the most bytes resident at one time."""
    if sys.platform != "linux":
        return peak_memory() or 0
    # What getrusage says there is at least the peak of the process that started this one.
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024


def embedded(rounds: int) -> Bench:
    """Return the embedded model in float32 on the CPU, all of it in memory."""
    loaded = load_model("embedded", dtype="float32", device="cpu")
    for weights in loaded.model.parameters():
        # The file is mapped: weights take neither memory nor time before their first use.
        weights.sum()
    return Bench(loaded.model, loaded.tokenizer, Renderer(loaded.tokenizer, context_length(loaded.model)), rounds)


def work_of(data_dir: Path, kind: str, candidates: int, rows: int, sample: Sample = "first") -> Work:
    """Return the original and the paraphrases that come with the library, on rows of a task."""
    task = load_task(TASKS[kind], data_dir)
    return Work(
        kind,
        task,
        gather(task, (HAND_WRITTEN,), candidates).candidates[:candidates],
        selection_rows(task, rows, sample, SEED),
    )


def measure(section: str, given: argparse.Namespace, bench: Bench) -> list[Record]:
    """Return the figures of a section."""
    work = partial(work_of, given.data_dir)

    def sample(kind: str) -> Work:
        return work(kind, given.candidates, given.rows or ROWS[kind])

    def whole(kind: str) -> Work:
        candidates, rows = given.selection
        return work(kind, candidates, rows, "stratified")

    match section:
        case "routes":
            return [routes(bench, sample(kind)) for kind in given.tasks]
        case "linearity":
            rows = work("short", 1, max(given.naive_rows))
            return linearity(bench, rows, given.naive_rows, whole("short"))
        case "rate":
            return [rate(bench, sample(kind)) for kind in given.tasks]
        case "race":
            found = [race(bench, whole(kind), sample(kind), exhaustive=given.exhaustive) for kind in given.race_tasks]
            return list(chain.from_iterable(found))
        case "memory":
            pairs = product(given.tasks, ("naive", "exact"))
            return [{"task": kind, "way": route} | elsewhere(given, kind, route) for kind, route in pairs]
        case _:
            return processes(given)


def environment(model: Any) -> Record:
    """Return what the figures depend on."""
    described = Path("/proc/cpuinfo").read_text(encoding="utf-8") if sys.platform == "linux" else ""
    names = [line.partition(": ")[2] for line in described.splitlines() if line.startswith("model name")]
    return {
        "python": platform.python_version(), "platform": platform.platform(), "cores": os.cpu_count(),
        "cpu": names[0] if names else platform.processor(), "capability": torch.backends.cpu.get_cpu_capability(),
        "parameters": model.num_parameters(), "model_mib": bytes_of(model) / MIB,
        "load": os.getloadavg(), "threads": torch.get_num_threads(), "torch": torch.__config__.show(),
        "packages": {x: version(x) for x in ("sapo-llm", "torch", "transformers", "accelerate", "tokenizers", "numpy")},
    }  # fmt: skip


def show(title: str, records: Sequence[Record]) -> None:
    """Print a table."""
    shown = [{name: x for name, x in record.items() if isinstance(x, int | float | str)} for record in records]
    heads = list(dict.fromkeys(name for record in shown for name in record))
    table = Table(*(head.replace("_", " ") for head in heads), title=title)
    for record in shown:
        cells = [record.get(head, "") for head in heads]
        table.add_row(*(x if isinstance(x, str) else f"{x:.4g}" if x < 1e4 else f"{x:.0f}" for x in cells))
    Console(width=140).print(table)


def arguments() -> argparse.Namespace:
    """Return what the user gave."""
    sections = "".join(f"\n    {name:11}{what}" for name, what in SECTIONS.items())
    parser = argparse.ArgumentParser(
        description=f"{__doc__}\nSections:{sections}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("data_dir", type=Path)
    add("--json", type=Path)
    add("--only", nargs="+", choices=SECTIONS, help="sections, by default all")
    add("--tasks", nargs="+", choices=TASKS, default=[*TASKS], help="of routes, rate and memory")
    add("--rows", type=int, help=f"of a task, by default {ROWS}")
    add("--candidates", type=int, default=2, help="of a task")
    add("--rounds", type=int, default=3, help="that count")
    add("--naive-rows", type=int, nargs="+", default=[8, 16, 32], help="of linearity")
    add("--selection", type=int, nargs=2, default=[21, 250], metavar=("CANDIDATES", "ROWS"))
    add("--race-tasks", nargs="+", choices=TASKS, default=["short"], help="others take many minutes")
    add("--exhaustive", action="store_true", help="also a selection without racing")
    add("--processes", type=int, default=2)
    add("--threads", type=int, help="of torch")
    add("--worker", choices=("naive", "exact", "share"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.only = given.only or [*SECTIONS]
    return given


def main() -> None:
    """Print the table of every section, and write all figures."""
    given = arguments()
    if given.threads:
        torch.set_num_threads(given.threads)
    if given.worker:
        worker(given)
        return
    bench = embedded(given.rounds)
    settings = {name: x for name, x in vars(given).items() if not isinstance(x, Path)}
    result: Record = {"settings": settings, "environment": environment(bench.model), "sections": {}}
    for section in given.only:
        result["sections"][section] = measure(section, given, bench)
        show(SECTIONS[section], result["sections"][section])
        if given.json:
            given.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
