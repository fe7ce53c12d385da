"""Libraries that a wheel carries compiled: choose what this processor can run, and verify it."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import platform
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

_SOURCES = Path(__file__).with_name("csrc")

_FOLDER = Path(__file__).with_name("libraries")
"""Of the wheel: a folder per processor of targets.toml, and MANIFEST."""

MANIFEST = "manifest.json"
"""`sources`, their hash, and `libraries`, the SHA-256 of each file by its path."""


def bundled_library(
    name: str, *, folder: Path = _FOLDER, features: Iterable[str] | None = None
) -> Path | None:
    """Return the library for this processor that came with the wheel.

    Args:
        name: as targets.toml has it, such as `choose`.
        folder: where the libraries are.
        features: the processor's, as /proc/cpuinfo names them; None to read them.

    Returns:
        The file; None if there is none, if it is damaged, or if it was made from other sources.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        sources, checksums = manifest["sources"], dict(manifest["libraries"])
    except FileNotFoundError:
        return None  # not a wheel, or one without libraries
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("the compiled libraries are not used: %s: %r", folder / MANIFEST, error)
        return None
    if sources != hash_sources(_SOURCES):
        log.warning("the compiled libraries are not used: they are of another chatlm")
        return None
    known = frozenset(_cpu_features() if features is None else features)
    for processor in _fitting_processors(known):
        path = f"{processor}/{name}.so"
        if path not in checksums:
            continue
        try:
            data = (folder / path).read_bytes()
        except OSError as error:
            log.warning("a compiled library is not used: %s", error)
            continue
        if hashlib.sha256(data).hexdigest() == checksums[path]:
            return folder / path
        log.warning("a compiled library is not used: %s is damaged", folder / path)
    return None


def hash_sources(folder: Path) -> str:
    """Return the hash of all that libraries are compiled from; also called while a wheel is built.

    Args:
        folder: of the C sources and targets.toml.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".c", ".h", ".toml"):
            data = path.read_bytes()
            digest.update(f"{path.name} {len(data)}\n".encode() + data)
    return digest.hexdigest()


def read_targets(folder: Path) -> dict[str, Any]:
    """Return targets.toml: which libraries there are, and how they are compiled for what."""
    return tomllib.loads((folder / "targets.toml").read_text(encoding="utf-8"))


def _fitting_processors(features: frozenset[str]) -> list[str]:
    """Return the processors of targets.toml whose code this one runs, the most capable first."""
    targets = read_targets(_SOURCES)
    system = f"{platform.system().lower()}-{platform.machine().lower()}"
    return [
        processor["name"]
        for processor in targets["processors"]
        if processor["platform"] == system
        and all(features.issuperset(targets["features"][group]) for group in processor["features"])
    ]


@functools.cache
def _cpu_features() -> frozenset[str]:
    """Return the features that every core of the processor has, as Linux reports them."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    cores = [
        frozenset(line.partition(":")[2].split())
        for line in text.splitlines()
        if line.startswith(("flags", "Features"))
    ]
    return frozenset.intersection(*cores) if cores else frozenset()
