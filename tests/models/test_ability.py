"""General ability: losses against a plain forward pass, replies against a token-by-token loop, rules by example."""

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy

from sapo.core.errors import RenderError
from sapo.core.processes import Processes
from sapo.core.types import Encoded
from sapo.integrations.testing import tiny_model, tiny_tokenizer, toy_task
from sapo.models.ability import data
from sapo.models.ability.data import REPLY_TOKENS, ability_fingerprint, ability_units, checks, texts
from sapo.models.ability.measuring import Ability, ability_from_json, ability_to_json, encode_texts, measure_ability
from sapo.models.ability.rules import RULES, follows
from sapo.models.losses import Scorer
from sapo.models.render import Renderer

CONTEXT = 640


def measured(model: Any, max_length: int = CONTEXT, scorer: Scorer | None = None, **options: Any) -> Ability:
    # A limit that no check would fit: it must not matter.
    return measure_ability(model, Renderer(tiny_tokenizer(), 32), scorer or Scorer(model), max_length, **options)


def model_for_all() -> Any:
    return tiny_model(context=1024)


@pytest.fixture(scope="module")
def ability() -> Ability:
    return measured(model_for_all())


# Losses.


def by_hand(model: Any, text: str, most: int) -> tuple[float, int]:
    """Sum of cross-entropies in nats and number of predicted tokens of one raw text: whole logits, no batch."""
    ids = tiny_tokenizer()(text, return_tensors="pt").input_ids[:, :most]
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits
    return float(cross_entropy(logits[0, :-1].double(), ids[0, 1:], reduction="sum")), ids.shape[1] - 1


@pytest.mark.parametrize("most", [CONTEXT, 100], ids=["whole", "cut"])
def test_losses_are_those_of_every_raw_text_alone(most: int) -> None:
    model = model_for_all()
    expected = [by_hand(model, text, most) for text in texts().values()]
    encoded = encode_texts(Renderer(tiny_tokenizer(), 32), list(texts().values()), most)
    losses = Scorer(model)(encoded)
    assert losses.nll == pytest.approx([nll for nll, _ in expected], rel=1e-5)
    assert losses.tokens.tolist() == [tokens for _, tokens in expected]


def test_the_loss_is_the_sum_over_all_tokens_and_not_a_mean_of_means(ability: Ability) -> None:
    expected = [by_hand(model_for_all(), text, CONTEXT) for text in texts().values()]
    loss = sum(nll for nll, _ in expected) / sum(tokens for _, tokens in expected)
    assert ability.loss == pytest.approx(loss, rel=1e-5)
    assert ability.loss != pytest.approx(sum(nll / tokens for nll, tokens in expected) / len(expected), rel=1e-5)


def test_the_first_token_is_context_and_no_special_token_is_added() -> None:
    tokenizer = tiny_tokenizer()
    encoded = encode_texts(Renderer(tokenizer, 32), ["abc", "naïve 北京"], CONTEXT)
    assert encoded == [Encoded(tuple(tokenizer(text).input_ids), 1) for text in ("abc", "naïve 北京")]
    assert encoded[0].supervised == 2


def test_a_text_beyond_the_context_loses_its_end_and_says_how_much() -> None:
    tokenizer = tiny_tokenizer()
    cut, whole = encode_texts(Renderer(tokenizer, 32), ["abcdefgh", "abcde"], 5)
    assert cut == Encoded(tuple(tokenizer("abcde").input_ids), 1, cut=3)
    assert whole == replace(cut, cut=0)


@pytest.mark.parametrize("decided", [False, True])
def test_the_scorers_decision_about_routes_is_neither_made_nor_used(decided: bool, ability: Ability) -> None:
    model = model_for_all()
    scorer = Scorer(model)
    rows = Renderer(tiny_tokenizer(), 512).encode("Do it.", "", toy_task().train[:4])
    if decided:
        scorer(rows)
    found = measured(model, scorer=scorer)
    assert scorer.route == ("shared prefix" if decided else "undecided")
    assert found.losses.nll == pytest.approx(ability.losses.nll, rel=1e-6)
    scorer(rows)
    assert scorer.route == "shared prefix"


