"""transformers' Trainer with supervised positions only, a given order of rows, and checkpoints of what is trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy
from torch.utils.data import Sampler
from transformers import Trainer
from transformers.cache_utils import DynamicCache

from sapo.finetune.prefix import columns_to_share, shared_beginning
from sapo.score import supervised_positions


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """Where an unfinished training is kept.

    Attributes:
        directory: of this training alone.
        every: updates between two checkpoints; the last two are kept.
    """

    directory: Path
    every: int

    def last(self) -> str | None:
        """Return the last checkpoint that was written to its end, or None."""
        # Trainer writes its state last.
        whole = [path.parent for path in self.directory.glob("checkpoint-*/trainer_state.json")]
        return str(max(whole, key=lambda path: int(path.name.partition("-")[2]))) if whole else None


_WEIGHTS = "trained.safetensors"


class SupervisedTrainer(Trainer):
    """A Trainer that never computes the logits of prompt tokens, and takes rows in a given order.

    Args:
        order: of the rows.
        shares: whether what all rows of a batch begin with may be computed once, see `sapo.finetune.prefix`.
        arguments: of Trainer.
    """

    # The loss is a sum over the whole update's tokens divided by their number, so Trainer must not divide it
    # again by the number of accumulated batches.
    loss_is_scaled_for_ga = True

    _shares = False

    def __init__(self, order: UpdateSampler, shares: bool = False, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._order, self._shares = order, shares

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Return the NLL of this batch's supervised tokens over the number in the whole update."""
        ids = inputs["input_ids"]
        keep, targets = supervised_positions(inputs["labels"])
        skip = columns_to_share(ids, keep) if self._shares else 0
        past = self._beginning(model, ids[0, :skip], len(ids)) if skip else None
        skip = 0 if past is None else skip
        output = model(
            input_ids=ids[:, skip:], past_key_values=past, use_cache=past is not None, logits_to_keep=keep[:, skip:]
        )
        total = cross_entropy(output.logits.float(), targets, reduction="sum")
        if num_items_in_batch is None:
            loss = total / len(targets) / self.current_gradient_accumulation_steps
        else:
            # Data parallelism takes the mean of the processes' gradients: of sums over everyone's tokens, the sum.
            loss = total / num_items_in_batch * self.accelerator.num_processes
        return (loss, output) if return_outputs else loss

    def _beginning(self, model: Any, ids: torch.Tensor, rows: int) -> DynamicCache | None:
        # Data parallelism lets a wrapped model be called once a pass, and looks at the gradients only.
        with self.accelerator.autocast():
            return shared_beginning(self.accelerator.unwrap_model(model).get_decoder(), ids, rows)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Write what is trained, and only that: a checkpoint is for going on with the same model."""
        if self.args.should_save and output_dir is not None:
            Path(output_dir).mkdir(parents=True, exist_ok=True)
            save_file({name: p.detach().cpu().contiguous() for name, p in self._trained()}, Path(output_dir) / _WEIGHTS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Read back what `_save` wrote; Trainer's own would leave only the first of several adapters active."""
        stored = load_file(Path(resume_from_checkpoint) / _WEIGHTS)
        with torch.no_grad():
            for name, parameter in self._trained():
                parameter.copy_(stored[name])

    def _trained(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        return ((name, p) for name, p in self.model.named_parameters() if p.requires_grad)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return self._order


class UpdateSampler(Sampler[int]):
    """A new order in every epoch, laid out so that any number of processes make the same updates.

    Every update takes the next ``batch_size`` rows of a permutation. Within an update, whose gradient is a sum over
    its rows, they go from long to short: the rows of a micro-batch, and those that processes compute at the same
    time, are then about as long as each other, and what does not fit into memory fails at the start.

    Processes deal micro-batches out among them, so an update is filled up to whole rounds with the row
    ``len(lengths)``, which must be one without supervised tokens: it adds nothing to a sum of losses. (accelerate
    would repeat rows of the epoch's beginning instead.)

    Args:
        lengths: tokens of each training row.
        batch_size: rows of an update.
        round_size: every update is filled up to a multiple of it; 1 fills nothing.
        seed: of the order.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, round_size: int, seed: int) -> None:
        self._lengths, self._batch, self._round, self._seed = lengths, batch_size, round_size, seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Be told by the trainer which epoch comes next."""
        self._epoch = epoch

    def __len__(self) -> int:
        full, rest = divmod(len(self._lengths), self._batch)
        return full * self._filled(self._batch) + self._filled(rest)

    def __iter__(self) -> Iterator[int]:
        rows = len(self._lengths)
        generator = torch.Generator().manual_seed(self._seed + self._epoch)
        order = torch.randperm(rows, generator=generator).tolist()
        for start in range(0, rows, self._batch):
            update = order[start : start + self._batch]
            yield from sorted(update, key=lambda row: -self._lengths[row])
            yield from [rows] * (self._filled(len(update)) - len(update))

    def _filled(self, rows: int) -> int:
        return -(-rows // self._round) * self._round
