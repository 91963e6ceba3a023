"""TRL's real SFTTrainer trains on the tokens that are scored here, and its loss is the pre-update loss."""

import pickle
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from transformers import TrainerCallback

import sapo
from sapo.core.errors import CandidateError, DataError, RenderError, SapoError
from sapo.core.storage import read_json
from sapo.core.types import Encoded, Losses
from sapo.integrations import trl
from sapo.integrations.testing import CHAT_TEMPLATE, tiny_model, tiny_tokenizer, toy_task
from sapo.integrations.trainer import SapoCallback, describe, tokenized
from sapo.models.losses import Scorer
from sapo.models.render import Renderer
from sapo.tasks.layouts import exchange

sft = pytest.importorskip("trl", reason="TRL is not installed: pip install trl")

# As many models' templates: no newline behind the end of turn; a reasoning block; nothing between the turns.
NO_NEWLINE = CHAT_TEMPLATE.replace("<|im_end|>\n{% endfor %}", "<|im_end|>{% endfor %}")
_QUIET = "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
THINKS = CHAT_TEMPLATE.replace("assistant\n{% endif %}", f"assistant\n{_QUIET}{{% endif %}}").replace(
    "<|im_start|>{{ message['role'] }}\n",
    "<|im_start|>{{ message['role'] }}\n{% if message['role'] == 'assistant' %}" + _QUIET + "{% endif %}",
)
TEMPLATES = {"chatml": CHAT_TEMPLATE, "no newline": NO_NEWLINE, "reasoning": THINKS, "none": None}
ALPACA = {"instruction": "I.", "input": "x", "output": "y"}
PARAPHRASES = ["Does this text have many words, or few?", "Many words or few? Answer yes for many, no for few."]


def trainer(
    model: Any, tokenizer: Any, dataset: Any, directory: Path, lora: Any = None, tested: Any = None, **settings: Any
) -> Any:
    arguments = sft.SFTConfig(
        output_dir=str(directory), report_to="none", bf16=False, gradient_checkpointing=False, use_cpu=True,
        logging_steps=1, disable_tqdm=True, lr_scheduler_type="constant", save_strategy=settings.pop("saved", "no"),
        **{"per_device_train_batch_size": 4, "num_train_epochs": 1, "learning_rate": 0.0, **settings},
    )  # fmt: skip
    return sft.SFTTrainer(
        model=model, processing_class=tokenizer, train_dataset=dataset, args=arguments, peft_config=lora,
        eval_dataset=tested,
    )  # fmt: skip


def tokens(dataset: Any) -> list[tuple[list[int], list[int]]]:
    """Ids and supervised ids of every row that SFTTrainer made."""
    return [(list(row["input_ids"]), [label for label in row["labels"] if label != -100]) for row in dataset]


def expected(encoded: list[Encoded]) -> list[tuple[list[int], list[int]]]:
    return [(list(e.ids), list(e.ids[e.prompt_length :])) for e in encoded]


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES.keys())
def test_sft_trainer_supervises_the_tokens_that_are_scored(template: str | None, tmp_path: Path) -> None:
    tokenizer, task = tiny_tokenizer(chat_template=template), toy_task(rows=8)
    made = trainer(tiny_model(), tokenizer, trl.dataset(task, PARAPHRASES[0], tokenizer), tmp_path).train_dataset
    own = Renderer(tokenizer, 512).encode(PARAPHRASES[0], task.suffix, task.train)
    as_sft = trl.SftRenderer(tokenizer).encode(PARAPHRASES[0], task.suffix, task.train)
    assert tokens(made) == expected(own) == expected(as_sft)


