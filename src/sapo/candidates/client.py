"""Requests to an OpenAI-compatible server: hosted, vLLM, Ollama, `transformers serve`.

Every request asks for one reply, so nothing depends on what a server makes of ``n``. Requests run side by side;
answers come in the order of the requests, whichever reply came first. The key is in no message and no file: what a
server says is shown without it, and no exception of the client, which holds the request, leaves this file.
"""

from __future__ import annotations

import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openai

from sapo.candidates.asking import Question, messages
from sapo.candidates.replies import Kept, reply_of
from sapo.candidates.settings import ServerSettings
from sapo.candidates.source import Advance, unheard
from sapo.core.errors import CandidateError, first_line
from sapo.core.untrusted import plain

_OFFICIAL = "https://api.openai.com/v1"
# Sent where there is no key: the client insists on one, servers of one's own do not look at it.
_NO_KEY = "none"
# A key of fewer characters is a placeholder, and may be a word that a paraphrase holds.
_SECRET = 12
# Tokens more for the reply of a model that thinks first. Others would only ramble in them.
_THINKING = 4096
# Seeds that every server takes.
_SEEDS = 2**31
# The limit of a reply goes by its older name first: Ollama ignores the newer one without a word, while OpenAI's
# reasoning models refuse the older one and name it.
_LIMIT, _LIMIT_OTHERWISE = "max_tokens", "max_completion_tokens"
_OPTIONAL = ("seed", "temperature", _LIMIT)
_PASSING = (408, 409, 425, 429)
_SHOWN = 300
_ADVICE = {
    401: "Set OPENAI_API_KEY to a key that this server accepts",
    403: "Set OPENAI_API_KEY to a key that may use this model",
    404: "Check the model's name and the URL, most of which end in /v1",
}

Request = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """How a request ended.

    Attributes:
        text: empty without a usable reply.
        reason: why there is no text, a clause; empty also for a request that was not sent.
        last: whether further requests are pointless.
        error: to be raised, where the user must act first.
    """

    text: str = ""
    reason: str = ""
    last: bool = False
    error: CandidateError | None = None


