"""Paraphrases from an OpenAI-compatible server: hosted, vLLM, Ollama, `transformers serve`.

Every request asks for one reply, so nothing depends on what a server makes of ``n``. Requests run side by side;
texts come in the order of the requests, whichever reply came first.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any
from urllib.parse import urlsplit

from sapo.candidates.asking import messages, most_requests, rounds
from sapo.candidates.calls import Answer, Caller, prompt_tokens, tokens_of
from sapo.candidates.kept import Kept
from sapo.candidates.spending import Spending
from sapo.core.errors import CandidateError
from sapo.core.types import Origin, Task
from sapo.core.untrusted import plain

_OFFICIAL = "https://api.openai.com/v1"
# A reply may have three times the tokens of the instruction and some more; what is longer is no candidate.
_LONGEST, _SOME = 3, 128
# Seeds that every server takes.
_SEEDS = 2**31


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Which server is asked, and how much.

    Attributes:
        base_url: such as "http://localhost:8000/v1"; None is OPENAI_BASE_URL where that is set, else OpenAI's own.
        model: its name on that server.
        temperature: of sampling.
        timeout: seconds without a sign of life from the server.
        concurrency: requests at a time.
        max_requests: over all tasks, attempts included that came to nothing.
        max_tokens: over all tasks, of prompts and replies together.
    """

    base_url: str | None
    model: str
    temperature: float = 1.0
    timeout: float = 60.0
    concurrency: int = 4
    max_requests: int = 200
    max_tokens: int = 200_000


