"""The front door of the method: model + task + candidates -> Selection.

    selection = sapo.select(model, tokenizer, data, instruction="...")
    print(selection)                     # a ranked table
    dataset = selection.apply(dataset)   # train with the chosen instruction

All candidates are scored on the same rows, so losses are compared pair by pair: d_i = NLL_i(candidate) -
NLL_i(original). What is reported is delta = sum(d) / sum(tokens) with an interval that holds for all
candidates at once. It speaks of these rows' population and this state of the model, not of what training
will do; and the winner's own delta is optimistic, since it is the lowest of many.

With strategy "racing", the default, a candidate that can no longer win is dropped (`sapo.selection.race`). With rule
"trial", which trains and so puts this door into this room, the leading ones are tried (`sapo.training.trial`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import MappingProxyType
from typing import Any, TypeVar

from pydantic import ValidationError
from torch import nn
from transformers import PreTrainedTokenizerBase

from sapo.candidates.checks import Pool, listed
from sapo.candidates.gather import Gathered, gather
from sapo.candidates.opening import HAND_WRITTEN, RULES
from sapo.core.errors import CandidateError, DataError, ModelError, demand_number
from sapo.core.processes import launched
from sapo.core.progress import SILENT, Bar, Reporter
from sapo.core.settings import Settings, explained
from sapo.core.types import Losses, Rule, Sample, Strategy, Task
from sapo.models import sft
from sapo.models.adapter import demand_readable_adapter
from sapo.models.fit import MAX_LENGTH, context_length
from sapo.models.losses import Scorer
from sapo.models.render import Encoder, Renderer
from sapo.selection.scoring import score_candidates
from sapo.selection.selection import Selection
from sapo.selection.settings import SelectionSettings, TrialSettings
from sapo.tasks.findings import warnings_of
from sapo.tasks.given import given_task
from sapo.tasks.inplace import Rows
from sapo.tasks.inspection import inspect_rows
from sapo.tasks.layouts import is_taken_out
from sapo.tasks.sampling import selection_rows
from sapo.training.settings import TrainSettings

# Paraphrases, where none are given.
_COUNT = 20
# Rows, by their characters, with which a renderer of another trainer is tried.
_LONGEST = 4


def select(
    model: Any,
    tokenizer: Any,
    data: Any,
    candidates: Sequence[str] | None = None,
    examples: int = 250,
    *,
    instruction: str | None = None,
    suffix: str | None = None,
    columns: Mapping[str, str | Sequence[str]] | None = None,
    args: Any = None,
    strategy: Strategy = "racing",
    delta: float = 0.05,
    epsilon: float = 0.01,
    rule: Rule = "lowest",
    watch: Sequence[Any] = (),
    trial: Mapping[str, Any] = MappingProxyType({}),
    train: Mapping[str, Any] = MappingProxyType({}),
    sample: Sample = "stratified",
    seed: int = 42,
    max_length: int | None = None,
    renderer: Encoder | None = None,
    progress: Reporter | bool = False,
) -> Selection:
    """Return the candidates' pre-update losses on the task's training rows, and the chosen instruction.

    Args:
        model: any transformers or peft causal LM. Weights, mode, requires_grad and random state stay as
            they are.
        tokenizer: its tokenizer.
        data: a task, a path, or rows (`datasets.Dataset`, pandas DataFrame, list of dicts), see
            `sapo.tasks.given.given_task`. Its instruction is the original and always the first candidate.
        candidates: paraphrases of the original. What cannot work is rejected with a reason, and what is unusual is
            noted. By default 20 of those that come with the library or that rules make, see `sapo.candidates`.
        examples: number of selection rows, all training rows where there are fewer.
        instruction: the original, where the data do not hold it.
        suffix: a fixed sentence about the answer's format, where rows hold input and answer alone.
        columns: role -> column of such rows: input, answer and others, see `sapo.tasks.own.DataSource`.
        args: the trainer's `trl.SFTConfig`, for rows that hold the instruction: its tokens are scored.
        strategy: "racing" scores candidates on all rows only as long as they may still win; "exhaustive" scores
            every candidate on every row.
        delta: of a race: bound on the probability that the winner is not the best within epsilon.
        epsilon: of a race: tolerance in nats per token; the original wins where it is certain to be within it.
        rule: "lowest" loss, the paper's; or "confident": leave the original only for a candidate whose
            interval lies below zero, which takes every loss: nothing is raced for then; or "trial": train with each
            of the leading candidates for a few updates and compare what that does, see `sapo.training.trial`. The
            model must be the one that is trained, with its adapter; it is put back as it was.
        watch: of a trial: tasks that should not be forgotten, each anything that ``data`` may be, with the instruction
            that it was trained with; where there are none, general text is watched.
        trial: of a trial: how far it goes, by the keys of `sapo.selection.settings.TrialSettings`.
        train: of a trial: the training that is tried, by the keys of `sapo.training.settings.TrainSettings`.
        sample: "stratified" by label where there are labels, or the "first" rows, as published.
        seed: of the sample, of the race's order and of the bootstrap.
        max_length: most tokens of prompt and answer, by default 1664; longer inputs are cut in the middle. Of rows that
            hold the instruction, which are never cut, by default 1024, as SFTTrainer cuts there.
        renderer: makes tokens of rows as another trainer does, such as `sapo.integrations.trl.SftRenderer`, which has
            a limit of its own; by default `sapo.models.render.Renderer`.
        progress: True shows a bar; or a `sapo.core.progress.Reporter`, which is told how far scoring is.

    Raises:
        CandidateError: if no candidate is left besides the original.
        DataError: if the data cannot be used or have no rows, or a setting is not allowed.
        ModelError: if the model is not a loaded model.
        ScoreError: if a loss is not finite, or a row does not fit the memory.
        TrainError: if a trial diverges, or its model is on another than the first GPU.
        RenderError: if a prompt does not fit; a renderer that is given is tried with the four longest rows first.
    """
    _demand_loaded(model, tokenizer)
    demand_number("seed", seed, 0)
    with _named(SelectionSettings):
        settings = SelectionSettings(
            examples=examples, rule=rule, sample=sample, strategy=strategy, delta=delta, epsilon=epsilon,
        )  # fmt: skip
    if rule != "trial" and (watch or trial or train):
        raise DataError(f"watch, trial and train are for rule trial, not for rule {rule}")
    tries, training = _given("trial", trial, TrialSettings), _given("train", train, TrainSettings)
    if unread := {"rows", "checkpoint_every"} & set(train):
        raise DataError(f"train.{min(unread)}: a trial does not read it. Leave it out")
    if not isinstance(watch, (list, tuple)):
        raise DataError(f"watch = {watch!r:.80}: allowed is a list of tasks")
    reporter: Reporter = (Bar() if progress else SILENT) if isinstance(progress, bool) else progress
    task, encoder = _opened(model, tokenizer, data, instruction, suffix, columns, args, max_length, renderer)
    watched: dict[str, tuple[Task, str, Encoder]] = {}
    for number, one in enumerate(watch, start=1):
        own_args = None if isinstance(one, Task) else args
        other, its_encoder = _opened(model, tokenizer, one, None, None, None, own_args, max_length, None)
        # Rows that hold their instruction have a layout that a renderer of others cannot read, and the other way round.
        if renderer is not None and is_taken_out(other) == is_taken_out(task):
            its_encoder = renderer
        if other.train in (task.train, *(known.train for known, _, _ in watched.values())):
            raise DataError(f"watch {number}, {other.name}: the same rows would count twice. Leave it out")
        watched[f"watch {number}: {other.name}"] = other, other.instruction, its_encoder
    gathered = candidates_of(task, candidates)
    kept, rejected = gathered.candidates, gathered.rejected
    demand_candidates(task, gathered)
    for note in gathered.notes:
        reporter.note(note)
    if not isinstance(encoder, Renderer):
        # It may refuse rows: better before anything is scored, and also rows that are not sampled.
        longest = sorted(task.train, key=lambda row: len(row.input) + len(row.answer))[-_LONGEST:]
        for candidate in kept:
            encoder.encode(candidate.text, task.suffix, longest)
    rows = selection_rows(task, settings.examples, sample, seed)
    if rule == "trial":
        # Takes seconds, with transformers' Trainer.
        from sapo.training.finetune import demand_first_gpu
        from sapo.training.trial import demand_trainable, other_rows, try_leading

        # What cannot be tried is refused before anything is scored.
        if launched().count > 1:
            raise DataError("rule trial: several processes would share out its updates: choose in one, before them")
        demand_trainable(model)
        demand_first_gpu(str(model.device))
        most = context_length(model)
        others = other_rows(watched, tries, seed, Renderer(tokenizer, most), most)
    reporter.plan(len(rows) * len(kept))
    scorer = Scorer(model)
    selection = score_candidates(
        scorer, encoder, task, kept, rows, settings, seed=seed, rejected=rejected, progress=reporter
    )
    if rule == "trial":
        selection = try_leading(
            selection, model, scorer, encoder, task, others, tries, training, seed=seed, progress=reporter
        )
    return replace(selection, notes=(*_notes(task, selection), *gathered.notes, *selection.notes))


_Settings = TypeVar("_Settings", bound=Settings)


def _given(name: str, given: Mapping[str, Any], kind: type[_Settings]) -> _Settings:
    """Return settings of a kind; what is wrong with them is a DataError, as with other arguments."""
    if not isinstance(given, Mapping):
        raise DataError(f"{name} = {given!r:.80}: allowed is a mapping with some of {', '.join(kind.model_fields)}")
    with _named(kind, name):
        return kind.model_validate(given)


@contextmanager
def _named(kind: type[Settings], name: str = "") -> Iterator[None]:
    """Raise a DataError that names the first value that is not allowed."""
    try:
        yield
    except ValidationError as error:
        raise DataError(explained(kind, error.errors()[0], name)) from error


def _notes(task: Task, selection: Selection) -> tuple[str, ...]:
    """Return what became of the data and the texts, one sentence each: nothing is left out in silence."""
    found = [*task.notes, *warnings_of(inspect_rows(task, selection.rows))]
    cut = max(int((candidate.losses.cut > 0).sum()) for candidate in selection.candidates)
    if cut:
        found.append(f"{cut} of {len(selection.rows)} inputs were too long and are cut in the middle")
    if selection.rejected:
        found.append(f"rejected texts: {listed(selection.rejected)}")
    return tuple(found)


def score(
    model: Any,
    tokenizer: Any,
    data: Any,
    texts: Sequence[str],
    *,
    instruction: str | None = None,
    suffix: str | None = None,
    columns: Mapping[str, str | Sequence[str]] | None = None,
    args: Any = None,
    max_length: int | None = None,
    renderer: Encoder | None = None,
) -> tuple[Losses, ...]:
    """Return the exact losses of instructions on all training rows, in the order given; nothing is chosen.

    Row k of every result is training row k. ``losses.per_token`` is the pre-update loss, in nats per token. Texts are
    scored as they are, without any check. Arguments and errors are those of `select`.
    """
    _demand_loaded(model, tokenizer)
    usable = isinstance(texts, (list, tuple)) and all(isinstance(text, str) and text.strip() for text in texts)
    if not usable or not texts:
        raise CandidateError(f"texts = {texts!r:.80}: allowed is a list of texts that are not empty")
    task, encoder = _opened(model, tokenizer, data, instruction, suffix, columns, args, max_length, renderer)
    if not task.train:
        raise DataError(f"task {task.name!r} has no training rows to score on")
    scorer = Scorer(model)
    return tuple(scorer(encoder.encode(text, task.suffix, task.train)) for text in texts)


def _opened(
    model: Any,
    tokenizer: Any,
    data: Any,
    instruction: str | None,
    suffix: str | None,
    columns: Mapping[str, str | Sequence[str]] | None,
    args: Any,
    max_length: int | None,
    renderer: Encoder | None,
) -> tuple[Task, Encoder]:
    """Return the task, and what makes tokens of its rows."""
    if max_length is not None:
        demand_number("max_length", max_length)
    settings = {"renderer": renderer, "args": args, "max_length": max_length}
    if len(given := [name for name, value in settings.items() if value is not None]) > 1:
        raise DataError(f"{' and '.join(given)}: give {given[0]} alone, which has what the others say")
    opened = given_task(data, instruction, suffix, columns)
    limit = max_length
    if limit is None:
        limit = sft.MAX_LENGTH if isinstance(opened, Rows) else MAX_LENGTH
    if isinstance(opened, Rows):
        return opened.task, renderer or opened.renderer(tokenizer, limit, args=args)
    if args is not None:
        raise DataError("args is for rows that hold the instruction themselves; other rows are laid out by the library")
    return opened, renderer or Renderer(tokenizer, min(limit, context_length(model)))


def candidates_of(task: Task, given: Sequence[str] | None) -> Gathered:
    """Return a task's candidates; where none are given, 20 of those that come with the library or that rules make."""
    if given is None:
        return gather(task, (HAND_WRITTEN, RULES), _COUNT)
    if not isinstance(given, (list, tuple)) or not all(isinstance(text, str) for text in given):
        raise CandidateError(f"candidates = {given!r:.80}: allowed is a list of texts")
    pool = Pool(task)
    pool.add(given, "given")
    return Gathered(tuple(pool.kept), tuple(pool.rejected), notes=pool.notes)


def demand_candidates(task: Task, gathered: Gathered) -> None:
    """Refuse to choose where there is nothing to choose from."""
    if len(gathered.candidates) == 1:
        raise CandidateError(
            f"task {task.name!r} has no candidate besides the original instruction ({listed(gathered.rejected)})"
        )


def _demand_loaded(model: Any, tokenizer: Any) -> None:
    """Refuse names where a loaded model and tokenizer are meant, before their first use deep inside."""
    if not isinstance(model, nn.Module):
        raise ModelError(f"model = {model!r:.80}: give a loaded model: model, tokenizer = sapo.load_model(NAME)")
    demand_readable_adapter(model)
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise ModelError(f"tokenizer = {tokenizer!r:.80}: give the model's tokenizer, as transformers loads it")
