"""Losses against one-example full-logits passes, on several architectures, and that scoring leaves no trace."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.utils import logging

from sapo.render import Renderer
from sapo.score import Scorer, pad, supervised_positions, untouched
from sapo.testing import tiny_model, tiny_tokenizer, toy_task
from sapo.types import Encoded, Example, Floats

VOCABULARY = 258
TOLERANCE = 1e-5

_SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": 257,
    "pad_token_id": None,
}
_GROUPED = {**_SHAPE, "num_key_value_heads": 2}
_GEMMA = {**_GROUPED, "head_dim": 8}

MODELS: dict[str, Callable[[], Any]] = {
    "llama": lambda: tiny_model(),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY,
            n_embd=32,
            n_layer=2,
            n_head=4,
            n_positions=512,
            initializer_range=0.2,
            bos_token_id=None,
            eos_token_id=257,
        )
    ),
    "gpt-neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**_SHAPE)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**_GROUPED, head_dim=8)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**_GROUPED, sliding_window=None)),
    "mistral, short window": lambda: MistralForCausalLM(MistralConfig(**_GROUPED, sliding_window=16)),
    "gemma2, short window": lambda: Gemma2ForCausalLM(Gemma2Config(**_GEMMA, sliding_window=16)),
    "gemma3, short window": lambda: Gemma3ForCausalLM(Gemma3TextConfig(**_GEMMA, sliding_window=16)),
    "gemma3, long window": lambda: Gemma3ForCausalLM(Gemma3TextConfig(**_GEMMA, sliding_window=1024)),
}
SHARING = ("llama", "gpt2", "gpt-neox", "qwen3", "mistral")
every_model = pytest.mark.parametrize("name", MODELS)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """transformers prints a generation config for some of the models."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    yield
    logging.set_verbosity(before)


@cache
def model_of(name: str) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MODELS[name]().eval()


@cache
def examples() -> tuple[Encoded, ...]:
    """Prompts of one instruction; inputs and answers of very different lengths."""
    rows = [
        Example("x", "yes"),
        Example("a much longer text " * 4, "no"),
        Example("", "a rather long answer, for once"),
        Example("naïve 北京", "y"),
        Example("x" * 50, "<|im_end|>"),
        Example("one more", "maybe so"),
        Example("and one", "no"),
    ]
    return tuple(Renderer(tiny_tokenizer(), 512).encode("Say yes or no to this.", "Be brief.", rows))


def by_hand(model: Any, rows: tuple[Encoded, ...]) -> Floats:
    """One example at a time, all logits, no padding, no cache: sum of -log p(token | everything before)."""
    losses = []
    for row in rows:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([row.ids]), use_cache=False).logits[0].double()
        total = 0.0
        for place in range(row.prompt_length, len(row.ids)):
            scores = logits[place - 1]
            total += float(torch.logsumexp(scores, 0) - scores[row.ids[place]])
        losses.append(total)
    return np.array(losses)


def close(a: Floats, b: Floats) -> bool:
    return bool(np.abs(a - b).max() < TOLERANCE)


@every_model
def test_losses_equal_a_full_pass_over_each_example_alone(name: str) -> None:
    losses = Scorer(model_of(name))(examples())
    expected = by_hand(model_of(name), examples())
    assert close(losses.nll, expected)
    assert losses.tokens.tolist() == [e.supervised for e in examples()]
    assert math.isclose(losses.per_token, expected.sum() / sum(e.supervised for e in examples()), rel_tol=1e-6)


@every_model
def test_the_plain_route_gives_the_same_numbers(name: str) -> None:
    assert close(Scorer(model_of(name)).plain(examples()).nll, by_hand(model_of(name), examples()))


@every_model
def test_the_prefix_is_shared_where_the_cache_allows_it_and_only_there(name: str) -> None:
    scorer = Scorer(model_of(name))
    assert scorer.route == "undecided"
    scorer(examples())
    assert scorer.route == ("shared prefix" if name in SHARING else "plain")


