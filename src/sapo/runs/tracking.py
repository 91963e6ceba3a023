"""What a run finds, on its way to the user's experiment tracker: TensorBoard, Weights & Biases, MLflow and others.

transformers' own integrations do it, those that its Trainer takes as `report_to`. One tracked run is one run of a
sequence: steps are updates, counted through all its trainings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import get_reporting_integration_callbacks

from sapo.core.errors import ConfigError, first_line
from sapo.core.storage import read_json, write_json
from sapo.core.types import Task
from sapo.models.answers import Evaluation
from sapo.runs.prompts import OWN, Prompt, short
from sapo.runs.results import Estimate
from sapo.selection.selection import Choice

# Besides what each tracker reads elsewhere, such as WANDB_PROJECT.
FOLDER = "tracking"
# In the directory of a finished run: the trackers that have been given its figures.
TOLD = "tracked.json"


class Tracker:
    """Passes figures on to the trackers that the user names; with none, to nobody.

    The directory's name is the run's; trackers that write files do so below its folder "tracking". Trackers that have
    been given the finished run in the directory are left out.

    Raises:
        ConfigError: if there is no such tracker, or its package is not installed.
        RecordError: if the file that names the trackers of a finished run cannot be read.
    """

    def __init__(self, names: Sequence[str], run_dir: Path) -> None:
        self._run_dir, file = run_dir, run_dir / TOLD
        told = read_json(file, "Delete it to tell trackers of this run again.") if file.is_file() else []
        self._told = sorted({*told, *names})
        self._callbacks: list[Any] = []
        for name in dict.fromkeys(name for name in names if name not in told):
            try:
                self._callbacks += [make() for make in get_reporting_integration_callbacks([name])]
            except (ValueError, RuntimeError, ImportError) as error:
                raise ConfigError(f"report_to = {name}: {first_line(error)}") from error
        self._arguments: TrainingArguments | None = None
        self._updates: Mapping[int, int] = {}

    @contextmanager
    def opened(self, model: Callable[[], Any], updates: Mapping[int, int], *, first: bool) -> Iterator[None]:
        """Open the trackers for a run, and close them at the end.

        ``model`` gives the present one; ``updates`` are those of each training, by its stage; ``first``: this is the
        process that speaks.
        """
        if not first or not self._callbacks:
            self._callbacks = []
            yield
            return
        self._updates = updates
        self._arguments = arguments = TrainingArguments(
            output_dir=str(self._run_dir / FOLDER), run_name=self._run_dir.name, report_to=[], use_cpu=True
        )
        for callback in self._callbacks:
            callback.on_train_begin(arguments, TrainerState(), TrainerControl(), model=model())
        try:
            yield
        finally:
            for callback in self._callbacks:
                callback.on_train_end(arguments, TrainerState(), TrainerControl(), model=model())
        write_json(self._run_dir / TOLD, self._told)

    def training(self, stage: int) -> Callable[[Mapping[str, Any], int], None]:
        """Return what takes the log of the training that leads to a stage: values, and updates made in it."""
        return lambda values, step: self._log(values, self._until(stage - 1) + step)

    def chosen(self, trained: Choice, stage: int) -> None:
        """Take the choice that the training to a stage begins with: losses in nats per token."""
        selection = trained.selection
        if selection is None:
            return
        losses = [candidate.loss for candidate in selection.candidates]
        taken = [candidate.instruction.text for candidate in selection.candidates].index(trained.instruction.text)
        found = {"original": losses[0], "trained": losses[taken], "lowest": min(losses), "candidate": taken}
        name = f"selection/{trained.task.name}"
        self._log({f"eval_{name}/{key}": float(value) for key, value in found.items()}, self._until(stage - 1))

    def tested(self, stage: int, task: Task, prompt: Prompt, cell: Evaluation) -> None:
        """Take one cell of the performance matrix: score in percent, NLL in nats per token."""
        name = task.name if prompt == OWN else f"{task.name} ({short(prompt)} prompt)"
        found = {"score": float(cell.scores[task.metric].mean()), "nll": cell.losses.per_token}
        self._log({f"eval_{key}/{name}": value for key, value in found.items()}, self._until(stage))

    def finished(self, metrics: Mapping[str, Mapping[Prompt, Mapping[str, Estimate]]]) -> None:
        """Take the metrics of the whole run: by measure, test prompt and name."""
        found = {
            f"eval_{name}/{measure} ({short(prompt)} prompt)": float(metric["value"])
            for measure, prompts in metrics.items()
            for prompt, values in prompts.items()
            for name, metric in values.items()
            if metric["value"] is not None
        }
        self._log(found, sum(self._updates.values()))

    def _until(self, stage: int) -> int:
        """Return the updates made until a stage."""
        return sum(updates for trained, updates in self._updates.items() if trained <= stage)

    def _log(self, values: Mapping[str, Any], step: int) -> None:
        for callback in self._callbacks:
            callback.on_log(self._arguments, TrainerState(global_step=step), TrainerControl(), logs=dict(values))
