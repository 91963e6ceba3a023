"""What one accelerator does: scoring and training of an 8B shape with random weights, as a Markdown table.

    python -m benchmarks.gpu [--shape 8b] [--device cuda]
    python -m benchmarks.gpu --shape tiny --device cpu

Nothing is loaded from anywhere. The model has the shape of Llama 3 8B in bfloat16, its rows are random tokens: 21
candidates x 250 rows, short (80 shared tokens, 100 own ones, 6 answer tokens) and long (120, 500, 30). The tiny one, in
float32 and on rows of a fifth of that, shows that the script works, and nothing else. Measured:

- the device's rate at large matrix products, and each way's share of it: two operations for each weight of a layer
  that a token meets, and for each weight of the output head that an answer token meets; attention is left out;
- the usual way: transformers' `Trainer.evaluate`, batches of 8 padded on the left, all logits; a sample, extrapolated
  by its padded tokens;
- every loss, by `sapo.models.losses.Scorer`;
- a race. Random weights have no opinion of candidates, so a stored matrix of real losses decides who races on, while
  the model computes the losses that are asked for; both rounds that share batches and those that do not;
- how far the losses of a race lie from those of exhaustive scoring: the noise of the number format;
- an update of LoRA against Trainer and SFTTrainer on the same batches (`benchmarks.training`, which needs trl).

Each way has a short warm-up and is then timed once. Peak memory is that of the allocator, on CUDA only.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PrinterCallback, Trainer, TrainingArguments
from transformers.utils import logging

from sapo.core.types import Encoded, Floats
from sapo.integrations.testing import tiny_tokenizer
from sapo.models.batches import IGNORED, common_prefix, width
from sapo.models.losses import Scorer, Scoring
from sapo.selection.race import race, round_sizes

SHAPES: dict[str, dict[str, int]] = {
    "8b": {
        "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 8192,
    },
    "tiny": {
        "vocab_size": 512, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 8192,
    },
}  # fmt: skip
DTYPES = {"8b": torch.bfloat16, "tiny": torch.float32}
# Side of the square matrices, and how many products are timed together.
PRODUCTS = {"cpu": (2048, 5), "cuda": (8192, 50)}
# Tokens of a row: shared by all of a candidate, its own, and those of its answer.
ROWS = {
    "8b": {"short": (80, 100, 6), "long": (120, 500, 30)},
    "tiny": {"short": (16, 20, 2), "long": (24, 100, 6)},
}
MATRIX = Path(__file__).with_name("matrices") / "task141.base.npz"
# Rows in a batch of the usual way, and how many candidates x rows it is timed on.
BATCH, SAMPLE = 8, (2, 32)
# Rows that are trained on, in updates of two passes.
TRAINED, MICRO = 32, 8
SEED = 42
GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Line:
    """A row of the table; ``share`` is that of the matrix-product rate, ``peak`` in GiB."""

    rows: str
    way: str
    seconds: float
    tokens: int | None = None
    share: float | None = None
    peak: float | None = None

    def __str__(self) -> str:
        share = "" if self.share is None else f"{100 * self.share:.0f} %"
        tokens = "" if self.tokens is None else f"{self.tokens:,}"
        return f"| {self.rows} | {self.way} | {self.seconds:.3g} | {tokens} | {share} | {_gib(self.peak)} |"


def _gib(peak: float | None) -> str:
    return "" if peak is None else f"{peak:.1f}"


def clocked(act: Callable[[], Any]) -> tuple[float, float | None, Any]:
    """Return seconds, the peak in GiB on CUDA, and what ``act`` gives."""
    on_cuda = torch.cuda.is_available()
    if on_cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    value = act()
    if on_cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    return seconds, torch.cuda.max_memory_allocated() / GIB if on_cuda else None, value


def product_rate(device: str, dtype: torch.dtype) -> float:
    """Return the operations per second of large matrix products, the best of four tries."""
    size, times = PRODUCTS[device]
    one, other, result = torch.randn(3, size, size, device=device).to(dtype)

    def multiply() -> None:
        for _ in range(times):
            torch.mm(one, other, out=result)

    return times * 2 * size**3 / min(clocked(multiply)[0] for _ in range(4))


def made(shape: str, device: str) -> Any:
    """Return a model with random weights, made on the device."""
    torch.manual_seed(SEED)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(LlamaConfig(**SHAPES[shape]), dtype=DTYPES[shape]).eval()


def candidates(lengths: tuple[int, int, int], count: int, rows: int, vocabulary: int) -> list[list[Encoded]]:
    """Return the rows of each candidate: its own beginning, then the inputs and answers that all have."""
    shared, own, answer = lengths
    random = np.random.default_rng(SEED)
    inputs = [
        tuple(random.integers(3, vocabulary, n + answer).tolist())
        for n in random.integers(own // 2, own + own // 2, rows)
    ]
    beginnings = [tuple(random.integers(3, vocabulary, shared).tolist()) for _ in range(count)]
    return [[Encoded(b + text, shared + len(text) - answer) for text in inputs] for b in beginnings]


def operations(model: Any, tokens: int, supervised: int) -> float:
    """Return the floating-point operations that ``tokens`` in the layers and ``supervised`` in the head take."""
    head = model.get_output_embeddings().weight.numel()
    layers = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear)) - head
    return float(2 * (layers * tokens + head * supervised))


def usual(model: Any, encoded: Sequence[Sequence[Encoded]]) -> int:
    """Score candidates by `Trainer.evaluate`, and return how many tokens went through the model, padding included."""

    def collate(rows: Sequence[Mapping[str, Encoded]]) -> dict[str, torch.Tensor]:
        most = max(len(row["e"].ids) for row in rows)
        ids, labels = torch.zeros(2, len(rows), most, dtype=torch.long)
        mask = torch.zeros(len(rows), most, dtype=torch.long)
        labels.fill_(IGNORED)
        for i, row in enumerate(rows):
            e = row["e"]
            ids[i, most - len(e.ids) :], mask[i, most - len(e.ids) :] = torch.tensor(e.ids), 1
            labels[i, most - e.supervised :] = ids[i, most - e.supervised :]
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    with tempfile.TemporaryDirectory() as output:
        cpu = model.device.type == "cpu"
        arguments = TrainingArguments(
            output, per_device_eval_batch_size=BATCH, label_names=["labels"], report_to=[], use_cpu=cpu,
            remove_unused_columns=False, disable_tqdm=True, dataloader_pin_memory=not cpu, prediction_loss_only=True,
        )  # fmt: skip
        trainer = Trainer(model, arguments, data_collator=collate)
        trainer.remove_callback(PrinterCallback)
        for rows in encoded:
            trainer.evaluate([{"e": e} for e in rows])
    return padded(encoded)


def padded(encoded: Sequence[Sequence[Encoded]]) -> int:
    """Return the tokens of the usual way's batches."""
    batches = [rows[n : n + BATCH] for rows in encoded for n in range(0, len(rows), BATCH)]
    return sum(len(batch) * max(len(e.ids) for e in batch) for batch in batches)


