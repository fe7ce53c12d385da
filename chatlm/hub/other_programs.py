"""GGUF files that Ollama and LM Studio keep on this disk; they are used, never changed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from chatlm.config.paths import expand_path
from chatlm.hub.gguf_choices import group_files

_MANIFEST_BYTES = 1 << 20
"""Limit of one of Ollama's manifests, which have less than 2 kB."""

_MAX_MODELS = 500
"""Models of one program that are looked at."""


@dataclass(frozen=True)
class StoredModel:
    """A model that another program has downloaded."""

    name: str
    """PROGRAM:NAME, such as ollama:qwen3:4b or lmstudio:org/name:Q4_K_M."""
    program: str
    path: Path
    """The GGUF file, or the first part of a split one."""
    bytes: int
    """Size of all parts."""


def list_stored_models() -> list[StoredModel]:
    """List the GGUF models of Ollama and LM Studio on this disk, by name; damaged records are left
    out."""
    found = [*_ollama_models(), *_lmstudio_models()]
    return sorted({each.name: each for each in found}.values(), key=lambda each: each.name)


def find_stored_model(name: str) -> StoredModel | None:
    """Find such a model by its name; None if there is none."""
    if not name.startswith(("ollama:", "lmstudio:")):
        return None
    wanted = (name.lower(), f"{name.lower()}:latest")
    return next((each for each in list_stored_models() if each.name.lower() in wanted), None)


def _ollama_folders() -> list[Path]:
    own = os.environ.get("OLLAMA_MODELS")
    return [
        expand_path(own) if own else expand_path("~/.ollama/models"),
        Path("/usr/share/ollama/.ollama/models"),  # of its system service on Linux
    ]


def _ollama_models() -> Iterator[StoredModel]:
    for folder in _ollama_folders():
        manifests = folder / "manifests"
        for path in _files(manifests, "*/*/*/*"):
            host, owner, model, tag = path.relative_to(manifests).parts
            blob = _ollama_blob(folder, path)
            if blob is None:
                continue
            short = model if owner == "library" else f"{owner}/{model}"
            if host != "registry.ollama.ai":
                short = f"{host}/{owner}/{model}"
            size = blob.stat().st_size
            yield StoredModel(f"ollama:{short}:{tag}", "Ollama", blob, size)


def _ollama_blob(folder: Path, manifest: Path) -> Path | None:
    """Return the weights that a manifest names, if they are a GGUF file that can be read."""
    try:
        if manifest.stat().st_size > _MANIFEST_BYTES:
            return None
        layers = json.loads(manifest.read_bytes())["layers"]
        digests = [
            str(layer["digest"])
            for layer in layers
            if layer["mediaType"] == "application/vnd.ollama.image.model"
        ]
        name = digests[0].replace(":", "-")
        blob = folder / "blobs" / name
        if not name.startswith("sha256-") or Path(name).name != name:
            return None
        with blob.open("rb") as file:
            return blob if file.read(4) == b"GGUF" else None
    except (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError):
        return None


def _lmstudio_models() -> Iterator[StoredModel]:
    for folder in (expand_path("~/.lmstudio/models"), expand_path("~/.cache/lm-studio/models")):
        sizes: dict[str, int] = {}
        for path in _files(folder, "*/*/*.gguf"):
            sizes[path.relative_to(folder).as_posix()] = path.stat().st_size
        for repository in dict.fromkeys(name.rpartition("/")[0] for name in sizes):
            inside = {n: s for n, s in sizes.items() if n.rpartition("/")[0] == repository}
            for model in group_files(inside):
                name = f"lmstudio:{repository}:{model.quantization}"
                yield StoredModel(name, "LM Studio", folder / model.names[0], model.bytes)


def _files(folder: Path, pattern: str) -> Iterator[Path]:
    try:
        for number, path in enumerate(sorted(folder.glob(pattern))):
            if number >= _MAX_MODELS:
                return
            if path.is_file():
                yield path
    except OSError:  # another user's folder
        return
