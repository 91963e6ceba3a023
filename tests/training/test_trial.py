"""Choose by consequence: a trial against a plain training loop, what it leaves alone, and what it chooses."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from adapted import adapted, snapshot
from assignments import token_mean
from small_runs import Told
from torch import nn

import sapo
from sapo.core.errors import DataError, ModelError, TrainError
from sapo.core.progress import Work
from sapo.core.types import Encoded, Example, Losses, Task
from sapo.integrations.testing import tiny_model, tiny_tokenizer, toy_task
from sapo.models.ability import general_rows
from sapo.models.losses import Scorer
from sapo.models.render import Renderer
from sapo.report.selections import effort
from sapo.selection.selection import Selection, Trial
from sapo.selection.settings import TrialSettings
from sapo.tasks.inplace import Rows
from sapo.tasks.sampling import selection_rows
from sapo.training.finetune import finetune
from sapo.training.settings import TrainSettings
from sapo.training.trial import differences, extent

SEED = 42
TEXTS = (
    "Are there many words? If so yes, if not no.",
    "yes for a long text, no for a short one.",
    "Many? yes. Few? no.",
)
TRAIN: Mapping[str, Any] = {"learning_rate": 1e-2, "batch_size": 4, "micro_batch_size": 2, "weight_decay": 0.1}
TRIAL: Mapping[str, Any] = {"updates": 2, "leading": 4, "rows": 4}
TASK = toy_task(rows=8)
OTHER = replace(toy_task("other", rows=9), instruction="Another instruction.")


def trainable_model() -> Any:
    """The tiny model in training mode with an adapter that is trained, and gradients of somebody else's."""
    model = adapted(tiny_model()).train()
    for name, parameter in model.named_parameters():
        parameter.requires_grad = ".lora_" in name
        parameter.grad = torch.ones_like(parameter) if ".lora_" in name else None
    return model


def choose(model: Any, task: Any = TASK, texts: Sequence[str] = TEXTS, **changes: Any) -> Selection:
    settings: dict[str, Any] = {"trial": TRIAL, "train": TRAIN, "seed": SEED, **changes}
    return sapo.select(model, tiny_tokenizer(), task, texts, rule="trial", **settings)


@pytest.fixture(scope="module")
def tried() -> Selection:
    return choose(trainable_model(), watch=[OTHER])


def trial_of(selection: Selection) -> Trial:
    assert selection.trial is not None
    return selection.trial


def encoded(task: Task, text: str, rows: Sequence[Example]) -> list[Encoded]:
    return Renderer(tiny_tokenizer(), 512).encode(text, task.suffix, rows)


# What is measured.


@pytest.mark.parametrize("updates", [1, 4])
def test_a_plain_pytorch_loop_ends_with_the_same_losses_on_every_task(updates: int) -> None:
    task = toy_task(rows=12)
    selection = choose(trainable_model(), task, TEXTS[:1], watch=[OTHER], trial={**TRIAL, "updates": updates})
    orders = [torch.randperm(12, generator=torch.Generator().manual_seed(SEED + epoch)).tolist() for epoch in (0, 1)]
    batches = [order[start : start + 4] for order in orders for start in range(0, 12, 4)][:updates]
    # One update leaves 8 rows that come later; after four, all rows have been seen.
    later = [row for i, row in enumerate(task.train) if updates > 1 or i not in batches[0]]
    measured = [later[i] for i in selection_rows(replace(task, train=tuple(later)), 4, "stratified", SEED + 1)]
    stored = [OTHER.train[i] for i in selection_rows(OTHER, 4, "stratified", SEED)]
    trial = trial_of(selection)
    for one in trial.tried:
        text = selection.candidates[one.candidate].instruction.text
        model = trainable_model()
        parameters = [p for p in model.parameters() if p.requires_grad]
        optimiser = torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.1)
        for batch in batches:
            optimiser.zero_grad()
            token_mean(model, encoded(task, text, [task.train[i] for i in batch])).backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
        with torch.no_grad():
            own = float(token_mean(model, encoded(task, text, measured)))
            others = float(token_mean(model, encoded(OTHER, OTHER.instruction, stored)))
        assert one.losses == pytest.approx({"toy": own, "watch 1: other": others}, rel=1e-4)
    assert trial.updates == updates and len(trial.tried) == 2


