"""A real server with the real default model: `transformers serve` on loopback."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch

from chatlm import ContinuationUnsupported, Delta, EngineError, Finished, StopReason, stream_many
from chatlm_openai.engine import open_engine
from tests import models
from tests.plugins.arena import chatlm
from tests.plugins.test_openai import ending, request, text_of
from tests.waiting import PATIENCE

pytest.importorskip("fastapi", reason="needs transformers[serving], which chatlm[dev] brings")

QUESTION = "What is the capital of France?"


@pytest.fixture(scope="module")
def default_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default model in the format of transformers, which serves no GGUF files."""
    source, folder = models.default_model(), tmp_path_factory.mktemp("model")
    models.load_plain(source, torch.bfloat16).save_pretrained(folder)
    for path in source.iterdir():
        if path.suffix in (".json", ".jinja") and not (folder / path.name).exists():
            shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("serve") / "log"
    with log.open("wb") as file:
        server = subprocess.Popen(
            [sys.executable, "-c", "from transformers.cli.transformers import main; main()",
             "serve", "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"],
            stdout=file, stderr=file, env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )  # fmt: skip
    deadline = time.monotonic() + PATIENCE
    base = f"http://127.0.0.1:{port}/v1"
    try:
        while not _answers(f"{base}/models"):
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield base
    finally:
        server.terminate()
        server.wait(PATIENCE)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def test_it_answers_as_the_model_does(home: Path, url: str, default_model: Path) -> None:
    with closing(open_engine(f"{default_model}@{url}")) as engine:
        asking = request(QUESTION, temperature=0.0, max_tokens=20)
        events = list(engine.stream(asking))
        assert "Paris" in text_of(events)
        end = ending(events)
        assert end.stop_reason is StopReason.END
        assert end.usage.prompt_tokens > 20  # the server's template and system prompt count too
        assert 5 <= end.usage.completion_tokens <= 20
        assert text_of(list(engine.stream(asking))) == text_of(events)

        short = list(engine.stream(request(QUESTION, temperature=0.0, max_tokens=2)))
        assert (ending(short).stop_reason, ending(short).usage.completion_tokens) == (
            StopReason.LENGTH, 2,
        )  # fmt: skip
        cut = list(engine.stream(request(QUESTION, temperature=0.0, stop=("France",))))
        assert text_of(cut) == text_of(events).partition("France")[0]

        many = {0: "", 1: ""}
        for number, event in stream_many(engine, [asking, asking]):
            many[number] += event.text if isinstance(event, Delta) else ""
        assert set(many.values()) == {text_of(events)}


def test_after_a_cancelled_reply_the_next_one_comes(
    home: Path, url: str, default_model: Path
) -> None:
    with closing(open_engine(f"{default_model}@{url}")) as engine:
        story = engine.stream(request("Write a long story.", temperature=0.0, max_tokens=2000))
        assert any(isinstance(event, Delta) and event.text for event in story)
        story.close()
        events = list(engine.stream(request("Hi", temperature=0.0, max_tokens=3)))
    assert isinstance(events[-1], Finished)
    assert events[-1].usage.first_token_seconds is not None
    assert events[-1].usage.first_token_seconds < 20


def test_refusals_are_quoted(home: Path, url: str, default_model: Path) -> None:
    with closing(open_engine(f"{default_model}@{url}")) as engine:
        with pytest.raises(EngineError, match="rejects the value of top_k"):
            list(engine.stream(request("Hi", top_k=4)))
        with pytest.raises(ContinuationUnsupported):
            list(engine.stream(request("Hi", "Well,")))


def test_one_question_from_the_shell(home: Path, url: str, default_model: Path) -> None:
    model = f"openai:{default_model}@{url}"
    done = chatlm(
        "ask", "--json", "-m", model, "--temperature", "0", "--max-tokens", "20", QUESTION
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert "Paris" in answer["text"]
    assert answer["model"] == model
    unknown = chatlm("ask", "-m", f"openai:no/such-model@{url}", "Hi")
    assert unknown.returncode == 1
    assert "failed (500)" in unknown.stderr
    assert "Traceback" not in unknown.stderr
