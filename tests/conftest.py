"""One thread for torch: the models are tiny, and threads of parallel test processes would fight."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def no_loss_cache_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what session and module fixtures compute out of the user's cache, and the user's losses out of them."""
    directory = tmp_path_factory.mktemp("losses")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sapo.cache.user_cache_path", lambda name: directory)
        yield


@pytest.fixture(autouse=True)
def own_loss_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep losses of one test from serving another one, or the user."""
    directory = tmp_path_factory.mktemp("losses")
    monkeypatch.setattr("sapo.cache.user_cache_path", lambda name: directory)
    return directory
