"""One request to an OpenAI-compatible server, with its attempts: it ends in a text, a reason, or an error.

The key is in no message: what a server says is shown without it, and no exception of the client, which holds the
request and its headers, leaves this file.
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import openai
from tenacity import RetryCallState, Retrying, retry_if_exception, wait_exponential_jitter

from sapo.candidates.kept import Kept
from sapo.candidates.replies import UnusableReplyError, reply_of
from sapo.candidates.spending import LimitReachedError, Spending
from sapo.core.errors import CandidateError
from sapo.core.untrusted import plain

# Sent where there is no key: the client insists on one, servers of one's own do not look at it.
_NO_KEY = "none"
# A key of fewer characters is a placeholder, and may be a word that a paraphrase holds.
_SECRET = 12
# Attempts of a request; few after a timeout, as a reply that nobody waited for may be billed all the same.
_ATTEMPTS, _AFTER_TIMEOUT = 5, 2
# Seconds. A server that asks for a longer wait is not asked again.
_LONGEST_WAIT = 60.0
_BACKOFF = wait_exponential_jitter(initial=1, max=_LONGEST_WAIT / 2, jitter=1)
# The limit of a reply goes by its older name first: Ollama ignores the newer one without a word, while OpenAI's
# reasoning models refuse the older one and name it.
_LIMIT, _LIMIT_OTHERWISE = "max_tokens", "max_completion_tokens"
_OPTIONAL = ("seed", "temperature", _LIMIT)
# Tokens more for the reply of a model that thinks first. Others would only ramble in them.
_THINKING = 4096
_PASSING = (408, 409, 425, 429)
_SHOWN = 300
_ADVICE = {
    401: "Set OPENAI_API_KEY to a key that this server accepts",
    403: "Set OPENAI_API_KEY to a key that may use this model",
    404: "Check the model's name and the URL, most of which end in /v1",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """How a request ended.

    Attributes:
        index: number of the request.
        text: empty where there is none.
        reason: why there is none, a clause.
        last: whether others need not be tried.
        error: to be raised, where the user must act before anything comes of asking.
    """

    index: int
    text: str = ""
    reason: str = ""
    last: bool = False
    error: CandidateError | None = None


class Caller:
    """Makes requests to one server; threads share it.

    Args:
        url: of the server.
        key: empty where it needs none.
        name: of model and server, for messages.
        timeout: seconds without a sign of life.
        spending: what may still be spent.
        kept: where texts are kept as soon as they come in.
    """

    def __init__(self, url: str, key: str, name: str, timeout: float, spending: Spending, kept: Kept) -> None:
        # The client's own retries count neither against the limits, nor can they be interrupted.
        self._client = openai.OpenAI(api_key=key or _NO_KEY, base_url=url, timeout=timeout, max_retries=0)
        self._key, self._name = key, name
        self._spending, self._kept = spending, kept
        self._timeout = timeout
        self._refused: set[str] = set()
        self._replied = self._thinks = False

    @property
    def found(self) -> tuple[str, ...]:
        """What turned out about the server so far, clauses without a subject."""
        refused = [f"does not take {name!r}: it is asked without" for name in _OPTIONAL if name in self._refused]
        thinks = [f"thinks before it replies: {_THINKING} tokens more are allowed for that"] if self._thinks else []
        return (*refused, *thinks)

    def answer(self, index: int, request: Mapping[str, Any], stop: threading.Event) -> Answer:
        """Return how a request ended after all its attempts; its text is kept before anybody hears of it.

        Args:
            index: number of the request.
            request: what is sent, and what the text is kept under.
            stop: set when nobody waits any more: no further attempt is made then.
        """
        attempts = Retrying(
            retry=retry_if_exception(_is_worth_another),
            wait=_wait,
            stop=_gives_up,
            sleep=lambda seconds: _pause(seconds, stop),
            reraise=True,
        )
        try:
            text = attempts(self._attempt, request, stop)
        except _StoppedError:
            return Answer(index)
        except LimitReachedError as error:
            return Answer(index, reason=str(error), last=True)
        except (UnusableReplyError, _AgainError) as error:
            return Answer(index, reason=str(error))
        except openai.APIStatusError as error:
            return self._judged(index, error)
        except openai.APITimeoutError:
            return Answer(index, reason=f"no answer within {self._timeout:g} s", last=True)
        except openai.APIConnectionError as error:
            return Answer(index, reason=f"no connection ({self._shown(str(error.__cause__))})", last=True)
        self._kept.keep(request, text)
        return Answer(index, text)

    def _attempt(self, request: Mapping[str, Any], stop: threading.Event) -> str:
        if stop.is_set():
            raise _StoppedError
        room = int(request[_LIMIT]) + (_THINKING if self._thinks else 0)
        sent = self._parameters(request, room)
        most = prompt_tokens(request) + room
        self._spending.reserve(most)
        used = 0
        try:
            response = self._client.chat.completions.with_raw_response.create(**sent)
            self._replied = True
            reply = reply_of(response.http_response.content)
            used = prompt_tokens(request) + tokens_of(reply.text) if reply.tokens is None else reply.tokens
        except UnusableReplyError as error:
            used = most if error.tokens is None else error.tokens
            if error.thinking and room == request[_LIMIT]:
                self._thinks = True
                raise _AgainError(str(error)) from None
            raise
        except openai.APITimeoutError:
            used = most
            raise
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            named = next((name for name in _OPTIONAL if name in sent and _names(error, name)), None)
            if named is None:
                raise
            self._refused.add(named)
            raise _AgainError(f"the server does not take {named!r}") from None
        finally:
            self._spending.settle(most, used)
        if len(self._key) >= _SECRET and self._key in reply.text:
            raise UnusableReplyError("a reply that holds the key")
        return reply.text

    def _parameters(self, request: Mapping[str, Any], room: int) -> dict[str, Any]:
        """Return what is sent of a request: without what the server refused before."""
        sent = {name: request[name] for name in ("model", "messages", "seed", "temperature")}
        sent[_LIMIT_OTHERWISE if _LIMIT in self._refused else _LIMIT] = room
        return {name: value for name, value in sent.items() if name not in self._refused}

    def _judged(self, index: int, error: openai.APIStatusError) -> Answer:
        """Return what a status means that no further attempt would change."""
        message = f"status {error.status_code}: {self._shown(_said(error))}"
        if error.status_code == 500 and self._replied:
            # The server works, but not for this request.
            return Answer(index, reason=message)
        if _is_passing(error):
            return Answer(index, reason=message, last=True)
        advice = _ADVICE.get(error.status_code, "Check the model and the settings against what the server says")
        return Answer(index, error=CandidateError(f"{self._name} refuses to write paraphrases: {message}. {advice}."))

    def _shown(self, text: str) -> str:
        """Return a server's words as they may be shown: without the key, on one line, not too long."""
        masked = text.replace(self._key, "[key]") if self._key else text
        return " ".join(plain(masked).split())[:_SHOWN].rstrip(".") or "nothing said"


