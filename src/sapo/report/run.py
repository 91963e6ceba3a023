"""The page of one finished run."""

from __future__ import annotations

from sapo.core.storage import read_json, undamaged
from sapo.report import remake, short
from sapo.report.beyond import extra_sections
from sapo.report.data import data_blocks
from sapo.report.numbers import duration
from sapo.report.outcome import outcome, watch
from sapo.report.runs import Run
from sapo.report.selections import OPTIMISTIC, RULES, cuts, effort, finding, legend, ranking
from sapo.report.tables import Block, Cell, Changed, Column, Command, Listing, Note, Page, Section, Table
from sapo.tasks.inspection import Inspection
from sapo.training.policies import LOWEST, MIXTURES

DAMAGED = "Delete the damaged file; the same `sapo run` command computes what is missing again."
_CONTROLS = {
    "original": "every task's original instruction",
    "random": "a paraphrase drawn at random, as a control",
    "highest": "the candidate with the highest pre-update loss, as a control",
    "median": "the candidate with the median pre-update loss, as a control",
    "per-example": "a paraphrase drawn for every row in every epoch; tested with the original",
    "paft": "a paraphrase drawn for every few updates; tested with the original",
    "reselect": "the candidate with the lowest pre-update loss, chosen again while training goes on",
}


def run_page(run: Run) -> Page:
    """Return the page of one run."""
    config = run.config
    about = (
        f"Model {config['model']['base']}, policy {config['policy']}, method {config['method']}, "
        f"seed {config['seed']}. Tasks in order: {', '.join(run.tasks)}."
    )
    sections = [Section("Setting", (Note(about),)), *_data(run)]
    if any(selection is not None for selection in run.selections):
        sections.append(Section("Candidates before each task, lowest pre-update loss first", _candidates(run)))
    sections += [
        Section("Instructions trained with", _instructions(run)),
        Section("Results", outcome(run)),
    ]
    if run.data["watch"]:
        sections.append(Section("Watch tasks, never trained on", (watch(run),)))
    sections += extra_sections(run.data)
    sections += [Section("Cost", (_cost(run),)), *remake.of_run(run), Section("Next", _next(run))]
    return Page(f"Run {run.directory}", tuple(sections), short.of_run(run))


def _data(run: Run) -> tuple[Section, ...]:
    """Return what the run found in its rows; nothing for a run of before that was recorded."""
    path = run.directory / "data.json"
    if not path.is_file():
        return ()
    with undamaged(path, DAMAGED):
        return (Section("Data", data_blocks([Inspection.from_json(value) for value in read_json(path)["tasks"]])),)


def _candidates(run: Run) -> tuple[Block, ...]:
    blocks: list[Block] = []
    subject = "chosen" if run.config["policy"] in LOWEST else "lowest, which this policy does not take,"
    for label, task, selection in zip(run.labels, run.tasks, run.selections, strict=True):
        if selection is not None:
            title = f"{label}, on {len(selection.rows)} training rows"
            blocks.append(ranking(selection, run.data["instructions"][task]["text"], "trained", title=title))
            rejected = f" {len(selection.rejected)} texts were not scored." if selection.rejected else ""
            sentences = (finding(selection, subject) + rejected, effort(selection), cuts(selection))
            blocks.append(Note(" ".join(filter(None, sentences))))
    raced = any(selection is not None and selection.race is not None for selection in run.selections)
    return (*blocks, *(Note(sentence, "dim") for sentence in (*legend(raced), OPTIMISTIC)))


def _choice(run: Run) -> str:
    config = run.config
    if config["policy"] == "sapo":
        return RULES[config["selection"]["rule"]]
    return _CONTROLS.get(config["policy"], "see its documentation")


def _instructions(run: Run) -> tuple[Block, ...]:
    blocks: list[Block] = [Note(f"Policy {run.config['policy']}: {_choice(run)}.")]
    for label, task in zip(run.labels, run.tasks, strict=True):
        entry = run.data["instructions"][task]
        if entry.get("mixture"):
            texts = "\n".join(entry["mixture"])
            blocks.append(Listing(f"{label}: {len(entry['mixture'])} paraphrases in turn", texts))
            continue
        if "switches" in entry:
            times = "once" if entry["switches"] == 1 else f"{entry['switches']} times"
            blocks.append(Note(f"{label}: the choice changed {times} while it was trained; the last one:"))
        same = entry["text"] == entry["original"]
        if same and run.config["policy"] in ("random", *MIXTURES):
            blocks.append(
                Note(f"{label}: there was no paraphrase to draw, so it was trained with the original.", "strong")
            )
        if same:
            blocks.append(Listing(f"{label}: the original", entry["text"]))
        else:
            blocks.append(Changed(f"{label}: a paraphrase, from: {entry['origin']}", entry["text"], entry["original"]))
    return tuple(blocks)


def _cost(run: Run) -> Table:
    seconds = run.data["seconds"]
    rows = tuple((Cell(kind), Cell(duration(spent))) for kind, spent in seconds.items())
    return Table(
        "", (Column("kind of step", numeric=False), Column("wall time")), rows, ("Model loading is not counted.",)
    )


def _next(run: Run) -> tuple[Block, ...]:
    where = str(run.directory)
    blocks: list[Block] = [
        Note(
            f"Everything is in {where}: results.json (all metrics and matrices), cells/ (every answer), "
            "report.md (this page as Markdown)."
        ),
        Command(
            ("sapo", "report", where, "OTHER_RUN"),
            "Compare with another run of the same tasks, such as policy=original:",
        ),
    ]
    joint = run.config["method"] == "multitask"
    stage = run.directory / "stages" / f"{len(run.tasks)}-{'all' if joint else run.tasks[-1]}"
    if stage.is_dir():
        purpose = f"Ask the trained model; it is prompted as {run.tasks[-1]} was trained:"
        blocks.append(
            Command(("sapo", "generate", str(stage), "--task", run.tasks[-1], "--input", "YOUR TEXT"), purpose)
        )
    return tuple(blocks)