def test_it_is_the_beginning_of_the_training_with_the_same_rows_in_the_same_order() -> None:
    # With weights that hardly change, losses tell the rows of each update.
    settings = TrainSettings(**{**TRAIN, "learning_rate": 1e-9, "weight_decay": 0.0, "warmup": 0.5, "epochs": 2})
    rows = encoded(toy_task(rows=12), TEXTS[0], toy_task(rows=12).train)
    whole = finetune(trainable_model(), rows, settings, SEED)
    begun = finetune(trainable_model(), rows, settings, SEED, first=4)
    assert begun.losses == pytest.approx(whole.losses[:4], rel=1e-5) and len(set(begun.losses)) == 4
    assert set(begun.rates) == {1e-9} and len(set(whole.rates)) > 3


def test_without_other_tasks_general_text_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sapo.models.ability.general_texts", lambda: {"one": "A crow found a loaf.", "two": "Ice is."})
    # An update of next to nothing: the loss on general text is what it was.
    train = {**TRAIN, "learning_rate": 1e-9, "weight_decay": 0.0}
    trial = trial_of(choose(trainable_model(), trial={**TRIAL, "updates": 1, "leading": 2}, train=train))
    general = Scorer(trainable_model())(general_rows(Renderer(tiny_tokenizer(), 512), 512)).per_token
    assert [list(one.losses) for one in trial.tried] == [["toy", "general text"]] * 2
    assert [one.losses["general text"] for one in trial.tried] == pytest.approx([general] * 2, rel=1e-5)


# What is left alone.


def test_the_model_and_all_random_states_are_as_before_to_the_bit() -> None:
    model = trainable_model()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    before = snapshot(model)
    selection = choose(model, watch=[OTHER])
    assert snapshot(model) == before and trial_of(selection).tokens > 0
    now = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert now.keys() == gradients.keys() and all(torch.equal(now[name], gradients[name]) for name in now)
    # And a second trial finds the same to the bit.
    assert trial_of(choose(model, watch=[OTHER])).tried == trial_of(selection).tried