ANSWERS = ("yes", "no")
LAYOUTS: dict[str, Any] = {
    "system": lambda s, i: {"prompt": [{"role": "system", "content": s}, {"role": "user", "content": f"row {i}"}],
                            "completion": [{"role": "assistant", "content": ANSWERS[i % 2]}]},
    "user": lambda s, i: {"prompt": [{"role": "user", "content": f"{s}\n\nrow {i}"}],
                          "completion": [{"role": "assistant", "content": ANSWERS[i % 2]}]},
    "text": lambda s, i: {"prompt": f"{s}\nrow {i}\nanswer:", "completion": f" {ANSWERS[i % 2]}"},
    "turns": lambda s, i: {"prompt": [{"role": "user", "content": f"{s} row {i}"},
                                      {"role": "assistant", "content": "?"}, {"role": "user", "content": "Go on."}],
                           "completion": [{"role": "assistant", "content": ANSWERS[i % 2]}]},
}  # fmt: skip
ORIGINAL = "Say yes or no."


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_rows_of_ones_own_are_scored_as_sft_trainer_trains_on_them(layout: Any, tmp_path: Path) -> None:
    model, tokenizer = tiny_model(seed=2), tiny_tokenizer()
    rows = trl.Rows(Dataset.from_list([layout(ORIGINAL, i) for i in range(4)]), ORIGINAL)
    renderer = rows.renderer(tokenizer)
    selection = sapo.select(
        model, tokenizer, rows.task, ["Answer with yes or no.", "Yes or no?"], strategy="exhaustive", renderer=renderer
    )
    for text in (ORIGINAL, "Yes or no?"):
        for worded in (exchange(rows.dataset, ORIGINAL, text), rows.completions(text)):
            made = trainer(model, tokenizer, worded, tmp_path).train_dataset
            assert tokens(made) == expected(renderer.encode(text, "", rows.task.train))
    made = trainer(model, tokenizer, selection.apply(rows.dataset), tmp_path)
    made.train()
    (logged,) = [entry["loss"] for entry in made.state.log_history if "loss" in entry]
    assert logged == pytest.approx(selection.candidates[selection.chosen].loss, abs=1e-4)


@pytest.mark.parametrize(
    ("rows", "instruction", "message"),
    [
        ([], None, "no rows"),
        ([{"a": "b"}], None, "no known layout"),
        ([{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}], None, "in common"),
        ([LAYOUTS["system"]("One.", 1), LAYOUTS["system"]("Two.", 2)], None, "in common"),
        ([LAYOUTS["system"]("One.", 1), LAYOUTS["system"]("Two.", 2)], "One.", "row 2 does not hold the instruction"),
        ([LAYOUTS["system"]("One.", 1)], " ", "instruction = ' ': pass the text"),
        ([{"instruction": "I.", "input": "", "output": "y", "text": "I. y"}], None, r"text; instruction, output"),
        ([{**LAYOUTS["system"]("One.", 1), "tools": "[]"}], None, "column 'tools' is tools"),
        ([{**ALPACA, "chat_template_kwargs": {"a": 1}}], None, "column 'chat_template_kwargs' is not scored"),
        ([ALPACA, LAYOUTS["system"]("I.", 1)], None, "several layouts at once"),
        (
            [{"messages": [{"role": "system", "content": "S."}, {"role": "user", "content": "x"}]}],
            None,
            "end with an assistant",
        ),
        ([{**ALPACA, "history": [["a", "b"]]}], None, "column 'history' is earlier turns"),
        (
            [{"messages": ["x"]}],
            None,
            r"no row can be used, .*\(1 rows\) because 'messages' is list: allowed is a list of",
        ),
        ([{"prompt": "I. x", "completion": ""}], "I.", "the answer is empty"),
        ([{"text": "x I."}], "I.", "row 1: nothing follows the instruction"),
        (["train", "test"], None, "row 1: 'train' instead of columns: give one split"),
    ],
)
def test_rows_without_an_instruction_to_exchange_are_refused(rows: Any, instruction: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        trl.Rows(rows, instruction)


def test_the_system_message_of_an_alpaca_row_stays() -> None:
    rows = trl.Rows([{**ALPACA, "system": "Be brief."}], name="mine")
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "New.\nx"}]
    assert rows.completions("New.")[0]["prompt"] == asked and rows.task.name == "mine"


def test_held_out_rows_are_read_as_the_others() -> None:
    assert len(trl.Rows([ALPACA], held_out=[ALPACA, ALPACA]).task.dev) == 2
    with pytest.raises(DataError, match="dev row 2 does not hold the instruction"):
        trl.Rows([ALPACA], held_out=[ALPACA, {**ALPACA, "instruction": "Other."}])


def test_a_row_that_sft_trainer_would_cut_is_refused_before_any_is_scored() -> None:
    task, tokenizer = toy_task(rows=64), tiny_tokenizer()
    task = replace(task, suffix="", train=(*task.train, sapo.Example("word " * 40, "yes")), dev=(), test=())
    # One row is sampled; whichever it is, the longest one is refused.
    with pytest.raises(RenderError, match=r"has \d+ tokens, .* max_length is 200"):
        sapo.select(tiny_model(), tokenizer, task, PARAPHRASES, 1, renderer=trl.SftRenderer(tokenizer, 200))


