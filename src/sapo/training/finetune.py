"""Encoded examples -> updated model, on transformers' Trainer.

The subclass leaves out what no loss depends on: logits are asked for at supervised positions only, and without
dropout what all rows of a batch begin with is computed once (`sapo.training.prefix`). The loss is the same quantity
that `sapo.models.losses` computes: at dropout 0, the first step's loss equals the pre-update loss of the same examples.
"""

from __future__ import annotations

import pickle
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from safetensors import SafetensorError
from transformers import PrinterCallback, TrainerCallback, TrainingArguments
from transformers.trainer_utils import SaveStrategy, SchedulerType
from transformers.training_args import OptimizerNames

from sapo.core.errors import TrainError, first_line
from sapo.core.processes import ALONE, Processes
from sapo.core.types import Encoded
from sapo.models.batches import pad
from sapo.models.memory import is_out_of_memory
from sapo.models.passes import unprepared
from sapo.training.prefix import can_share
from sapo.training.settings import Optimiser, TrainSettings
from sapo.training.trainer import NLL, Checkpoints, Extras, SupervisedTrainer, UpdateSampler


@dataclass(frozen=True, slots=True)
class TrainingLog:
    """What training reported of each update: NLL of its rows, in nats per supervised token, and its learning rate.

    ``objectives`` are what was minimised, the same where a method adds nothing; ``gradient_norms`` are of that, before
    clipping.
    """

    steps: int
    losses: tuple[float, ...]
    objectives: tuple[float, ...]
    gradient_norms: tuple[float, ...]
    rates: tuple[float, ...]


class _Looking(TrainerCallback):
    """Tells after every update that it was made, and shows the model to the watchers; any may have ``ended`` it.

    ``begun``: whether an update was begun, so that what a checkpoint holds was read.
    """

    def __init__(self, advance: Callable[[int], None], extras: Extras, order: UpdateSampler) -> None:
        self._advance, self._watchers, self._order = advance, extras.watchers, order
        self.begun = self.ended = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A checkpoint brings its own interval: the one that is asked for now holds."""
        state.save_steps = args.save_steps

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Of several processes, Trainer and accelerate do not reach the order of an epoch that is resumed."""
        self._order.set_epoch(int(round(state.epoch or 0, 6)))

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.begun = True

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._advance(1)
        last = state.global_step >= state.max_steps
        # From a checkpoint of the end Trainer would make one update more.
        control.should_save &= not last
        for watcher in self._watchers:
            if watcher.after(kwargs["model"], state.global_step, last):
                control.should_training_stop = self.ended = True
                # A checkpoint would be resumed after the end.
                control.should_save = False
                # Later ones would look at a model that is not trained further.
                return


def finetune(
    model: Any,
    encoded: Sequence[Encoded],
    settings: TrainSettings,
    seed: int,
    advance: Callable[[int], None] = lambda steps: None,
    processes: Processes = ALONE,
    checkpoints: Checkpoints | None = None,
    extras: Extras | None = None,
    optimiser: Optimiser = "adamw",
    *,
    first: int | None = None,
) -> TrainingLog:
    """Train the model's trainable parameters on the examples, in place, and leave it in eval mode.

    Parameters to be trained have requires_grad; all others, and the global random state, stay as they are. Updates take
    the same rows however many processes train together. ``checkpoints`` are resumed from the last one there.
    ``optimiser`` "sgd" is plain gradient descent at a constant learning rate: no warm-up, decay or clipping.
    ``first``: only so many updates are made, the first ones, at the peak learning rate: without warm-up or decay.

    Raises:
        TrainError: if a loss or a trained weight is not finite, memory runs out, or the model is on another than the
            first GPU that this process sees.
    """
    if processes.count == 1:
        demand_first_gpu(str(model.device))
    micro = min(settings.micro_batch_size, ceil(settings.batch_size / processes.count), len(encoded))
    together = micro * processes.count
    round_size = 1 if processes.count == 1 else together
    order = UpdateSampler([len(e.ids) for e in encoded], settings.batch_size, round_size, seed)
    # What fills an incomplete update up: a token of which nothing is supervised.
    blank = Encoded(encoded[0].ids[:1], 1)
    extras = extras or Extras()
    looking = _Looking(advance, extras, order)
    with tempfile.TemporaryDirectory() as scratch, _kept_state(model):
        output = scratch if checkpoints is None else str(checkpoints.directory)
        arguments = _arguments(model, settings, seed, micro, ceil(settings.batch_size / together), output)
        if first is not None:
            arguments.max_steps = first
        if first is not None or optimiser == "sgd":
            arguments.lr_scheduler_type, arguments.warmup_steps = SchedulerType.CONSTANT, 0.0
        if optimiser == "sgd":
            arguments.optim, arguments.weight_decay, arguments.max_grad_norm = OptimizerNames.SGD, 0.0, 0.0
        if checkpoints is not None:
            arguments.save_strategy, arguments.save_steps = SaveStrategy.STEPS, checkpoints.every
        trainer = SupervisedTrainer(
            order,
            can_share(model, encoded),
            extras,
            model=model,
            args=arguments,
            train_dataset=[{"row": i, "encoded": e} for i, e in enumerate((*encoded, blank))],
            data_collator=_collate,
            callbacks=[looking],
        )
        trainer.remove_callback(PrinterCallback)
        if processes.rank > 0:
            # Trainer gives every process one seed; their dropout masks must not be the same.
            torch.manual_seed(seed + processes.rank)
        for watcher in extras.watchers:
            watcher.begin(model)
        _train(trainer, None if checkpoints is None else processes.once(checkpoints.last), advance, looking)
    model.eval()
    updates = [entry for entry in trainer.state.log_history if "loss" in entry]
    if looking.ended:
        # The weights are from before.
        updates = [entry for entry in updates if np.isfinite(float(entry["loss"]))]
    _demand_finite(model, updates, settings)
    objectives = tuple(float(entry["loss"]) for entry in updates)
    losses = tuple(float(entry.get(NLL, entry["loss"])) for entry in updates)
    norms = tuple(float(entry["grad_norm"]) for entry in updates)
    rates = tuple(float(entry["learning_rate"]) for entry in updates)
    return TrainingLog(int(trainer.state.global_step), losses, objectives, norms, rates)