def tokens_of(text: str) -> int:
    """Return about how many tokens a text has: one for 3 bytes, more than most tokenizers need."""
    return len(text.encode("utf-8", "replace")) // 3 + 1


def prompt_tokens(request: Mapping[str, Any]) -> int:
    """Return about how many tokens a request's messages have."""
    return sum(tokens_of(message["content"]) for message in request["messages"])


class _StoppedError(Exception):
    """Nobody waits for the reply any more."""


class _AgainError(Exception):
    """Another attempt is made at once, in another way; the message is a clause that says why."""


def _pause(seconds: float, stop: threading.Event) -> None:
    stop.wait(seconds)


def _names(error: openai.APIStatusError, parameter: str) -> bool:
    """Whether a server's refusal is about this parameter."""
    return error.param == parameter or re.search(rf"\b{parameter}\b", _said(error)) is not None


def _said(error: openai.APIStatusError) -> str:
    """Return a server's own words: its message where it has one, else all of what it sent."""
    message = error.body.get("message") if isinstance(error.body, Mapping) else None
    return message if isinstance(message, str) else error.response.text


def _is_passing(error: openai.APIStatusError) -> bool:
    """Whether a later request may fare better."""
    # An account without credit gets the status of one that is in a hurry.
    return (error.status_code in _PASSING or error.status_code >= 500) and error.code != "insufficient_quota"


def _is_worth_another(error: BaseException) -> bool:
    if isinstance(error, openai.APIStatusError):
        return _is_passing(error) and (_asked_to_wait(error) or 0.0) <= _LONGEST_WAIT
    return isinstance(error, (openai.APIConnectionError, _AgainError))


def _gives_up(state: RetryCallState) -> bool:
    timed_out = isinstance(_error_of(state), openai.APITimeoutError)
    return state.attempt_number >= (_AFTER_TIMEOUT if timed_out else _ATTEMPTS)


def _wait(state: RetryCallState) -> float:
    """Return the seconds to wait: as the server asks, or longer each time."""
    error = _error_of(state)
    if isinstance(error, _AgainError):
        return 0.0
    asked = _asked_to_wait(error) if isinstance(error, openai.APIStatusError) else None
    return _BACKOFF(state) if asked is None else asked


def _error_of(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


def _asked_to_wait(error: openai.APIStatusError) -> float | None:
    """Return the seconds that a server asks to wait (Retry-After: a number or a date), None where it does not."""
    asked = error.response.headers.get("retry-after", "")
    try:
        seconds = float(asked)
    except ValueError:
        try:
            when = parsedate_to_datetime(asked)
        except ValueError:
            return None
        seconds = (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() - datetime.now(UTC).timestamp()
    return None if math.isnan(seconds) else max(0.0, seconds)