def exhaustive(scorer: Scorer, encoded: Sequence[Sequence[Encoded]]) -> tuple[list[Floats], int]:
    """Return all losses, and how many tokens went through the model."""
    scorings = [scorer.open(rows) for rows in encoded]
    nll = []
    for scoring, rows in zip(scorings, encoded, strict=True):
        nll.append(scoring.nll(range(len(rows))))
        scorer._runner.kept.drop(scoring)
    return nll, sum(scoring.tokens for scoring in scorings)


def raced(scorer: Scorer, encoded: Sequence[Sequence[Encoded]], stored: Mapping[str, Any]) -> tuple[Any, Any, int]:
    """Return how a race on stored losses ended, the model's own losses in it, and how many tokens it took."""
    scorings: list[Scoring] = [scorer.open(rows) for rows in encoded]
    known, found = stored["nll"].astype(np.float64), [list[float]() for _ in encoded]

    def measure(wanted: Mapping[int, range]) -> list[Floats]:
        asked = [(scorings[i], places) for i, places in wanted.items()]
        if scorer.common:
            scorer.join(asked, lambda rows: None)
        for i, places in wanted.items():
            found[i] += scorings[i].nll(places).tolist()
        return [known[i, places.start : places.stop] for i, places in wanted.items()]

    costs = [float(np.mean([width(e, common_prefix(rows)) for e in rows])) for rows in encoded]
    finish = race(
        measure, round_sizes(known.shape[1]), costs, stored["tokens"], stored["stratum"], delta=0.05, epsilon=0.01
    )
    return finish, [np.array(x) for x in found], sum(scoring.tokens for scoring in scorings)


