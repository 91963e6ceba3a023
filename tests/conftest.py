"""One thread for torch: the models are tiny, and threads of parallel test processes would fight."""

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_runs import save, save_model, write_bench

from sapo.runs.config.loading import make_config
from sapo.runs.config.schema import Config

torch.set_num_threads(1)
# The same for tokenizers.
os.environ["TOKENIZERS_PARALLELISM"] = "false"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record-golden", action="store_true", help="write the golden values anew: tests/golden alone")


def pytest_collection_finish() -> None:
    """Spare what the imports made from garbage collection."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def no_cache_of_the_user_and_nothing_slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what session and module fixtures compute out of the user's cache, and what is there out of them."""
    directory = tmp_path_factory.mktemp("losses")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sapo.core.storage.user_cache_path", lambda name: directory)
        # What tests write need not survive a power cut.
        patch.setattr("os.fsync", lambda file: None)
        # Of a tiny training, these take the most time: garbage that Python collects by itself, and peft's card, which
        # ours must replace.
        patch.setattr("accelerate.utils.memory.gc", SimpleNamespace(collect=lambda: 0))
        patch.setattr(
            "peft.PeftModel.create_or_update_model_card",
            lambda self, output_dir: Path(output_dir, "README.md").write_text("peft's card"),
        )
        yield


@pytest.fixture(autouse=True)
def own_loss_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep losses and replies of one test from serving another one, or the user."""
    directory = tmp_path_factory.mktemp("losses")
    monkeypatch.setattr("sapo.core.storage.user_cache_path", lambda name: directory)
    return directory


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model and its tokenizer on disk; modules with other wishes have their own."""
    return save(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with weights with which candidates differ; for the runs of `small_runs`."""
    return save_model(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Their benchmark folder, which stays as it is."""
    return write_bench(tmp_path_factory.mktemp("bench"))


@pytest.fixture
def configured(model_dir: Path, tmp_path: Path) -> Callable[..., Config]:
    """Make the configuration of a run of seconds, with changes."""

    def make(**changes: Any) -> Config:
        small = {
            "model": {"base": str(model_dir), "device": "cpu"},
            "sequence": ["review-sentiment"],
            "policy": "original",
            "train": {"rows": 4, "epochs": 1, "batch_size": 4},
            "evaluate": {"rows": 2, "max_new_tokens": 2},
            "run_dir": str(tmp_path / "run"),
        }
        return make_config({**small, **changes})

    return make
