"""Learning without forgetting: on the new rows, the model is held to what the previous stage would have answered.

Li & Hoiem 2016, arXiv 1606.09282, equations 2 and 3, with the Kullback-Leibler divergence in place of the
cross-entropy, which has the same gradient.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.func import functional_call
from torch.nn.functional import kl_div, log_softmax

from sapo.models.passes import evaluating
from sapo.training.methods.seq_lora import SeqLora
from sapo.training.objective import Objective, Part, copies
from sapo.training.schedule import Training
from sapo.training.settings import LwfSettings


class Lwf(SeqLora):
    """Adds lambda T^2 * KL(teacher || student) per supervised token, with the same prompts.

    The teacher is the previous stage; at the first task that is the model that the run starts from.
    """

    name = "lwf"
    _own: LwfSettings = LwfSettings()

    def objective(self, model: Any, training: Training) -> Objective | None:
        """Return the NLL plus the distance to the prepared model, which is the teacher."""
        teacher, weight, temperature = copies(model), self._own.weight, self._own.temperature

        def distilled(loss: torch.Tensor, part: Part) -> torch.Tensor:
            inputs = {"input_ids": part.ids, "use_cache": False, "logits_to_keep": part.keep}
            with evaluating(part.model):
                taught = functional_call(part.model, teacher, kwargs=inputs).logits
            distance = divergence(taught, part.logits, temperature)
            return loss + weight * temperature**2 * distance / part.tokens

        return distilled


def divergence(teacher: torch.Tensor, student: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return KL(teacher || student) of softened predictions, in nats, summed over positions [positions, vocabulary]."""
    wanted, found = (log_softmax(logits.float() / temperature, dim=-1) for logits in (teacher, student))
    return kl_div(found, wanted, reduction="sum", log_target=True)