class Client:
    """Asks one server within its limits; the source and the judge share it. The key comes from OPENAI_API_KEY alone.

    Args:
        settings: which server, and how much; its limits hold for all tasks together.
        directory: where replies are kept.
        tell: is given notes for the user, one sentence each.

    Attributes:
        name: of model and server, for messages.

    Raises:
        CandidateError: if the URL is not one, or there is no key for OpenAI's own server.
    """

    def __init__(self, settings: ServerSettings, directory: Path, tell: Callable[[str], None]) -> None:
        self.settings, self._tell = settings, tell
        self._url = settings.base_url or os.environ.get("OPENAI_BASE_URL") or _OFFICIAL
        self.name = f"{plain(settings.model)} at {_shown_url(self._url)}"
        self._key, self._kept = _key(self._url), Kept(directory)
        try:
            transport = openai.DefaultHttpxClient(event_hooks={"request": [self._attempted]})
        except (ValueError, ImportError) as error:
            # It opens the environment's proxies.
            raise CandidateError(
                f"{self.name}: the proxy settings of the environment (ALL_PROXY, HTTPS_PROXY, HTTP_PROXY) cannot be "
                f"used: {first_line(error)}. Unset them, or name an http:// proxy"
            ) from error
        self._client = openai.OpenAI(
            api_key=self._key or _NO_KEY,
            base_url=self._url,
            timeout=settings.timeout,
            # No connection outlives its request, so that none is left open when the last one is done.
            default_headers={"Connection": "close"},
            http_client=transport,
        )
        self._budget = _Budget(settings.max_requests, settings.max_tokens)
        self._refused: set[str] = set()
        self._told: set[str] = set()
        self._replied = self._thinks = False
        self._stop = threading.Event()

    def request(self, asked: Question, room: int, temperature: float, seed: int, index: int) -> Request:
        """Return everything that a reply depends on: what is sent, and the number by which equal requests differ."""
        return {
            "base_url": self._url.rstrip("/"),
            "model": self.settings.model,
            "messages": messages(asked),
            "temperature": temperature,
            "seed": (seed + index) % _SEEDS,
            "index": index,
            "max_tokens": room,
        }

    def cost(self, requests: Sequence[Request], reply: int) -> str:
        """Return what requests with replies of so many tokens take at most; empty where all replies are kept."""
        missing = [request for request in requests if self._kept.find(request) is None]
        if not missing:
            return ""
        asked = missing[: self._budget.requests]
        tokens, left = sum(_prompt_tokens(request) + reply for request in asked), self._budget.tokens
        kept = len(requests) - len(missing)
        return (
            f"at most {len(asked)} requests to {self.name}, repeated ones not counted, "
            f"about {_rounded(min(tokens, left))} tokens, never more than {_rounded(left)}"
            + (f" ({kept} replies are kept from before)" if kept else "")
        )

    def ask(
        self, requests: Sequence[Request], what: str, advance: Advance = unheard, anything: bool = False
    ) -> list[Answer]:
        """Return how requests ended, in their order; replies are kept on disk as soon as they are there.

        Args:
            requests: see `request`.
            what: is asked for, for messages.
            advance: takes the number of texts as they come in.
            anything: whether something came of asking before.

        Raises:
            CandidateError: if the server refuses, or nothing at all comes of asking it.
        """
        answers = {n: Answer(text) for n, request in enumerate(requests) if (text := self._kept.find(request))}
        if answers:
            advance(len(answers))
        missing = [(n, request) for n, request in enumerate(requests) if n not in answers]
        stop = self._stop = threading.Event()

        def answered(numbered: tuple[int, Request]) -> tuple[int, Answer]:
            answer = Answer() if stop.is_set() else self._answer(numbered[1])
            if answer.last or answer.error:
                stop.set()
            return numbered[0], answer

        # Its threads are daemons: a program that is interrupted once more does not wait for replies.
        pool = ThreadPool(max(1, min(self.settings.concurrency, len(missing))))
        try:
            for n, answer in pool.imap_unordered(answered, missing):
                if answer.error:
                    raise answer.error
                if answer.text:
                    advance(1)
                answers[n] = answer
        finally:
            # What was sent is paid for: wait for its reply and keep it. Send nothing more.
            stop.set()
            pool.close()
            pool.join()
        found = [answers[n] for n in range(len(requests))]
        self._explain(found, what, nothing=not anything and not any(answer.text for answer in found))
        return found

    def _explain(self, answers: Sequence[Answer], what: str, nothing: bool) -> None:
        """Say how the server wants to be asked, and why requests brought nothing; ``nothing`` at all is an error."""
        found = [f"does not take {name!r}: it is asked without" for name in _OPTIONAL if name in self._refused]
        if self._thinks:
            found.append(f"thinks before it replies: {_THINKING} tokens more are allowed for that")
        for clause in found:
            if clause not in self._told:
                self._tell(f"{self.name} {clause}.")
        self._told.update(found)
        reasons = Counter(answer.reason for answer in answers if answer.reason)
        why = "; ".join(f"{count} x {reason}" if count > 1 else reason for reason, count in reasons.most_common(3))
        if nothing:
            raise CandidateError(
                f"no {what} from {self.name}: {why}. Check that a server answers chat completions under this URL (most "
                "end in /v1), and the limits of the settings."
            )
        if why:
            self._tell(f"{self.name}: {why}." + (" No more is asked for." if any(a.last for a in answers) else ""))

    def _answer(self, request: Request) -> Answer:
        """Return how a request ended; its text is kept before anybody is told."""
        try:
            answer = self._asked(request)
        except _NoMoreError as error:
            return Answer(reason=str(error), last=True)
        except openai.APIStatusError as error:
            message = f"status {error.status_code}: {self._shown(_said(error))}"
            # An account without credit gets the status of one that asks too often.
            passing = error.status_code in _PASSING or error.status_code >= 500
            if passing and error.code != "insufficient_quota":
                # The server works for other requests and fails at this one.
                return Answer(reason=message, last=error.status_code != 500 or not self._replied)
            advice = _ADVICE.get(error.status_code, "Check the model and the settings against what the server says")
            return Answer(error=CandidateError(f"{self.name} refuses: {message}. {advice}."))
        except openai.APITimeoutError:
            return Answer(reason=f"no answer within {self.settings.timeout:g} s", last=True)
        except openai.APIConnectionError as error:
            return Answer(reason=f"no connection ({self._shown(str(error.__cause__))})", last=True)
        if answer.text:
            self._kept.keep(request, answer.text)
        return answer

    def _asked(self, request: Request) -> Answer:
        """Return what a request brings: asked again in another way where a server wants it so."""
        while True:
            room = request[_LIMIT] + _THINKING * self._thinks
            most, used = _prompt_tokens(request) + room, 0
            sent = {name: request[name] for name in ("model", "messages", "seed", "temperature")}
            sent[_LIMIT_OTHERWISE if _LIMIT in self._refused else _LIMIT] = room
            sent = {name: value for name, value in sent.items() if name not in self._refused}
            self._budget.take(most)
            try:
                response = self._client.chat.completions.with_raw_response.create(**sent)
                self._replied = True
                reply = reply_of(response.http_response.content)
                guess = _prompt_tokens(request) + tokens_of(reply.text) if reply.text else most
                used = guess if reply.tokens is None else reply.tokens
            except openai.APITimeoutError:
                # Replies that nobody waited for may be billed all the same.
                used = most * (1 + self._client.max_retries)
                raise
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                named = next((name for name in _OPTIONAL if name in sent and _names(error, name)), None)
                if named is None:
                    raise
                self._refused.add(named)
                continue
            finally:
                self._budget.settle(most, used)
            if reply.thinking and room == request[_LIMIT]:
                self._thinks = True
                continue
            if len(self._key) >= _SECRET and self._key in reply.text:
                return Answer(reason="a reply that holds the key")
            return Answer(reply.text, reply.reason)

    def _attempted(self, request: object) -> None:
        """Count each attempt that the client makes, also a repeated one; none once nobody waits."""
        if self._stop.is_set():
            raise _NoMoreError
        self._budget.attempt()

    def _shown(self, text: str) -> str:
        """Return a server's words as they may be shown: without the key, on one line, not too long."""
        masked = text.replace(self._key, "[key]") if self._key else text
        return " ".join(plain(masked).split())[:_SHOWN].rstrip(".") or "nothing said"


