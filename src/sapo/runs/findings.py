"""What a run found so far."""

from __future__ import annotations

from dataclasses import dataclass, field

from sapo.core.types import Instruction, Trained
from sapo.models.ability.measuring import Ability
from sapo.models.answers import Evaluation
from sapo.runs.config.schema import Config
from sapo.runs.results import Prompt
from sapo.training.guard import Alarm


@dataclass(slots=True)
class Findings:
    """What a run found so far; filled while it goes on.

    Attributes:
        cells: of the performance matrix, by stage, task and test prompt.
        trained: the tasks so far.
        ability: general ability by stage, where it is measured.
        alarms: of the forgetting guard, by task that was trained then.
        wordings: per task its last state under held-out paraphrases, where there are any.
        crossed: per task its last state under another run's instruction, where one is given.
    """

    cells: dict[tuple[int, str, Prompt], Evaluation] = field(default_factory=dict)
    trained: list[Trained] = field(default_factory=list)
    ability: dict[int, Ability] = field(default_factory=dict)
    alarms: list[tuple[str, Alarm]] = field(default_factory=list)
    wordings: dict[str, list[tuple[Instruction, Evaluation]]] = field(default_factory=dict)
    crossed: dict[str, Evaluation] = field(default_factory=dict)


def test_prompts(config: Config) -> tuple[Prompt, ...]:
    """Return the test prompts of a run, the one of the main matrix first."""
    wanted = config.evaluate.test_prompt
    return ("selected", "original") if wanted == "both" else (wanted,)
