"""transformers' Trainer with supervised positions only, a given order of rows, and checkpoints of what is trained.

What a method adds to the loss, what words the rows anew, and what looks on come in through `Extras`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy
from torch.utils.data import Sampler
from transformers import Trainer
from transformers.cache_utils import DynamicCache

from sapo.core.errors import RecordError
from sapo.core.storage import unwritable
from sapo.core.types import Encoded
from sapo.models.batches import pad, supervised_positions
from sapo.training.objective import Objective, Part, put_back, trainable
from sapo.training.prefix import columns_to_share, shared_beginning


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """Where an unfinished training is kept, with so many updates between two checkpoints, of which two are kept."""

    directory: Path
    every: int

    def last(self) -> str | None:
        """Return the last checkpoint that was written to its end, or None."""
        whole = []
        for state in self.directory.glob("checkpoint-*/trainer_state.json"):
            # Trainer writes it last; a process may be killed within it.
            with suppress(ValueError):
                json.loads(state.read_text(encoding="utf-8"))
                whole.append(state.parent)
        return str(max(whole, key=lambda path: int(path.name.partition("-")[2]))) if whole else None


class Watcher(Protocol):
    """Looks on while a model is trained. Whatever it computes must leave mode and random state as they were."""

    def begin(self, model: Any) -> None:
        """Be shown the model before the first update, or before a checkpoint is read back into it."""

    def after(self, model: Any, step: int, last: bool) -> bool:
        """Be shown it after an update; return whether training should end here."""

    def state(self) -> Any:
        """Return what a checkpoint must hold to resume, as JSON."""

    def restore(self, model: Any, state: Any) -> None:
        """Resume from that; the model is that of the checkpoint."""


# Called with what Trainer logs after an update: values by name, and the number of updates made.
Log = Callable[[dict[str, Any], int], None]
# (row, epoch, updates made) -> the row as it is worded then, with the same answer.
Reword = Callable[[int, int, int], Encoded]


@dataclass(frozen=True, slots=True)
class Extras:
    """What goes beyond minimising the NLL of fixed rows.

    An ``objective`` is minimised in its place, ``reword`` words a row anew each time, watchers look in their order.
    """

    objective: Objective | None = None
    reword: Reword | None = None
    watchers: tuple[Watcher, ...] = ()
    log: Log = lambda values, step: None


_WEIGHTS = "trained.safetensors"
_WATCHERS = "watchers.json"
NLL = "nll"


class SupervisedTrainer(Trainer):
    """A Trainer that never computes the logits of prompt tokens, and takes rows in a given order.

    ``shares``: what all rows of a batch begin with may be computed once, see `sapo.training.prefix`.
    """

    # The loss is a sum over the whole update's tokens divided by their number, so Trainer must not divide it
    # again by the number of accumulated batches.
    loss_is_scaled_for_ga = True

    def __init__(self, order: UpdateSampler, shares: bool, extras: Extras, **arguments: Any) -> None:
        super().__init__(**arguments)
        # Whatever a model's own loss takes: ours needs the number of tokens of the whole update.
        self.model_accepts_loss_kwargs = True
        self._order, self._shares, self._extras = order, shares, extras
        self._nll: torch.Tensor | None = None
        self._part = 0

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the NLL of this batch's supervised tokens over the number in the whole update, or the objective."""
        ids, labels = inputs["input_ids"], inputs["labels"]
        if self._extras.reword is not None:
            ids, labels = self._reworded(inputs["rows"].tolist(), self._extras.reword)
        keep, targets = supervised_positions(labels)
        skip = columns_to_share(ids, keep) if self._shares else 0
        past = self._beginning(model, ids[0, :skip], len(ids)) if skip else None
        skip = 0 if past is None else skip
        output = model(
            input_ids=ids[:, skip:], past_key_values=past, use_cache=past is not None, logits_to_keep=keep[:, skip:]
        )
        loss = cross_entropy(output.logits.float(), targets, reduction="sum") / num_items_in_batch
        if self._extras.objective is not None:
            # This pass's part of the NLL, for the log.
            self._nll = loss.detach() + (0 if self._nll is None else self._nll)
            processes, passes = self.accelerator.num_processes, self.current_gradient_accumulation_steps
            part = Part(
                model=self.accelerator.unwrap_model(self.model),
                ids=ids,
                keep=keep,
                logits=output.logits,
                tokens=num_items_in_batch,
                step=self.state.global_step,
                number=self._part * processes + self.accelerator.process_index,
                parts=passes * processes,
            )
            self._part = (self._part + 1) % passes
            # As the model itself, whatever else an objective computes runs in the format of the training.
            with self.accelerator.autocast():
                loss = self._extras.objective(loss, part)
        # Data parallelism takes the mean of the processes' gradients: of sums over everyone's tokens, the sum.
        return loss * self.accelerator.num_processes

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the NLL with the objective, where they differ."""
        if "loss" in logs and self._nll is not None:
            logs[NLL] = float(self.accelerator.reduce(self._nll, "sum"))
            self._nll = None
        super().log(logs, start_time)
        self._extras.log(logs, self.state.global_step)

    def _reworded(self, rows: Sequence[int], reword: Reword) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ids and labels of rows as they are worded now, when they are trained on.

        Batches are made ahead of their time, so this cannot be done where they are made.
        """
        worded = [reword(row, self._order.epoch, self.state.global_step) for row in rows]
        ids, labels = pad([e.ids for e in worded], [e.prompt_length for e in worded])
        return ids.to(self.args.device), labels.to(self.args.device)

    def _beginning(self, model: Any, ids: torch.Tensor, rows: int) -> DynamicCache | None:
        # Data parallelism lets a wrapped model be called once a pass, and looks at the gradients only.
        with self.accelerator.autocast():
            return shared_beginning(self.accelerator.unwrap_model(model).get_decoder(), ids, rows)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Write what is trained, and only that: a checkpoint is for resuming with the same model."""
        if self.args.should_save and output_dir is not None:
            Path(output_dir).mkdir(parents=True, exist_ok=True)
            weights = {name: p.detach().cpu().contiguous() for name, p in trainable(self.model).items()}
            save_file(weights, Path(output_dir) / _WEIGHTS)
            states = [watcher.state() for watcher in self._extras.watchers]
            (Path(output_dir) / _WATCHERS).write_text(json.dumps(states), encoding="utf-8")

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write a checkpoint; where the disk is full, torch and safetensors raise errors of their own."""
        try:
            super()._save_checkpoint(model, trial)
        except (OSError, RuntimeError, SafetensorError) as error:
            raise RecordError(unwritable(Path(self.args.output_dir), str(error).partition("\n")[0])) from error

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Read back what `_save` wrote; Trainer's own would leave only the first of several adapters active."""
        put_back(self.model, load_file(Path(resume_from_checkpoint) / _WEIGHTS))
        states = json.loads((Path(resume_from_checkpoint) / _WATCHERS).read_text(encoding="utf-8"))
        for watcher, state in zip(self._extras.watchers, states, strict=True):
            watcher.restore(self.model, state)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return self._order


