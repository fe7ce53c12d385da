"""Servers of other programs on this machine are noticed, on loopback only, and described."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from chatlm import EngineInfo
from chatlm_openai import endpoints, local_servers, usual_ports
from chatlm_openai.engine import open_engine
from chatlm_openai.listing import list_endpoint_models
from chatlm_openai.local_servers import LocalModel, find_local_models, to_listings
from chatlm_openai.usual_ports import PROGRAMS, Program

Answers = Mapping[str, Any]
"""JSON by path; `/api/show NAME` for a POST with that model."""


@contextmanager
def serving(answers: Answers) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            self.answer(self.path)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.answer(f"{self.path} {body.get('model')}")

        def answer(self, what: str) -> None:
            found = answers.get(what)
            data = json.dumps(found).encode()
            self.send_response(404 if found is None else 200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def models_of(name: str, answers: Answers) -> list[LocalModel]:
    with serving(answers) as port:
        found = asyncio.run(find_local_models([replace(PROGRAMS[name], port=port)]))
    return found.get(name, [])


OLLAMA = {
    "/api/tags": {"models": [{"name": "qwen3:4b"}, {"name": "embed:1b"}, {"name": "old:1b"}]},
    "/api/ps": {"models": [{"name": "old:1b", "context_length": 8192}]},
    "/api/show qwen3:4b": {
        "capabilities": ["completion", "tools", "thinking"],
        "model_info": {"general.architecture": "qwen3", "qwen3.context_length": 40960},
    },
    "/api/show embed:1b": {"capabilities": ["embedding"]},
    "/api/show old:1b": {
        "model_info": {"general.architecture": "llama", "llama.context_length": 131072}
    },
    "/v1/models": {"data": [{"id": "qwen3:4b"}, {"id": "old:1b"}]},
}


def test_ollama_says_the_context_and_what_a_model_can_do() -> None:
    thinker, old = models_of("ollama", OLLAMA)
    assert (thinker.name, thinker.context_length) == ("qwen3:4b", 40960)
    assert thinker.abilities == ("tools", "thinking")
    assert "4,096 tokens of context" in thinker.note
    assert (old.context_length, old.note) == (8192, ""), "as it is loaded"


def test_lm_studio_in_both_versions_of_its_api() -> None:
    newer = {
        "/api/v1/models": {
            "models": [
                {
                    "type": "llm", "key": "google/gemma-4-e4b", "max_context_length": 131072,
                    "loaded_instances": [{"config": {"context_length": 8192}}],
                    "capabilities": {"vision": True, "trained_for_tool_use": True},
                },
                {"type": "embedding", "key": "nomic"},
            ]
        }
    }  # fmt: skip
    older = {
        "/api/v0/models": {
            "data": [
                {"id": "a", "type": "vlm", "max_context_length": 4096},
                {"id": "b", "type": "embeddings"},
            ]
        }
    }
    assert models_of("lmstudio", newer) == [
        LocalModel("google/gemma-4-e4b", 8192, ("tools", "images"))
    ]
    assert models_of("lmstudio", older) == [LocalModel("a", 4096, ("images",))]


def test_llama_cpp_says_what_its_template_can_do() -> None:
    answers = {
        "/v1/models": {"data": [{"id": "m.gguf", "meta": None}]},
        "/props": {
            "default_generation_settings": {"n_ctx": 2048},
            "modalities": {"vision": False},
            "chat_template_caps": {"supports_tools": True},
        },
    }
    assert models_of("llamacpp", answers) == [LocalModel("m.gguf", 2048, ("tools",))]


def test_others_are_read_by_openais_list() -> None:
    vllm = {"/v1/models": {"data": [{"id": "org/m", "max_model_len": 32768}]}}
    assert models_of("vllm", vllm) == [LocalModel("org/m", 32768)]
    lemonade = {
        "/v1/models": {
            "data": [
                {"id": "m", "max_context_window": 9, "labels": ["tool-calling", "vision"]},
                {"id": "e", "labels": ["embeddings"]},
            ]
        }
    }
    assert models_of("lemonade", lemonade) == [LocalModel("m", 9, ("tools", "images"))]
    docker = {"/engines/v1/models": {"data": [{"id": "ai/qwen3"}]}}
    assert models_of("docker", docker) == [LocalModel("ai/qwen3")]


@pytest.mark.parametrize(
    "answers",
    [
        {},
        {"/v1/models": {"data": "none"}, "/api/tags": {"models": 1}},
        {"/v1/models": {"data": [{"id": 1}, {"id": "\u001b[31m"}, None]}},
        {"/v1/models": [1], "/api/tags": "x"},
    ],
    ids=["nothing", "wrong types", "no names", "no objects"],
)
@pytest.mark.parametrize("name", ["ollama", "lmstudio", "llamacpp", "vllm"])
def test_another_program_on_the_port_is_no_server(name: str, answers: Answers) -> None:
    assert models_of(name, answers) == []


def test_chatlms_own_port_is_recognised_and_not_vllms() -> None:
    from chatlm_serve.commands import serve

    port = next(option.default for option in serve.params if option.name == "port")
    assert port == PROGRAMS["chatlm"].port != PROGRAMS["vllm"].port


@pytest.fixture
def ollama(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.delenv("CHATLM_OPENAI_FIND_SERVERS")
    with serving(OLLAMA) as port:
        programs = {"ollama": Program("ollama", "Ollama", port)}
        for module in (endpoints, local_servers, usual_ports):
            monkeypatch.setattr(module, "PROGRAMS", programs)
        monkeypatch.setattr("chatlm_openai.listing.PROGRAMS", programs)
        monkeypatch.setattr("chatlm_openai.engine.PROGRAMS", programs)
        yield port


def test_its_models_are_listed_beside_others_unless_that_is_off(
    ollama: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = list_endpoint_models()
    assert [each.name for each in listed] == ["openai:qwen3:4b@ollama", "openai:old:1b@ollama"]
    assert listed[0].description == "Ollama on this machine, context 40,960"
    assert listed[0].abilities == ("tools", "thinking")
    monkeypatch.setenv("CHATLM_OPENAI_FIND_SERVERS", "false")
    assert list_endpoint_models() == []


def test_a_configured_endpoint_is_not_listed_twice(
    ollama: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHATLM_OPENAI_ENDPOINTS", f'["mine http://localhost:{ollama}/v1"]')
    assert [each.name for each in list_endpoint_models()] == [
        "openai:qwen3:4b@mine",
        "openai:old:1b@mine",
    ]


def test_a_model_opens_by_that_name_and_is_not_remote(ollama: int) -> None:
    def info_of(name: str) -> EngineInfo:
        engine = open_engine(name)
        engine.close()
        return engine.info

    small = info_of("qwen3:4b@ollama")
    assert (small.context_length, small.weights) == (4096, "on this machine's server")
    assert any("OLLAMA_CONTEXT_LENGTH" in note for note in small.notes)
    assert info_of("old:1b@ollama").context_length == 8192


def test_the_probe_is_loopback_only() -> None:
    for program in PROGRAMS.values():
        assert program.url.startswith("http://127.0.0.1:")
    assert to_listings({"vllm": [LocalModel("m")]})[0].name == "openai:m@vllm"
