"""Python environments for programs that chatlm is compared with, apart from its own packages.

Each is made once, in a cache folder, with packages from PyPI, and used again by later runs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Recipe:
    """How to install a program."""

    package: str
    build: dict[str, str] = field(default_factory=dict)
    """CMake options of a build from sources; empty to install a wheel."""


def _llama_cpp_options() -> dict[str, str]:
    """Return options for this processor without `-march=native`.

    That chose AMX on a machine whose system does not allow it, and llama.cpp died of an illegal
    instruction.
    """
    known = Path("/proc/cpuinfo")
    flags = set(known.read_text(encoding="ascii").split()) if known.exists() else set()
    wanted = {
        "GGML_NATIVE": None, "GGML_AVX512": "avx512f", "GGML_AVX512_VBMI": "avx512_vbmi",
        "GGML_AVX512_VNNI": "avx512_vnni", "GGML_AVX512_BF16": "avx512_bf16",
        "GGML_AMX_TILE": None, "GGML_AMX_INT8": None, "GGML_AMX_BF16": None,
    }  # fmt: skip
    return {name: "ON" if flag in flags else "OFF" for name, flag in wanted.items()}


RECIPES = {
    "llamacpp": Recipe("llama-cpp-python>=0.3.36", _llama_cpp_options()),
    "openvino": Recipe("openvino-genai>=2026.4"),
}
"""Peers that need an environment of their own."""


def peer_python(name: str, folder: Path) -> Path:
    """Return the Python of a peer; install it first if necessary, which may take half an hour.

    Args:
        name: one of `RECIPES`.
        folder: of all environments.

    Raises:
        RuntimeError: it cannot be installed; pip's messages are in the log that is named.
    """
    place, recipe = folder / name, RECIPES[name]
    python = place / "bin" / "python"
    if (place / "built.txt").exists():
        return python
    shutil.rmtree(place, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"{name}.log"
    source = ["--no-binary", recipe.package.partition(">")[0]] if recipe.build else []
    options = " ".join(f"-D{option}={value}" for option, value in recipe.build.items())
    jobs = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL", "1")
    print(f"Installing {recipe.package} into {place}; messages go to {log}", file=sys.stderr)
    with log.open("w", encoding="utf-8") as messages:
        for command in (
            [sys.executable, "-m", "venv", str(place)],
            ["nice", "-n", "10", str(python), "-m", "pip", "install", *source, recipe.package],
        ):
            made = subprocess.run(
                command,
                stdout=messages,
                stderr=subprocess.STDOUT,
                env={**os.environ, "CMAKE_ARGS": options, "CMAKE_BUILD_PARALLEL_LEVEL": jobs},
                check=False,
            )
            if made.returncode:
                raise RuntimeError(f"{recipe.package} cannot be installed; see {log}")
    built = f"from sources with {options}" if recipe.build else "wheel from PyPI"
    (place / "built.txt").write_text(built, encoding="utf-8")
    return python