# The client passes errors of its own kind on; with any other it would take the connection for broken, and try again.
class _NoMoreError(openai.OpenAIError):
    """No further request: the message names the limit that is reached; empty where nobody waits for replies."""


class _Budget:
    """Keeps requests and tokens within their limits; threads share it."""

    def __init__(self, requests: int, tokens: int) -> None:
        self._most = (requests, tokens)
        self.requests, self.tokens = requests, tokens
        self._lock = threading.Lock()

    def attempt(self) -> None:
        """Count an attempt of a request; one too many raises _NoMoreError."""
        with self._lock:
            if self.requests < 1:
                raise _NoMoreError(f"max_requests={self._most[0]} is reached")
            self.requests -= 1

    def take(self, tokens: int) -> None:
        """Set the most aside that a request may cost; too much raises _NoMoreError."""
        with self._lock:
            if tokens > self.tokens:
                raise _NoMoreError(f"max_tokens={self._most[1]}: {self.tokens} are left, a request may take {tokens}")
            self.tokens -= tokens

    def settle(self, taken: int, used: int) -> None:
        """Replace what a request took by what it used; more than all that is left leaves nothing."""
        with self._lock:
            self.tokens = max(0, self.tokens + taken - used)


def tokens_of(text: str) -> int:
    """Return about how many tokens a text has: one for 3 bytes, more than most tokenizers need."""
    return len(text.encode("utf-8", "replace")) // 3 + 1


def _prompt_tokens(request: Request) -> int:
    return sum(tokens_of(message["content"]) for message in request["messages"])


def _names(error: openai.APIStatusError, parameter: str) -> bool:
    """Whether a server's refusal is about this parameter."""
    return error.param == parameter or re.search(rf"\b{parameter}\b", _said(error)) is not None


def _said(error: openai.APIStatusError) -> str:
    """Return a server's own words: its message where it has one, else all of what it sent."""
    message = error.body.get("message") if isinstance(error.body, Mapping) else None
    return message if isinstance(message, str) else error.response.text


def _key(url: str) -> str:
    """Return the key for a server; empty where there is no key and the server needs none."""
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    if not key and url == _OFFICIAL:
        raise CandidateError(f"no key for {_OFFICIAL}: set OPENAI_API_KEY, or give the base_url of another server")
    if not (key.isascii() and key.isprintable()):
        raise CandidateError("OPENAI_API_KEY is not a key: it holds a line break or a character beyond ASCII")
    return key


def _shown_url(url: str) -> str:
    """Return a URL as it may be shown: without user, password and query."""
    with suppress(ValueError):
        parts = urlsplit(url)
        # Asking for the port checks it.
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return plain(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}")
    raise CandidateError(f"base_url {plain(url)!r} is not a URL such as http://localhost:8000/v1")


def _rounded(tokens: int) -> str:
    return f"{tokens / 1000:.0f}k" if tokens >= 10_000 else str(tokens)
