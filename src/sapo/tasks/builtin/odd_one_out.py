"""odd-one-out: which of five words is of another category than the other four?"""

from __future__ import annotations

from random import Random

from sapo.core.types import Example, Task
from sapo.tasks.builtin.rows import drawn, load


def odd_one_out() -> Task:
    """Return the task odd-one-out."""
    categories: dict[str, list[str]] = load("odd_one_out")
    names = list(categories)

    def make(rng: Random, index: int) -> Example:
        # 5 positions and 18 categories: the two cycles run independently of each other.
        place, majority = index % 5, names[index // 5 % len(names)]
        minority = rng.choice([other for other in names if other != majority])
        odd = rng.choice(categories[minority])
        words = rng.sample(categories[majority], 4)
        words.insert(place, odd)
        return Example(", ".join(words), odd)

    instruction = "Four of these five words belong to the same category. Find the word that does not."
    return drawn("odd-one-out", instruction, "Answer with that word only.", make)
