"""Whether a text plainly asks for another product than the original: a question where a summary is wanted, say."""

from __future__ import annotations

import regex

# What models are asked to write, by stems. A text that asks for one that the original does not mention sets another
# task.
_PRODUCTS = (
    "question|repl(?:y|ies)|response|definition|warning|brand|slogan|poem|story|letter|e-?mail|quiz|description|essay|"
    "continuation|ending|dialogue|translation|call to action|counterexample|rebuttal|apology|caption|recipe|joke|"
    "advertis|apolog|comment|review|tweet|rule|hint|correction"
)
_MAKES = r"(?:write|compose|draft|invent|formulate|create|make\ up|come\ up\ with|think\ of|devise|pose|put|post)"
_PRODUCED = regex.compile(
    rf"\b{_MAKES}\s+(?:(?:a|an|one|another|the|your|some|new|short|own|further|second)\s+){{1,3}}(?:[\w'’-]+\s+){{0,2}}?"
    rf"(?P<product>{_PRODUCTS})",
    regex.IGNORECASE,
)
# Letters by which a product is recognised in the original.
_STEM = 5
_NEGATED = regex.compile(r"\b(?:not|never|no|don't|nor|without|instead\s+of)\W+(?:\w+\W+){0,2}$", regex.IGNORECASE)


def another_task(original: str, suffix: str, text: str) -> str | None:
    """Return what else a text asks for, or None; only what is plain to see."""
    given = f"{original}\n{suffix}".casefold()
    for found in _PRODUCED.finditer(text):
        product = found.group("product")
        if product.casefold()[:_STEM] not in given and not _NEGATED.search(text[: found.start()]):
            return f"sets another task ({found.group().strip(' .,;:!?')!r})"
    return None