def test_rows_with_their_own_instruction_are_limited_as_sft_trainer_limits_them() -> None:
    rows = [{"prompt": "Answer.\n" + "word " * words, "completion": "yes"} for words in (5, 10, 210)]
    given = (tiny_model(), tiny_tokenizer(), rows, ["Answer yes."])
    with pytest.raises(RenderError, match="max_length is 1024: SFTTrainer would cut it"):
        sapo.score(*given, instruction="Answer.")
    assert len(sapo.score(*given, instruction="Answer.", max_length=1_000_000)[0].nll) == 3


def trained_texts(made: Any) -> list[tuple[str, str]]:
    """What every batch of a trainer holds, by spying on its collator."""
    tokenizer = tiny_tokenizer()
    seen: list[tuple[str, str]] = []
    collate = made.data_collator

    def spy(features: Any) -> Any:
        batch = collate(features)
        for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
            length = int((labels != -100).nonzero().max()) + 1
            seen.append((tokenizer.decode(ids[:length]), tokenizer.decode(labels[labels != -100])))
        return batch

    made.data_collator = spy
    return seen


def test_the_callback_refuses_rows_that_are_not_the_tasks_and_says_if_it_will_not_act(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, tokenizer, task = tiny_model(), tiny_tokenizer(), toy_task(rows=8)
    renderer, selection = Renderer(tokenizer, 512), sapo.select(model, tokenizer, task, PARAPHRASES)
    rows = trl.dataset(task, selection, tokenizer)

    def stopped(message: str, data: Any = rows, callbacks: int = 1, **settings: Any) -> None:
        made = trainer(model, tokenizer, data, tmp_path, **settings)
        for _ in range(callbacks):
            made.add_callback(SapoCallback(task, selection, renderer))
        with pytest.raises(SapoError, match=message):
            made.train()
        assert made.state.global_step == 0

    def refused(message: str, task: Any = task, selection: Any = selection, **more: Any) -> None:
        with pytest.raises(SapoError, match=message):
            SapoCallback(task, selection, renderer, **more)

    others = trl.dataset(toy_task("other", rows=8), selection, tokenizer)
    assert not caplog.messages
    made = trainer(model, tokenizer, rows, tmp_path)
    made.add_callback(SapoCallback(task, selection, renderer))
    made.train()
    assert caplog.messages == ["SapoCallback chooses again when a second epoch begins: this training has one, so it "
                               "will not"]  # fmt: skip
    stopped("row 1 of the trainer's data is not a row of task 'toy'", others)
    settings = {"dataloader_num_workers": 1, "dataloader_persistent_workers": True}
    stopped("dataloader_persistent_workers = True", **settings)
    stopped("the trainer has two SapoCallbacks", callbacks=2)
    stopped("a stream, in which epochs cannot be told", rows.to_iterable_dataset(), max_steps=4)
    refused(r"give what sapo\.select returned", selection="a text")
    refused("has no dev rows that are not trained on", task=replace(task, labels=(), metric="rouge_l", dev=()))
    refused("has no rows in held_out that are not trained on", held_out=task.train)
    refused("has no rows in held_out that are not trained on", held_out=())
    refused("something else than a task's rows", held_out=[{"input": "x"}])
    own = trl.Rows([ALPACA]).task.train
    refused(r"rows of Rows are held out by Rows\(held_out=\.\.\.\)", held_out=own)
    refused("of another task", task=replace(task, instruction="Is it long?"))


def test_workers_that_load_data_get_the_callback_without_where_its_figures_go() -> None:
    task, tokenizer = toy_task(rows=8), tiny_tokenizer()
    renderer, lock = Renderer(tokenizer, 512), threading.Lock()
    selection = sapo.select(tiny_model(), tokenizer, task, PARAPHRASES, renderer=renderer)
    # As a trainer's own method, it holds what cannot be pickled.
    made = SapoCallback(task, selection, renderer, log=partial(print, lock))
    (row, *_) = tokenized(task, selection, renderer)
    assert pickle.loads(pickle.dumps(made)).reworded(row) == made.reworded(row)  # noqa: S301


def test_a_template_that_sft_trainer_would_set_is_refused() -> None:
    arguments = sft.SFTConfig(use_cpu=True, bf16=False, chat_template_path="some/model")
    with pytest.raises(RenderError, match="chat_template_path = some/model of SFTConfig: it gives the tokenizer"):
        trl.SftRenderer(tiny_tokenizer(), args=arguments)


class KilledError(Exception):
    """Ends a training in the middle of an epoch."""


class KillsAt(TrainerCallback):
    """Ends the training after so many updates, once the checkpoint of them is written."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self._step:
            raise KilledError


Trained = tuple[Any, SapoCallback, list[tuple[str, str]]]


def switching(directory: Path, *, killed: int | None = None, resumed: int | None = None, **settings: Any) -> Trained:
    """Train three epochs of four updates, each epoch with another instruction; return also what every batch held."""
    tokenizer, task = tiny_tokenizer(), toy_task(rows=8)
    model = tiny_model(seed=2)
    candidates = ["Many words: yes. Few words: no.", PARAPHRASES[1]]
    selection = sapo.select(model, tokenizer, task, candidates, strategy="exhaustive")
    made = trainer(
        model, tokenizer, trl.dataset(task, selection, tokenizer), directory,
        **{"num_train_epochs": 3, "per_device_train_batch_size": 2, "learning_rate": 1e-2, "saved": "steps",
           "save_steps": 1, **settings},
    )  # fmt: skip
    callback = SapoCallback(task, selection, Renderer(tokenizer, 512), log=made.log)
    made.add_callback(callback)
    seen = trained_texts(made)
    if killed is not None:
        made.add_callback(KillsAt(killed))
    real, rows = Scorer.__call__, callback._leaders._rows

    def turning(scorer: Any, encoded: Any, *rest: Any) -> Losses:
        """Let another candidate be the lowest at every look."""
        losses, texts, now = real(scorer, encoded, *rest), list(rows), callback.instruction.text
        lowest = texts[(texts.index(now) + 1) % len(texts) if now in texts else 0]
        return losses if encoded != rows[lowest] else replace(losses, nll=np.zeros_like(losses.nll))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Scorer, "__call__", turning)
        made.train(resume_from_checkpoint=None if resumed is None else str(directory / f"checkpoint-{resumed}"))
    return made, callback, seen


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A training that nothing interrupts."""
    return switching(tmp_path_factory.mktemp("whole"))


def test_the_callback_chooses_anew_at_every_epoch_and_training_follows(undisturbed: Trained) -> None:
    made, callback, seen = undisturbed
    assert [(choice.epoch, choice.step) for choice in callback.choices] == [(1, 4), (2, 8)]
    assert all(choice.losses[choice.instruction.text] == 0 for choice in callback.choices)
    texts = [callback.selection.instruction.text, *(choice.instruction.text for choice in callback.choices)]
    assert len(seen) == 24 and len(set(texts)) == 3 and callback.instruction.text == texts[-1]
    assert callback.switches == tuple((c.step, c.instruction.text) for c in callback.choices)
    for epoch, text in enumerate(texts):
        rows = seen[8 * epoch : 8 * (epoch + 1)]
        assert all(text in words for words, _ in rows)
        # The same rows with the same answers in every epoch.
        assert sorted(answer for _, answer in rows) == sorted(answer for _, answer in seen[:8])
    logged = [entry for entry in made.state.log_history if "sapo_loss" in entry]
    assert [entry["sapo_loss"] for entry in logged] == [0.0, 0.0]
    candidates = [candidate.instruction.text for candidate in callback.selection.candidates]
    assert [entry["sapo_candidate"] for entry in logged] == [candidates.index(text) for text in texts[1:]]


@pytest.mark.parametrize("step", [4, 11])
def test_a_training_that_is_resumed_goes_on_with_the_choices_of_its_checkpoint(
    step: int, undisturbed: Trained, tmp_path: Path
) -> None:
    whole, before, texts = undisturbed
    with pytest.raises(KilledError):
        switching(tmp_path / "killed", killed=step)
    again, after, rest = switching(tmp_path / "killed", resumed=step)
    assert rest == texts[2 * step :]
    assert (after.choices, after.instruction, after.switches) == (before.choices, before.instruction, before.switches)
    ours, theirs = dict(again.model.named_parameters()), dict(whole.model.named_parameters())
    assert all(torch.equal(weights, theirs[name]) for name, weights in ours.items())


def test_the_instruction_is_that_of_the_best_checkpoint_where_it_is_loaded(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    rows = trl.dataset(toy_task("test", rows=4), "Say it.", tokenizer)
    made, callback, _ = switching(
        tmp_path, load_best_model_at_end=True, eval_strategy="steps", eval_steps=1, learning_rate=0.3,
        metric_for_best_model="loss", greater_is_better=True, tested=rows,
    )  # fmt: skip
    best = made.state.best_global_step
    made.save_model(str(tmp_path / "best"))
    describe(tmp_path / "best", made.model, tokenizer, toy_task(rows=8), callback)
    entry = read_json(tmp_path / "best" / "sapo.json", "")["tasks"][0]
    texts = [callback.selection.instruction.text, *(text for _, text in callback.switches)]
    assert (best - 1) // 4 == len(callback.switches) < 2
    assert entry["instruction"] == callback.instruction.text == texts[(best - 1) // 4]
    assert len(entry["selection"]["candidates"]) == 3


def test_a_callback_tells_its_choices_beside_the_adapter(undisturbed: Trained, tmp_path: Path) -> None:
    made, callback, _ = undisturbed
    made.save_model(str(tmp_path / "last"))
    describe(tmp_path / "last", made.model, tiny_tokenizer(), toy_task(rows=8), callback)
    found = read_json(tmp_path / "last" / "sapo.json", "")
    assert found["policy"] == "reselect" and found["tasks"][0]["instruction"] == callback.instruction.text
    assert found["tasks"][0]["switches"] == [[c.step, c.instruction.text] for c in callback.choices]
    card = (tmp_path / "last" / "README.md").read_text(encoding="utf-8")
    assert "The choice of the instruction changed while this was trained (2)." in card
    assert "another of 3 candidates" in card
    with pytest.raises(CandidateError, match="of another task"):
        describe(tmp_path / "last", made.model, tiny_tokenizer(), replace(toy_task(), instruction="Long?"), callback)
    # Choice once more from the start, it begins with the first choice again.
    made.args.num_train_epochs = 1
    made.train()
    assert callback.choices == () and callback.instruction == callback.selection.instruction


def test_rows_in_a_list_are_as_good_and_other_kinds_are_told() -> None:
    row = {"prompt": "Say it. x", "completion": " y"}
    rows = trl.Rows([row], "Say it.")
    dataset = Dataset.from_list([row])
    assert rows.task == trl.Rows(dataset, "Say it.").task == trl.Rows(dataset.to_pandas(), "Say it.").task
    for wrong in (None, 5, iter([row]), DatasetDict(train=dataset)):
        with pytest.raises(DataError, match="allowed are one split of a"):
            trl.Rows(wrong, "Say it.")
    with pytest.raises(DataError, match="instruction = 5: pass the text"):
        trl.Rows([row], 5)  # type: ignore[arg-type]
    asked, said = [{"role": "user", "content": "Say it. x"}], [{"role": "assistant", "content": "y"}]
    for mixed in ({**row, "prompt": asked}, {**row, "completion": said}):
        with pytest.raises(DataError, match="row 1: of prompt and completion one is a text, the other messages"):
            trl.Rows([mixed], "Say it.")
    long = trl.Rows([{**row, "completion": " y" * 2000}], "Say it.")
    with pytest.raises(RenderError, match="SFTTrainer would cut it"):
        long.renderer(tiny_tokenizer()).encode("Say it.", "", long.task.train)
    assert len(long.renderer(tiny_tokenizer(), None).encode("Say it.", "", long.task.train)[0].ids) > 4000


def test_what_only_the_trainers_tokens_tell_apart_is_described_all_the_same(tmp_path: Path) -> None:
    model, tokenizer, task = tiny_model(), tiny_tokenizer(), toy_task(rows=4)
    tokenizer.chat_template = CHAT_TEMPLATE.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
    model.save_pretrained(tmp_path)
    with pytest.raises(RenderError, match="Give the tokenizer another chat_template"):
        sapo.select(model, tokenizer, task, PARAPHRASES)
    selection = sapo.select(model, tokenizer, task, PARAPHRASES, renderer=trl.SftRenderer(tokenizer))
    describe(tmp_path, model, tokenizer, task, selection)
    assert read_json(tmp_path / "sapo.json", "")["template"] is None
    assert "prompt template" not in (tmp_path / "README.md").read_text(encoding="utf-8")
    bare = tiny_tokenizer(chat_template=None)
    bare.eos_token = None
    with pytest.raises(RenderError, match="no eos_token"):
        trl.SftRenderer(bare).encode("Say it.", "", task.train)
