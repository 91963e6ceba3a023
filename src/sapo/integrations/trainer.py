"""transformers' Trainer and those that build on it: tokens of a task's rows, and choosing again at every epoch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from sapo.core.errors import CandidateError, DataError, ModelError, RenderError, nearest
from sapo.core.processes import ALONE, Processes, joined
from sapo.core.storage import undamaged, write_json, write_text
from sapo.core.types import Encoded, Example, Instruction, Task
from sapo.models.batches import labelled
from sapo.models.fingerprint import state_fingerprint
from sapo.models.fit import MAX_LENGTH, context_length
from sapo.models.layout import TAKEN_OUT
from sapo.models.load import quantised
from sapo.models.losses import Scorer
from sapo.models.render import Encoder, Renderer
from sapo.models.sft import demand_scored
from sapo.runs.card import model_card
from sapo.runs.lineage import LINEAGE, TAKE_AGAIN, earlier_tasks, library_versions, lineage, read_lineage
from sapo.selection.selection import Choice, Chosen, Selection, chosen, trained
from sapo.tasks.layouts import LAYOUTS, is_taken_out
from sapo.training.wording import Again, Leaders

_log = logging.getLogger("sapo")

# Where choices stand in the trainer's state, which goes into every checkpoint. Not the name of a class: those the
# trainer would try to make again by itself.
_KEPT = "sapo"


def tokenized(task: Task, selection: Chosen, renderer: Encoder) -> Any:
    """Return a task's training rows as a `datasets.Dataset` of input_ids and labels, prompts not supervised.

    Rows that candidates show as examples are left out.

    Args:
        task: its rows and suffix.
        selection: the chosen instruction, or a text.
        renderer: of the model's prompts, the one that the instruction was chosen with.

    Raises:
        CandidateError: if the selection is of another task.
        RenderError: if a row does not fit, or is one of `sapo.integrations.trl.Rows` and the renderer is not theirs.
    """
    from datasets import Dataset

    task, text = trained(task, selection)
    return Dataset.from_list([labelled(e) for e in renderer.encode(text, task.suffix, task.train)])


def describe(
    directory: str | PathLike[str],
    model: Any,
    tokenizer: Any,
    task: Task,
    selection: Chosen | SapoCallback,
    *,
    after: str | PathLike[str] | None = None,
    max_length: int = MAX_LENGTH,
    max_new_tokens: int = 128,
    layout: str = "own",
) -> None:
    """Write `sapo.json` and a model card next to an adapter or model that another trainer saved.

    They say what it was trained with, so that `sapo.apply`, `sapo generate` and readers of the hub can prompt it so.
    Upload the whole folder (``huggingface_hub.upload_folder``); a trainer's own ``push_to_hub`` replaces the card. A
    whole model gets its tokenizer too, if the trainer left it out.

    Args:
        directory: where model or adapter lie.
        model: as it was saved.
        tokenizer: of the model.
        task: trained last.
        selection: what `sapo.select` returned, or the callback that chose again while it was trained; or an
            instruction or its text alone, then without losses of candidates.
        after: directory of the model that this training started from, where that was trained on earlier tasks: its
            `sapo.json` entries are copied. It may be ``directory`` itself.
        max_length: most tokens of prompt and answer.
        max_new_tokens: longest answer.
        layout: of the prompts that it was trained with, `sapo.integrations.trl.Rows.layout`.

    Raises:
        CandidateError: if the selection is of another task.
        DataError: if the task is one of `Rows`, and its layout is not given, or there is no such layout.
        ModelError: if no model was saved there, or ``after`` has no `sapo.json`.
        RecordError: if the files cannot be written, or the `sapo.json` of ``after`` is damaged.
    """
    folder = Path(directory)
    if not any(folder.glob("*.safetensors")):
        raise ModelError(f"{folder} holds neither an adapter nor a model (*.safetensors): save it there first")
    if layout not in LAYOUTS:
        raise DataError(f"layout = {layout!r}: allowed: {', '.join(LAYOUTS)}.{nearest(layout, LAYOUTS)}")
    if (layout == "own") == is_taken_out(task):
        raise DataError(
            f'layout = {layout!r}: the task of Rows has a layout of its own, layout=rows.layout; any other task, "own"'
        )
    state, earlier = state_fingerprint(model), list[dict[str, Any]]()
    if after is not None:
        before, earlier = read_lineage(Path(after)), earlier_tasks(after)
        if earlier[-1]["task"] == task.name and before.get("state") == state:
            # The same weights are described again.
            earlier.pop()
    again, told = isinstance(selection, SapoCallback), _told(task, selection)
    whole = not (folder / "adapter_config.json").is_file()
    data = lineage(
        base=str(model.config.name_or_path),
        method="another trainer",
        policy="reselect" if again else "sapo" if told.selection else "given",
        trained=[told],
        state=state,
        limits={"max_length": max_length, "max_new_tokens": max_new_tokens},
        template=_template(tokenizer, min(max_length, context_length(model))),
        versions=library_versions(),
        dtype=None if quantised(model) else str(model.dtype).removeprefix("torch."),
        earlier=earlier,
        whole=whole,
    )
    if told.selection is None:
        # Candidates may have been scored all the same.
        del data["tasks"][-1]["selection"]
    if layout != "own":
        data["tasks"][-1]["layout"] = layout
    with undamaged((folder if after is None else Path(after)) / LINEAGE, TAKE_AGAIN):
        card = model_card(data)
    if whole and not (folder / "tokenizer_config.json").is_file():
        # A trainer saves it where it knows of it.
        tokenizer.save_pretrained(folder)
    write_json(folder / LINEAGE, data)
    write_text(folder / "README.md", card)


def _told(task: Task, given: Chosen | SapoCallback) -> Choice:
    """Return what a task was trained with, with the losses of its candidates where they are known."""
    if not isinstance(given, SapoCallback):
        return Choice(task, chosen(task, given), given if isinstance(given, Selection) else None)
    chosen(task, given.selection)
    # It may have been resumed from the checkpoint of a training with other candidates.
    scored = given.instruction.text in [c.instruction.text for c in given.selection.candidates]
    return Choice(task, given.instruction, given.selection if scored else None, switches=given.switches)


def _template(tokenizer: Any, max_length: int) -> str | None:
    try:
        return Renderer(tokenizer, max_length).fingerprint()
    except RenderError:
        # A template whose answers only the trainer's own tokens tell apart.
        return None


class SapoCallback(TrainerCallback):
    """Chooses the instruction again at the beginning of every epoch but the first, by losses under the model then.

        callback = SapoCallback(task, selection, renderer)
        trainer = Trainer(model, args, train_dataset=tokenized(task, selection, renderer), callbacks=[callback])

    Rows that were trained on would favour the instruction that they were trained with, so candidates are compared on
    rows that are not. Losses and the choice go into the trainer's log history. The model's mode, what is trainable,
    which adapters are active, and random states do not change. Every process of a job must hold the same rows.

    The trainer is touched only when training begins: then its rows must be the task's, worded with the chosen
    instruction and made into tokens as the renderer does (`tokenized`; or, of SFTTrainer, `sapo.integrations.trl`),
    neither packed nor cut. Otherwise training stops before its first update. Rows for evaluation do not change.
    Choices go into the trainer's checkpoints: a training resumed from one keeps the instruction of its epoch, and
    chooses again when the next begins.

    Args:
        task: whose instruction is chosen.
        selection: the choice that training begins with.
        renderer: of the prompts.
        held_out: rows that are not trained on; by default the task's dev rows. Those that are training rows too are
            left out.
        count: how many of the candidates, the lowest losses first, are compared again.
        log: ``trainer.log`` sends choices to trackers too.

    Attributes:
        selection: as it was given.

    Raises:
        CandidateError: if there is nothing to choose from, or the selection is of another task.
        DataError: if there are no rows that are not trained on; when training begins, if workers would keep the old
            rows, or the trainer has another such callback.
        RenderError: when training begins, if the trainer's rows are not those of the task.
    """

    def __init__(
        self,
        task: Task,
        selection: Selection,
        renderer: Encoder,
        held_out: Sequence[Example] | None = None,
        count: int = 8,
        log: Callable[[dict[str, float]], None] | None = None,
    ) -> None:
        if not isinstance(selection, Selection):
            raise CandidateError(f"selection = {selection!r:.80}: give what sapo.select returned, with its candidates")
        rows = _not_trained_on(task, held_out)
        if count < 2 or len(selection.candidates) < 2:
            raise CandidateError(
                f"count = {count}, of {len(selection.candidates)} candidates: two or more are needed to choose from"
            )
        leading = [selection.candidates[i].instruction for i in selection.ranked[:count]]
        begin = chosen(task, selection)
        if begin not in leading:
            leading[-1] = begin
        self.selection = selection
        self._task, self._renderer, self._log = task, renderer, log
        self._leaders = Leaders(renderer, task.suffix, leading, rows, begin)
        self._now = self._training(begin)
        self._first = {e.ids: n for n, e in enumerate(self._now)}

    def __getstate__(self) -> dict[str, Any]:
        """Leave out where figures go, often a trainer's method: workers that load data only word rows."""
        return {**vars(self), "_log": None}

    @property
    def instruction(self) -> Instruction:
        """What is trained with now; after training, what the model was trained with last.

        That is the best checkpoint's, where the trainer loads it at the end.
        """
        return self._leaders.chosen

    @property
    def choices(self) -> tuple[Again, ...]:
        """The choices so far, the first epoch's not among them."""
        return tuple(self._leaders.choices)

    @property
    def switches(self) -> tuple[tuple[int, str], ...]:
        """The changes of the instruction so far: (updates made, text from then on)."""
        return self._leaders.switches

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin with the first choice, or resume with those of the checkpoint that training is resumed from."""
        self._word_batches(args, kwargs["train_dataloader"])
        if state.num_train_epochs <= 1:
            _log.warning("SapoCallback chooses again when a second epoch begins: this training has one, so it will not")
        kept = state.stateful_callbacks.get(_KEPT) if state.global_step else None
        self._leaders.restore(kept or {"begin": asdict(self.selection.instruction), "choices": []})
        self._leaders.back(max(state.global_step, 1))
        self._word()
        state.stateful_callbacks[_KEPT] = self._leaders.to_json()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Choose, and word the rows of this epoch accordingly."""
        # Past the first epoch, a resumed one may begin in the middle.
        epoch = int(round(state.epoch or 0, 6))
        if epoch == 0 or (self.choices and self.choices[-1].epoch == epoch):
            return
        # Processes compute the same losses: each row by one of them.
        processes = Processes(args.process_index, args.world_size) if joined() else ALONE
        choice = self._leaders.choose(Scorer(kwargs["model"], processes=processes), state.global_step, epoch)
        self._word()
        state.stateful_callbacks[_KEPT] = self._leaders.to_json()
        # A checkpoint of a training with other candidates may have brought another one.
        texts = [candidate.instruction.text for candidate in self.selection.candidates]
        figures = {
            "sapo_loss": choice.losses[choice.instruction.text],
            "sapo_lowest_loss": min(choice.losses.values()),
            "sapo_candidate": float(texts.index(choice.instruction.text) if choice.instruction.text in texts else -1),
        }
        if self._log is not None:
            self._log(figures)
        else:
            state.log_history.append({**figures, "epoch": state.epoch, "step": state.global_step})

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Tell the instruction of the model that is left, which may be an earlier checkpoint's."""
        if args.load_best_model_at_end and state.best_model_checkpoint is not None:
            self._leaders.back(state.best_global_step)
            self._word()

    def _word(self) -> None:
        """Word the training rows with the present choice from now on."""
        self._now = self._training(self._leaders.chosen)

    def _training(self, instruction: Instruction) -> list[Encoded]:
        return self._renderer.encode(instruction.text, self._task.suffix, self._task.train)

    def _word_batches(self, args: Any, loader: Any) -> None:
        """Let the batches of a training be worded with the present choice; refuse rows that were not scored."""
        if args.dataloader_persistent_workers:
            raise DataError(
                "dataloader_persistent_workers = True: persistent workers would miss later choices; set it to False"
            )
        # accelerate's loaders read through another one.
        inner = vars(loader).get("base_dataloader", loader)
        if isinstance(inner.collate_fn, _Worded):
            raise DataError("the trainer has two SapoCallbacks: both would word the same rows")
        if not isinstance(inner.dataset, Sized):
            raise DataError("the trainer's data are a stream, in which epochs cannot be told: give it a whole data set")
        demand_scored(args)
        scored = self._training(self._leaders.begin)
        for number, features in enumerate(loader.dataset, start=1):
            if not {"input_ids", "labels"} <= set(features):
                raise RenderError(
                    f"row {number} of the trainer's data has the columns {', '.join(features)}: allowed are rows made "
                    "into tokens, with input_ids and labels (`tokenized`)"
                )
            place = self._first.get(tuple(map(int, features["input_ids"])))
            if place is None or list(map(int, features["labels"])) != labelled(scored[place])["labels"]:
                raise RenderError(
                    f"row {number} of the trainer's data is not a row of task {self._task.name!r} as this renderer "
                    "encodes it with the chosen instruction: other text, other supervised tokens, packed or cut"
                )
        inner.collate_fn = _Worded(inner.collate_fn, self.reworded)

    def reworded(self, features: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a training row in its present wording."""
        ids = tuple(map(int, features["input_ids"]))
        now = self._now[self._first[ids]]
        if now.ids == ids:
            return features
        new = labelled(now)
        mask = {"attention_mask": [1] * len(new["input_ids"])} if "attention_mask" in features else {}
        return {**features, **new, **mask}


@dataclass(frozen=True)
class _Worded:
    """A data collator whose rows are reworded first."""

    collate: Callable[[list[Mapping[str, Any]]], Any]
    reworded: Callable[[Mapping[str, Any]], Mapping[str, Any]]

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> Any:
        return self.collate([self.reworded(row) for row in rows])


def _not_trained_on(task: Task, held_out: Sequence[Example] | None) -> list[Example]:
    """Return the rows that candidates are compared on."""
    given = list(task.dev if held_out is None else held_out)
    if not all(isinstance(row, Example) for row in given):
        raise DataError("held_out holds something else than a task's rows: give task.test or task.dev")
    if any((TAKEN_OUT in row.input) != is_taken_out(task) for row in given):
        raise DataError("held_out has another layout than the task: rows of Rows are held out by Rows(held_out=...)")
    known = set(task.train)
    rows = [row for row in given if row not in known]
    if not rows:
        source = "no dev rows" if held_out is None else "no rows in held_out"
        raise DataError(
            f"task {task.name!r} has {source} that are not trained on: give some as held_out=... "
            "(sapo.hold_out(task).test), or train every epoch with the first choice"
        )
    return rows
