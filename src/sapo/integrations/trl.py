"""TRL's SFTTrainer: rows that it takes as they are, and its tokens for `sapo.select`.

    selection = sapo.select(model, tokenizer, dataset)               # a data set with a layout of its own
    trainer = SFTTrainer(model, args, selection.apply(dataset), ...)

    task = sapo.load_task(...)                                       # the library's own layout of prompts
    selection = sapo.select(model, tokenizer, task, renderer=trl.SftRenderer(tokenizer))
    trainer = SFTTrainer(model, args, trl.dataset(task, selection, tokenizer), ...)

TRL is not needed here: rows are `datasets.Dataset`, and what SFTTrainer makes of them is done the same way.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from sapo.core.types import Task
from sapo.models.sft import SftRenderer, own_sides, prompt_and_completion, template_variables
from sapo.selection.selection import Chosen, trained
from sapo.tasks.inplace import Rows

__all__ = ["Rows", "SftRenderer", "dataset"]


def dataset(task: Task, selection: Chosen, tokenizer: Any = None) -> Any:
    """Return a task's training rows with an instruction, as a `datasets.Dataset` of prompts and completions.

    Rows that candidates show as examples are left out. SFTTrainer makes other tokens than our `Renderer` of texts that
    spell special tokens, and drops or cuts what is longer than its `max_length`: choose with
    ``renderer=SftRenderer(tokenizer)``, which does as it does.

    Args:
        task: its rows, and its suffix.
        selection: the chosen instruction, or a text.
        tokenizer: of the model. Rows are conversational unless it has no chat template; then they are plain text,
            whose end-of-text token SFTTrainer adds. By default they are conversational.

    Raises:
        CandidateError: if the selection is of another task.
        RenderError: if the rows are those of `Rows`, which have a layout of their own.
    """
    from datasets import Dataset

    task, text = trained(task, selection)
    layout = partial(own_sides, chat=tokenizer is None or bool(tokenizer.chat_template))
    told = template_variables(tokenizer)
    return Dataset.from_list([prompt_and_completion(*layout(text, task.suffix, row), told) for row in task.train])
