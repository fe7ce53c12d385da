"""Open the compiled C sources: from the wheel, or compiled here once with the system's compiler."""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from chatlm.config import paths
from chatlm.engines.model import Unsupported
from chatlm.engines.native.bundled import bundled_library

T = TypeVar("T")

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
        "prompt_floats.h",
        "prompt_words.h",
        "prompt_vectors.h",
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


@dataclass(frozen=True)
class _Library:
    """What is compiled to one file."""

    prefix: str
    """Of the file's name."""
    sources: tuple[Path, ...]
    flags: tuple[str, ...] = ()


_LIBRARIES = {
    "decode-bfloat16": _Library("decode", SOURCES),
    "decode-float32": _Library("decode", SOURCES, ("-DELEMENT_IS_FLOAT32",)),
    "choose": _Library("choose", CHOOSE_SOURCES),
    "elementwise": _Library("elementwise", ELEMENTWISE_SOURCES),
}
"""By the names of targets.toml."""


def decoder_name(*, float32: bool) -> str:
    """Return the name of the decode kernel's library for the model's dtype, which is bfloat16 or
    float32."""
    return "decode-float32" if float32 else "decode-bfloat16"


def open_library(name: str, opener: Callable[[Path], T]) -> T:
    """Open a library that came with the wheel; if there is none that works, compile it.

    Args:
        name: such as `choose`, see `_LIBRARIES`.
        opener: opens the file; raises `KernelUnavailable` if it cannot be used.

    Raises:
        KernelUnavailable: neither can be used.
    """
    bundled = bundled_library(name)
    if bundled is not None:
        try:
            return opener(bundled)
        except KernelUnavailable as error:
            log.warning("it is compiled here instead: %s", error)
    return opener(compiled_library(name))


def compile_missing(names: Sequence[str], report: Callable[[], None]) -> None:
    """Compile libraries that are neither in the wheel nor compiled yet, as far as possible.

    Args:
        names: of the libraries, see `_LIBRARIES`.
        report: called before the first one is compiled.
    """
    try:
        missing = [name for name in names if ready_library(name) is None]
        if missing:
            report()
        for name in missing:
            compiled_library(name)
    except (KernelUnavailable, OSError) as error:
        log.info("not compiled ahead: %s", error)  # whoever opens it says why


def ready_library(name: str) -> Path | None:
    """Return a library from the wheel, or one that was compiled here before; None if it must be.

    Args:
        name: see `_LIBRARIES`.

    Raises:
        KernelUnavailable: no library fits this processor, and there is no C compiler.
    """
    bundled = bundled_library(name)
    if bundled is not None:
        return bundled
    library = _locate(name)[1]
    return library if library.is_file() else None


def kernel_library(*, float32: bool) -> Path:
    """Return the decode kernel as compiled here, see `compiled_library`.

    Args:
        float32: whether the model's dtype is float32 rather than bfloat16.

    Raises:
        KernelUnavailable: there is no C compiler, or it failed.
    """
    return compiled_library(decoder_name(float32=float32))


def compiled_library(name: str) -> Path:
    """Return a library that is compiled for this processor, from the cache if possible.

    Raises:
        KernelUnavailable: there is no C compiler, or it failed.
    """
    command, library = _locate(name)
    if not library.is_file():
        folder = library.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _compile(command, library)
        except OSError as error:
            raise KernelUnavailable(
                f"{folder} cannot be written: {error.strerror or error}"
            ) from error
    return library


def _locate(name: str) -> tuple[list[str], Path]:
    """Return the command that compiles a library, and the file in the cache."""
    made = _LIBRARIES[name]
    command = [*_find_compiler(), *FLAGS]
    if platform.machine() == "x86_64":
        command += X86_FLAGS
    command += made.flags
    key = _build_hash(command, made.sources)
    library = paths.data_dir() / "kernels" / f"{made.prefix}-{key}.so"
    return [*command, str(made.sources[0])], library


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
