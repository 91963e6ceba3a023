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

from sapo.core.errors import ConfigError
from sapo.core.storage import read_json, write_json
from sapo.core.types import Task
from sapo.models.answers import Evaluation
from sapo.runs.results import Estimate, Prompt
from sapo.selection.selection import Choice

# Beside what each tracker is told elsewhere, such as WANDB_PROJECT.
FOLDER = "tracking"
# In the directory of a finished run: the trackers that were told of it.
TOLD = "tracked.json"


class Tracker:
    """Passes figures on to trackers; with none, to nobody.

    ``callbacks`` are transformers' integrations, which read directory and name of the run from ``arguments``;
    ``updates`` are those of each training, in order.
    """

    def __init__(self, callbacks: Sequence[Any] = (), arguments: Any = None, updates: Sequence[int] = ()) -> None:
        self._callbacks, self._arguments, self._updates = callbacks, arguments, updates

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

    def tested(self, stage: int, task: Task, prompt: str, cell: Evaluation) -> None:
        """Take one cell of the performance matrix: score in percent, NLL in nats per token."""
        name = task.name if prompt == "selected" else f"{task.name} ({prompt} prompt)"
        found = {"score": float(cell.scores[task.metric].mean()), "nll": cell.losses.per_token}
        self._log({f"eval_{key}/{name}": value for key, value in found.items()}, self._until(stage))

    def finished(self, metrics: Mapping[str, Mapping[Prompt, Mapping[str, Estimate]]]) -> None:
        """Take the metrics of the whole run: by measure, test prompt and name."""
        found = {
            f"eval_{name}/{measure} ({prompt} prompt)": float(metric["value"])
            for measure, prompts in metrics.items()
            for prompt, values in prompts.items()
            for name, metric in values.items()
            if metric["value"] is not None
        }
        self._log(found, self._until(len(self._updates)))

    def _until(self, stage: int) -> int:
        """Return the updates made until a stage."""
        return sum(self._updates[:stage])

    def _log(self, values: Mapping[str, Any], step: int) -> None:
        for callback in self._callbacks:
            callback.on_log(self._arguments, TrainerState(global_step=step), TrainerControl(), logs=dict(values))


@contextmanager
def tracked(
    names: Sequence[str], run_dir: Path, model: Any, updates: Sequence[int], *, first: bool
) -> Iterator[Tracker]:
    """Open trackers for a run, and close them at the end; those that were told of the finished run are left out.

    The directory's name is the run's; trackers that write files do so below its folder "tracking". ``updates`` are
    those of each training, in order; ``first``: this is the process that speaks.

    Raises:
        ConfigError: if there is no such tracker, or its package is not installed.
    """
    callbacks = integrations(names, run_dir) if first else []
    if not callbacks:
        yield Tracker()
        return
    arguments = TrainingArguments(output_dir=str(run_dir / FOLDER), run_name=run_dir.name, report_to=[], use_cpu=True)
    for callback in callbacks:
        callback.on_train_begin(arguments, TrainerState(), TrainerControl(), model=model)
    try:
        yield Tracker(callbacks, arguments, updates)
    finally:
        for callback in callbacks:
            callback.on_train_end(arguments, TrainerState(), TrainerControl(), model=model)
    write_json(run_dir / TOLD, sorted({*told(run_dir), *names}))


def told(run_dir: Path) -> tuple[str, ...]:
    """Return which trackers have been told of the finished run in a directory; none if it is none.

    Raises:
        RecordError: if the file that says so cannot be read.
    """
    file = run_dir / TOLD
    return tuple(read_json(file, "Delete it to tell trackers of this run again.")) if file.is_file() else ()


def integrations(names: Sequence[str], run_dir: Path) -> list[Any]:
    """Return transformers' integrations of these names, as Trainer's ``report_to`` takes them.

    Those that were told of the finished run in a directory are left out.

    Raises:
        ConfigError: if there is no such integration, or its package is not installed.
    """
    found = []
    for name in sorted(set(names) - set(told(run_dir)), key=names.index):
        try:
            found += [make() for make in get_reporting_integration_callbacks([name])]
        except (ValueError, RuntimeError, ImportError) as error:
            raise ConfigError(f"report_to = {name}: {str(error).splitlines()[0]}") from error
    return found
