"""The source that writes paraphrases with a model of its own, on a tiny random one."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from adapted import process_state
from small_runs import save

from sapo.candidates import local
from sapo.candidates.local import Local, _Draws, _Writer
from sapo.core.errors import CandidateError
from sapo.integrations.testing import tiny_tokenizer, toy_task
from sapo.models import answers
from sapo.models.settings import ModelSettings

TASK = replace(toy_task(), instruction="Say yes or no.")


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ending(save(tmp_path_factory.mktemp("chat"), context=4096))


def ending(base: Path) -> Path:
    """The model with so many tokens that end a turn that what it writes ends soon."""
    config = base / "generation_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "eos_token_id": [257, *range(100, 116)]}))
    return base


def model_of(base: Path) -> ModelSettings:
    return ModelSettings(base=str(base), dtype="float32", device="cpu")


def source(base: Path, directory: Path, seed: int = 0, temperature: float = 1.0) -> Local:
    return Local(model_of(base), temperature, seed, directory)


def first(asked: Local, wanted: int = 3) -> list[str]:
    """The texts of the first round."""
    return list(next(asked.paraphrases(TASK, wanted)))


def test_the_same_settings_give_the_same_texts(chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = first(source(chat, tmp_path / "a"))
    assert len(set(texts)) == 3
    # In one batch or in several.
    monkeypatch.setattr(answers, "_BATCH_TOKENS", {"cpu": 1_000_000})
    assert first(source(chat, tmp_path / "b")) == texts
    assert first(source(chat, tmp_path / "c", seed=1)) != texts


def test_no_random_state_but_its_own_is_touched(chat: Path, tmp_path: Path) -> None:
    before = process_state()
    files = {path.name: path.read_bytes() for path in chat.iterdir()}
    first(source(chat, tmp_path))
    assert process_state() == before and {path.name: path.read_bytes() for path in chat.iterdir()} == files


def test_what_is_kept_needs_no_model(chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = source(chat, tmp_path / "replies")
    assert asked.cost(TASK, 2) == f"at most 6 texts written by model {str(chat)!r} on this machine"
    told: list[int] = []
    found = [list(texts) for texts in asked.paraphrases(TASK, 2, told.append)]
    assert len(found[0]) == 2 and sum(told) == 6
    monkeypatch.setattr(local, "load_model", lambda *args: pytest.fail("the model was loaded"))
    told.clear()
    assert [list(texts) for texts in source(chat, tmp_path / "replies").paraphrases(TASK, 2, told.append)] == found
    assert sum(told) == sum(map(len, found))
    assert source(chat, tmp_path / "replies").cost(TASK, 2) == ""
    assert source(chat, tmp_path / "replies").cost(TASK, 3).startswith("at most 3 texts")
    assert source(chat, tmp_path / "replies", temperature=0.5).cost(TASK, 2).startswith("at most 6 texts")


def test_other_weights_under_the_same_name_are_noticed(tmp_path: Path) -> None:
    base = ending(save(tmp_path / "model", context=4096))
    before = first(source(base, tmp_path / "replies"))
    shutil.rmtree(base)
    ending(save(base, seed=1, context=4096))
    assert first(source(base, tmp_path / "replies")) != before


def test_an_interrupted_run_goes_on_where_it_was(chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "_BATCH_TOKENS", {"cpu": 1})

    def interrupt(texts: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        next(source(chat, tmp_path / "a").paraphrases(TASK, 3, interrupt))
    told: list[int] = []
    texts = next(source(chat, tmp_path / "a").paraphrases(TASK, 3, told.append))
    assert told == [1, 1, 1]
    assert list(texts) == first(source(chat, tmp_path / "b"))


def test_a_request_that_does_not_fit_is_an_error_with_numbers(tmp_path: Path) -> None:
    base = save(tmp_path / "model", context=512)
    with pytest.raises(CandidateError, match=r"'toy'.* take \d+ tokens \(\d+ \+ 92\).* holds 512") as caught:
        first(source(base, tmp_path / "replies"))
    whole, prompt = map(int, re.findall(r"take (\d+) tokens \((\d+)", str(caught.value))[0])
    assert whole == prompt + 92 > 512


def test_a_model_without_a_chat_template_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CandidateError, match="has no chat template, so it cannot be asked for paraphrases: name one"):
        first(source(save(tmp_path / "model", chat_template=None), tmp_path))


def test_special_tokens_spelled_out_in_an_instruction_are_text(chat: Path) -> None:
    task, writer = replace(TASK, instruction="Say <|im_end|> yes or no."), _Writer(model_of(chat), 1.0)
    assert list(writer._prompt(task, 0, 0)).count(257) == list(writer._prompt(TASK, 0, 0)).count(257)


def test_a_reply_ends_with_its_turn(chat: Path) -> None:
    tokens = tiny_tokenizer()
    said = tokens(" One.\n\nTwo.").input_ids
    row = torch.tensor([[5, *said, tokens.eos_token_id, *said]])
    writer = _Writer(model_of(chat), 1.0)
    writer._model.generate, writer._stops = lambda **options: row, (tokens.eos_token_id,)
    assert writer._replies([[5]], _Draws([0], 1.0), len(said) + 1) == ["One.\n\nTwo."]
    assert writer._replies([[5]], _Draws([0], 1.0), len(said)) == [""], "cut off in its middle"


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_distribution_without_its_tail(temperature: float) -> None:
    probabilities = torch.tensor([0.5, 0.3, 0.17, 0.02, 0.01])
    rows = 4000
    scores = probabilities.log().repeat(rows, 1)
    draws = _Draws(list(range(rows)), temperature)
    counts = torch.bincount(draws(torch.zeros(rows, 1), scores).argmax(-1), minlength=5) / rows
    tempered = probabilities ** (1 / temperature)
    tempered /= tempered.sum()
    # Tokens in falling order, as long as those before them have less than 95 % together.
    nucleus = tempered * (tempered.cumsum(0) - tempered < 0.95)
    expected = nucleus / nucleus.sum()
    assert (counts[expected == 0] == 0).all()
    assert torch.allclose(counts, expected, atol=4 * 0.5 / rows**0.5)
