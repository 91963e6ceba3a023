"""The pictures of the README, from committed records.

    python benchmarks/pictures.py results docs/pictures

Writes select-light.svg and select-dark.svg, what `sapo select` prints for results/selection.json (made by
`sapo select --task review-sentiment --examples 64 --seed 1 --json results/selection.json`); forgetting-light.svg and
forgetting-dark.svg: for each transition, the loss of a candidate before training, and what training with it does to the
task learned before; means over the seeds whose trainings are all recorded. Hollow dots are controls, which are no
paraphrases.
"""

from __future__ import annotations

import argparse
import io
import json
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import LogLocator, NullLocator
from rich.console import Console
from rich.terminal_theme import DEFAULT_TERMINAL_THEME, MONOKAI, TerminalTheme

from sapo.report.selections import selection_page
from sapo.report.terminal import show
from sapo.selection.selection import Selection

# Text, candidates, the original, the one of the lowest loss.
INK = {"light": ("#1f2328", "#8c959f", "#bc4c00", "#0969da"), "dark": ("#e6edf3", "#7d8590", "#f0883e", "#58a6ff")}
CANDIDATES = 12


def controls(path: Path) -> set[str]:
    """Return the texts that are no paraphrases: they say nothing, or something else, or show rows."""
    entries = json.loads(path.read_text(encoding="utf-8")).values()
    return {one["text"].strip() for of_task in entries for one in of_task if one["kind"] != "paraphrase"}


def points(path: Path, hollow: set[str]) -> dict[str, dict[int, tuple[float, ...]]]:
    """Return by transition and candidate: pre-update loss, the earlier task's before and after, whether a control."""
    records: list[dict[str, Any]] = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    # Seeds of which a training is missing yet would move the others' means.
    made, transitions = Counter(record["seed"] for record in records), {record["transition"] for record in records}
    found: dict[str, dict[int, list[tuple[float, ...]]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        if made[record["seed"]] == CANDIDATES * len(transitions):
            (earlier,) = (loss for loss in record["losses"].values() if loss["role"] == "earlier")
            before, after = (sum(earlier[when]) / sum(earlier["tokens"]) for when in ("before", "after"))
            one = (record["indicators"]["pre_update"], before, after, record["text"].strip() in hollow)
            found[record["transition"]][record["candidate"]].append(one)
    return {name: {n: tuple(np.mean(v, axis=0)) for n, v in by.items()} for name, by in found.items()}


def draw(found: dict[str, dict[int, tuple[float, ...]]], ink: tuple[str, ...]) -> Figure:
    """Return a panel for each transition, the original instruction in a colour of its own."""
    text, dots, *marked = ink
    coloured = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    settings: dict[Any, Any] = {"font.size": 9, **dict.fromkeys(coloured, text)}
    with mpl.rc_context(settings):
        figure = Figure(figsize=(3.7 * len(found), 3.1), layout=ConstrainedLayoutEngine(wspace=0.06))
        for axes, (name, candidates) in zip(np.ravel(figure.subplots(1, len(found))), found.items(), strict=True):
            first, second = name.split(">")
            xs, befores, ys, hollow = zip(*candidates.values(), strict=True)
            axes.axhline(befores[0], color=text, lw=0.8, ls=":")
            axes.annotate(f"{first} before this training", (max(xs), befores[0]), ha="right", va="bottom", fontsize=8)
            faces = ["none" if is_hollow else dots for is_hollow in hollow]
            axes.scatter(xs, ys, facecolors=faces, edgecolors=dots, s=26)
            lowest = int(np.argmin(xs))
            for n, colour in zip((0, lowest), marked, strict=True):
                name_of = "original" if n == 0 else "lowest loss"
                name_of += ", the lowest loss" * (lowest == 0)
                axes.scatter(xs[n], ys[n], color=colour, s=44, zorder=3)
                axes.annotate(name_of, (xs[n], ys[n]), (7, 4), textcoords="offset points", color=colour, fontsize=8)
                if lowest == 0:
                    break
            axes.set(xscale="log", yscale="log", title=f"{first}, then {second}")
            axes.set_xlabel(f"loss on {second} before training on it")
            axes.set_ylabel(f"loss on {first} afterwards")
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
                axis.set_major_formatter("{x:.2g}")
                axis.set_minor_locator(NullLocator())
            axes.spines[["top", "right"]].set_visible(False)
            axes.patch.set_alpha(0)
        figure.patch.set_alpha(0)
    return figure


def terminal(selection: Selection, theme: TerminalTheme) -> str:
    """Return what the command prints, as an SVG that loads nothing."""
    console = Console(record=True, width=100, file=io.StringIO(), force_terminal=True)
    show(console, selection_page(selection))
    svg = console.export_svg(title="sapo select", theme=theme, unique_id="sapo")
    # Its fonts come from another host: any monospaced one will do.
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL).replace("Fira Code, monospace", "monospace")


def main() -> None:
    """Write one file for each colour scheme."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    candidates = Path(__file__).parent.parent / "examples" / "regime_candidates.json"
    found = points(given.results / "regime_study.jsonl", controls(candidates))
    selection = Selection.load(given.results / "selection.json")
    given.out.mkdir(parents=True, exist_ok=True)
    for scheme, ink in INK.items():
        with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "sapo"}):
            draw(found, ink).savefig(given.out / f"forgetting-{scheme}.svg", metadata={"Date": None})
        theme = MONOKAI if scheme == "dark" else DEFAULT_TERMINAL_THEME
        (given.out / f"select-{scheme}.svg").write_text(terminal(selection, theme), encoding="utf-8")


if __name__ == "__main__":
    main()
