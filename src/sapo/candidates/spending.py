"""Requests and tokens that may still be spent on a server."""

from __future__ import annotations

import threading


class LimitReachedError(Exception):
    """A limit does not allow another request; the message is a clause that names it."""


class Spending:
    """Keeps requests and tokens within their limits; threads share it.

    Args:
        max_requests: attempts included that came to nothing.
        max_tokens: of prompts and replies together.
    """

    def __init__(self, max_requests: int, max_tokens: int) -> None:
        self._max_requests, self._max_tokens = max_requests, max_tokens
        self._requests = self._tokens = self._reserved = self._under_way = 0
        self._changed = threading.Condition()

    @property
    def requests_left(self) -> int:
        """Number of requests that may still be made."""
        return max(0, self._max_requests - self._requests)

    @property
    def tokens_left(self) -> int:
        """Number of tokens that may still be used."""
        return max(0, self._max_tokens - self._tokens - self._reserved)

    def reserve(self, tokens: int) -> None:
        """Count a request and the most that it may cost; waits while others may turn out to have cost less.

        Raises:
            LimitReachedError: if it is one too many.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self.requests_left or tokens <= self.tokens_left or not self._under_way)
            if not self.requests_left:
                raise LimitReachedError(f"max_requests={self._max_requests} is reached")
            if tokens > self.tokens_left:
                raise LimitReachedError(
                    f"max_tokens={self._max_tokens}, of which {self._tokens} are used, leaves no room for a request "
                    f"of up to {tokens}"
                )
            self._requests += 1
            self._under_way += 1
            self._reserved += tokens

    def settle(self, reserved: int, used: int) -> None:
        """Replace what a request had reserved by what it used."""
        with self._changed:
            self._under_way -= 1
            self._reserved -= reserved
            self._tokens += used
            self._changed.notify_all()
