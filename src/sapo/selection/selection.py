"""What the method finds: candidates with their losses, and the chosen one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from html import escape
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from sapo.core.errors import CandidateError
from sapo.core.storage import Stored, adapter, read_json, undamaged, write_json
from sapo.core.types import Instruction, Losses, Rejection, Rule, Sample, Strategy, Task
from sapo.core.untrusted import brief, one_line, plain
from sapo.tasks.inplace import Rows
from sapo.tasks.layouts import exchange
from sapo.tasks.sampling import without_shown

Status = Literal["chosen", "scored", "dropped"]
RaceEnd = Literal["decided", "budget", "all rows"]
# Characters of a candidate that a printed table shows.
_SHOWN = 60
_AGAIN = "Select again."


@dataclass(frozen=True, slots=True)
class CandidateLoss:
    """One candidate with its pre-update loss.

    Attributes:
        losses: per example, on the selection rows that it was scored on: the first ones of ``Selection.rows``.
        loss: on all selection rows, in nats per token; estimated where it was not scored on all of them, from its
            difference to the leader of the race on the rows that both were scored on.
        delta: its loss minus the original's; negative is better than the original.
        interval: 95 % interval of ``delta``, simultaneous over all candidates, for the population that the selection
            rows stand for and conditional on the model's state; None for the original itself and where one example
            gives no spread.
        status: "chosen"; "dropped" before the end of a race; or "scored" to the end.
        round: the round of the race after which it was dropped; None if it was not.
        gap: bounds of how far its loss lies above that of the race's winner on the selection rows, in nats per token,
            for all candidates at once; None without a race.
    """

    instruction: Instruction
    losses: Losses
    loss: float
    delta: float
    interval: tuple[float, float] | None
    status: Status
    round: int | None = None
    gap: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Race:
    """How a race went; see `sapo.selection.race` for what it promises.

    Attributes:
        delta: bound on the probability that the chosen one is worse than the best by more than ``tolerance``.
        epsilon: tolerance that was asked for, in nats per token, and on top the noise of a low precision.
        tolerance: the one that was reached; above ``epsilon`` only where the budget ended the race.
        end: "decided"; "all rows" where that took every row for those that raced to the end; or "budget".
        budget: about the most that scoring was allowed to cost, in forward tokens (the first round is made in any case,
            and a row's cost is estimated from a few rows); None without a limit.
    """

    delta: float
    epsilon: float
    tolerance: float
    rounds: int
    end: RaceEnd
    budget: float | None


@dataclass(frozen=True, slots=True)
class Tried:
    """A candidate after its trial; see `sapo.training.trial`.

    Attributes:
        candidate: index into ``Selection.candidates``.
        losses: after the updates, by task, in nats per token; the new task first.
        delta: their mean minus the original's; negative is better than the original.
        interval: 95 % interval of ``delta``, simultaneous over all that were tried; None for the original.
    """

    candidate: int
    losses: Mapping[str, float]
    delta: float
    interval: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Trial:
    """What training with each of the leading candidates for ``updates`` does, the original first, then by loss.

    ``tokens`` is about its cost in forward tokens; a token that is trained on counts three. ``seconds`` are wall time.
    """

    updates: int
    tried: tuple[Tried, ...]
    tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Selection(Stored):
    """Candidates with their losses, and the chosen one.

    Attributes:
        sample: how the selection rows were drawn.
        rows: indices of the selection rows among the task's training rows, in the order in which they were scored.
        candidates: in the order given, the original first.
        chosen: index into ``candidates``.
        tolerance: losses closer than this count as equal, in nats per token; in a race, epsilon.
        rejected: texts that were not scored, with reasons.
        seconds: wall time of scoring, and of a trial, without loading the model; for losses that had been computed
            before, what that took then.
        route: how losses were computed, see `sapo.models.losses.Scorer`.
        cached: number of candidates all of whose losses had been computed before.
        race: None where every candidate was scored on every row.
        trial: what the choice rests on with rule "trial"; None with other rules, and where nothing could be tried.
        peak_memory: most memory in use so far, in bytes: on a GPU of its own, else of the whole process; None where
            the system does not tell.
        notes: what the user should know about the candidates, one sentence each.
    """

    task: str
    rule: Rule
    sample: Sample
    rows: tuple[int, ...]
    candidates: tuple[CandidateLoss, ...]
    chosen: int
    tolerance: float
    rejected: tuple[Rejection, ...]
    seconds: float
    tokens: int
    route: str
    cached: int = 0
    race: Race | None = None
    peak_memory: int | None = None
    notes: tuple[str, ...] = ()
    trial: Trial | None = None

    @property
    def strategy(self) -> Strategy:
        """How the scoring was done."""
        return "exhaustive" if self.race is None else "racing"

    @property
    def evaluations(self) -> int:
        """Number of losses computed, of at most candidates x rows."""
        return sum(len(candidate.losses.nll) for candidate in self.candidates)

    @property
    def instruction(self) -> Instruction:
        """The chosen instruction."""
        return self.candidates[self.chosen].instruction

    @property
    def ranked(self) -> tuple[int, ...]:
        """Candidate indices from lowest to highest loss; equal losses keep their order."""
        return tuple(sorted(range(len(self.candidates)), key=lambda i: self.candidates[i].loss))

    def decided_by(self, trial: Trial, chosen: int) -> Selection:
        """Return the same with the choice that a trial led to."""
        candidates, seconds = list(self.candidates), self.seconds + trial.seconds
        candidates[self.chosen] = replace(candidates[self.chosen], status="scored")
        candidates[chosen] = replace(candidates[chosen], status="chosen", round=None)
        return replace(self, candidates=tuple(candidates), chosen=chosen, trial=trial, seconds=seconds)

    def __repr__(self) -> str:
        size = f"{len(self.candidates)} candidates on {len(self.rows)} rows"
        chosen = self.candidates[self.chosen]
        return f"Selection({brief(self.task)}, {size}, chosen: {brief(chosen.instruction.text)} at {chosen.loss:.4f})"

    def __str__(self) -> str:
        """Return the candidates as a ranked table, the chosen one marked, and those that were tried as another one."""
        heads = ("rank", "loss", "to original", "95 % interval", "rows", "", "candidate")
        rows = [heads, *(_line(rank, self.candidates[i], i) for rank, i in enumerate(self.ranked, start=1))]
        scored = f"{plain(self.task)}: {len(self.candidates)} candidates on {len(self.rows)} training rows"
        lines = [f"{scored}, loss in nats per answer token before training", *_aligned(rows)]
        if self.trial is not None:
            lines += [
                f"tried for {self.trial.updates} updates, loss afterwards; intervals cover rows, not trainings",
                *_aligned(self.trial_table())
            ]  # fmt: skip
        return "\n".join([*lines, *(f"note: {plain(note)}" for note in self.notes)])

    def trial_table(self) -> list[tuple[str, ...]]:
        """Return headings and a row for each candidate that was tried: losses after it, in nats per answer token."""
        tried = () if self.trial is None else self.trial.tried
        tasks = [plain(task) for one in tried[:1] for task in one.losses]
        rows = [("mean", "to original", "95 % interval", *tasks, "", "candidate")]
        for one in tried:
            original, losses = one.candidate == 0, one.losses.values()
            rows.append(
                (
                    f"{sum(losses) / len(losses):.4f}",
                    "" if original else f"{one.delta:+.4f}",
                    "[{:+.4f}, {:+.4f}]".format(*one.interval) if one.interval else "",
                    *(f"{loss:.4f}" for loss in losses),
                    ", ".join(["original"] * original + ["chosen"] * (one.candidate == self.chosen)),
                    one_line(plain(self.candidates[one.candidate].instruction.text), _SHOWN),
                )
            )
        return rows

    def _repr_html_(self) -> str:
        """Return the ranked table for a notebook, and the notes; texts are escaped."""
        table = self.to_pandas().to_html(index=False, float_format="{:.4f}".format, na_rep="")
        return "".join([str(table), *(f"<p>note: {escape(note)}</p>" for note in self.notes)])

    def to_pandas(self) -> Any:
        """Return a `pandas.DataFrame`, a row for each candidate, lowest loss first; losses in nats per token."""
        from pandas import DataFrame

        ranked = [self.candidates[i] for i in self.ranked]
        return DataFrame(
            {
                "loss": [c.loss for c in ranked],
                "delta": [c.delta for c in ranked],
                "low": [c.interval[0] if c.interval else None for c in ranked],
                "high": [c.interval[1] if c.interval else None for c in ranked],
                "rows": [len(c.losses.nll) for c in ranked],
                "status": [c.status for c in ranked],
                "origin": [c.instruction.origin for c in ranked],
                "text": [c.instruction.text for c in ranked],
            }
        )

    def apply(self, data: Any) -> Any:
        """Return rows with the chosen instruction in place of the original; everything else is unchanged.

        Args:
            data: a `datasets.Dataset` or DatasetDict, a pandas DataFrame or a list of rows, each with the original
                instruction in it: messages, conversations, prompt and completion, alpaca, or text. What comes back is
                of the same kind.

        Raises:
            DataError: if a row does not hold the original instruction, or the layout is not known.
        """
        return exchange(data, self.candidates[0].instruction.text, self.instruction.text)

    def completions(self, data: Any) -> Any:
        """Return such rows as a `datasets.Dataset` of prompts and completions, with the chosen instruction.

        TRL's SFTTrainer trains on the completions alone, as they were scored. Of rows with messages it would train on
        all turns, and alpaca rows it does not take. Errors are those of `apply`.
        """
        return Rows(data, self.candidates[0].instruction.text).completions(self.instruction.text)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the selection as JSON, with every loss.

        Raises:
            RecordError: if the file cannot be written.
        """
        write_json(Path(path), self.to_json())

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Selection:
        """Return what `save` wrote.

        Raises:
            RecordError: if the file cannot be read or is damaged.
        """
        with undamaged(Path(path), _AGAIN):
            return cls.from_json(read_json(Path(path), _AGAIN))

    def to_json(self) -> dict[str, Any]:
        """Return the selection as JSON values, with every candidate's loss on every example."""
        data = Stored.to_json(self)
        for one, candidate in zip(data["candidates"], self.candidates, strict=True):
            nll, tokens = candidate.losses.nll, candidate.losses.tokens
            one |= one.pop("instruction") | {"ci": one.pop("interval"), "nll_sum": float(nll.sum())}
            one |= {"tokens": int(tokens.sum()), "examples": len(nll)}
        scored = {"strategy": self.strategy, "evaluations": self.evaluations, "forward_tokens": data.pop("tokens")}
        return data | {"examples": len(self.rows)} | scored

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Selection:
        """Return what `to_json` took apart."""
        if not 0 <= value["chosen"] < len(value["candidates"]):
            raise ValueError(f"chosen is {value['chosen']}, of {len(value['candidates'])} candidates")
        candidates = [
            {**one, "instruction": Instruction(one["text"], one["origin"]), "interval": one["ci"]}
            for one in value["candidates"]
        ]
        found: Selection = adapter(cls).validate_python(
            {**value, "candidates": candidates, "tokens": value["forward_tokens"]}
        )
        return found


@dataclass(frozen=True, slots=True)
class Choice:
    """A task with the instruction that it is trained with.

    Attributes:
        task: with the rows that were trained on.
        instruction: the one it was trained with.
        selection: all candidates' losses, where the policy needed them.
        mixture: the paraphrases that it was trained with in turn, where the policy is a mixture.
        switches: (updates made, instruction chosen then), where it was chosen again while it was trained.
        stopped: (updates that were kept, updates planned), where the guard ended its training.
    """

    task: Task
    instruction: Instruction
    selection: Selection | None = None
    mixture: tuple[Instruction, ...] = ()
    switches: tuple[tuple[int, str], ...] = ()
    stopped: tuple[int, int] | None = None

    @property
    def learned(self) -> bool:
        """Whether anything of its training was kept."""
        return self.stopped is None or self.stopped[0] > 0


def _line(rank: int, candidate: CandidateLoss, index: int) -> tuple[str, ...]:
    """Return one candidate as the cells of a printed table."""
    marks = ["original"] * (index == 0) + [candidate.status] * (candidate.status != "scored")
    return (
        f"{rank:4}",
        f"{candidate.loss:.4f}",
        f"{candidate.delta:+.4f}" if index else "",
        "[{:+.4f}, {:+.4f}]".format(*candidate.interval) if candidate.interval else "",
        f"{len(candidate.losses.nll):4}",
        ", ".join(marks) + (f" in round {candidate.round}" if candidate.round is not None else ""),
        one_line(plain(candidate.instruction.text), _SHOWN),
    )


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """Return rows of cells as lines with columns of one width."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def chosen(task: Task, given: Chosen) -> Instruction:
    """Return the instruction to word a task's rows with.

    ``given`` is what `sapo.select` returned for the task, an instruction, or its text.

    Raises:
        CandidateError: if a selection is of another task, a text is empty, or it is something else.
    """
    if isinstance(given, Selection):
        original = given.candidates[0].instruction.text
        if original != task.instruction:
            raise CandidateError(
                f"the selection is of another task: its original instruction is {original[:_SHOWN]!r}, and that of "
                f"{task.name!r} is {task.instruction[:_SHOWN]!r}"
            )
        return given.instruction
    instruction = Instruction(given, "given") if isinstance(given, str) else given
    if not isinstance(instruction, Instruction) or not instruction.text.strip():
        raise CandidateError(f"selection = {given!r:.80}: give what sapo.select returned, or the text to train with")
    return instruction


def trained(task: Task, given: Chosen) -> tuple[Task, str]:
    """Return the task without the training rows that its candidates show as examples, and the text to train with.

    Raises:
        CandidateError: as `chosen`.
        DataError: if no row is left.
    """
    instruction = chosen(task, given)
    shown = [one.instruction for one in given.candidates] if isinstance(given, Selection) else [instruction]
    return without_shown(task, shown), instruction.text


# What a caller has of the instruction to train with.
Chosen = Selection | Instruction | str
