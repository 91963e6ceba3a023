"""A real server, `transformers serve`, asked for paraphrases; its model always says the same."""

import importlib.util
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from multiprocessing.process import BaseProcess
from pathlib import Path

import forked
import pytest
import torch

from sapo.candidates.client import Client
from sapo.candidates.server import Server
from sapo.candidates.settings import ServerSettings
from sapo.integrations.testing import tiny_model, tiny_tokenizer, toy_task

_NEEDED = [name for name in ("fastapi", "uvicorn") if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(_NEEDED), reason=f"`transformers serve` needs {' and '.join(_NEEDED)}")
_START = 120.0
# No letter stands in it twice: each has the next one.
SAID = "Judge this"


def save_talker(directory: Path) -> None:
    """A model that looks at the last token alone, and says `SAID` at the beginning of a turn."""
    model, tokenizer = tiny_model(), tiny_tokenizer()
    chain = [*tokenizer(f"\n{SAID}").input_ids, tokenizer.eos_token_id]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.zero_()
        for place, (token, following) in enumerate(pairwise(chain)):
            model.get_input_embeddings().weight[token, place] = 1.0
            model.get_output_embeddings().weight[following, place] = 100.0
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def serve(model: Path, port: str) -> None:
    from transformers.cli.transformers import main

    options = ["--device", "cpu", "--dtype", "float32", "--host", "127.0.0.1", "--port", port]
    sys.argv = ["transformers", "serve", str(model), *options]
    main()


@contextmanager
def serving(model: Path, directory: Path) -> Iterator[str]:
    """Run `transformers serve` for a model directory, yield its URL once it answers, and stop it in any case."""
    port = str(forked.free_port())
    process = forked.start(serve, model, port, directory=directory, name="server")
    try:
        wait_for(f"http://127.0.0.1:{port}/health", process, directory / "server.err")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        forked.ended([process], 10.0)


def wait_for(url: str, process: BaseProcess, log: Path) -> None:
    deadline = time.monotonic() + _START
    while time.monotonic() < deadline:
        assert process.is_alive(), log.read_text()[-2000:]
        try:
            with urllib.request.urlopen(url, timeout=2) as response:
                if response.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    pytest.fail(f"not ready after {_START} s: {log.read_text()[-2000:]}")


def test_paraphrases_of_a_real_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    model, notes = tmp_path / "model", list[str]()
    save_talker(model)

    def source(url: str) -> Server:
        settings = ServerSettings(base_url=url, model=str(model), temperature=0.7, timeout=120.0, concurrency=2)
        return Server(Client(settings, tmp_path / "replies", notes.append), 0)

    with serving(model, tmp_path) as url:
        texts = list(next(source(url).paraphrases(toy_task(), 4)))
    assert texts == [SAID] * 4 and notes == []
    # The server is gone, and is not needed.
    assert list(next(source(url).paraphrases(toy_task(), 4))) == texts
