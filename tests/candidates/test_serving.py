"""A real server on a real model: `transformers serve` asked for paraphrases."""

import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sapo.candidates.client import Client
from sapo.candidates.server import Server
from sapo.candidates.settings import ServerSettings
from sapo.integrations.testing import toy_task
from sapo.models.load import embedded_model_dir

_NEEDED = [name for name in ("fastapi", "uvicorn") if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.embedded,
    pytest.mark.skipif(bool(_NEEDED), reason=f"`transformers serve` needs {' and '.join(_NEEDED)}"),
]
_START = 120.0


@contextmanager
def serving(model: Path, log: Path) -> Iterator[str]:
    """Run `transformers serve` for a model directory, yield its URL once it answers, and stop it in any case."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(model), "--host", "127.0.0.1"]
    options = ["--device", "cpu", "--dtype", "float32", "--port", port]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with log.open("w") as written:
        process = subprocess.Popen([*command, *options], stdout=written, stderr=subprocess.STDOUT, env=environment)
        try:
            deadline = time.monotonic() + _START
            while not answers(f"http://127.0.0.1:{port}/health"):
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-2000:]
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.kill()
            process.wait()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def test_paraphrases_of_a_real_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    model, notes = embedded_model_dir(), list[str]()

    def source(url: str) -> Server:
        settings = ServerSettings(base_url=url, model=str(model), temperature=0.7, timeout=120.0, concurrency=2)
        return Server(Client(settings, tmp_path / "replies", notes.append), 0)

    with serving(model, tmp_path / "log") as url:
        texts = list(next(source(url).paraphrases(toy_task(), 4)))
    assert len(texts) == 4 and all(texts) and notes == []
    # The server is gone, and is not needed.
    assert list(next(source(url).paraphrases(toy_task(), 4))) == texts
