"""What only some runs measure: general ability, robustness to wording, another run's prompts, the guard."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sapo.models.ability import general_texts
from sapo.report.numbers import NLL_DECIMALS, SCORE, number
from sapo.report.tables import Column, Note, Section, Table, cells
from sapo.runs.results import NLL, PRIMARY
from sapo.training.guard import ended

_WORDINGS = (
    "Paraphrases that were held out of the candidates, so that nothing was chosen or trained with them; each task in "
    "its last state. The spread over wordings is not an error of the mean: it is what a user's own wording may cost."
)
_ABILITY = (
    "loss: on {} general texts written for this, without any prompt, nats per token, lower is "
    "better. No interval: these texts are not a sample."
)
_LOOKS = (
    "A look finds a rise where the 95 % interval of one task's increase lies above the limit as a whole. Many looks at "
    "many tasks find some by chance, which the limit is there to absorb."
)


def extra_sections(data: Mapping[str, Any]) -> list[Section]:
    """Return a section for each of them that the results hold."""
    sections = []
    if data.get("ability"):
        sections.append(Section("General ability", (_ability(data["ability"]),)))
    if data.get("robustness"):
        sections.append(Section("Robustness to wording", (_wordings(data["robustness"]),)))
    if data.get("crossed"):
        sections.append(Section("Tested with the instructions that policy sapo chose", (_crossed(data),)))
    if data.get("guard"):
        alarms = (Note(_alarm(alarm)) for alarm in data["guard"])
        sections.append(Section("Forgetting guard", (*alarms, Note(_LOOKS, "dim"))))
    return sections


def _ability(stages: list[Mapping[str, Any]]) -> Table:
    first = stages[0]
    rows = tuple(
        cells(
            "before training" if s is first else f"stage {s['stage']}",
            number(s["loss"], NLL_DECIMALS),
            "" if s is first else number(s["loss"] - first["loss"], NLL_DECIMALS, sign=True),
        )
        for s in stages
    )
    columns = (Column("state", numeric=False), *map(Column, ("loss", "change")))
    return Table("", columns, rows, (_ABILITY.format(len(general_texts())),))


def _wordings(tasks: Mapping[str, Mapping[str, Any]]) -> Table:
    rows = tuple(
        cells(
            task,
            str(len(found["texts"])),
            number(sum(found[PRIMARY]) / len(found[PRIMARY]), SCORE),
            number(min(found[PRIMARY]), SCORE),
            number(sum(found[NLL]) / len(found[NLL]), NLL_DECIMALS),
            number(max(found[NLL]), NLL_DECIMALS),
        )
        for task, found in tasks.items()
    )
    titles = ("wordings", "mean score", "worst score", "mean NLL", "worst NLL")
    return Table("", (Column("task", numeric=False), *map(Column, titles)), rows, (_WORDINGS,))


def _crossed(data: Mapping[str, Any]) -> Table:
    crossed = data["crossed"]
    rows = tuple(
        cells(t, number(crossed[PRIMARY][t], SCORE), number(crossed[NLL][t], NLL_DECIMALS)) for t in crossed[PRIMARY]
    )
    legend = ("Choice with the original instructions, tested in each task's last state with those of the paired run.",)
    return Table("", (Column("task", numeric=False), Column("score"), Column("NLL")), rows, legend)


def _alarm(alarm: Mapping[str, Any]) -> str:
    went = "training went on" if alarm["back_to"] is None else ended(alarm["back_to"], alarm["updates"])
    rise = "was not a finite number any more"
    if alarm["increase"] is not None:
        rise = f"had risen by {alarm['increase']:.3f} nats per token (95 % interval from {alarm['low']:.3f})"
    when = f"after update {alarm['step']} of {alarm['updates']}"
    return f"{alarm['task']}: {when} the loss on {alarm['watched']} {rise}; {went}."
