"""What a command leaves behind."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def words(self) -> str:
        """All that was printed, without the layout of tables."""
        return " ".join(self.out.split())

    def complains(self, *parts: str) -> None:
        """The user's mistake: exit 2, nothing on standard output, one message, no traceback, with all parts."""
        assert (self.code, self.out) == (2, "")
        assert "Traceback" not in self.err
        assert sum(line.lower().startswith("error:") for line in self.err.splitlines()) == 1
        for part in parts:
            assert part in self.err


Command = Callable[..., Outcome]
