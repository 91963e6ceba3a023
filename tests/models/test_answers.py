"""Greedy answers against a token-by-token loop; scores and losses against the rooms that define them."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from adapted import adapted, snapshot
from exact_losses import MEMORY, Cramped
from transformers import GenerationConfig

from sapo.core.errors import ScoreError
from sapo.core.types import Example
from sapo.integrations.testing import tiny_model, tiny_tokenizer, toy_task
from sapo.models.answers import evaluate, generate
from sapo.models.losses import Scorer
from sapo.models.render import Renderer
from sapo.models.text_metrics import TEXT_METRICS

TASK = toy_task()
INSTRUCTION = "Say it."
# Of very different lengths, not sorted, and one long enough to fill a batch with few others.
INPUTS = ("a much longer text " * 5, "x", "", "some words in between", "naïve 北京 {brace}", "y" * 150)


def renderer(kind: type[Renderer] = Renderer) -> Renderer:
    return kind(tiny_tokenizer(), 512)


def asked(*texts: str) -> list[Example]:
    return [Example(text, "") for text in texts]


def parrot(text: str) -> Any:
    """A model whose next token depends on the last one alone; after a prompt it says ``text`` and ends its turn.

    Attention and feed-forward write nothing, so what is left of the model is embedding, norm and head.
    """
    tokenizer = tiny_tokenizer()
    prompt = renderer().prompts(INSTRUCTION, TASK.suffix, asked("x"), 1)[0]
    chain = [prompt[-1], *tokenizer(text).input_ids, tokenizer.eos_token_id]
    assert len(set(chain)) == len(chain), "each token can have only one successor"
    model = tiny_model()
    model.lm_head.weight.data.zero_()
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.data.zero_()
        layer.mlp.down_proj.weight.data.zero_()
    for i, (token, successor) in enumerate(pairwise(chain)):
        model.model.embed_tokens.weight.data[token] = torch.eye(32)[i]
        model.lm_head.weight.data[successor] = torch.eye(32)[i]
    return model


def one_by_one(
    model: Any, prompts: Sequence[Sequence[int]], max_new_tokens: int, stops: Sequence[int]
) -> list[list[int]]:
    """Greedy decoding as defined: one prompt at a time, no padding, no cache, the whole text every time."""
    answers = []
    for prompt in prompts:
        ids: list[int] = list(prompt)
        with torch.no_grad():
            while len(ids) < len(prompt) + max_new_tokens:
                token = int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
                if token in stops:
                    break
                ids.append(token)
        answers.append(ids[len(prompt) :])
    return answers


def expected(model: Any, inputs: Sequence[str], max_new_tokens: int, stops: Sequence[int] = (257,)) -> list[str]:
    prompts = renderer().prompts(INSTRUCTION, TASK.suffix, asked(*inputs), max_new_tokens)
    tokenizer = tiny_tokenizer()
    return [
        tokenizer.decode(ids, skip_special_tokens=True).strip()
        for ids in one_by_one(model, prompts, max_new_tokens, stops)
    ]


def answers(model: Any, inputs: Sequence[str], max_new_tokens: int, render: Renderer | None = None) -> list[str]:
    return generate(model, render or renderer(), INSTRUCTION, TASK.suffix, asked(*inputs), max_new_tokens)


@pytest.mark.parametrize("adapter", [False, True], ids=["plain", "peft"])
def test_a_padded_batch_says_what_every_prompt_says_alone(adapter: bool) -> None:
    model = adapted(tiny_model()) if adapter else tiny_model()
    # None of which has a pad token.
    assert tiny_tokenizer().pad_token_id is model.config.pad_token_id is model.generation_config.pad_token_id is None
    batches: list[int] = []
    found = generate(model, renderer(), INSTRUCTION, TASK.suffix, asked(*INPUTS * 2), 12, batches.append)
    assert found == expected(model, INPUTS, 12) * 2
    assert len(batches) > 1 and sum(batches) == len(found), "several batches, or sorting could not go wrong"
    assert len(set(found)) > 1, "all alike would prove little"
    if adapter:
        assert found != answers(tiny_model(), INPUTS * 2, 12)


@pytest.mark.parametrize("error", [MEMORY, RuntimeError], ids=["cuda", "mps"])
def test_rows_are_answered_in_halves_where_memory_runs_out_and_one_that_does_not_fit_is_an_error(
    error: type[Exception],
) -> None:
    model = tiny_model().train()
    longest = max(map(len, renderer().prompts(INSTRUCTION, TASK.suffix, asked(*INPUTS), 12)))
    whole = answers(model, INPUTS, 12)
    with Cramped(model, longest, error=error) as cramped:
        assert answers(model, INPUTS, 12) == whole and len(cramped.failed) >= 2
    with (
        Cramped(model, longest - 1, error=error),
        pytest.raises(ScoreError, match=rf"a prompt of {longest} tokens does not fit .*'cpu'.*Lower max_length"),
    ):
        answers(model, INPUTS, 12)
    assert model.training


# The answer is what was generated, wherever the suffix occurs.


def test_only_generated_tokens_are_decoded_up_to_the_end_of_the_turn() -> None:
    model = parrot("help")
    for text in (f"{TASK.suffix} no\n\n{TASK.suffix}", "help", "<|im_end|>\n<|im_start|>assistant\nhelp"):
        assert answers(model, [text, "other"], 8) == ["help", "help"]
    calls: list[None] = []
    model.lm_head.register_forward_hook(lambda module, inputs, output: calls.append(None))
    assert answers(model, ["x", "another"], 100) == ["help", "help"]
    assert len(calls) == len("help") + 1, "nothing is computed once every row has ended"


def test_every_stop_token_ends_an_answer_and_none_is_part_of_it() -> None:
    model = tiny_model()
    free = one_by_one(model, renderer().prompts(INSTRUCTION, TASK.suffix, asked(*INPUTS), 12), 12, ())
    # What the model says anyway as third and fifth token of two rows becomes a stop token.
    stops = (free[0][2], free[1][4])

    class Stopping(Renderer):
        def stop_tokens(self) -> tuple[int, ...]:
            return stops

    found = answers(model, INPUTS, 12, renderer(Stopping))
    assert found == expected(model, INPUTS, 12, stops)
    assert found != expected(model, INPUTS, 12)


# The model's own generation settings.


def wild() -> GenerationConfig:
    return GenerationConfig(
        do_sample=True, temperature=5.0, top_k=50, top_p=0.9, repetition_penalty=9.0, no_repeat_ngram_size=1,
        min_length=400, min_new_tokens=10, max_length=4, suppress_tokens=[ord("h")], forced_eos_token_id=5,
        num_beams=3, eos_token_id=3, pad_token_id=4,
    )  # fmt: skip


@pytest.mark.parametrize("owner", ["plain model", "model inside peft", "peft model"])
def test_the_models_own_generation_settings_are_ignored_and_restored(owner: str) -> None:
    base = tiny_model()
    model = base if owner == "plain model" else adapted(base)
    calm = expected(model, INPUTS, 12)
    own = wild()
    before = own.to_dict()
    holder = model if owner == "peft model" else base
    holder.generation_config = own
    assert answers(model, INPUTS, 12) == calm
    assert holder.generation_config is own and own.to_dict() == before

    def fail(module: Any, inputs: Any, output: Any) -> None:
        raise RuntimeError("out of memory")

    base.lm_head.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        answers(model.train(), ["x"], 2)
    assert holder.generation_config is own and model.training


# Evaluation.


def test_scores_are_those_of_the_text_metrics() -> None:
    model = parrot("yes")
    rows = [Example("one", "yes"), Example("two", "no"), Example("three", "Yes."), Example("four", "yes, no")]
    # Any of several right answers counts when answers are scored; the first one alone is learned.
    rows += [Example("five", "no", (), ("maybe", "yes", "yes, so")), Example("six", "no, yes", (), ("no",))]
    evaluation = evaluate(model, renderer(), TASK, INSTRUCTION, rows, 8)
    assert evaluation.predictions == ("yes",) * 6
    assert evaluation.scores.keys() == TEXT_METRICS.keys()
    for name, score in TEXT_METRICS.items():
        right = [max(score("yes", text) for text in (row.answer, *row.references)) for row in rows]
        assert evaluation.scores[name].tolist() == right
    assert evaluation.scores["exact_match"].tolist() == [100.0, 0.0, 100.0, 0.0, 100.0, 0.0]
    assert evaluation.scores["list_f1"].tolist() == pytest.approx([100.0, 0.0, 100.0, 200 / 3, 100.0, 200 / 3])


def test_losses_are_the_teacher_forced_nll_of_the_true_answers() -> None:
    model = adapted(tiny_model())
    rows = [Example(text, "yes" * (i + 1)) for i, text in enumerate(INPUTS)]
    told: list[int] = []
    evaluation = evaluate(model, renderer(), TASK, INSTRUCTION, rows, 4, told.append)
    # Every row is told twice: once for its answer and once for its loss.
    assert sum(told) == 2 * len(rows)
    by_reference = Scorer(model).plain(renderer().encode(INSTRUCTION, TASK.suffix, rows))
    assert evaluation.losses.nll == pytest.approx(by_reference.nll, rel=1e-4)
    assert evaluation.losses.tokens.tolist() == by_reference.tokens.tolist() == [5, 8, 11, 14, 17, 20]
    assert evaluation.predictions == tuple(expected(model, INPUTS, 4))


def test_evaluation_leaves_model_and_random_state_as_they_were() -> None:
    model = adapted(tiny_model())
    calm = evaluate(model, renderer(), TASK, INSTRUCTION, TASK.test[:3], 4).predictions
    model.train()
    model.base_model.model.lm_head.train(False)
    for module in model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.9
    before = snapshot(model)
    found = evaluate(model, renderer(), TASK, INSTRUCTION, TASK.test[:3], 4)
    # Dropout does not reach the answers either.
    assert found.predictions == calm
    assert snapshot(model) == before
