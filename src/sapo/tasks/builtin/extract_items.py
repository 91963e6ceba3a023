"""extract-items: which of the things that somebody buys or packs are foods?"""

from __future__ import annotations

from random import Random

from sapo.core.types import Example, Task
from sapo.tasks.builtin.rows import capitalized, drawn, enumerate_words, load

# Numbers of foods and of other things in a sentence, taken in turn.
MIXES = ((1, 2), (2, 1), (2, 2), (3, 1), (3, 0), (3, 2), (1, 3), (4, 1))


def extract_items() -> Task:
    """Return the task extract-items."""
    lexicon: dict[str, list[str]] = load("extract_items")

    def make(rng: Random, index: int) -> Example:
        foods, others = MIXES[index % len(MIXES)]
        items = rng.sample(lexicon["foods"], foods) + rng.sample(lexicon["others"], others)
        rng.shuffle(items)
        cut = rng.randrange(1, len(items))
        form = rng.choice(lexicon["whole"] + lexicon["split"])
        text = form.format(
            who=rng.choice(lexicon["people"]),
            items=enumerate_words(items),
            first=enumerate_words(items[:cut]),
            second=enumerate_words(items[cut:]),
        )
        return Example(capitalized(text), ", ".join(item for item in items if item in lexicon["foods"]))

    instruction = "List all the foods that are mentioned in the following sentence."
    suffix = "Answer with the foods in order of mention, separated by commas."
    return drawn("extract-items", instruction, suffix, make, metric="list_f1")
