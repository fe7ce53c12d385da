"""Pulling with the real hub library from a small local server that speaks the hub's protocol."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from chatlm.errors import ModelError
from chatlm.hub import huggingface as hub_module
from chatlm.hub import installed, pull
from chatlm.hub.catalogue import HubSource
from chatlm.hub.disk import NoSpace
from tests.models import tiny_model, write_folder

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """One repository `org/tiny`, and the requests for it."""

    files: dict[str, bytes]
    status: int = 200
    error_code: str = ""
    stall: str = ""
    """A file whose second half does not come."""
    wrong_hash: bool = False
    claimed_bytes: int = 0
    """Added to the size of the weights that the server announces."""
    requests: list[str] = field(default_factory=list)

    def siblings(self) -> list[dict[str, object]]:
        listed: list[dict[str, object]] = []
        for name, content in self.files.items():
            entry: dict[str, object] = {"rfilename": name, "size": len(content)}
            if name.endswith(".safetensors"):
                digest = "0" * 64 if self.wrong_hash else hashlib.sha256(content).hexdigest()
                size = len(content) + self.claimed_bytes
                entry |= {"size": size, "lfs": {"sha256": digest, "size": size, "pointerSize": 1}}
            listed.append(entry)
        return listed


def handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            hub.requests.append(f"{self.command} {self.path}")

        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer()

        def answer(self) -> None:
            path = unquote(urlsplit(self.path).path)
            if hub.status != 200:
                return self.send(b"{}", hub.status, {"X-Error-Code": hub.error_code})
            if path.startswith("/api/models/org/tiny/tree/"):
                tree = [
                    {"type": "file", "path": name, "size": len(content), "oid": "0" * 40}
                    for name, content in hub.files.items()
                ]
                return self.send(json.dumps(tree).encode())
            if path.startswith("/api/models/org/tiny"):
                info = {"id": "org/tiny", "sha": COMMIT, "siblings": hub.siblings()}
                return self.send(json.dumps(info).encode())
            name = path.removeprefix(f"/org/tiny/resolve/{COMMIT}/")
            if name not in hub.files:
                return self.send(b"", 404, {"X-Error-Code": "EntryNotFound"})
            etag = hashlib.sha1(hub.files[name]).hexdigest()
            headers = {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}
            return self.send(hub.files[name], 200, headers, stall=name == hub.stall)

        def send(
            self,
            body: bytes,
            status: int = 200,
            headers: dict[str, str] | None = None,
            stall: bool = False,
        ) -> None:
            self.send_response(status)
            for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET" and stall:
                self.wfile.write(body[: len(body) // 2])
                self.wfile.flush()
                time.sleep(30)
            elif self.command == "GET":
                self.wfile.write(body)

    return Handler


@pytest.fixture
def hub(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    files = {
        **tiny_model(),
        "pytorch_model.bin": b"x" * 10,
        "README.md": b"#",
        "onnx/a.json": b"{}",
    }
    repository = Hub(files | {"1_Pooling/config.json": b"{}"})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(repository))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    for name in ("HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    yield repository
    server.shutdown()
    server.server_close()


TAKEN = ["1_Pooling/config.json", *sorted(tiny_model())]


def test_a_hub_model_is_pulled_and_then_found_without_the_hub(home: Path, hub: Hub) -> None:
    stages: list[str] = []
    location = pull.pull_model("org/tiny", lambda stage, done, total: stages.append(stage))
    assert location == installed.ModelLocation("org/tiny", home / "models" / "org--tiny", "chat")
    assert "download" in stages
    taken = [p.relative_to(location.folder).as_posix() for p in location.folder.rglob("*.*")]
    assert sorted(t for t in taken if not t.endswith("chatlm-model.json")) == TAKEN
    assert installed.describe_model("org/tiny").source == f"hub org/tiny@{COMMIT[:8]}"
    before = list(hub.requests)
    assert installed.find_model("org/tiny") == pull.ensure_model("org/tiny") == location
    assert installed.verify_model("org/tiny").problems == ()
    assert hub.requests == before
    assert not any("pytorch_model.bin" in request for request in before)


def test_a_revision_is_asked_for_and_kept_apart(home: Path, hub: Hub) -> None:
    location = pull.pull_model("org/tiny@v1")
    assert location.folder == home / "models" / "org--tiny@v1"
    assert any("/revision/v1" in request for request in hub.requests)


@pytest.mark.parametrize(
    ("status", "code", "reason"),
    [
        (403, "GatedRepo", "asks you to accept terms"),
        (404, "RepoNotFound", "no model org/tiny, or it is private"),
        (404, "RevisionNotFound", "no revision main"),
        (500, "", "could not be read"),
    ],
)
def test_a_refusal_says_what_to_do(
    home: Path, hub: Hub, status: int, code: str, reason: str
) -> None:
    hub.status, hub.error_code = status, code
    with pytest.raises(ModelError, match=reason) as caught:
        pull.pull_model("org/tiny")
    assert caught.value.hint


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("pytorch_model.bin", "only pickle weights"),
        ("m-00001-of-00002.gguf", "no complete GGUF"),
        ("a.h5", "no \\*"),
    ],
)
def test_a_repository_without_safetensors_is_refused(
    home: Path, hub: Hub, name: str, reason: str
) -> None:
    hub.files = {"config.json": b"{}", name: b"x"}
    with pytest.raises(ModelError, match=reason):
        pull.pull_model("org/tiny")
    assert not any("resolve" in request for request in hub.requests)


def test_weights_that_differ_from_the_hubs_hash_are_refused(home: Path, hub: Hub) -> None:
    hub.wrong_hash = True
    with pytest.raises(ModelError, match="differs from the file on the hub"):
        pull.pull_model("org/tiny")
    assert not (home / "models" / "org--tiny").exists()


def test_too_little_space_is_noticed_before_the_download(home: Path, hub: Hub) -> None:
    hub.claimed_bytes = 10**18
    with pytest.raises(NoSpace, match="to download org/tiny"):
        pull.pull_model("org/tiny")
    assert not any("resolve" in request for request in hub.requests)


def test_an_interrupted_download_goes_on_with_the_files_it_has(home: Path, hub: Hub) -> None:
    hub.stall = "model.safetensors"
    partial = home / "models" / ".staging" / "org--tiny" / "partial"

    def interrupt_late(stage: str, done: int, total: int | None) -> None:
        if (partial / "tokenizer.json").exists() and list(partial.rglob("*.incomplete")):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull.pull_model("org/tiny", interrupt_late)
    assert not (home / "models" / "org--tiny").exists()
    assert (partial / "tokenizer.json").exists()
    hub.stall = ""
    hub.requests.clear()
    location = pull.pull_model("org/tiny")
    assert installed.verify_model("org/tiny").problems == ()
    assert not any("GET" in r and "tokenizer.json" in r for r in hub.requests)
    assert not partial.exists()
    assert not list(location.folder.rglob("*.incomplete"))


def test_remove_also_deletes_an_interrupted_download(home: Path, hub: Hub) -> None:
    partial = write_folder(home / "models" / ".staging" / "org--tiny" / "partial", tiny_model())
    assert installed.remove_model("org/tiny") > 4000
    assert not partial.exists()


def put_in_cache(tmp_path: Path, files: dict[str, bytes]) -> None:
    repository = tmp_path / "hf" / "hub" / "models--org--tiny"
    write_folder(repository / "snapshots" / COMMIT, files)
    write_folder(repository / "refs", {"main": COMMIT.encode()})


def test_the_users_own_hub_cache_is_used_without_the_hub(
    home: Path, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    put_in_cache(tmp_path, tiny_model() | {"pytorch_model.bin": b"x"})
    location = pull.pull_model("org/tiny")
    assert installed.describe_model("org/tiny").source == f"hub org/tiny@{COMMIT[:8]}"
    assert not (location.folder / "pytorch_model.bin").exists()
    assert hub.requests == []


def test_a_cache_that_is_not_whole_is_not_used(home: Path, hub: Hub, tmp_path: Path) -> None:
    put_in_cache(tmp_path, {"config.json": b"{}"})
    pull.pull_model("org/tiny")
    assert installed.verify_model("org/tiny").problems == ()
    assert any("resolve" in request for request in hub.requests)


def test_offline_says_so(home: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE is set"):
        pull.pull_model("org/tiny")
    assert hub.requests == []


def test_a_silent_hub_times_out_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    silent = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler, bind_and_activate=True)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.server_address[1]}")
    assert not hub_module.is_hub_reachable(HubSource("org/tiny"), timeout_seconds=0.5)
    silent.server_close()
    started = time.monotonic()
    assert not hub_module.is_hub_reachable(HubSource("org/tiny"), timeout_seconds=600)
    assert time.monotonic() - started < 60  # refused: no need to wait


@pytest.mark.parametrize(
    ("config", "reason", "hint"),
    [
        (
            {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"],
             "is_encoder_decoder": True},
            "encoder-decoder",
            "generates text",
        ),
        (
            {"model_type": "brand_new", "architectures": ["BrandNewForCausalLM"]},
            "does not know its architecture brand_new",
            "pip install -U transformers",
        ),
        (
            {"model_type": "own_code", "architectures": ["OwnForCausalLM"],
             "auto_map": {"AutoModelForCausalLM": "modeling.OwnForCausalLM"}},
            "Python code in its repository",
            "GGUF",
        ),
        (
            {"model_type": "llama", "architectures": ["LlamaForCausalLM"],
             "quantization_config": {"quant_method": "aqlm"}},
            "quantized with aqlm, which needs the package aqlm",
            "pip install aqlm",
        ),
        (
            {"model_type": "whisper", "architectures": ["WhisperForConditionalGeneration"]},
            "needs sound",
            "generates text",
        ),
    ],
    ids=["encoder-decoder", "unknown", "own code", "quantized", "sound"],
)  # fmt: skip
def test_an_architecture_that_cannot_run_is_refused_before_its_weights_are_downloaded(
    home: Path, hub: Hub, config: dict[str, object], reason: str, hint: str
) -> None:
    hub.files["config.json"] = json.dumps(config).encode()
    with pytest.raises(ModelError) as error:
        pull.pull_model("org/tiny")
    assert reason in error.value.message
    assert hint in error.value.hint
    assert any("config.json" in request for request in hub.requests)
    assert not any(".safetensors" in request for request in hub.requests)


def test_an_embedder_is_pulled_whatever_its_architecture_generates(home: Path, hub: Hub) -> None:
    hub.files["config.json"] = b'{"model_type": "bert", "architectures": ["BertModel"]}'
    hub.files["modules.json"] = b"[]"
    assert pull.pull_model("org/tiny").kind == "embedder"