def test_the_scorer_of_another_state_serves_the_model_that_is_given(ability: Ability) -> None:
    found = measured(model_for_all(), scorer=Scorer(tiny_model(seed=1, context=1024)))
    assert found.losses.nll == pytest.approx(ability.losses.nll, rel=1e-6)


# Replies.


def test_replies_are_the_greedy_ones_to_each_check_alone(ability: Ability) -> None:
    model, tokenizer = model_for_all(), tiny_tokenizer()
    for check, reply in list(zip(checks(), ability.replies, strict=True))[::6]:
        turn = f"{check.instruction}\n\nText:\n{check.text}\n\n{check.suffix}"
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": turn}], tokenize=False, add_generation_prompt=True
        )
        ids = tokenizer(prompt).input_ids
        start = len(ids)
        with torch.no_grad():
            while len(ids) < start + REPLY_TOKENS:
                token = int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
                if token == tokenizer.eos_token_id:
                    break
                ids.append(token)
        assert reply == tokenizer.decode(ids[start:], skip_special_tokens=True).strip()
    assert len(set(ability.replies)) > 1, "all alike would prove little"


def test_each_reply_is_judged_by_its_own_check(ability: Ability) -> None:
    assert ability.passed == tuple(c.passes(reply) for c, reply in zip(checks(), ability.replies, strict=True))
    assert ability.share == pytest.approx(100 * sum(ability.passed) / len(checks()))


def test_the_share_is_in_percent(ability: Ability) -> None:
    assert replace(ability, passed=(True, False, False, False)).share == 25.0
    assert replace(ability, passed=(True,)).share == 100.0


def test_a_context_too_short_for_the_checks_is_an_error_that_says_so() -> None:
    with pytest.raises(RenderError, match=r"^the checks of general ability need a longer context than 100: .*instruct"):
        measured(model_for_all(), 100)


# As a whole.


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("adapter", [True, False], ids=["peft", "plain"])
def test_model_and_random_state_are_left_as_they_were(training: bool, adapter: bool) -> None:
    model = model_for_all()
    if adapter:
        config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", lora_dropout=0.5)
        model = get_peft_model(model, config)
    model.train(training)
    modes = [module.training for module in model.modules()]
    flags = [parameter.requires_grad for parameter in model.parameters()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    renderer = Renderer(tiny_tokenizer(), 32)
    torch.manual_seed(7)
    noise = torch.rand(3)
    torch.manual_seed(7)
    measure_ability(model, renderer, Scorer(model), CONTEXT)
    assert torch.equal(torch.rand(3), noise)
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert renderer.max_length == 32


def test_progress_adds_up_to_the_units_that_were_announced() -> None:
    told: list[int] = []
    measured(model_for_all(), advance=told.append)
    assert sum(told) == ability_units() == len(texts()) + len(checks())
    assert len(told) > 2


def test_two_processes_find_what_one_finds(ability: Ability) -> None:
    barrier, given = Barrier(2), [None, None]

    class Paired(Processes):
        def gather(self, value: Any) -> list[Any]:
            given[self.rank] = value
            barrier.wait()
            values = list(given)
            barrier.wait()
            return values

    models = [model_for_all(), model_for_all()]
    told: list[list[int]] = [[], []]

    def act(rank: int) -> Ability:
        processes = Paired(rank, 2)
        scorer = Scorer(models[rank], processes=processes)
        return measured(models[rank], scorer=scorer, advance=told[rank].append, processes=processes)

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(act, (0, 1)))
    for one in found:
        assert (one.replies, one.passed) == (ability.replies, ability.passed)
        assert one.losses.nll == pytest.approx(ability.losses.nll, rel=1e-6)
    assert [sum(parts) for parts in told] == [ability_units()] * 2


