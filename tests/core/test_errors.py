"""Errors that several rooms raise."""

import pytest

from sapo.core.errors import ConfigError, demand_extra, first_line


def test_a_missing_package_is_told_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    demand_extra("json", "report", "--html")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        ConfigError,
        match=r"--html needs json, which is not installed: in a checkout of SAPO, pip install '\.\[report\]'",
    ):
        demand_extra("json", "report", "--html")


def test_an_error_is_told_by_its_first_line_and_by_its_name_where_that_says_nothing() -> None:
    assert first_line(ValueError("no such file\nat line 3")) == "no such file"
    assert [first_line(error) for error in (OSError(), KeyError("x"))] == ["OSError", "KeyError: 'x'"]
