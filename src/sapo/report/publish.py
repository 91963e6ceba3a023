"""From paths to pages, and from pages to readers: on a terminal, as Markdown, as one HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from sapo.core.errors import RecordError, demand_extra
from sapo.core.storage import undamaged, write_text
from sapo.core.untrusted import one_line
from sapo.experiments.study.records import STUDY, is_study, read_study
from sapo.report.blocks import Note, Page
from sapo.report.markdown import to_markdown
from sapo.report.numbers import count
from sapo.report.page import results_page
from sapo.report.runs import Run, read_run
from sapo.report.study import study_page
from sapo.report.terminal import show
from sapo.runs.records import RECORDS, read_records
from sapo.runs.results import RunResult

# Characters of the names of unfinished runs.
_NAMES = 300
_DAMAGED = "Delete the damaged file; the same `sapo run` command computes what is missing again."


def print_report(console: Console, paths: Sequence[Path], html: Path | None = None, *, full: bool = False) -> None:
    """Print what a run, several runs, sweeps or a study found, and write all of it as Markdown next to the first.

    Args:
        console: where to print.
        paths: directories of runs; or directories of sweeps, or files of their records; or a study, likewise.
        html: file to write the page to as HTML too.
        full: whether to print all of it, not only what fits on one screen.

    Raises:
        ConfigError: if a page with figures is asked for without matplotlib.
        RecordError: if something cannot be read or compared, kinds are mixed, or the HTML file cannot be written.
    """
    if html is not None:
        demand_extra("matplotlib", "report", "--html")
    page, markdown = read_report(paths)
    show(console, page, full=full)
    more = "" if full else ", or sapo report with --full or --html OUT.html"
    written = [f"Everything: {markdown}{more}"]
    try:
        write_text(markdown, to_markdown(page))
    except RecordError as error:
        # Records may lie where only others write; what was asked for is on the screen.
        written = [f"No Markdown: {error}"]
    if html is not None:
        # It draws, which takes a moment that nobody else should wait for.
        from sapo.report.html import to_html

        write_text(html, to_html(page))
        written.append(f"Everything with figures, for a browser: {html}")
    for line in written:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def read_report(paths: Sequence[Path]) -> tuple[Page, Path]:
    """Return the page of a run, of several, of sweeps or of a study, and the Markdown file that keeps it.

    Raises:
        RecordError: if something cannot be read or compared, or kinds are mixed, naming it.
    """
    kinds = [_kind(path) for path in paths]
    if len(set(kinds)) > 1:
        first = next(n for n, kind in enumerate(kinds) if kind != "run")
        other = next(n for n, kind in enumerate(kinds) if kind != kinds[first])
        raise RecordError(
            f"{paths[first]} is a {kinds[first]}, but {paths[other]} is a {kinds[other]}: report them separately"
        )
    if kinds[0] == "study":
        if len(paths) > 1:
            raise RecordError(f"{paths[0]} and {paths[1]} are studies: report them one by one")
        file = paths[0] / STUDY if paths[0].is_dir() else paths[0]
        return study_page(read_study(file)), file.with_suffix(".md")
    if kinds[0] == "sweep":
        files = [path / RECORDS if path.is_dir() else path for path in paths]
        notes: list[str] = []
        known = {file: read_records(file, notes.append) for file in files}
        runs = [Run(record, versions=record.versions) for records in known.values() for record in records]
        # Several files of records in one folder keep a page each.
        alone = len(files) == 1 and files[0].name != RECORDS
        page = results_page(runs)
        told = [f"{note}. The same `sapo run` records that run again." for note in notes]
        if missing := [n for file in known if file.name == RECORDS for n in _unfinished(file.parent, known[file])]:
            names = one_line(", ".join(missing), _NAMES)
            told.append(
                f"{count(len(missing), 'run')} without a result yet ({names}): at work now, or resumed by the same "
                "`sapo run`."
            )
        page = replace(page, verdict=(*(Note(text, "bold") for text in told), *page.verdict))
        return page, files[0].with_suffix(".md") if alone else files[0].parent / "comparison.md"
    with undamaged(Path(", ".join(map(str, paths))), _DAMAGED):
        page = results_page([read_run(path) for path in paths])
    return page, paths[0] / ("report.md" if len(paths) == 1 else "comparison.md")


def _unfinished(directory: Path, records: Sequence[RunResult]) -> list[str]:
    """Return the runs of a sweep that were begun and have no record."""
    begun = {path.parent.relative_to(directory).as_posix() for path in directory.glob("*/*/config.yaml")}
    return sorted(begun.difference(record.name for record in records))


def _kind(path: Path) -> str:
    if path.name == STUDY or (path / STUDY).is_file() or (path.is_file() and is_study(path)):
        return "study"
    sweep = path.suffix == ".jsonl" or ((path / RECORDS).is_file() and not (path / "results.json").exists())
    return "sweep" if sweep else "run"
