"""A doctor for anybody's training: what will be learned and what is wrong with it, before it begins.

    check = sapo.check(trainer)      # TRL's SFTTrainer or transformers' Trainer, ready to train
    print(check)
    trainer.train()
    print(check.after())             # what got better, what was lost

Rows are those that the trainer prepared, as its own collator gives them to the model. The model is left as it was.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer

from sapo.core.errors import DataError
from sapo.core.types import Floats, Losses, Task
from sapo.core.untrusted import plain
from sapo.integrations.verdicts import Level, Row, Training, Verdict, error, ok, verdicts_of, warning
from sapo.models.batches import labelled
from sapo.models.fit import MAX_LENGTH, context_length
from sapo.models.load import LoadedModel, load_tokenizer
from sapo.models.losses import EXACT, Scorer
from sapo.models.passes import untouched
from sapo.models.render import Encoder, Renderer
from sapo.report.differences import verdict
from sapo.selection.differences import compare

# Rows of a set that are looked at.
_MOST = 10_000
# What collators take; other columns are texts.
_COLUMNS = (
    "input_ids",
    "labels",
    "attention_mask",
    "position_ids",
    "seq_lengths",
    "completion_mask",
    "assistant_masks",
)


@dataclass(frozen=True, slots=True)
class Check:
    """What a check found; printed, it is one verdict a line.

    Attributes:
        verdicts: in the order in which to read them.
        prompt: what must be sent at inference for the first training row, to the letter.
        model: that was looked at; it may have been trained since.
        rows: those that were scored, by set; those that are trained on are "train".
        losses: of these rows.
    """

    verdicts: tuple[Verdict, ...]
    prompt: str
    model: Any
    rows: Mapping[str, Sequence[Row]]
    losses: Mapping[str, Losses]

    @property
    def level(self) -> Level:
        """The worst of all verdicts."""
        return max((v.level for v in self.verdicts), key=("ok", "warning", "error").index)

    def __str__(self) -> str:
        return "\n".join(plain(str(v)) for v in self.verdicts)

    def after(self, model: Any = None) -> Check:
        """Return what changed since this check, row by row; its own `after` compares with it in turn.

        ``model`` is in its present state; by default it is the one that was checked.
        """
        model = self.model if model is None else model
        scorer = Scorer(model)
        losses = {name: _losses(scorer, rows) for name, rows in self.rows.items()}
        return Check(tuple(_changes(self.losses, losses)), self.prompt, model, self.rows, losses)


def check(trainer: Any, watch: Sequence[Task] = (), rows: int = 64) -> Check:
    """Return what is wrong with a training before it begins, and the losses before it.

    Scored are the training rows, the trainer's `eval_dataset` (one, or several by name) and the watched tasks.

    Args:
        trainer: TRL's SFTTrainer, transformers' Trainer, or one that builds on them.
        watch: tasks that are not trained and must not be lost: their test rows, or else their training rows.
        rows: most rows of a set that are scored.

    Raises:
        DataError: if the trainer has no tokenizer or no rows, or its rows are not tokens with labels; or if two sets
            have one name.
    """
    from datasets import Dataset
    from transformers import Trainer

    if not isinstance(trainer, Trainer):
        raise DataError(f"trainer = {trainer!r:.80}: give a transformers Trainer, or one that builds on it")
    model, data, tested, args = trainer.model, trainer.train_dataset, trainer.eval_dataset, vars(trainer.args)
    if trainer.processing_class is None or data is None:
        raise DataError("the trainer lacks processing_class or train_dataset: give it the tokenizer and the rows")
    tokenizer = vars(trainer.processing_class).get("tokenizer", trainer.processing_class)
    tested = tested if isinstance(tested, dict) else {} if tested is None else {"test": tested}
    names = ["train", *tested, *(task.name for task in watch)]
    if len(set(names)) < len(names):
        raise DataError(f"two of the sets {', '.join(names)} have one name: rename them in eval_dataset or watch")
    given = {name: list(_raw(there)) for name, there in {"train": data, **tested}.items()}
    if not given["train"]:
        raise DataError("the trainer's train_dataset has no rows: raise max_length, if that cut away all answers")
    # A collator may draw random numbers.
    with torch.random.fork_rng(devices=[]):
        sets = {name: [row for raw in there for row in _collated(trainer, raw)] for name, there in given.items()}
        few = sorted(given["train"][:16], key=lambda raw: len(raw["input_ids"]))
        # The second one is longer, so that the first is padded.
        pair = few[0], next((raw for raw in few if len(raw["input_ids"]) > len(few[0]["input_ids"])), few[-1])
        batch = trainer.data_collator([dict(raw) for raw in pair])
        alone = [row for raw in pair for row in _collated(trainer, raw)]
    renderer = Renderer(tokenizer, min(MAX_LENGTH, context_length(model)))
    sets |= {task.name: _encoded(renderer, task, task.test or task.train) for task in watch}
    packed = args.get("packing")
    # SFTTrainer filters last, and the table behind its rows still holds those that it left out; what it does not
    # prepare was selected by somebody else.
    prepared = not (args.get("dataset_kwargs") or {}).get("skip_prepare_dataset")
    filtered = isinstance(data, Dataset) and args.get("max_length") is not None and prepared and not packed
    training = Training(
        model, _saved(tokenizer), sets, _base(model), first={} if packed else next(iter(data)), args=args,
        dropped=data.data.num_rows - len(data) if filtered else 0,
    )  # fmt: skip
    return _checked(training, rows, batch, alone)


def check_task(loaded: LoadedModel, renderer: Encoder, task: Task, watch: Sequence[Task] = (), rows: int = 64) -> Check:
    """Return the same of a task as `sapo run` would train it, without a trainer."""
    sets = {"train": _encoded(renderer, task, task.train), "test": _encoded(renderer, task, task.test)}
    watched = {f"watch {number}: {other.name}": other for number, other in enumerate(watch, start=1)}
    sets |= {name: _encoded(renderer, other, other.test or other.train) for name, other in watched.items()}
    return _checked(Training(loaded.model, _saved(loaded.tokenizer), sets, _base(loaded.model), {}, {}), rows)


def _checked(training: Training, most: int, batch: Any = None, alone: Sequence[Row] = ()) -> Check:
    """Return all verdicts, those on losses last."""
    model, verdicts, rows = training.model, verdicts_of(training), dict[str, Sequence[Row]]()
    vocabulary, scorer = model.get_input_embeddings().weight.shape[0], Scorer(model)
    for name, found in training.sets.items():
        learned = [row for row in found if row.spans and max(row.ids) < vocabulary]
        if learned:
            rows[name] = [learned[n * len(learned) // most] for n in range(most)] if len(learned) > most else learned
    losses = {name: _losses(scorer, found) for name, found in rows.items()}
    verdicts += [_before(name, found, math.log(vocabulary)) for name, found in losses.items()]
    if batch is not None and all(row.spans and max(row.ids) < vocabulary for row in alone):
        verdicts.append(_together(model, batch, _losses(scorer, alone)))
    return Check(tuple(verdicts), training.prompt, model, rows, losses)


def _before(name: str, losses: Losses, guessing: float) -> Verdict:
    loss = losses.per_token
    if not math.isfinite(loss):
        return error(f"of {name!r} before training: {loss}. Load the model in float32", "loss")
    (_, interval) = compare(np.stack([0 * losses.nll, losses.nll]), losses.tokens, 0)[1]
    shown = f"of {name!r} before training: {loss:.3f}{_bounds(interval)} nats/token, {len(losses.nll)} rows"
    # A model that was never trained is about as bad as that.
    if loss > 1.1 * guessing:
        return warning(f"{shown}, worse than guessing ({guessing:.1f}): is it the model's own tokenizer?", "loss")
    return ok(shown, "loss")


def _together(model: Any, batch: Any, alone: Losses) -> Verdict:
    """Return whether rows of a batch see each other: the loss of the batch against the rows' own."""
    tensors = {name: x.to(model.device) if isinstance(x, torch.Tensor) else x for name, x in batch.items()}
    # Mixtures of experts add a loss of their routers.
    routed = {"output_router_logits": False} if model.config.to_dict().get("output_router_logits") else {}
    with untouched(model):
        loss = float(model(**tensors, **routed).loss)
    shown = f"two rows have {loss:.4f} nats/token together and {alone.per_token:.4f} alone"
    # Not >, as a loss that is not a number must not pass.
    if abs(loss - alone.per_token) <= (10 * EXACT if model.dtype == torch.float32 else 0.05):
        return ok(shown, "batch")
    return error(f"{shown}: they see each other, or padding is learned. Set packing=False, mask padding", "batch")


