"""Paraphrases from a model on this machine: any causal LM with a chat template."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils.memory import clear_device_cache
from transformers import LogitsProcessor

from sapo.candidates.asking import messages, most_requests, question, rounds
from sapo.candidates.replies import Kept, text_of
from sapo.candidates.source import Advance, Rounds, Source, unheard
from sapo.core.errors import CandidateError, RenderError
from sapo.core.storage import fingerprint
from sapo.core.types import Example, Origin, Task
from sapo.models.answers import batches, continued, greedy, stop_tokens
from sapo.models.fit import context_length
from sapo.models.load import load_model
from sapo.models.render import Renderer
from sapo.models.settings import ModelSettings

_TOP_P = 0.95
# Longer than any context: whether a prompt fits is asked here, and nothing of it is ever cut.
_UNCUT = 1 << 30


class Local(Source):
    """The source that writes paraphrases with a model of its own.

    The model is loaded when the first text is needed that is not kept on disk, and let go at the end.

    Args:
        model: which one, without adapters.
        temperature: of sampling.
        seed: of styles and sampling.
        directory: where replies are kept.
    """

    origin: Origin = "local"

    def __init__(self, model: ModelSettings, temperature: float, seed: int, directory: Path) -> None:
        self._model, self._temperature, self._seed = model, temperature, seed
        self._kept = Kept(directory)

    def cost(self, task: Task, wanted: int) -> str:
        """Return how many texts are written at most; empty where all are kept from before."""
        known = self._find(task, range(most_requests(wanted)))
        missing = sum(text is None for text in known.values())
        kept = f" ({len(known) - missing} are kept from before)" if missing < len(known) else ""
        return f"at most {missing} texts written by model {self._model.base!r} on this machine{kept}" if missing else ""

    def paraphrases(self, task: Task, wanted: int, advance: Advance = unheard) -> Rounds:
        """Yield texts in rounds.

        Raises:
            CandidateError: if the model's template or context does not do for the task.
            ModelError: if there is no such model.
        """
        writer: _Writer | None = None
        try:
            for indices in rounds(wanted):
                found = self._find(task, indices)
                if kept := sum(bool(text) for text in found.values()):
                    advance(kept)
                missing = [index for index, text in found.items() if text is None]
                if missing:
                    writer = writer or _Writer(self._model, self._temperature)
                    for index, text in writer.write(task, missing, self._seed):
                        self._kept.keep(self._request(task, index), text)
                        found[index] = text
                        advance(1)
                if texts := [text for text in found.values() if text]:
                    yield texts
        finally:
            if writer is not None:
                del writer
                clear_device_cache(garbage_collection=True)

    def _find(self, task: Task, indices: Sequence[int]) -> dict[int, str | None]:
        """Return the texts that are kept, None for the others."""
        return {index: self._kept.find(self._request(task, index)) for index in indices}

    def _request(self, task: Task, index: int) -> dict[str, Any]:
        """Return everything that the text depends on; device and dtype may move the last digits of the model."""
        chosen = self._model
        return {
            "base": chosen.base, "files": _files(chosen.base), "dtype": chosen.dtype, "device": chosen.device,
            **({"quantization": chosen.quantization} if chosen.quantization else {}),
            "asked": messages(question(task, index, self._seed)),
            "temperature": self._temperature, "seed": self._seed, "index": index,
        }  # fmt: skip


class _Writer:
    """A loaded model that writes texts."""

    def __init__(self, settings: ModelSettings, temperature: float) -> None:
        # Loading draws random numbers for weights that are then replaced.
        with torch.random.fork_rng(devices=[]):
            loaded = load_model(
                settings.base, None, settings.dtype, settings.device,
                quantization=settings.quantization, device_map=settings.device_map, attention=settings.attention,
            )  # fmt: skip
        self._base, self._temperature = settings.base, temperature
        self._model, self._tokenizer = loaded.model, loaded.tokenizer
        if not self._tokenizer.chat_template:
            raise CandidateError(
                f"model {self._base!r} has no chat template, so it cannot be asked for paraphrases: name one that has "
                "(candidates.local.model, --model of sapo paraphrase)"
            )
        self._renderer = Renderer(self._tokenizer, _UNCUT)
        self._stops = stop_tokens(self._model, self._renderer)

    def write(self, task: Task, indices: Sequence[int], seed: int) -> Iterator[tuple[int, str]]:
        """Yield (index, text) as texts get ready; what a request gives does not depend on the others."""
        room = 2 * len(self._tokenizer(task.instruction, add_special_tokens=False).input_ids) + 64
        prompts = [self._prompt(task, index, seed) for index in indices]
        longest = max(map(len, prompts)) + room
        context = context_length(self._model)
        if longest > context:
            raise CandidateError(
                f"task {task.name!r}: a request for a paraphrase and its reply take {longest} tokens "
                f"({longest - room} + {room}), and the context of model {self._base!r} holds {context}: "
                "have another model paraphrase, or shorten the instruction"
            )
        with torch.no_grad(), greedy(self._model, room, self._stops):
            for batch in batches(prompts, room, self._model.device.type):
                draws = _Draws([int(fingerprint([seed, indices[n]]), 16) for n in batch], self._temperature)
                texts = self._replies([prompts[n] for n in batch], draws, room)
                yield from zip([indices[n] for n in batch], texts, strict=True)

    def _prompt(self, task: Task, index: int, seed: int) -> Sequence[int]:
        asked = question(task, index, seed)
        try:
            return self._renderer.prompts(asked.before, asked.after, [Example(asked.text, "")], 1)[0]
        except RenderError as error:
            raise CandidateError(f"model {self._base!r} cannot be asked for paraphrases: {error}") from error

    def _replies(self, prompts: Sequence[Sequence[int]], draws: _Draws, room: int) -> list[str]:
        """Return texts; empty where one did not end in time."""
        found = continued(self._model, prompts, self._stops, logits_processor=[draws])
        return [text_of(self._renderer.decode(ids)) if len(ids) < room else "" for ids in found]


class _Draws(LogitsProcessor):
    """Makes the greedy choice a random one, each row with random numbers of its own.

    Adding Gumbel noise to log-probabilities and taking the highest draws from their distribution. So a row does
    not depend on the others, and no random state but its own is touched.
    """

    def __init__(self, seeds: Sequence[int], temperature: float) -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._temperature = temperature

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        logs = (scores.float() / self._temperature).log_softmax(-1)
        ordered = logs.sort(dim=-1, descending=True).values
        # The likeliest tokens that together have the probability top_p, the one that crosses it included.
        outside = ordered.exp().cumsum(-1) - ordered.exp() >= _TOP_P
        least = ordered.masked_fill(outside, torch.inf).min(dim=-1, keepdim=True).values
        waits = torch.stack([torch.empty(logs.shape[-1]).exponential_(generator=g) for g in self._generators])
        return (logs - waits.log().to(logs.device)).masked_fill(logs < least, -torch.inf)


def _files(base: str) -> str:
    """Return a hash of names, sizes and times of a model directory's files; empty for a model by name."""
    folder = Path(base).expanduser()
    if not folder.is_dir():
        return ""
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in folder.iterdir() if path.is_file()]
    return fingerprint(sorted(stats))