def demand_first_gpu(device: str) -> None:
    """Refuse a GPU to which Trainer, in one process, would not keep."""
    kind, _, index = device.partition(":")
    if kind == "cuda" and index not in ("", "0"):
        raise TrainError(
            f"device {device}: one process trains on the first GPU that it sees. Set CUDA_VISIBLE_DEVICES={index} in "
            "the environment, and the device to cuda"
        )


def _arguments(
    model: Any, settings: TrainSettings, seed: int, micro: int, accumulated: int, output: str
) -> TrainingArguments:
    """Return Trainer's arguments for passes of ``micro`` rows in each process, ``accumulated`` of them an update."""
    kind = model.device.type
    arguments = TrainingArguments(
        output_dir=output,
        num_train_epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=accumulated,
        warmup_steps=settings.warmup,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        lr_scheduler_type="linear",
        logging_strategy="steps",
        logging_steps=1,
        # By default a NaN is logged as the mean of the losses before it.
        logging_nan_inf_filter=False,
        save_strategy="no",
        save_total_limit=2,
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=["labels"],
        dataloader_pin_memory=kind == "cuda",
        seed=seed,
        use_cpu=kind == "cpu",
        # A model with parts for images has weights that no text reaches.
        ddp_find_unused_parameters=model.config.get_text_config() is not model.config,
        bf16=kind == "cuda" and model.dtype == torch.bfloat16,
        fp16=kind == "cuda" and model.dtype == torch.float16,
    )
    # `accelerate launch` may ask for another one than that of the weights, which losses are computed in.
    arguments.mixed_precision = "bf16" if arguments.bf16 else "fp16" if arguments.fp16 else "no"
    # Trainer would spread one process over all visible GPUs and multiply the batch by their number.
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1
    return arguments


def _train(
    trainer: SupervisedTrainer, checkpoint: str | None, advance: Callable[[int], None], looking: _Looking
) -> None:
    try:
        if checkpoint is not None:
            advance(int(Path(checkpoint).name.partition("-")[2]))
        trainer.train(resume_from_checkpoint=checkpoint)
    except (OSError, KeyError, ValueError, EOFError, RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
        if is_out_of_memory(error):
            raise TrainError(
                f"training does not fit the memory ({first_line(error)}): lower train.micro_batch_size (now "
                f"{trainer.args.per_device_train_batch_size}) or max_length"
            ) from error
        if looking.begun or checkpoint is None:
            raise
        raise TrainError(
            f"cannot resume from checkpoint {checkpoint} ({error}): delete it to train this task again"
        ) from error


def _demand_finite(model: Any, updates: Sequence[dict[str, Any]], settings: TrainSettings) -> None:
    broken = [entry["step"] for entry in updates if not np.isfinite(float(entry["loss"]))]
    sound = all(bool(torch.isfinite(p).all()) for p in model.parameters() if p.requires_grad)
    if broken or not sound:
        when = f"the loss is not finite from update {broken[0]} on" if broken else "a trained weight is not finite"
        raise TrainError(
            f"training diverged: {when}. train.learning_rate = {settings.learning_rate}, weight_decay = "
            f"{settings.weight_decay}: lower them, or lora.alpha, or use dtype float32; nothing of this task was saved"
        )


@contextmanager
def _kept_state(model: Any) -> Iterator[None]:
    """Put back what Trainer changes besides the weights.

    That is the random states of torch, numpy and Python, use_cache, autocast around the forward, and what accelerate
    keeps for all trainers of a process: the precision of one that the user has already made.
    """
    python, legacy_numpy = random.getstate(), np.random.get_state()
    shared = [(one._shared_state, dict(one._shared_state)) for one in (PartialState, AcceleratorState, GradientState)]
    # Of models with parts, only the configuration of their text may have it.
    configured = vars(model.config)
    use_cache = {key: configured[key] for key in ("use_cache",) if key in configured}
    kind = model.device.type
    devices = [] if kind == "cpu" else [model.device]
    try:
        with torch.random.fork_rng(devices, device_type=kind if devices else "cuda"), unprepared(model):
            yield
    finally:
        for now, before in shared:
            now.clear()
            now.update(before)
        configured.pop("use_cache", None)
        configured |= use_cache
        random.setstate(python)
        np.random.set_state(legacy_numpy)


def _collate(rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    # What only fills up is left out, so that a batch is the same, to the bit, in however many processes; alone, one
    # row of it takes part in the update.
    taken = [row for row in rows if row["encoded"].supervised] or [rows[0]]
    encoded = [row["encoded"] for row in taken]
    ids, labels = pad([e.ids for e in encoded], [e.prompt_length for e in encoded])
    return {"input_ids": ids, "labels": labels, "rows": torch.tensor([row["row"] for row in taken])}
