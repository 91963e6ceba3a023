"""A model with parts for images, of which AutoModelForCausalLM gives the whole."""

from typing import Any

import torch
import transformers as tf

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