def row_order(rows: int, seed: int, epoch: int) -> list[int]:
    """Return the order in which an epoch, from 0, takes the rows."""
    order: list[int] = torch.randperm(rows, generator=torch.Generator().manual_seed(seed + epoch)).tolist()
    return order


class UpdateSampler(Sampler[int]):
    """A new order in every epoch, laid out so that any number of processes make the same updates.

    Every update takes the next ``batch_size`` rows of a permutation. Within an update, whose gradient is a sum over
    its rows, they go from long to short: the rows of a micro-batch, and those that processes compute at the same
    time, are then about as long as each other, and what does not fit into memory fails at the start.

    Processes deal micro-batches out among them, so an update is filled up to whole rounds with the row
    ``len(lengths)``, which must be one without supervised tokens: it adds nothing to a sum of losses. (accelerate
    would repeat rows of the epoch's beginning instead.) ``lengths`` are tokens of each training row; every update of
    ``batch_size`` rows is filled up to a multiple of ``round_size``, and 1 fills nothing.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, round_size: int, seed: int) -> None:
        self._lengths, self._batch, self._round, self._seed = lengths, batch_size, round_size, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Hear from the trainer which epoch comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        full, rest = divmod(len(self._lengths), self._batch)
        return full * self._filled(self._batch) + self._filled(rest)

    def __iter__(self) -> Iterator[int]:
        rows = len(self._lengths)
        order = row_order(rows, self._seed, self.epoch)
        for start in range(0, rows, self._batch):
            update = order[start : start + self._batch]
            yield from sorted(update, key=lambda row: -self._lengths[row])
            yield from [rows] * (self._filled(len(update)) - len(update))

    def _filled(self, rows: int) -> int:
        return -(-rows // self._round) * self._round