def test_a_model_that_computes_something_else_from_a_cache_gets_the_plain_route() -> None:
    class Forgetful(LlamaForCausalLM):
        """Ignores what is in the cache, as a model with its own idea of a cache might."""

        def forward(self, *args: Any, past_key_values: Any = None, **kwargs: Any) -> Any:
            return super().forward(*args, past_key_values=None, **kwargs)

    model = Forgetful(tiny_model().config).eval()
    model.load_state_dict(tiny_model().state_dict())
    scorer = Scorer(model)
    assert close(scorer(examples()).nll, by_hand(tiny_model(), examples()))
    assert scorer.route == "plain"


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3, short window"])
def test_losses_equal_the_loss_that_transformers_computes_from_labels(name: str) -> None:
    row = examples()[2]
    labels = [-100] * row.prompt_length + list(row.ids[row.prompt_length :])
    with torch.no_grad():
        mean = model_of(name)(input_ids=torch.tensor([row.ids]), labels=torch.tensor([labels])).loss
    assert math.isclose(Scorer(model_of(name))([row]).per_token, float(mean), rel_tol=1e-5)


@pytest.mark.parametrize("name", ["llama", "gpt2", "mistral, short window"])
@pytest.mark.parametrize("batch_tokens", [1, 70, 200, 1 << 20])
def test_batch_size_does_not_change_a_loss(name: str, batch_tokens: int) -> None:
    expected = by_hand(model_of(name), examples())
    assert close(Scorer(model_of(name), batch_tokens)(examples()).nll, expected)
    assert close(Scorer(model_of(name), batch_tokens).plain(examples()).nll, expected)


