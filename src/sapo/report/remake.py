"""What it takes to make a page's numbers again: environment, configuration, commands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml

from sapo.experiments.study.records import StudyRecord
from sapo.report.blocks import Block, Command, Listing, Note, Section, Table
from sapo.report.runs import Run
from sapo.runs.directory import decisive
from sapo.training.policies import LOWEST
from sapo.training.settings import MethodName

# What a sweep varies, in the order in which a configuration names it.
_VARIED = ("sequence", "method", "policy", "seed")


def of_runs(runs: Sequence[Run]) -> tuple[Section, ...]:
    """Return the sections of runs, or of a sweep."""
    blocks = _again(runs) if runs[0].directory is not None else _sweep_again([run.result.config for run in runs])
    environment = _environment([run.versions for run in runs], runs[0].machine if len(runs) == 1 else {})
    return (*environment, Section("Make it again", blocks, "reference"))


def of_study(records: Sequence[StudyRecord]) -> tuple[Section, ...]:
    """Return the sections of a study. It may have grown: what was ever asked for makes all of it."""
    config = dict(records[0].config)
    for key in ("transitions", "seeds", "arms"):
        config[key] = list({repr(one): one for record in records for one in record.config.get(key, ())}.values())
    config["tasks"] = {name: task for record in records for name, task in record.config.get("tasks", {}).items()}
    blocks = (
        Note("Save the configuration as study.yaml."),
        Command(("sapo", "study", "study.yaml"), "The study, from its first training on:"),
        Listing("study.yaml", _yaml(config)),
    )
    environment = _environment([record.versions for record in records], {})
    return (*environment, Section("Make it again", blocks, "reference"))


def _environment(versions: Iterable[Mapping[str, str]], machine: Mapping[str, str]) -> tuple[Section, ...]:
    found: dict[str, dict[str, None]] = {}
    for one in versions:
        for library, version in one.items():
            found.setdefault(library, {})[version] = None
    rows = [(name, ", ".join(sorted(several))) for name, several in found.items()]
    rows += machine.items()
    if not rows:
        return ()
    legend = ("Several versions: the runs were not all made with the same one.",)
    mixed = any(len(several) > 1 for several in found.values())
    table = Table(("what", "version or value"), tuple(rows), legend=legend if mixed else (), text=(0, 1))
    return (Section("Environment", (table,), "reference"),)


def _again(runs: Sequence[Run]) -> tuple[Block, ...]:
    blocks: list[Block] = [
        Note("Each command makes a run from its first step on, in a new directory. Data and model are not part of it.")
    ]
    for run in runs:
        path = (run.directory or Path()) / "config.yaml"
        if run.result.method not in get_args(MethodName):
            blocks.append(Note(f"Run {run.name} was made by {run.result.method}: start that program again."))
            continue
        blocks.append(Command(("sapo", "run", str(path), "run_dir=NEW_DIRECTORY"), f"Run {run.name}:"))
        if path.is_file():
            text = path.read_text(encoding="utf-8", errors="replace").rstrip("\n")
            blocks.append(Listing(f"Its configuration, {path}", text))
    return tuple(blocks)


def _sweep_again(configs: Sequence[Mapping[str, Any]]) -> tuple[Block, ...]:
    merged: dict[str, Any] = {}
    for config in configs:
        for key, value in _shared(config).items():
            merged[key] = {**merged.get(key, {}), **value} if isinstance(value, Mapping) else value
    differing = mixed(configs)
    for key in _VARIED:
        values = [config[key] for config in configs if key in config]
        several = [value for n, value in enumerate(values) if value not in values[:n]]
        if len(several) == 1:
            merged[key] = several[0]
        elif several:
            merged.setdefault("sweep", {})[key] = several
            if key == "sequence":
                merged[key] = several[0]
    choosing = (config["selection"] for config in configs if config.get("policy") in LOWEST and "selection" in config)
    if len(rules := list(dict.fromkeys(selection["rule"] for selection in choosing))) > 1:
        merged.setdefault("sweep", {})["rule"] = rules
        merged["selection"].pop("rule")
    elif rules:
        merged["selection"]["rule"] = rules[0]
    listing = Listing("sweep.yaml", _yaml(merged))
    if differing:
        text = (
            f"The runs differ in {', '.join(differing)} too, which one sweep cannot vary. The configuration below has "
            "one value of each; the record of every run has its own."
        )
        return (Note(text), listing)
    return (
        Note("Save the configuration as sweep.yaml; it makes every combination."),
        Command(("sapo", "run", "sweep.yaml"), "The sweep, from its first run on:"),
        listing,
    )


def mixed(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the settings, by dotted key, in which runs of sweeps differ although a sweep does not vary them.

    The rule of a choice is named with the policy, where it decides anything.
    """
    seen: dict[str, set[str]] = {}
    for config in configs:
        for key, value in decisive(_shared(config)).items():
            seen.setdefault(key, set()).add(repr(value))
    return [key for key, values in seen.items() if len(values) > 1 and key != "selection.rule"]


def _shared(config: Mapping[str, Any]) -> dict[str, Any]:
    # What one run switches off, as None, is no value of another.
    return {key: value for key, value in config.items() if key not in _VARIED and value not in (None, {})}


def _yaml(config: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True, width=100).rstrip("\n")