def scoring_lines(
    model: Any, kind: str, lengths: tuple[int, int, int], rate: float, show: Callable[[Line], None]
) -> str:
    """Measure the three ways to choose on rows of a kind, and return what was found about the losses."""
    stored = np.load(MATRIX)
    count, rows = stored["nll"].shape
    encoded = candidates(lengths, count, rows, model.config.vocab_size)
    answer, name = lengths[2], f"{count} x {rows} {kind}"
    scorer = Scorer(model, common=True)
    few = [part[:BATCH] for part in encoded[:2]]
    exhaustive(scorer, few)
    seconds, peak, (finish, some, tokens) = clocked(lambda: raced(scorer, encoded, stored))
    scored = sum(map(len, finish.nll))
    share = operations(model, tokens, scored * answer) / seconds / rate
    show(Line(name, f"sapo, race ({scored} losses)", seconds, tokens, share, peak))
    seconds, peak, (every, tokens) = clocked(lambda: exhaustive(scorer, encoded))
    share = operations(model, tokens, count * rows * answer) / seconds / rate
    show(Line(name, f"sapo, all losses ({scorer.route})", seconds, tokens, share, peak))
    sample = [part[: SAMPLE[1]] for part in encoded[: SAMPLE[0]]]
    usual(model, few)
    seconds, peak, tokens = clocked(lambda: usual(model, sample))
    share = operations(model, tokens, tokens) / seconds / rate
    whole = padded(encoded)
    show(Line(name, f"usual way, from {SAMPLE[0]} x {SAMPLE[1]}", seconds * whole / tokens, whole, share, peak))
    noise = [np.abs(x - y[: len(x)]) / answer for x, y in zip(some, every, strict=True)]
    means = [abs((x - y[: len(x)]).sum()) / answer / len(x) for x, y in zip(some, every, strict=True)]
    best = int(stored["nll"].sum(axis=1).argmin())
    return (
        f"{name}: the race's winner is {'' if finish.last.leader == best else 'NOT '}the one of all losses. Its losses "
        f"differ from those of all losses by at most {max(map(np.max, noise)):.1e} nats per token in a row, and by "
        f"{max(means):.1e} in a candidate's mean."
    )


def training_lines(model: Any, kind: str, lengths: tuple[int, int, int], show: Callable[[Line], None]) -> None:
    """Measure an update by each trainer on rows of a kind."""
    from benchmarks.training import LORA, Bench, measure
    from sapo.training.methods import make_method
    from sapo.training.schedule import Training

    method = make_method("seq-lora", LORA)
    carrying = method.prepare(method.start(model), Training(1, 1, "", (), False, (), (), 0, 2 * MICRO))
    rows = candidates(lengths, 1, TRAINED, model.config.vocab_size)[0]
    runs = measure(Bench(carrying, tiny_tokenizer(), rows, 2 * MICRO, MICRO), 1)
    for name, found in runs.items():
        updates = len(found[0].losses)
        show(Line(f"update of {2 * MICRO} {kind}", name, found[0].seconds / updates, peak=found[0].peak))
    carrying.unload()


def main() -> None:
    """Print the table, row by row, and what is to be known beside it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="8b")
    parser.add_argument("--device", choices=PRODUCTS, default="cuda")
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: no CUDA device is there; --shape tiny --device cpu shows the script")
    # Advice and changes of names that are announced, between the rows of a table.
    logging.set_verbosity_error()
    warnings.simplefilter("ignore", FutureWarning)
    if given.device == "cpu":
        # More would wait for each other at every small product.
        torch.set_num_threads(1)
    name = torch.cuda.get_device_name() if given.device == "cuda" else "CPU"
    began, rate = time.perf_counter(), product_rate(given.device, DTYPES[given.shape])
    model = made(given.shape, given.device)
    dtype = str(DTYPES[given.shape]).removeprefix("torch.")
    print(
        f"{name}, torch {torch.__version__}, {given.shape} shape ({model.num_parameters() / 1e9:.3g} billion weights, "
        f"{dtype}); large matrix products: {rate / 1e12:.3g} TFLOP/s.\n\n"
        "| rows | way | seconds | tokens | share of the rate | peak GiB |\n|---|---|---:|---:|---:|---:|"
    )

    def show(line: Line) -> None:
        print(line, flush=True)

    rows = ROWS[given.shape]
    notes = [scoring_lines(model, kind, lengths, rate, show) for kind, lengths in rows.items()]
    for kind, lengths in rows.items():
        training_lines(model, kind, lengths, show)
    print("", *notes, f"All of it took {time.perf_counter() - began:.0f} s.", sep="\n")


if __name__ == "__main__":
    main()