@pytest.fixture
def no_accelerator() -> Iterator[None]:
    """Nothing is left of the accelerators of other tests, nor of this one's."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("no_accelerator")
def test_nor_does_a_trainer_of_the_users_notice_whose_precision_is_another_one(tried: Selection) -> None:
    """Accelerate keeps the precision for all trainers of a process, and leaves autocast around a prepared model."""
    accelerator = Accelerator(mixed_precision="bf16", cpu=True)
    model = accelerator.prepare_model(trainable_model())
    before, forward = snapshot(model), model.forward
    probe = torch.arange(40)[None]
    rounded = model(input_ids=probe).logits
    selection = choose(model, watch=[OTHER])
    # The trial and the losses are those of the weights as they are, and will be once they are saved and loaded.
    assert trial_of(selection).tried == trial_of(tried).tried
    assert [c.loss for c in selection.candidates] == [c.loss for c in tried.candidates]
    assert snapshot(model) == before and model.forward == forward
    assert accelerator.mixed_precision == "bf16" and torch.equal(model(input_ids=probe).logits, rounded)
    assert not torch.equal(trainable_model()(input_ids=probe).logits, rounded)


def test_also_where_a_trial_raises() -> None:
    model = trainable_model()
    before = snapshot(model)
    with pytest.raises(TrainError, match="diverged"):
        choose(model, train={**TRAIN, "learning_rate": 1.0, "max_grad_norm": 1e38, "weight_decay": 1e38})
    assert snapshot(model) == before


# What is chosen.


# On the tiny model, the second candidate has the lower loss; with the first one less of both tasks is left to learn.
QUICK, LOW = "A", "no no no no no"
SAYS_NO = replace(
    TASK, instruction="Many? yes. Few? no.", labels=(), train=tuple(Example(f"row {i}", "no") for i in range(24))
)


@pytest.fixture(scope="module")
def contested() -> Selection:
    trial, train = {"updates": 6, "leading": 3, "rows": 12}, {**TRAIN, "learning_rate": 1e-3}
    texts = [QUICK, LOW]
    return choose(trainable_model(), SAYS_NO, texts, strategy="exhaustive", trial=trial, train=train, watch=[OTHER])


def test_the_candidate_of_the_lowest_loss_loses_to_one_that_a_trial_finds_better(contested: Selection) -> None:
    by_loss = sapo.select(trainable_model(), tiny_tokenizer(), SAYS_NO, [QUICK, LOW], strategy="exhaustive")
    selection = contested
    assert by_loss.instruction.text == LOW
    assert selection.instruction.text == QUICK
    assert [c.losses for c in selection.candidates] == [c.losses for c in by_loss.candidates]
    assert [c.status for c in selection.candidates] == ["scored", "chosen", "scored"]
    found = {one.candidate: one for one in trial_of(selection).tried}
    assert list(found) == [0, 2, 1], "the original first, then by loss"
    assert found[1].interval is not None and found[1].interval[1] < 0
    means = {i: np.mean([*one.losses.values()]) for i, one in found.items()}
    assert [found[i].delta for i in (1, 2)] == pytest.approx([means[1] - means[0], means[2] - means[0]])


def test_the_original_stays_unless_an_interval_lies_below_zero() -> None:
    answers = tuple(Example(f"row {i} " + "so " * (i % 5), "no" * (1 + i % 3)) for i in range(24))
    task = replace(SAYS_NO, train=answers)
    # Of four rows that differ much.
    selection = choose(trainable_model(), task, [QUICK], watch=[OTHER], trial={"updates": 2, "rows": 2})
    better = trial_of(selection).tried[1]
    assert better.delta < 0 and better.interval is not None and better.interval[1] > 0
    assert selection.chosen == 0 and selection.candidates[0].status == "chosen"


@pytest.mark.parametrize("seed", range(3))
def test_differences_are_of_means_over_tasks_with_the_spread_within_tasks(seed: int) -> None:
    random = np.random.default_rng(seed)
    sizes = {"a": (40, 3), "b": (30, 20)}

    def losses(shift: Mapping[str, float]) -> dict[str, Losses]:
        return {
            name: Losses(tokens * (1 + shift[name]) + random.normal(size=n) * tokens / 3, tokens, np.zeros(n, int))
            for name, (n, most) in sizes.items()
            for tokens in [np.full(n, most)]
        }

    original, other = losses({"a": 0, "b": 0}), losses({"a": 3.0, "b": -2.0})
    deltas, intervals = differences([original, other], seed)
    per_row = {name: (other[name].nll - original[name].nll) / other[name].tokens for name in sizes}
    assert deltas == pytest.approx([0.0, np.mean([x.mean() for x in per_row.values()])])
    # The tasks move apart by five nats, which is no noise. By hand: two independent means, each counted half.
    error = 0.5 * np.sqrt(sum(x.var(ddof=1) / len(x) for x in per_row.values()))
    low, high = intervals[1] or (0.0, 0.0)
    assert intervals[0] is None and (high - low) / 2 == pytest.approx(1.99 * error, rel=0.15)


# How far it goes, and what is refused.


def test_a_budget_lets_fewer_candidates_be_tried_but_two_in_any_case() -> None:
    def of(budget: float | None, candidates: int = 20, rows: int = 100) -> tuple[int, int, Work]:
        # An update is 10 tokens and costs 30, measuring once 5, the training of 100 rows 3000.
        settings = TrialSettings(updates=8, leading=4, budget=budget)
        return extent(settings, TrainSettings(epochs=1, batch_size=1), rows, 10, candidates, 5)

    # Eight updates of each candidate, and a measurement.
    assert of(None) == of(0.327) == (4, 8, Work(32, 340, 980))
    assert of(0.326) == of(0.2451) == of(None, 3) == (3, 8, Work(24, 255, 735))
    assert of(0.244) == of(1e-6) == (2, 8, Work(16, 170, 490))
    # A training of five updates: no more than these are made and counted.
    assert of(None, rows=5) == (4, 5, Work(20, 220, 620))


def test_a_budget_that_lets_fewer_be_tried_is_told(tried: Selection) -> None:
    selection = choose(trainable_model(), watch=[OTHER], trial={**TRIAL, "budget": 1e-6})
    assert len(trial_of(selection).tried) == 2 < len(selection.candidates)
    assert any("selection.trial.budget 1e-06 lets 2 of 4 candidates be tried" in note for note in selection.notes)
    assert not any("budget" in note for note in tried.notes)


def test_the_cost_counts_a_trained_token_three_times() -> None:
    selection = choose(trainable_model(), texts=TEXTS[:1], watch=[OTHER])
    # Two updates of four see all eight rows, so any of them are measured.
    measured = [TASK.train[i] for i in selection_rows(TASK, 4, "stratified", SEED + 1)]
    stored = [OTHER.train[i] for i in selection_rows(OTHER, 4, "stratified", SEED)]
    texts = [c.instruction.text for c in selection.candidates]
    trained = sum(len(e.ids) for text in texts for e in encoded(TASK, text, TASK.train))
    own = encoded(TASK, TASK.instruction, measured)
    read = sum(len(e.ids) for e in own + encoded(OTHER, OTHER.instruction, stored))
    trial = trial_of(selection)
    assert trial.tokens == 3 * trained + 2 * read and trial.seconds > 0
    # A share of what training costs, ten epochs: of three candidates and a half, each for two updates, an epoch.
    budget = 3.5 * (3 * trained / 2 + read) / (10 * 3 * trained / 2)
    assert len(trial_of(choose(trainable_model(), watch=[OTHER], trial={**TRIAL, "budget": budget})).tried) == 3


def test_what_cannot_be_tried_is_refused() -> None:
    told = Told()
    with pytest.raises(ModelError, match="no parameter of the model requires a gradient"):
        choose(tiny_model().requires_grad_(False), progress=told)
    with pytest.raises(DataError, match="'other' has no training rows"):
        choose(trainable_model(), watch=[replace(OTHER, train=())], progress=told)
    assert told.steps == [], "before anything is scored"
    # A single row is trained on and measured.
    single = choose(trainable_model(), replace(TASK, train=TASK.train[:1]), TEXTS[:1], watch=[OTHER])
    assert len(trial_of(single).tried) == 2
    with pytest.raises(DataError, match="watch, trial and train are for rule trial, not for rule lowest"):
        sapo.select(tiny_model(), tiny_tokenizer(), TASK, TEXTS, watch=[OTHER])
    with pytest.raises(DataError, match="rule = 'tria'"):
        sapo.select(tiny_model(), tiny_tokenizer(), TASK, TEXTS, rule="tria", trial=TRIAL)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trial": {"updates": 0}}, r"trial.updates = 0"),
        (
            {"train": {"learning_rat": 0.1}},
            r"train.learning_rat: unknown key. Did you mean 'learning_rate'\? Allowed here: .*epochs",
        ),
        ({"train": {"batch_size": 3, "micro_batch_size": 2}}, r"^train: .*micro_batch_size"),
        ({"train": {"rows": 4}}, r"train.rows: a trial does not read it"),
        ({"trial": 3}, r"trial = 3: allowed is a mapping with some of updates, leading"),
        ({"watch": OTHER}, "allowed is a list of tasks"),
        ({"watch": [TASK]}, "the same rows would count twice"),
        ({"watch": [OTHER, OTHER]}, "the same rows would count twice"),
    ],
)
def test_settings_of_a_trial_that_cannot_be_used_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        choose(trainable_model(), **changes)


def test_several_processes_would_share_out_its_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(DataError, match="several processes would share out its updates: choose in one, before them"):
        choose(trainable_model())


def test_watched_tasks_have_the_layout_of_their_own_rows() -> None:
    rows = Rows([{"prompt": f"Good?\n{i} films", "completion": ("yes", "no")[i % 2]} for i in range(8)], "Good?")
    found = [
        choose(trainable_model(), data, ["Is it good?"], watch=[OTHER], trial={"updates": 1, "rows": 2}, **more)
        for data, more in (
            (rows.dataset, {"instruction": "Good?"}),
            (rows.task, {"renderer": rows.renderer(tiny_tokenizer())}),
        )
    ]
    assert trial_of(found[0]).tried == trial_of(found[1]).tried


def test_it_survives_its_file_and_is_printed(tried: Selection, contested: Selection) -> None:
    selection = contested
    assert Selection.from_json(json.loads(json.dumps(selection.to_json()))) == selection
    lines = [line for line in str(selection).splitlines() if not line.startswith("note: ")]
    start = lines.index("tried for 6 updates, loss afterwards; intervals cover rows, not trainings")
    heads = ["mean", "to original", "95 % interval", "toy", "watch 1: other", "candidate"]
    assert [head.strip() for head in lines[start + 1].split("  ") if head.strip()] == heads
    original, _, chosen = (line.split("  ") for line in lines[start + 2 :])
    assert original[-1] == SAYS_NO.instruction and "original" in original
    assert chosen[-1] == QUICK and "chosen" in chosen
    # What a race promises of its winner is not said of what a trial chose.
    raced = effort(tried)
    assert raced.endswith("the trial chose among these.") and "confidence" not in raced
