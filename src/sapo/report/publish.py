"""From paths to pages, and from pages to readers: on a terminal, as Markdown, as one HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from sapo.core.errors import RecordError
from sapo.core.storage import undamaged, write_text
from sapo.experiments.study.records import STUDY, is_study, read_study
from sapo.report.blocks import Page
from sapo.report.markdown import to_markdown
from sapo.report.page import results_page
from sapo.report.runs import Run, read_run
from sapo.report.study import study_page
from sapo.report.terminal import show
from sapo.runs.records import RECORDS, read_records

DAMAGED = "Delete the damaged file; the same `sapo run` command computes what is missing again."


@dataclass(frozen=True, slots=True)
class Report:
    """A page, and the Markdown file that keeps it."""

    page: Page
    markdown: Path


def print_report(console: Console, paths: Sequence[Path], html: Path | None = None, *, full: bool = False) -> None:
    """Print what a run, several runs, sweeps or a study found, and write all of it as Markdown next to the first.

    Args:
        console: where to print.
        paths: directories of runs; or directories of sweeps, or files of their records; or a study, likewise.
        html: file to write the page to as HTML too.
        full: whether to print all of it, not only what fits on one screen.

    Raises:
        RecordError: if something cannot be read or compared, kinds are mixed, or a file cannot be written.
    """
    _publish(console, read_report(paths), html, full=full)


def print_run(console: Console, run_dir: Path) -> None:
    """Print what a finished run found, and write it to RUN_DIR/report.md."""
    _publish(console, _runs([run_dir]))


def print_sweep(console: Console, *paths: Path) -> None:
    """Print the page of a sweep, or of several together, and write it as Markdown beside the first records."""
    _publish(console, _sweep(paths))


def print_study(console: Console, path: Path) -> None:
    """Print the page of a study, and write it to study.md beside its records."""
    _publish(console, _study([path]))


def _publish(console: Console, report: Report, html: Path | None = None, *, full: bool = False) -> None:
    show(console, report.page, full=full)
    written: list[tuple[str, Path | str]] = []
    try:
        write_text(report.markdown, to_markdown(report.page))
        more = "" if full else " (on the terminal: sapo report --full; for a browser: --html OUT.html)"
        written.append(("Everything as Markdown", f"{report.markdown}{more}"))
    except RecordError as error:
        # Records may lie where only others write.
        if html is None:
            raise
        written.append(("No Markdown", str(error)))
    if html is not None:
        # It draws, which takes a moment that nobody else should wait for.
        from sapo.report.html import to_html

        write_text(html, to_html(report.page))
        written.append(("Everything with figures, for a browser", html))
    console.print()
    for what, path in written:
        console.print(f"{what}: {path}", markup=False, highlight=False, soft_wrap=True)


def read_report(paths: Sequence[Path]) -> Report:
    """Return the page of a run, of several, of sweeps or of a study.

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
        return _study(paths)
    return _sweep(paths) if kinds[0] == "sweep" else _runs(paths)


def _kind(path: Path) -> str:
    if path.name == STUDY or (path / STUDY).is_file() or (path.is_file() and is_study(path)):
        return "study"
    sweep = path.suffix == ".jsonl" or ((path / RECORDS).is_file() and not (path / "results.json").exists())
    return "sweep" if sweep else "run"


def _study(paths: Sequence[Path]) -> Report:
    if len(paths) > 1:
        raise RecordError(f"{paths[0]} and {paths[1]} are studies: report them one by one")
    file = paths[0] / STUDY if paths[0].is_dir() else paths[0]
    page = study_page(read_study(file))
    return Report(page, file.with_suffix(".md"))


def _sweep(paths: Sequence[Path]) -> Report:
    files = [path / RECORDS if path.is_dir() else path for path in paths]
    records = [record for file in files for record in read_records(file)]
    # Several files of records in one folder keep a page each.
    alone = len(files) == 1 and files[0].name != RECORDS
    markdown = files[0].with_suffix(".md") if alone else files[0].parent / "comparison.md"
    return Report(results_page([Run(record, versions=record.versions) for record in records]), markdown)


def _runs(paths: Sequence[Path]) -> Report:
    with undamaged(Path(", ".join(map(str, paths))), DAMAGED):
        runs = [read_run(path) for path in paths]
        page = results_page(runs)
    return Report(page, paths[0] / ("report.md" if len(runs) == 1 else "comparison.md"))