def _changes(before: Mapping[str, Losses], now: Mapping[str, Losses]) -> Iterator[Verdict]:
    """Yield what became of every set, the trained one first."""
    failed = False
    for name, old in before.items():
        new = now[name]
        delta, (_, interval) = compare(np.stack([old.nll, new.nll]), old.tokens, 0)
        said = "one row, no interval" if interval is None else verdict(interval, "lower")
        if not math.isfinite(new.per_token):
            said = "worse"
        change = f"{old.per_token:.3f} to {new.per_token:.3f} nats/token, {delta[1]:+.3f}{_bounds(interval)}, "
        shown = f"{change}{len(old.nll)} rows: "
        same = np.array_equal(old.nll, new.nll)
        if name == "train" and (same or said == "worse"):
            failed = True
            why = "no weight changed" if same else "training failed"
            yield error(f"{shown}{why}. Look at learning_rate, at trainable weights and at the labels", name)
        elif said == "worse" and failed:
            yield error(f"{shown}worse, as the training rows: look for a bug before you call it forgetting", name)
        elif said == "worse":
            yield warning(f"{shown}lost. Train less, or at a lower rate, or mix in its rows", name)
        else:
            yield ok(f"{shown}{'unchanged' if same else said}", name)


def _bounds(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f" [{interval[0]:.3f}, {interval[1]:.3f}]"


def _losses(scorer: Scorer, rows: Sequence[Row]) -> Losses:
    """Return the losses of rows, each the sum over its supervised stretches."""
    parts = [(n, part) for n, row in enumerate(rows) for part in row.encoded]
    nll: Floats = np.zeros(len(rows))
    np.add.at(nll, [n for n, _ in parts], scorer([part for _, part in parts]).nll)
    tokens = [sum(part.supervised for part in row.encoded) for row in rows]
    return Losses(nll, np.array(tokens), np.zeros(len(rows), dtype=np.int64))


def _raw(dataset: Any) -> Iterator[dict[str, Any]]:
    for row in islice(dataset, _MOST):
        if "input_ids" not in row:
            raise DataError(f"rows have the columns {', '.join(row)}: allowed are rows made into tokens (input_ids)")
        yield {name: row[name] for name in _COLUMNS if name in row}


def _collated(trainer: Any, row: Mapping[str, Any]) -> Iterator[Row]:
    """Yield what the collator makes of a row: several, where positions begin again."""
    batch = trainer.data_collator([dict(row)])
    if "labels" not in batch:
        raise DataError("the collator gives no labels: give rows with labels, or a collator that makes them")
    ids, labels = batch["input_ids"][0], batch["labels"][0]
    mask = batch.get("attention_mask", torch.ones(1, len(ids)))[0].bool()
    positions = batch.get("position_ids", torch.arange(len(ids))[None])[0]
    for start, end in pairwise([0, *(n for n in range(1, len(ids)) if positions[n] == 0 and mask[n]), len(ids)]):
        kept = mask[start:end]
        yield Row(tuple(ids[start:end][kept].tolist()), tuple(labels[start:end][kept].tolist()))


def _encoded(renderer: Encoder, task: Task, rows: Sequence[Any]) -> list[Row]:
    encoded = renderer.encode(task.instruction, task.suffix, rows[:_MOST])
    return [Row(e.ids, tuple(labelled(e)["labels"]), e.cut) for e in encoded]


def _saved(tokenizer: Any) -> Any:
    """Return a tokenizer as it is once it was saved."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return load_tokenizer(folder)


def _base(model: Any) -> Any:
    """Return the tokenizer that the model came with, if that is on this machine."""
    name = model.config.name_or_path
    try:
        return AutoTokenizer.from_pretrained(name, local_files_only=True) if name else None
    except (OSError, ValueError, KeyError):
        return None