class Server:
    """A `sapo.candidates.source.Source` that asks a server.

    The key comes from OPENAI_API_KEY and from nowhere else.

    Args:
        settings: which server, and how much; its limits hold for all tasks together.
        seed: of the order of styles, and of the replies where the server heeds it.
        directory: where replies are kept, see `sapo.candidates.kept.replies_directory`.
        tell: is given notes for the user, one sentence each.

    Raises:
        CandidateError: if the URL is none, or there is no key for OpenAI's own server.
    """

    def __init__(self, settings: ServerSettings, seed: int, directory: Path, tell: Callable[[str], None]) -> None:
        self._settings, self._seed, self._tell = settings, seed, tell
        self._url = settings.base_url or os.environ.get("OPENAI_BASE_URL") or _OFFICIAL
        self._name = f"{plain(settings.model)} at {_shown_url(self._url)}"
        self._kept = Kept(directory)
        self._spending = Spending(settings.max_requests, settings.max_tokens)
        key = _key(self._url)
        self._caller = Caller(self._url, key, self._name, settings.timeout, self._spending, self._kept)

    @property
    def origin(self) -> Origin:
        """What its candidates are recorded with."""
        return "openai"

    def cost(self, task: Task, wanted: int) -> str:
        """Return how many requests and tokens ``wanted`` paraphrases take at most; empty where all are kept."""
        requests = [self._request(task, index) for index in range(most_requests(wanted))]
        missing = [request for request in requests if self._kept.find(request) is None]
        if not missing:
            return ""
        asked = missing[: self._spending.requests_left]
        tokens = sum(prompt_tokens(request) + 2 * tokens_of(task.instruction) for request in asked)
        left = self._spending.tokens_left
        kept = len(requests) - len(missing)
        beside = f" ({kept} replies are kept from before)" if kept else ""
        return (
            f"at most {len(asked)} requests to {self._name}, repeated ones not counted, "
            f"about {_rounded(min(tokens, left))} tokens, never more than {_rounded(left)}{beside}"
        )

    def paraphrases(
        self,
        task: Task,
        wanted: int,
        advance: Callable[[int], None] = lambda texts: None,
    ) -> Generator[Sequence[str], None, None]:
        """Yield texts in rounds, see `sapo.candidates.source.Source`.

        Raises:
            CandidateError: if the server refuses, or nothing at all comes of asking it.
        """
        anything = False
        for indices in rounds(wanted):
            answers = self._round({index: self._request(task, index) for index in indices}, advance)
            texts = [answer.text for answer in answers if answer.text]
            reasons = Counter(answer.reason for answer in answers if answer.reason)
            why = "; ".join(f"{count} x {reason}" if count > 1 else reason for reason, count in reasons.most_common(3))
            anything = anything or bool(texts)
            if not anything:
                raise CandidateError(
                    f"no paraphrase of task {task.name!r} from {self._name}: {why}. Check that a server answers "
                    "chat completions under this URL (most end in /v1), and the limits of the settings."
                )
            ended = any(answer.last for answer in answers)
            if why:
                self._tell(f"{self._name}: {why}." + (" No more is asked for." if ended else ""))
            if texts:
                yield texts
            if ended:
                return

    def _round(self, requests: Mapping[int, Mapping[str, Any]], advance: Callable[[int], None]) -> list[Answer]:
        """Return how the requests of a round ended, in the order of their numbers."""
        kept = {index: self._kept.find(request) for index, request in requests.items()}
        answers = [Answer(index, text) for index, text in kept.items() if text]
        if answers:
            advance(len(answers))
        known = self._caller.found
        # Closed at once, also where an interruption keeps the frame alive: no further request is begun then.
        with closing(self._side_by_side({i: request for i, request in requests.items() if not kept[i]})) as coming:
            for answer in coming:
                if answer.error:
                    raise answer.error
                if answer.text:
                    advance(1)
                answers.append(answer)
        for clause in self._caller.found:
            if clause not in known:
                self._tell(f"{self._name} {clause}.")
        return sorted(answers, key=lambda answer: answer.index)

    def _side_by_side(self, requests: Mapping[int, Mapping[str, Any]]) -> Generator[Answer, None, None]:
        """Yield answers as they come in; whoever stops listening stops what has not begun.

        The threads are daemons: a program that is interrupted once more does not wait for replies.
        """
        stop = threading.Event()
        waiting: SimpleQueue[int] = SimpleQueue()
        answers: SimpleQueue[Answer | BaseException | None] = SimpleQueue()
        for index in requests:
            waiting.put(index)

        def work() -> None:
            try:
                while not stop.is_set():
                    index = waiting.get_nowait()
                    answer = self._caller.answer(index, requests[index], stop)
                    if answer.last or answer.error:
                        stop.set()
                    answers.put(answer)
            except Empty:
                pass
            except BaseException as error:
                answers.put(error)
            answers.put(None)

        running = min(self._settings.concurrency, len(requests))
        threads = [threading.Thread(target=work, daemon=True) for _ in range(running)]
        for thread in threads:
            thread.start()
        try:
            while running:
                answer = answers.get()
                if isinstance(answer, BaseException):
                    raise answer
                if answer is None:
                    running -= 1
                else:
                    yield answer
        finally:
            stop.set()
            # What was sent is paid for: its reply is waited for, and kept.
            for thread in threads:
                thread.join(self._settings.timeout)

    def _request(self, task: Task, index: int) -> dict[str, Any]:
        """Return everything that the reply to a request depends on."""
        return {
            "base_url": self._url.rstrip("/"),
            "model": self._settings.model,
            "messages": messages(task, index, self._seed),
            "temperature": self._settings.temperature,
            "seed": (self._seed + index) % _SEEDS,
            "index": index,
            "max_tokens": _LONGEST * tokens_of(task.instruction) + _SOME,
        }


def _key(url: str) -> str:
    """Return the key for a server; empty where there is none and none is needed."""
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    if not key and url == _OFFICIAL:
        raise CandidateError(
            f"no key for {_OFFICIAL}: set OPENAI_API_KEY in the environment, or give the base_url of another server"
        )
    if not (key.isascii() and key.isprintable()):
        raise CandidateError("OPENAI_API_KEY is no key: it holds a line break or a character beyond ASCII")
    return key


def _shown_url(url: str) -> str:
    """Return a URL as it may be shown: without user, password and query.

    Raises:
        CandidateError: if it is not one of a server.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or parts.scheme not in ("http", "https"):
        raise CandidateError(f"base_url {plain(url)!r} is not a URL such as http://localhost:8000/v1")
    # An IPv6 address.
    name = f"[{host}]" if ":" in host else host
    return plain(f"{parts.scheme}://{name}" + (f":{port}" if port else "") + parts.path)


def _rounded(tokens: int) -> str:
    return f"{tokens / 1000:.0f}k" if tokens >= 10_000 else str(tokens)