@pytest.mark.parametrize("name", ["llama", "gpt-neox", "gemma2, short window"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_order_of_examples_does_not_change_a_loss(name: str, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(examples()))
    losses = Scorer(model_of(name), 150)([examples()[i] for i in order])
    assert close(losses.nll, by_hand(model_of(name), examples())[order])
    assert losses.tokens.tolist() == [examples()[i].supervised for i in order]


@every_model
def test_the_padding_side_does_not_change_a_loss(name: str) -> None:
    rows = examples()
    width = max(len(e.ids) for e in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, e in enumerate(rows):
        ids[i, width - len(e.ids) :] = torch.tensor(e.ids)
        mask[i, width - len(e.ids) :] = 1
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        logits = model_of(name)(input_ids=ids, attention_mask=mask, position_ids=positions).logits
    logs = logits.double().log_softmax(-1)
    left = np.zeros(len(rows))
    for i, e in enumerate(rows):
        for place in range(width - e.supervised, width):
            left[i] -= float(logs[i, place - 1, ids[i, place]])
    assert close(Scorer(model_of(name)).plain(rows).nll, left)
    assert close(Scorer(model_of(name))(rows).nll, left)


def test_one_example_and_examples_without_a_common_beginning_are_scored_too() -> None:
    model = model_of("llama")
    single, scorer = examples()[:1], Scorer(model)
    assert close(scorer(single).nll, by_hand(model, single))
    assert scorer.route == "shared prefix"
    unlike = (Encoded((5, 6, 7, 8), 2), Encoded((9, 6, 7), 1), Encoded((1, 2), 1))
    assert close(Scorer(model)(unlike).nll, by_hand(model, unlike))
    # A prompt that is the beginning of another one: the shared part ends before its last token.
    nested = (Encoded((5, 6, 7, 8), 3), Encoded((5, 6, 7, 9, 1, 2), 5))
    assert close(Scorer(model)(nested).nll, by_hand(model, nested))


def test_one_scorer_serves_candidates_with_different_beginnings() -> None:
    model, task = model_of("llama"), toy_task()
    renderer, scorer = Renderer(tiny_tokenizer(), 512), Scorer(model_of("llama"))
    for instruction in (task.instruction, "Yes or no?", "Decide, say yes or no, and nothing else at all."):
        rows = tuple(renderer.encode(instruction, task.suffix, task.train[:5]))
        assert close(scorer(rows).nll, by_hand(model, rows))
    assert scorer.route == "shared prefix"


def test_the_loss_of_a_uniform_model_is_the_log_of_the_vocabulary() -> None:
    model = tiny_model()
    with torch.no_grad():
        model.lm_head.weight.zero_()
    losses = Scorer(model)(examples())
    assert np.allclose(losses.nll, losses.tokens * math.log(VOCABULARY), rtol=1e-6)


def test_the_number_of_cut_characters_is_carried_along() -> None:
    rows = Renderer(tiny_tokenizer(), 90).encode("Do.", "S.", [Example("x" * 200, "yes"), Example("x", "yes")])
    assert Scorer(tiny_model())(rows).cut.tolist() == [rows[0].cut, 0] and rows[0].cut > 0


def test_progress_is_told_every_row_once() -> None:
    for scorer in (Scorer(model_of("llama"), 150), Scorer(model_of("mistral, short window"), 150)):
        for _ in range(2):
            told: list[int] = []
            scorer(examples(), told.append)
            assert sum(told) == len(examples()) and len(told) > 1


class Watch:
    """Records the shapes that go into the embedding and come out of the vocabulary layer."""

    def __init__(self, model: Any) -> None:
        self.inputs: list[torch.Size] = []
        self.logits: list[int] = []
        self._hooks = [
            model.get_input_embeddings().register_forward_hook(lambda m, args, out: self.inputs.append(args[0].shape)),
            model.get_output_embeddings().register_forward_hook(lambda m, args, out: self.logits.append(out.numel())),
        ]

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()


@every_model
def test_vocabulary_logits_exist_at_supervised_positions_only(name: str) -> None:
    model = model_of(name)
    supervised = sum(e.supervised for e in examples())
    with Watch(model) as watch:
        Scorer(model).plain(examples())
    assert sum(watch.logits) == supervised * VOCABULARY
    scorer = Scorer(model)
    scorer(examples())
    with Watch(model) as watch:
        scorer(examples())
    # The shared beginning is one more position, whose logits nobody needs.
    assert sum(watch.logits) == (supervised + (name in SHARING)) * VOCABULARY


def test_the_shared_beginning_goes_through_the_model_once() -> None:
    model = tiny_model()
    scorer = Scorer(model, 150)
    scorer(examples())
    with Watch(model) as watch:
        scorer(examples())
    first = {e.ids for e in examples()}
    shared = next(n for n in range(500) if len({ids[: n + 1] for ids in first}) > 1)
    assert watch.inputs[0] == (1, shared)
    width = max(len(e.ids) for e in examples()) - shared
    assert len(watch.inputs) > 2 and all(length <= width for _, length in watch.inputs[1:])


@pytest.mark.parametrize("batch_tokens", [1, 100, 200, 400])
def test_no_batch_of_several_rows_exceeds_batch_tokens(batch_tokens: int) -> None:
    model = tiny_model()
    with Watch(model) as watch:
        Scorer(model, batch_tokens).plain(examples())
    assert sum(rows for rows, _ in watch.inputs) == len(examples())
    assert all(rows == 1 or rows * length <= batch_tokens for rows, length in watch.inputs)
    assert max(rows for rows, _ in watch.inputs) > 1 or batch_tokens < 200


def test_logits_held_at_once_stay_below_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    bound = 40 * VOCABULARY
    monkeypatch.setattr("sapo.score.LOGITS", bound)
    model = tiny_model()
    with Watch(model) as watch:
        losses = Scorer(model, 1 << 20).plain(examples())
    assert len(watch.logits) > 1 and max(watch.logits) <= bound
    assert close(losses.nll, by_hand(model, examples()))


def lora_model(names: tuple[str, ...] = ("default",)) -> Any:
    """The tiny model with random adapters of different strength; dropout would show if it were active."""
    base = tiny_model()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for n, name in enumerate(names):
            config = LoraConfig(
                r=2 + n, lora_alpha=8, lora_dropout=0.5, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"
            )
            if n == 0:
                model = get_peft_model(base, config, adapter_name=name)
            else:
                model.add_adapter(name, config)
        for key, parameter in model.named_parameters():
            if "lora_B" in key:
                torch.nn.init.normal_(parameter, std=0.3)
    return model


def two_adapters() -> Any:
    """An older adapter, frozen and active, and a trainable one on top."""
    model = lora_model(("past", "new"))
    model.base_model.set_adapter(["past", "new"], inference_mode=True)
    model.set_requires_grad("new", True)
    return model


def snapshot(model: Any) -> dict[str, Any]:
    """Everything about a model and the process that scoring could disturb."""
    seen = {
        "weights": {name: value.clone() for name, value in model.state_dict().items()},
        "requires_grad": {name: p.requires_grad for name, p in model.named_parameters()},
        "gradients": {name for name, p in model.named_parameters() if p.grad is not None},
        "modes": {name: module.training for name, module in model.named_modules()},
        "config": model.config.to_dict(),
        "generation": model.generation_config.to_dict(),
        "torch": torch.get_rng_state(),
        "numpy": repr(np.random.get_state()),
        "python": random.getstate(),
        "gradient mode": torch.is_grad_enabled(),
        "hooks": sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()),
    }
    if hasattr(model, "active_adapters"):
        seen["adapters"] = repr(getattr(model, "active_adapter", None)) + repr(
            sorted(getattr(model, "peft_config", ()))
        )
    return seen


def same(before: dict[str, Any], after: dict[str, Any]) -> bool:
    weights = [torch.equal(before["weights"][name], value) for name, value in after["weights"].items()]
    rest = set(before) - {"weights", "torch"}
    return (
        before["weights"].keys() == after["weights"].keys()
        and all(weights)
        and torch.equal(before["torch"], after["torch"])
        and all(before[key] == after[key] for key in rest)
    )


@pytest.mark.parametrize(
    "make", [tiny_model, lora_model, two_adapters, lambda: model_of("mistral, short window")],
    ids=["base", "lora", "two adapters", "window"],
)  # fmt: skip
@pytest.mark.parametrize("mode", ["eval", "train", "mixed"])
def test_scoring_leaves_no_trace(make: Callable[[], Any], mode: str) -> None:
    model = make()
    model.train(mode != "eval")
    if mode == "mixed":
        for module in list(model.modules())[::3]:
            module.training = False
    # A frozen base weight beside trainable ones, so that both values must be kept.
    model.get_input_embeddings().weight.requires_grad_(False)
    before = snapshot(model)
    scorer = Scorer(model, 150)
    scorer(examples())
    scorer(examples()[:2])
    scorer.plain(examples())
    assert same(before, snapshot(model))
    model.eval()


def test_modes_are_restored_when_scoring_fails() -> None:
    model = tiny_model().train()
    list(model.modules())[5].training = False
    before = snapshot(model)
    with untouched(model):
        assert not any(m.training for m in model.modules()) and not torch.is_grad_enabled()
    assert same(before, snapshot(model))
    with pytest.raises(IndexError):
        Scorer(model)([Encoded((1, VOCABULARY + 7, 3), 2)])
    assert same(before, snapshot(model))


def test_a_model_in_training_mode_is_scored_without_its_dropout() -> None:
    model = lora_model().train()
    losses = Scorer(model)(examples())
    again = Scorer(model)(examples())
    assert np.array_equal(losses.nll, again.nll)
    assert close(losses.nll, by_hand(model.eval(), examples()))


def merged(model: Any, names: tuple[str, ...]) -> Any:
    """A plain model whose weights are W + sum_j (alpha_j / r_j) B_j A_j, added up here."""
    plain = tiny_model()
    layers = dict(plain.named_modules())
    with torch.no_grad():
        for path, layer in model.base_model.model.named_modules():
            if hasattr(layer, "lora_A"):
                for name in names:
                    a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
                    layers[path].weight += 8 / a.shape[0] * b @ a
    return plain


def test_two_active_adapters_one_of_them_frozen_both_count() -> None:
    model = two_adapters()
    losses = Scorer(model)(examples())
    assert close(losses.nll, by_hand(model.eval(), examples()))
    together = by_hand(merged(model, ("past", "new")), examples())
    assert np.allclose(losses.nll, together, atol=1e-4)
    # The premise: each adapter alone would give other losses.
    for name in ("past", "new"):
        assert abs(by_hand(merged(model, (name,)), examples()) - together).max() > 0.1


def test_half_precision_reports_how_far_the_batch_layout_alone_moves_a_loss() -> None:
    exact = Scorer(tiny_model())
    assert exact.layout_noise(examples(), exact(examples())) == 0
    model = tiny_model().to(torch.bfloat16)
    scorer = Scorer(model)
    losses = scorer(examples())
    other = Scorer(model, 256).plain(examples())
    assert scorer.layout_noise(examples(), losses) == abs(losses.per_token - other.per_token)
    assert abs(losses.per_token - exact(examples()).per_token) < 0.1


def test_padding_and_supervised_positions_are_those_worked_out_by_hand() -> None:
    ids, labels = pad([(5, 6, 7, 8), (9, 4)], [2, 1])
    assert ids.tolist() == [[5, 6, 7, 8], [9, 4, 0, 0]]
    assert labels.tolist() == [[-100, -100, 7, 8], [-100, 4, -100, -100]]
    keep, targets = supervised_positions(labels)
    assert keep.tolist() == [[False, True, True, False], [True, False, False, False]]
    assert targets.tolist() == [7, 8, 4]