def test_json_gives_back_what_it_was_given(ability: Ability) -> None:
    value = json.loads(json.dumps(ability_to_json(ability), allow_nan=False))
    back = ability_from_json(value)
    assert (back.replies, back.passed) == (ability.replies, ability.passed)
    for name in ("nll", "tokens", "cut"):
        assert getattr(back.losses, name).tolist() == getattr(ability.losses, name).tolist()
        assert getattr(back.losses, name).dtype == getattr(ability.losses, name).dtype
    assert (value["loss"], value["share"]) == (back.loss, back.share) == (ability.loss, ability.share)


# The data.


def test_passages_are_many_different_and_of_even_length() -> None:
    passages = list(texts().values())
    assert len(passages) >= 24
    assert len({" ".join(p.casefold().split()) for p in passages}) == len(passages)
    assert all(40 <= len(p.split()) <= 140 for p in passages)
    sentences = [s.strip() for p in passages for s in p.replace("\n", ". ").split(". ") if len(s.split()) > 4]
    assert len(set(sentences)) == len(sentences), "no sentence stands in two passages"
    assert all(p == p.strip() and p.isprintable() == ("\n" not in p) for p in passages)


def test_the_code_in_the_passages_is_right() -> None:
    _, _, rest = texts()["code"].partition("\n\n")
    code, _, _ = rest.partition("\n\n")
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["count_words"]("the cat and the dog") == {"the": 2, "cat": 1, "and": 1, "dog": 1}


def test_checks_are_many_different_and_their_rules_known() -> None:
    assert len(checks()) >= 24
    assert len({(c.instruction, c.text) for c in checks()}) == len(checks())
    assert {name for c in checks() for name in c.rules} == set(RULES)
    for kind in (
        {"bullets", "items", "lower_case", "upper_case", "number", "one_of", "json_keys", "quoted"},
        {"most_words", "least_words", "sentences"},
        {"contains", "forbids", "without", "starts_with", "ends_with"},
    ):
        assert sum(bool(kind & c.rules.keys()) for c in checks()) >= 3


def test_words_in_rules_are_as_they_are_compared() -> None:
    for check in checks():
        for name in {"contains", "forbids", "one_of", "starts_with", "ends_with", "without"} & check.rules.keys():
            value = check.rules[name]
            assert all(word == word.casefold() for word in ([value] if isinstance(value, str) else value))


@pytest.mark.parametrize("reply", ["", " \n\t", "\u200b", "...", "- \n- \n- ", '""', "___"])
def test_no_check_passes_where_nothing_is_said(reply: str) -> None:
    assert not any(check.passes(reply) for check in checks())
    assert not any(follows(reply, {name: value}) for check in checks() for name, value in check.rules.items())


def test_no_check_passes_by_repeating_its_text() -> None:
    assert not any(check.passes(check.text) for check in checks())


@pytest.mark.parametrize("reply", ["negative", "Yes", "7", "I", "apple, pear"])
def test_a_model_that_only_says_one_label_passes_few_checks(reply: str) -> None:
    assert sum(check.passes(reply) for check in checks()) <= 3


def test_every_check_can_be_passed() -> None:
    replies = (
        "- a bottle of water\n- two apples\n- a warm jacket",
        "- Leave the phone in another room.\n- Read a book.",
        "the train to the lake leaves at noon.",
        "PLEASE KEEP THE DOOR CLOSED",
        "9",
        "1932",
        "Yes",
        "yes",
        '{"name": "wooden chair", "price": 40}',
        "blue, green, orange",
        '"Ring the bell twice."',
        "Rain after three dry weeks saved the young plants.",
        "The Clean River",
        "Sadness",
        "Riding a bicycle keeps children fit and awake, it costs almost nothing, it leaves the air clean, and the "
        "street in front of the school stays free of cars.",
        "The sand is still cool and smooth, and nobody has walked on it yet. Small waves come in one after the other, "
        "a few gulls look for food, and the sun rises slowly behind the hills.",
        "They want to keep warm.",
        "Inside lay a letter. He read it twice.",
        "Our garden was full of flowers this summer.",
        "A strong rope for every trip: buy it today!",
        "The snow is blue in the light of the stars, and not a sound comes from the village below.",
        "The water was freezing.",
        "Domino would be a good name, because it looks just like one.",
        "It is green and grows in every wood.",
        "What a patient teacher!",
        "Dear neighbour, I am sorry about the hole.",
        "Thank you for the lovely book. With best wishes",
    )
    assert [check.passes(reply) for check, reply in zip(checks(), replies, strict=True)] == [True] * len(checks())


