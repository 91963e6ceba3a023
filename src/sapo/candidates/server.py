"""Paraphrases, and judgements of them, from an OpenAI-compatible server."""

from __future__ import annotations

from collections.abc import Sequence

from sapo.candidates.asking import judging, most_requests, question, rounds
from sapo.candidates.client import Answer, Client, Request, tokens_of
from sapo.candidates.source import Advance, Rounds, Source, unheard
from sapo.core.types import Origin, Task
from sapo.core.untrusted import plain

# A reply may have three times the tokens of the instruction and some more; a longer one is not a candidate. A
# judgement is one word.
_LONGEST, _SOME, _WORD = 3, 128, 16


class Server(Source):
    """The source that asks a server; ``seed`` orders the styles, and draws the replies where the server heeds it."""

    origin: Origin = "openai"

    def __init__(self, client: Client, seed: int) -> None:
        self._client, self._seed = client, seed

    def cost(self, task: Task, wanted: int) -> str:
        """Return how many requests and tokens ``wanted`` paraphrases take at most; empty where all are kept."""
        requests = self._requests(task, range(most_requests(wanted)))
        return self._client.cost(requests, 2 * tokens_of(task.instruction))

    def paraphrases(self, task: Task, wanted: int, advance: Advance = unheard) -> Rounds:
        """Yield texts in rounds."""
        anything = False
        for indices in rounds(wanted):
            requests = self._requests(task, indices)
            answers = self._client.ask(requests, f"paraphrase of task {task.name!r}", advance, anything)
            if texts := [answer.text for answer in answers if answer.text]:
                anything = True
                yield texts
            if any(answer.last for answer in answers):
                return

    def _requests(self, task: Task, indices: Sequence[int]) -> list[Request]:
        room, temperature = _LONGEST * tokens_of(task.instruction) + _SOME, self._client.settings.temperature
        asked = {index: question(task, index, self._seed) for index in indices}
        return [self._client.request(said, room, temperature, self._seed, index) for index, said in asked.items()]


class ServerJudge:
    """Asks a server whether texts set the same task as the original; see `sapo.candidates.checks.Judge`."""

    def __init__(self, client: Client) -> None:
        self._client = client

    @property
    def cost(self) -> str:
        """What it takes, in words."""
        return f"one request to {self._client.name} for each text that passes all other checks, to judge it"

    def __call__(self, task: Task, texts: Sequence[str]) -> list[str | None]:
        """Return a reason against each text, None where it is judged to be the same; in doubt there is a reason.

        Raises:
            CandidateError: if the server refuses.
        """
        requests = [self._client.request(judging(task, text), _WORD, 0.0, 0, 0) for text in texts]
        return [self._against(answer) for answer in self._client.ask(requests, "judgement", anything=True)]

    def _against(self, answer: Answer) -> str | None:
        word = answer.text.strip(" \n.!*\"'").casefold()
        if word == "yes":
            return None
        if word == "no":
            return f"sets another task or asks for other answers, as {plain(self._client.settings.model)} judges"
        return f"was not judged ({'the reply is neither yes nor no' if word else answer.reason or 'not asked'})"
