"""Errors that several rooms raise."""

from __future__ import annotations

import pytest

from sapo.core.errors import ConfigError, demand_extra


def test_a_missing_package_is_told_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    demand_extra("json", "report", "--html")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        ConfigError,
        match=r"--html needs json, which is not installed: in a checkout of SAPO, pip install '\.\[report\]'",
    ):
        demand_extra("json", "report", "--html")
