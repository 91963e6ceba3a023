"""A trained stage, loaded from its directory alone: the model, and how each of its tasks is to be prompted."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from sapo.core.errors import DataError, ModelError, nearest
from sapo.core.storage import undamaged
from sapo.core.types import Example
from sapo.models.answers import generate as generated
from sapo.models.fit import context_length
from sapo.models.layout import user_turn
from sapo.models.load import LoadedModel, load_model
from sapo.models.render import Renderer
from sapo.models.settings import DeviceMap
from sapo.runs.lineage import LINEAGE, TAKE_AGAIN, layout_of, read_lineage, stored_prompts
from sapo.tasks.files import demand_whole

_log = logging.getLogger("sapo")


def apply(stage: str | PathLike[str], text: str, task: str | None = None) -> list[dict[str, str]]:
    """Return the messages to prompt a trained stage or adapter with, for any runtime and its chat template.

    Args:
        stage: directory with a `sapo.json`: a stage of a run, an exported model, an adapter of another trainer that
            `sapo.integrations.trainer.describe` described; or the id of such a repository on the hub.
        text: the input.
        task: which of its tasks; by default the one trained last.

    Raises:
        ModelError: if there is no stage, it was not trained on the task, or its prompts cannot be made from here.
        RecordError: if its `sapo.json` is damaged.
        DataError: if ``text`` is no text.
    """
    if not isinstance(text, str):
        raise DataError(f"text = {text!r:.80}: allowed is a text; ask once for each input")
    directory = Path(stage)
    if not directory.is_dir():
        directory = _downloaded(str(stage))
    found = read_lineage(directory)
    with undamaged(directory / LINEAGE, TAKE_AGAIN):
        prompts = stored_prompts(found)
        name = _named(prompts, task)
        layout = layout_of(found, name)
    instruction, suffix = prompts[name]
    if layout == "own":
        return [{"role": "user", "content": user_turn(instruction, text, suffix)}]
    if layout == "alpaca":
        return [{"role": "user", "content": f"{instruction}\n{text}" if text else instruction}]
    if layout == "system":
        return [{"role": "system", "content": instruction}, {"role": "user", "content": text}]
    raise ModelError(
        f"{stage} was trained on {name!r} with prompts of another layout: put its instruction where it stood in its "
        f"training rows: {instruction!r}"
    )


def _downloaded(name: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(name, LINEAGE)).parent
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"{name} is neither a directory nor a repository of the hub with a {LINEAGE} that can be reached"
        ) from error


def _named(prompts: Mapping[str, tuple[str, str]], task: str | None) -> str:
    """Return the name of a task that a stage was trained on, by default the last one's."""
    name = list(prompts)[-1] if task is None else task
    if name not in prompts:
        raise ModelError(
            f"this stage was not trained on {name!r}.{nearest(name, prompts)} Its tasks: {', '.join(prompts)}"
        )
    return name


@dataclass(frozen=True, slots=True)
class Stage:
    """The state after a task, read from what a run wrote.

    Attributes:
        loaded: base model with the stage's adapter.
        prompts: (instruction, suffix) of each task so far, by name, in order.
        max_length: of the run, see `sapo.runs.config.schema.Config`.
    """

    loaded: LoadedModel
    prompts: Mapping[str, tuple[str, str]]
    max_length: int
    max_new_tokens: int

    def __repr__(self) -> str:
        return f"Stage({self.loaded.name}, trained on {', '.join(self.prompts)})"

    def generate(self, inputs: Sequence[str], task: str | None = None) -> list[str]:
        """Return the greedy answer to each input, prompted as the task was trained.

        Raises:
            DataError: if the inputs are not a list of texts.
            ModelError: if the stage was not trained on ``task``; the last one is used where it is None.
        """
        rows = [Example(text, "") for text in inputs]
        if isinstance(inputs, str) or not all(isinstance(row.input, str) for row in rows):
            raise DataError(f"inputs = {inputs!r:.80}: allowed is a list of texts")
        for number, row in enumerate(rows, start=1):
            demand_whole(row.input, f"input {number}")
        name = _named(self.prompts, task)
        renderer = Renderer(self.loaded.tokenizer, min(self.max_length, context_length(self.loaded.model)))
        instruction, suffix = self.prompts[name]
        if cut := sum(row.cut > 0 for row in renderer.asked(instruction, suffix, rows, self.max_new_tokens)):
            _log.warning("%d of %d inputs were too long and are cut in the middle", cut, len(rows))
        return generated(self.loaded.model, renderer, instruction, suffix, rows, self.max_new_tokens)


def load_stage(directory: str | PathLike[str], device_map: DeviceMap | None = None) -> Stage:
    """Return the stage in a directory that a run or `sapo export` wrote, in the number format of its training.

    ``device_map`` "auto" spreads it over all GPUs.

    Raises:
        ModelError: if it is not a stage, or its base model cannot be loaded.
        RecordError: if its `sapo.json` is damaged.
    """
    directory = Path(directory)
    lineage = read_lineage(directory)
    with undamaged(directory / LINEAGE, TAKE_AGAIN):
        base, merged = lineage["base_model"], bool(lineage.get("merged"))
        quantization, dtype = lineage.get("quantization"), lineage.get("dtype")
        limits = (int(lineage["max_length"]), int(lineage["max_new_tokens"]))
        prompts = stored_prompts(lineage)
        strange = [name for name in prompts if layout_of(lineage, name) != "own"]
    if strange:
        raise ModelError(
            f"{directory} was trained on {strange[0]!r} with prompts of another layout, which are not made here: "
            "load the model as its README.md says, and prompt it with the instruction and the layout named there"
        )
    # A merged stage is a whole model; it needs the one that it was made from no more.
    try:
        if merged:
            loaded = load_model(str(directory), dtype=dtype, device_map=device_map)
        else:
            loaded = load_model(base, str(directory), dtype, quantization=quantization, device_map=device_map)
    except ModelError as error:
        where = f"{directory / LINEAGE} names the base model {base!r}, seen from {Path.cwd()}"
        raise ModelError(f"{where}: {error}") from error
    return Stage(loaded, prompts, *limits)
