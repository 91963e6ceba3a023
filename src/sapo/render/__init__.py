"""The only place where text becomes tokens: (instruction, example) -> ids and supervised positions.

Layout of the user turn (paper section 3; only the instruction is ever paraphrased):

    INSTRUCTION
    (blank line)
    Text:
    INPUT
    (blank line)
    SUFFIX

without the last two lines where the suffix is empty. The turn goes through the model's own chat template and
the assistant turn is the answer. Everything after the generation prompt is supervised: the answer and
the tokens that end its turn.

A conversation keeps its turns: the first user turn begins with the instruction, the last one ends with the
suffix, and only the last assistant turn is supervised.

A model without a chat template gets the plain layout: the user turn, a blank line, "Answer:", a space, the answer,
end of text; earlier turns of a conversation likewise, a blank line after each answer.

Nothing is ever formatted into a template by us (`str.format`, `%`), so braces are only characters; special
tokens spelled out in data or instructions are tokenised as ordinary text and cannot end a turn.
"""

from __future__ import annotations

from sapo.render.layout import TAKEN_OUT, turns_of, user_turn
from sapo.render.renderer import Encoder, Renderer

__all__ = ["TAKEN_OUT", "Encoder", "Renderer", "turns_of", "user_turn"]
