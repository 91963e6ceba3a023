"""The model and the tasks of sweeps and studies that take seconds."""

from pathlib import Path

import pytest
from small_runs import save_model, write_bench


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bench(tmp_path_factory.mktemp("bench"), tasks=("alpha", "beta", "gamma"))
