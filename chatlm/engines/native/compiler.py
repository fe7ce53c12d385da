"""Compile the C sources with the system's compiler, once, and cache the library."""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from chatlm.config import paths
from chatlm.engines.model import Unsupported

log = logging.getLogger(__name__)


SOURCES = tuple(
    Path(__file__).with_name("csrc") / name
    for name in (
        "kernel.c",
        "prompt_attention.h",
        "prompt_experts.h",
        "experts_step.h",
        "matmul_step.h",
        "routing.h",
        "attention.h",
        "recurrent_steps.h",
        "model.h",
        "linear_memory.h",
        "causal_conv.h",
        "lora.h",
        "prompt_matmul.h",
        "matmul.h",
        "packing.h",
        "formats.h",
        "vectors.h",
    )
)
"""Of the decode kernel; the first one is compiled, the others are included."""


_VECTORS = Path(__file__).with_name("csrc") / "vectors.h"
CHOOSE_SOURCES = (_VECTORS.with_name("choose.c"), _VECTORS)
"""Of what chooses tokens."""


ELEMENTWISE_SOURCES = (_VECTORS.with_name("elementwise.c"), _VECTORS)
"""Of steps between a prompt's matrix products."""


FLAGS = ("-std=gnu11", "-O3", "-march=native", "-shared", "-fPIC", "-pthread")


X86_FLAGS = ("-mprefer-vector-width=512", "-mtune=generic")
"""Without them GCC splits vectors of 16 floats, and on some CPUs does not fuse multiply and add."""


COMPILE_TIMEOUT = 300
"""Limit in seconds; a compilation takes one or two, but minutes on a busy machine."""


class KernelUnavailable(Unsupported):
    """The kernel cannot be compiled or loaded on this machine; the message says why."""


def kernel_library(*, float32: bool) -> Path:
    """Return the compiled kernel, from the cache if possible.

    Args:
        float32: whether the model's dtype is float32 rather than bfloat16.

    Raises:
        KernelUnavailable: there is no C compiler, or it failed.
    """
    return _library("decode", SOURCES, ("-DELEMENT_IS_FLOAT32",) if float32 else ())


def choose_library() -> Path:
    """Return the compiled functions that choose tokens, from the cache if possible.

    Raises:
        KernelUnavailable: there is no C compiler, or it failed.
    """
    return _library("choose", CHOOSE_SOURCES)


def elementwise_library() -> Path:
    """Return the compiled steps between a prompt's matrix products, from the cache if possible.

    Raises:
        KernelUnavailable: there is no C compiler, or it failed.
    """
    return _library("elementwise", ELEMENTWISE_SOURCES)


def _library(name: str, sources: Sequence[Path], flags: Sequence[str] = ()) -> Path:
    command = [*_find_compiler(), *FLAGS]
    if platform.machine() == "x86_64":
        command += X86_FLAGS
    command += flags
    folder = paths.data_dir() / "kernels"
    library = folder / f"{name}-{_build_hash(command, sources)}.so"
    if not library.is_file():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _compile([*command, str(sources[0])], library)
        except OSError as error:
            raise KernelUnavailable(
                f"{folder} cannot be written: {error.strerror or error}"
            ) from error
    return library


def _find_compiler() -> list[str]:
    command = shlex.split(os.environ.get("CC", "")) or ["cc"]
    program = shutil.which(command[0])
    if program is None:
        raise KernelUnavailable(f"there is no C compiler ({command[0]})")
    return [program, *command[1:]]


def _build_hash(command: list[str], sources: Sequence[Path]) -> str:
    """Hash all that the machine code depends on: sources, command, compiler and CPU."""
    compiler = Path(command[0]).resolve().stat()
    texts = [source.read_bytes() for source in sources]
    inputs = (texts, command, compiler.st_size, compiler.st_mtime_ns, _describe_cpu())
    return hashlib.sha256(repr(inputs).encode()).hexdigest()[:16]


def _describe_cpu() -> str:
    """Return the CPU's name and features, as far as the system reports them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    fields = ("model name", "flags", "Features", "CPU part")
    facts = {name: line for line in reversed(lines) for name in fields if line.startswith(name)}
    return repr((platform.machine(), platform.processor(), sorted(facts.values())))


def _compile(command: list[str], library: Path) -> None:
    descriptor, name = tempfile.mkstemp(dir=library.parent, suffix=".so.part")
    os.close(descriptor)
    temporary = Path(name)
    try:
        result = subprocess.run(
            [*command, "-o", name, "-lm"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=COMPILE_TIMEOUT,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        if result.returncode:
            log.warning("the C compiler failed: %s", result.stderr[-2000:])
            first = next((line for line in result.stderr.splitlines() if "error" in line), "")
            raise KernelUnavailable(
                f"the C compiler failed: {first or f'status {result.returncode}'}"
            )
        temporary.replace(library)
    except subprocess.TimeoutExpired as error:
        raise KernelUnavailable(
            f"the C compiler took more than {COMPILE_TIMEOUT} seconds"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
