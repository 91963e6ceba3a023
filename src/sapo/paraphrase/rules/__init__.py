"""Paraphrases made by rules: an instruction is taken apart, and its parts are put together in other ways.

What is given, what is asked for and all that is to be observed is kept; form, order and wording change.

    sentences, verbs     what a text is made of
    brittle              what must not be taken apart
    parts                an English instruction taken apart
    order, wording       its parts in another order, and in other words (phrases)
    slots                its parts in the forms that frames need
    template, frames     the frames that they are put into
    chinese, neutral     the same for Chinese, and for all other languages without knowledge of them
    rewrite              all of it together
"""

from sapo.paraphrase.rules.rewrite import Rewrite, rewrites
from sapo.paraphrase.rules.source import Rules

__all__ = ["Rewrite", "Rules", "rewrites"]
