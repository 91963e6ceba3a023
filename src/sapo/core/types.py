"""The nouns of the method: frozen values that the rooms hand to each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

Origin = Literal["original", "builtin", "file", "given", "rules", "local", "openai"]


@dataclass(frozen=True, slots=True)
class Example:
    """One row of a task: what the model is given, and the answer to be learned.

    Attributes:
        input: the input text; in a conversation, the last user turn.
        answer: what is learned.
        history: earlier turns of a conversation as (user, assistant) pairs, oldest first; empty as a rule.
        references: other right answers; a generated answer counts as its best match among all of them.
    """

    input: str
    answer: str
    history: tuple[tuple[str, str], ...] = ()
    references: tuple[str, ...] = ()


Split = Literal["train", "dev", "test"]


@dataclass(frozen=True, slots=True)
class Unused:
    """A row of the user's data that cannot be used.

    Attributes:
        split: where it was found.
        row: its number there, from 1.
        reason: why, one clause.
    """

    split: Split
    row: int
    reason: str


@dataclass(frozen=True, slots=True)
class Task:
    """One data set with one instruction.

    Attributes:
        instruction: the text being optimised; only it is ever paraphrased.
        suffix: a fixed sentence about the answer's format, may be empty.
        labels: the closed set of answers, empty where answers are free text.
        metric: name of the primary metric, see `sapo.models.text_metrics.TEXT_METRICS`.
        train, dev, test: the rows; dev may be empty.
        unused: rows that were left out, with reasons.
        notes: decisions taken for the user while loading, one sentence each, to be printed.
    """

    name: str
    instruction: str
    suffix: str
    labels: tuple[str, ...]
    metric: str
    train: tuple[Example, ...]
    dev: tuple[Example, ...]
    test: tuple[Example, ...]
    unused: tuple[Unused, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Instruction:
    """A candidate: an instruction under consideration, with its origin."""

    text: str
    origin: Origin


@dataclass(frozen=True, slots=True)
class Encoded:
    """A prompt and its answer as the model sees them.

    Attributes:
        prompt_length: number of leading tokens that are prompt; ``ids[prompt_length:]`` is supervised.
        cut: number of characters of the input text that were left out to fit the context; 0 as a rule.
    """

    ids: tuple[int, ...]
    prompt_length: int
    cut: int = 0

    @property
    def prompt(self) -> tuple[int, ...]:
        """The token ids that generation starts from."""
        return self.ids[: self.prompt_length]

    @property
    def supervised(self) -> int:
        """Number of supervised tokens."""
        return len(self.ids) - self.prompt_length


@dataclass(frozen=True, slots=True)
class Losses:
    """Negative log-likelihood of one candidate, example by example.

    Attributes:
        nll: sum over the supervised tokens of each example, in nats, shape [examples].
        tokens: number of supervised tokens of each example, shape [examples].
        cut: characters of input text left out of each example, shape [examples].
    """

    nll: Floats
    tokens: Ints
    cut: Ints

    @property
    def per_token(self) -> float:
        """Pre-update loss: sum of the NLL over the number of supervised tokens, in nats per token."""
        return float(self.nll.sum() / self.tokens.sum())

    def to_json(self) -> dict[str, Any]:
        """Return the losses as JSON values; floats survive exactly."""
        return {"nll": self.nll.tolist(), "tokens": self.tokens.tolist(), "cut": self.cut.tolist()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Losses:
        """Return what `to_json` took apart."""
        return cls(np.array(value["nll"], np.float64), *(np.array(value[k], np.int64) for k in ("tokens", "cut")))


Rule = Literal["lowest", "confident"]
Sample = Literal["stratified", "first"]
Status = Literal["chosen", "scored", "dropped"]
Strategy = Literal["racing", "exhaustive"]
RaceEnd = Literal["decided", "budget", "all rows"]


@dataclass(frozen=True, slots=True)
class Rejection:
    """A text that did not become a candidate, and why."""

    text: str
    reason: str


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
        gap: bounds of how far its loss lies above the chosen one's on the selection rows, in nats per token, for all
            candidates at once; None without a race.
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
        epsilon: tolerance that was asked for, in nats per token.
        tolerance: the one that was reached; above ``epsilon`` only where the budget ended the race.
        end: "decided"; "all rows" where that took every row for those who raced to the end; or "budget".
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
class Selection:
    """Candidates with their losses, and the chosen one.

    Attributes:
        sample: how the selection rows were drawn.
        rows: indices of the selection rows among the task's training rows, in the order in which they were scored.
        candidates: in the order given, the original first.
        chosen: index into ``candidates``.
        tolerance: losses closer than this count as equal, in nats per token; in a race, epsilon.
        rejected: texts that were not scored, with reasons.
        seconds: wall time of scoring, without loading the model; for losses that had been computed before, what
            that took then.
        route: how losses were computed, see `sapo.models.losses.Scorer`.
        cached: number of candidates all of whose losses had been computed before.
        race: None where every candidate was scored on every row.
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

    def to_json(self) -> dict[str, Any]:
        """Return the selection as JSON values, with every candidate's loss on every example."""
        return {
            "task": self.task,
            "rule": self.rule,
            "sample": self.sample,
            "examples": len(self.rows),
            "rows": list(self.rows),
            "chosen": self.chosen,
            "tolerance": self.tolerance,
            "rejected": [asdict(rejection) for rejection in self.rejected],
            "seconds": self.seconds,
            "strategy": self.strategy,
            "evaluations": self.evaluations,
            "forward_tokens": self.tokens,
            "peak_memory": self.peak_memory,
            "race": None if self.race is None else asdict(self.race),
            "route": self.route,
            "cached": self.cached,
            "notes": list(self.notes),
            "candidates": [
                {
                    "text": c.instruction.text,
                    "origin": c.instruction.origin,
                    "loss": c.loss,
                    "nll_sum": float(c.losses.nll.sum()),
                    "tokens": int(c.losses.tokens.sum()),
                    "examples": len(c.losses.nll),
                    "status": c.status,
                    "round": c.round,
                    "gap": list(c.gap) if c.gap else None,
                    "delta": c.delta,
                    "ci": list(c.interval) if c.interval else None,
                    "losses": c.losses.to_json(),
                }
                for c in self.candidates
            ],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Selection:
        """Return what `to_json` took apart."""
        same = ("task", "rule", "sample", "chosen", "tolerance", "seconds", "route", "cached", "peak_memory")
        return cls(
            **{key: value[key] for key in same},
            rows=tuple(value["rows"]),
            candidates=tuple(
                CandidateLoss(
                    Instruction(c["text"], c["origin"]),
                    Losses.from_json(c["losses"]),
                    c["loss"],
                    c["delta"],
                    (c["ci"][0], c["ci"][1]) if c["ci"] else None,
                    c["status"],
                    c["round"],
                    (c["gap"][0], c["gap"][1]) if c["gap"] else None,
                )
                for c in value["candidates"]
            ),
            rejected=tuple(Rejection(**rejection) for rejection in value["rejected"]),
            tokens=value["forward_tokens"],
            race=None if value["race"] is None else Race(**value["race"]),
            notes=tuple(value.get("notes", ())),
        )


@dataclass(frozen=True, slots=True)
class Standing:
    """Where the race stands after a round; arrays are per candidate.

    Attributes:
        round: number of rounds so far.
        counts: rows scored, the first ones in race order.
        loss: estimate of the loss on all selection rows, in nats per token.
        gap: estimate of the loss minus the leader's.
        low: lower bound of ``gap``: those of all candidates, in all rounds, hold together with probability 1 - delta.
        high: upper bound of ``gap``, of the same kind.
        leader: the candidate that wins if the race ends now.
        racing: the candidates that are scored further, the leader first; empty when the race is decided.
        tolerance: the smallest epsilon at which the race would be decided now for this leader, in nats per token.
    """

    round: int
    counts: Ints
    loss: Floats
    gap: Floats
    low: Floats
    high: Floats
    leader: int
    racing: tuple[int, ...]
    tolerance: float


SourceName = Literal["file", "builtin", "rules", "local", "openai"]


@dataclass(frozen=True, slots=True)
class Choice:
    """A task with the instruction that it is trained with.

    Attributes:
        task: with the rows that were trained on.
        instruction: the one it was trained with.
        selection: all candidates' losses, where the policy needed them.
        mixture: the paraphrases that it was trained with in turn, where the policy is a mixture.
        switches: (updates made, instruction chosen then), where it was chosen again while it was trained.
    """

    task: Task
    instruction: Instruction
    selection: Selection | None = None
    mixture: tuple[Instruction, ...] = ()
    switches: tuple[tuple[int, str], ...] = ()