def test_the_fingerprint_stands_for_texts_and_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    before = ability_fingerprint()
    assert before == ability_fingerprint()
    found = {before}
    first, *others = texts().items()
    for changed in (
        dict([(first[0], first[1] + "."), *others]),
        dict([*others, first]),
        dict(others),
    ):
        monkeypatch.setattr(data, "texts", lambda changed=changed: changed)
        found.add(ability_fingerprint())
    monkeypatch.undo()
    one, *rest = checks()
    for change in (replace(one, text="x"), replace(one, suffix="x"), replace(one, rules={"bullets": 4})):
        monkeypatch.setattr(data, "checks", lambda change=change: (change, *rest))
        found.add(ability_fingerprint())
    assert len(found) == 7


# Rules.

KEPT: list[tuple[dict[str, Any], str]] = [
    ({"most_words": 3}, "one two three"),
    ({"most_words": 3}, "  well-known - isn't it?  \n"),
    ({"most_words": 1}, "**Sad.**"),
    ({"most_words": 2}, "naïve 北京"),
    ({"least_words": 3}, "one two\nthree"),
    ({"least_words": 1}, "é"),
    ({"sentences": 1}, "Only one."),
    ({"sentences": 1}, "no full stop"),
    ({"sentences": 2}, "It costs 3.5 euros. Really?!"),
    ({"sentences": 2}, 'He said: "Stop!" And left'),
    ({"sentences": 2}, "Wait... What… \n"),
    ({"bullets": 2}, "- one\n- two"),
    ({"bullets": 2}, "Here they are:\n\n  - one\r\n- two - three\n"),
    ({"items": 3}, "fox, horse, goat."),
    ({"items": 1}, "ours"),
    ({"lower_case": True}, "all lower, 1 été straße!"),
    ({"upper_case": True}, "ALL UPPER, 1 ÉTÉ!"),
    ({"number": True}, "42"),
    ({"number": True}, " -3.5 \n"),
    ({"number": True}, "1932."),
    ({"number": True}, "0,5"),
    ({"one_of": ["yes", "no"]}, "Yes."),
    ({"one_of": ["yes", "no"]}, " NO!\n"),
    ({"one_of": ["yes", "no"]}, '"yes"'),
    ({"json_keys": ["a", "b"]}, '{"b": [1, {}], "a": null}'),
    ({"json_keys": ["a"]}, '```json\n{"a": "é"}\n```'),
    ({"json_keys": ["a"]}, '```\n{"a": 1}\n```'),
    ({"quoted": True}, '"All of it."'),
    ({"quoted": True}, "“It's all.” "),
    ({"contains": ["garden", "summer"]}, "In SUMMER, the garden's flowers."),
    ({"contains": ["café"]}, "a cafe\u0301"),
    ({"forbids": ["cold"]}, "It was colder, or scolded."),
    ({"without": ","}, "No such thing; none."),
    ({"without": "b"}, "None here."),
    ({"starts_with": "dear"}, '"Dear, dear'),
    ({"starts_with": "dear all"}, "dear ALL: hello"),
    ({"ends_with": "with best wishes"}, "Thanks.\n\nWith best\nwishes! \n"),
    ({"most_words": 3, "without": ","}, "both are kept"),
]
BROKEN: list[tuple[dict[str, Any], str]] = [
    ({"most_words": 3}, "one two three four"),
    ({"most_words": 3}, "... ?!"),
    ({"least_words": 3}, "one - two ..."),
    ({"sentences": 1}, "One. Two."),
    ({"sentences": 1}, "One. two"),
    ({"sentences": 1}, "... !"),
    ({"sentences": 2}, "Only one, e.g.this."),
    ({"bullets": 2}, "- one"),
    ({"bullets": 2}, "- one\n- two\n- three"),
    ({"bullets": 2}, "- one\n- \n-two"),
    ({"bullets": 2}, "* one\n* two"),
    ({"items": 3}, "fox, horse and goat"),
    ({"items": 3}, "fox, horse, "),
    ({"items": 3}, "fox, ., goat"),
    ({"items": 2}, "fox,\nhorse"),
    ({"lower_case": True}, "one Word"),
    ({"lower_case": True}, "été À"),
    ({"lower_case": True}, "123 北京"),
    ({"upper_case": True}, "ONE wORD"),
    ({"upper_case": True}, "STRAßE"),
    ({"upper_case": True}, "123"),
    ({"number": True}, "It is 42"),
    ({"number": True}, "4 2"),
    ({"number": True}, "nan"),
    ({"number": True}, "1_000"),
    ({"number": True}, "٤٢"),
    ({"number": True}, "4" * 10_000),
    ({"number": True}, "."),
    ({"one_of": ["yes", "no"]}, "Yes, it can."),
    ({"one_of": ["yes", "no"]}, "yes no"),
    ({"one_of": ["yes", "no"]}, "maybe"),
    ({"one_of": ["yes", "no"]}, "."),
    ({"json_keys": ["a"]}, '{"a": 1, "b": 2}'),
    ({"json_keys": ["a", "b"]}, '{"a": 1}'),
    ({"json_keys": ["a"]}, '["a"]'),
    ({"json_keys": ["a"]}, "{'a': 1}"),
    ({"json_keys": ["a"]}, '{"a": NaN}'),
    ({"json_keys": ["a"]}, 'Here: {"a": 1}'),
    ({"json_keys": ["a"]}, "```"),
    ({"json_keys": ["a"]}, '{"a": ' + "[" * 100_000),
    ({"json_keys": ["a"]}, '{"a": ' + "1" * 5_000 + "}"),
    ({"quoted": True}, 'He said "yes".'),
    ({"quoted": True}, '"One" and "two"'),
    ({"quoted": True}, '"'),
    ({"quoted": True}, '" "'),
    ({"quoted": True}, "'single'"),
    ({"contains": ["garden", "summer"]}, "The garden only."),
    ({"contains": ["garden"]}, "Two gardens."),
    ({"forbids": ["cold"]}, "So COLD!"),
    ({"forbids": ["cat", "fur"]}, "cat-like"),
    ({"without": ","}, "One, two"),
    ({"without": ","}, "full width，too"),
    ({"without": "b"}, "Big"),
    ({"starts_with": "dear"}, "My dear"),
    ({"starts_with": "dear"}, "Dearest"),
    ({"ends_with": "with best wishes"}, "With best wishes, me"),
    ({"ends_with": "with best wishes"}, "wishes"),
    ({"most_words": 3, "without": ","}, "one, two"),
    ({"most_words": 3, "without": ","}, "only one is kept"),
]


@pytest.mark.parametrize(("rules", "reply"), KEPT)
def test_a_reply_that_keeps_the_rules(rules: Mapping[str, Any], reply: str) -> None:
    assert follows(reply, rules)


@pytest.mark.parametrize(("rules", "reply"), BROKEN, ids=lambda value: str(value)[:40])
def test_a_reply_that_breaks_them(rules: Mapping[str, Any], reply: str) -> None:
    assert not follows(reply, rules)


def test_every_rule_is_kept_and_broken_above() -> None:
    for cases in (KEPT, BROKEN):
        assert {name for rules, _ in cases if len(rules) == 1 for name in rules} == set(RULES)


@pytest.mark.parametrize("unit", [".", '!"', "- ", ",", "a,", "1", "ﷺ", "{", "```", '"', "a\u0301", "\n", "\ud800"])
def test_no_reply_takes_long_or_fails(unit: str) -> None:
    for check in checks():
        check.passes(unit * 20_000)
