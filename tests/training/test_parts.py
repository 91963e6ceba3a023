"""A model with parts for images, of which AutoModelForCausalLM gives the whole: every method trains it on texts."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from assignments import LORA, METHODS, TRAIN, assignment, rows_of, token_mean, trained

from sapo.models.losses import Scorer
from sapo.training.methods import make_method
from sapo.training.settings import MethodName

TEXT = {
    "vocab_size": 258, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512, "sliding_window": 1024,
    "pad_token_id": 0, "bos_token_id": 256, "eos_token_id": 257,
}  # fmt: skip
IMAGES = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip


def gemma() -> Any:
    numbers = {"image_token_index": 250, "boi_token_index": 251, "eoi_token_index": 252, "mm_tokens_per_image": 4}
    config = tf.Gemma3Config(text_config=TEXT, vision_config=IMAGES, **numbers)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return tf.AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
@pytest.mark.parametrize("name", METHODS)
def test_it_is_scored_and_trained_and_its_configuration_stays(name: MethodName, tmp_path: Path) -> None:
    model, rows = gemma(), rows_of("one", 8)
    # The premise: only the configuration of its text says whether keys and values are kept.
    assert "use_cache" not in vars(model.config)
    scored = Scorer(model)(rows).per_token
    assert scored == pytest.approx(float(token_mean(model, rows).detach()), rel=1e-5)
    learner = make_method(name, LORA)
    task = assignment(rows)
    model = learner.prepare(learner.start(model), task)
    log = trained(learner, model, task, TRAIN.model_copy(update={"batch_size": 8}))
    assert log.losses[0] == pytest.approx(scored, rel=1e-4) and log.losses[-1] < log.losses[0]
    learner.finish(model, task, tmp_path)
    assert "use_cache" not in vars(model.config)
