"""The nouns of the method: frozen values that the rooms hand to each other."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import PlainSerializer, PlainValidator

from sapo.core.storage import Stored
from sapo.core.untrusted import brief


def _array(dtype: type[np.generic], value: Any) -> NDArray[Any]:
    try:
        return np.asarray(value, dtype)
    except TypeError as error:
        # pydantic takes a ValueError alone as one about the value.
        raise ValueError(str(error)) from error


# Stored as lists. Told their type, pydantic leaves NaN as it is, which no file may hold; else it would become null.
Floats = Annotated[
    NDArray[np.float64],
    PlainValidator(partial(_array, np.float64)),
    PlainSerializer(np.ndarray.tolist, return_type=list[float]),
]
Ints = Annotated[
    NDArray[np.int64],
    PlainValidator(partial(_array, np.int64)),
    PlainSerializer(np.ndarray.tolist, return_type=list[int]),
]

# "unchecked" are the texts of a file that are taken as they are, see `sapo.candidates.settings`.
Origin = Literal["original", "builtin", "file", "unchecked", "given", "rules", "demonstrations", "local", "openai"]


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

    def __repr__(self) -> str:
        turns = len(self.history)
        earlier = f", {turns} earlier turn{'s' * (turns > 1)}" if turns else ""
        return f"Example({brief(self.input)}, {brief(self.answer)}{earlier})"


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

    def __repr__(self) -> str:
        rows = f"{len(self.train)} train, {len(self.dev)} dev, {len(self.test)} test rows"
        labels = f", {len(self.labels)} labels" if self.labels else ""
        return f"Task({brief(self.name)}, {brief(self.instruction)}, {rows}{labels}, {self.metric})"


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


@dataclass(frozen=True, slots=True, eq=False)
class Losses(Stored):
    """Negative log-likelihood of one candidate, example by example.

    Attributes:
        nll: sum over the supervised tokens of each example, in nats, shape [examples].
        tokens: number of supervised tokens of each example, shape [examples].
        cut: characters of input text left out of each example, shape [examples].
    """

    nll: Floats
    tokens: Ints
    cut: Ints

    def __repr__(self) -> str:
        return f"Losses({self.per_token:.4f} nats per token, {len(self.nll)} rows)"

    @property
    def per_token(self) -> float:
        """Pre-update loss: sum of the NLL over the number of supervised tokens, in nats per token."""
        return float(self.nll.sum() / self.tokens.sum())

    def __eq__(self, other: object) -> bool:
        """Whether all values are equal: arrays have no single truth of their own."""
        return isinstance(other, Losses) and self.to_json() == other.to_json()


Rule = Literal["lowest", "confident", "trial"]
Sample = Literal["stratified", "first"]
Strategy = Literal["racing", "exhaustive"]


@dataclass(frozen=True, slots=True)
class Rejection:
    """A text that did not become a candidate, and why."""

    text: str
    reason: str


@dataclass(frozen=True, slots=True, eq=False)
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


SourceName = Literal["file", "builtin", "rules", "demonstrations", "local", "openai"]
