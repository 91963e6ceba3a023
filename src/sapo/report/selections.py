"""Candidates as `sapo paraphrase` finds them, and ranked by pre-update loss: by `sapo select`, for tasks of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sapo.core.types import Rejection, Task
from sapo.core.untrusted import one_line
from sapo.report.blocks import NOTHING, Block, Command, Listing, Note, Page, Plot, Section, Table
from sapo.report.numbers import LOSS, Figure, duration, estimate, interval, number, tokens
from sapo.report.plots import Range, ranges
from sapo.selection.selection import CandidateLoss, Selection
from sapo.training.policies import LOWEST

if TYPE_CHECKING:
    from sapo.candidates.gather import Gathered

# Characters of a candidate that a table shows, where there is room, and rejected texts.
_SHOWN, _NAMED = 90, 12
RULES = {
    "lowest": "the candidate with the lowest loss",
    "confident": "the original, unless a candidate's whole interval lies below 0; then the lowest of those",
    "trial": "the original, unless after a few updates with each of the leading candidates the mean loss over this and "
    "other tasks is clearly lower with one of them; then the lowest of those",
}
_LEGEND = (
    "loss: pre-update loss, in nats per answer token, before any training on this task; lower is better.",
    "to original: its loss minus the original's; below 0 is better than the original. The 95 % intervals hold for "
    "all candidates together and for the model as it is now; they say nothing of other models or later stages.",
)
_RACED = "rows: training rows it was scored on; where these are not all of them, its loss is estimated from them."
OPTIMISTIC = (
    "The chosen one's own gain is optimistic: it is the lowest of many noisy losses, and the rows that chose it "
    "also measured it."
)


def gathered_page(task: Task, asked: Sequence[str], gathered: Gathered, out: Path, refused: Path) -> Page:
    """Return the page of candidates that nothing has scored yet.

    Args:
        task: whose instruction was paraphrased.
        asked: options by which a command with data names it again.
        gathered: its candidates.
        out: where they were written.
        refused: where the rejected texts were written, if there were any.
    """
    paraphrases = gathered.candidates[1:]
    rows = tuple(
        (str(n), c.origin, str(len(c.text)), one_line(c.text, _SHOWN)) for n, c in enumerate(paraphrases, start=1)
    )
    columns = ("no.", "from", "characters", "paraphrase")
    found: list[Block] = [Table(columns, rows, text=(1, 3))]
    if gathered.spare:
        found.append(Note(f"{len(gathered.spare)} more are valid; the most different are kept."))
    found += [Note(f"{note[:1].upper()}{note[1:]}.") for note in gathered.notes]
    sections = [
        Section("Original instruction", (Listing(f"{len(task.instruction)} characters:", task.instruction),)),
        Section(f"Valid paraphrases: {len(paraphrases)}", tuple(found)),
    ]
    if count := len(gathered.rejected):
        more = f"And {count - _NAMED} more. " * (count > _NAMED) + f"All of them with reasons: {refused}."
        named = (rejections(gathered.rejected[:_NAMED]), Note(more))
        sections.append(Section(f"Rejected texts: {count}", named))
    following = (
        Note(f"Written to {out}, one JSON object a line: text, origin."),
        Command(
            ("sapo", "select", *asked, "--candidates", str(out)),
            "To see which of them fits a model best, with data of the task (and further options that it needs):",
        ),
    )
    sections.append(Section("Next", following))
    whose = f"the instruction of {task.name}" if task.train else "your instruction"
    return Page(f"Paraphrases of {whose}", tuple(sections))


def selection_page(selection: Selection) -> Page:
    """Return the page of one selection that no training followed."""
    chosen, count = selection.instruction, len(selection.candidates)
    cached = f"; all losses of {selection.cached} of the candidates had been computed before" * bool(selection.cached)
    memory = f"; peak memory {(selection.peak_memory or 0) / 2**30:.1f} GiB" * bool(selection.peak_memory)
    notes = (
        f"Rule {selection.rule}: {RULES[selection.rule]}. {_ties(selection)}",
        effort(selection),
        f"{count} candidates on {len(selection.rows)} training rows ({selection.sample} sample) in "
        f"{duration(selection.seconds)}, model loading not counted; {tokens(selection.tokens)} tokens went through the "
        f"model{cached}; route of computation: {selection.route}{memory}.",
        cuts(selection),
    )
    blocks: tuple[Block, ...] = (
        *ranking(selection, chosen.text, "chosen", legend(selection.race is not None)),
        *(Note(text) for text in notes if text),
    )
    following = (
        Note("Train this task with the chosen instruction, and give the same one when you use the model."),
        Command(
            ("sapo", "run", "CONFIG.yaml", "--dry-run"),
            "Or let sapo train and test whole task sequences; this shows what a run would do and take:",
        ),
    )
    refused = [Section("Texts that were not scored", (rejections(selection.rejected),))] if selection.rejected else []
    sections = (
        Section("Candidates, lowest loss first", blocks),
        *refused,
        Section("Chosen instruction", (Listing(f"From: {chosen.origin}. In full:", chosen.text),)),
        Section("Next", following),
    )
    verdict = (Note(finding(selection), "bold"), Note(OPTIMISTIC))
    return Page(f"Which instruction fits the model now: {selection.task}", sections, verdict)


def legend(raced: bool) -> tuple[str, ...]:
    """Return what the columns of a ranking mean."""
    return (_RACED, *_LEGEND) if raced else _LEGEND


def ranking(
    selection: Selection, marked: str, mark: str, explained: tuple[str, ...] = (), title: str = ""
) -> tuple[Table, Plot]:
    """Return the candidates ranked by loss, as a table and as a figure.

    The instruction whose text is ``marked`` gets the mark, "chosen" or "trained".
    """
    raced = selection.race is not None
    rows, drawn = [], []
    for rank, index in enumerate(selection.ranked, start=1):
        candidate = selection.candidates[index]
        text = candidate.instruction.text
        marks = ["original"] if index == 0 else []
        marks += [mark] if text == marked else []
        marks += [f"out, round {candidate.round}"] if candidate.round is not None and text != marked else []
        rows.append(
            (
                str(rank), *([str(len(candidate.losses.nll))] if raced else []), number(candidate.loss, LOSS),
                number(candidate.delta, LOSS, sign=True) if index else NOTHING,
                interval(candidate.interval, LOSS, sign=True), ", ".join(marks), one_line(text, _SHOWN),
            )
        )  # fmt: skip
        drawn.append(Range(f"{rank}  {one_line(text)}", _to_original(candidate), note=", ".join(marks)))
    columns = ("rank", *(["rows"] if raced else []), "loss", "to original", "95 % interval", "", "candidate")
    bold = frozenset(n for n, i in enumerate(selection.ranked) if selection.candidates[i].instruction.text == marked)
    axis = "loss minus the original's, nats per token (below 0: better)"
    figure = ranges(title or "Candidates, lowest loss first", drawn, axis, 0.0)
    return Table(columns, tuple(rows), title, explained, text=(-2, -1), bold=bold, clipped=True), figure


def _to_original(candidate: CandidateLoss) -> Figure:
    return Figure(candidate.delta, candidate.interval)


def trial_table(selection: Selection) -> list[Block]:
    """Return what a trial did to the losses of all tasks; empty where there was none."""
    if selection.trial is None:
        return []
    heads, *rows = selection.trial_table()
    title = (
        f"Loss on each task after a trial of {selection.trial.updates} updates, nats per answer token "
        f"({tokens(selection.trial.tokens)} tokens, one trained on counted three times)"
    )
    return [Table(heads, tuple(rows), title, text=(-2, -1))]


def effort(selection: Selection) -> str:
    """Return in a few sentences how a race went and what its choice is worth; empty without a race."""
    race = selection.race
    if race is None:
        return ""
    rows, all_losses = len(selection.rows), len(selection.candidates) * len(selection.rows)
    spent = (
        f"A race of {race.rounds} round{'s' * (race.rounds > 1)}: {selection.evaluations} of {all_losses} losses "
        f"({100 * selection.evaluations / all_losses:.0f} %) were needed. "
    )
    if selection.trial is not None:
        return f"{spent}It says which candidates were tried; the trial chose among these."
    if race.end == "budget":
        return (
            f"{spent}The budget ended it: on these {rows} rows the lowest loss may lie up to {race.tolerance:.2g} "
            f"below the chosen one's, with {100 * (1 - race.delta):g} % confidence. To be surer, raise "
            "selection.budget (--budget), or set it to null."
        )
    if selection.evaluations == all_losses:
        return f"{spent}That is all of them: the choice is exact for these rows."
    return (
        f"{spent}A candidate that cannot beat the leader by more than {race.epsilon:.2g} nats per token is dropped; it "
        f"re-enters if the leader changes. On these {rows} rows no loss lies further below the chosen one's, with "
        f"{100 * (1 - race.delta):g} % confidence."
    )


def _ties(selection: Selection) -> str:
    if selection.race is not None:
        within = f"{selection.race.epsilon:.2g} nats per token"
        return f"The original wins where it is certain to be within {within} of the best."
    return (
        f"Losses within {selection.tolerance:.0e} nats per token count as equal; ties go to the original, then to the "
        "earlier candidate."
    )


def cuts(selection: Selection) -> str:
    """Return a sentence on the selection rows whose input had to be cut, empty where there were none."""
    cut = np.zeros(len(selection.rows), dtype=bool)
    for candidate in selection.candidates:
        # In a race, on the first rows only.
        cut[: len(candidate.losses.cut)] |= candidate.losses.cut > 0
    count = int(cut.sum())
    if not count:
        return ""
    return f"{count} of {len(selection.rows)} inputs were too long with some candidate and were cut in the middle."


def rejections(rejected: Sequence[Rejection]) -> Table:
    """Return texts that did not become candidates, with reasons."""
    rows = tuple((r.reason, one_line(r.text, _SHOWN) or "(nothing)") for r in rejected)
    return Table(("reason", "text"), rows, text=(0, 1))


def subject(policy: str) -> str:
    """Return what to call the candidate with the lowest loss under a policy."""
    return "chosen" if policy in LOWEST else "lowest, which this policy does not take,"


def finding(selection: Selection, subject: str = "chosen") -> str:
    """Return in one sentence whether the candidate that the rule took is clearly better than the original."""
    if len(selection.candidates) == 1:
        return "There is no valid candidate besides the original, so it stays."
    clear = [i for i, c in enumerate(selection.candidates) if c.interval is not None and c.interval[1] < 0]
    taken = selection.candidates[selection.chosen]
    if selection.trial is not None and selection.chosen == 0:
        return "The original stays: after the trial, no candidate's mean loss over tasks is clearly lower."
    if selection.trial is not None:
        tried = next(one for one in selection.trial.tried if one.candidate == selection.chosen)
        lower = f"{number(tried.delta, LOSS, sign=True)} {interval(tried.interval, LOSS, sign=True)}"
        return f"After the trial the {subject} candidate's mean loss over tasks minus the original's is {lower}."
    if selection.chosen == 0:
        # A difference within the tie tolerance can be clear and yet not win.
        beaten = (
            "what lies below it differs by no more than counts as a tie" if clear else "no candidate clearly beats it"
        )
        return f"The original {'stays' if subject == 'chosen' else 'has the lowest loss'}: {beaten}."
    if taken.interval is None:
        return f"The {subject} candidate has no interval, as there is one row: whether it is better is open."
    figures = f"{estimate(_to_original(taken), LOSS, sign=True)} nats/token"
    if selection.chosen in clear:
        return f"The {subject} candidate clearly beats the original: {figures}."
    others = f"{len(clear)} with a higher loss do" if clear else "no candidate does"
    return f"The {subject} candidate has the lowest loss, but does not clearly beat the original: {figures}; {others}."
