"""count-letter: how many words of a list begin with a given letter?"""

from __future__ import annotations

from random import Random

from sapo.core.types import Example, Task
from sapo.tasks.builtin.rows import drawn, load

LISTED = 6  # words in each list
COUNTS = 6  # the answers 0 to 5


def count_letter() -> Task:
    """Return the task count-letter: its digits are a quantity, not labels that an instruction would have to name."""
    by_letter: dict[str, list[str]] = load("count_letter")
    letters = list(by_letter)

    def make(rng: Random, index: int) -> Example:
        count, letter = index % COUNTS, rng.choice(letters)
        rest = [word for other in letters if other != letter for word in by_letter[other]]
        words = rng.sample(by_letter[letter], count) + rng.sample(rest, LISTED - count)
        rng.shuffle(words)
        return Example(f"Letter: {letter}. Words: {', '.join(words)}", str(count))

    instruction = "Count how many of the listed words begin with the given letter."
    return drawn("count-letter", instruction, "Answer with one digit.", make)
