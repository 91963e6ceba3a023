"""What a command may write to, decided before its work."""

from pathlib import Path

import pytest

from sapo.cli.app import demand_new, demand_writable
from sapo.core.errors import ConfigError


def test_a_new_file_may_be_written_and_an_old_one_where_it_need_not_be_new(tmp_path: Path) -> None:
    for demand in (demand_writable, demand_new):
        demand(None, "--out")
        demand(tmp_path / "deep" / "new.jsonl", "--out", tmp_path / "none")
    old = tmp_path / "old.jsonl"
    old.write_text("old")
    demand_writable(old, "--out", None, Path("review-sentiment"))
    with pytest.raises(ConfigError, match=r"--json .*old\.jsonl exists already: choose another one, or delete it"):
        demand_new(old, "--json")
    for out, message in ((tmp_path, "cannot be written"), (old, "is a file that this command reads")):
        with pytest.raises(ConfigError, match=message):
            demand_new(out, "--out", old)


def test_other_places_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("link").symlink_to("real")
    for path in (Path("link"), Path("/dev/null")):
        with pytest.raises(ConfigError, match="is a link or a device: give the path of a file"):
            demand_writable(path, "--out")
    Path("data.csv").write_text("x")
    for out in (Path("data.csv"), tmp_path / "data.csv", Path("./data.csv")):
        with pytest.raises(ConfigError, match=r"--out .*data\.csv is a file that this command reads"):
            demand_writable(out, "--out", None, Path("data.csv"))
    Path("file").write_text("")
    for out in (Path(), Path("file/below")):
        with pytest.raises(ConfigError, match="cannot be written"):
            demand_writable(out, "--json")
