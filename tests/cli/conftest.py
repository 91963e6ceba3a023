"""Commands in this process."""

import pytest
import small_runs
from cli.outcome import Command, Outcome


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    def call(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = small_runs.command(*arguments)
        return Outcome(code, *capsys.readouterr())

    return call
