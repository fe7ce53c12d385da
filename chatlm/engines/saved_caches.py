"""Keep the KV caches of long chats on disk, so that a chat that is opened again is not read again.

A chat has a folder. In it is a file for each block of tokens that a longer prompt shares, and for a
model with windows or recurrent layers one or two more with what they had at the end of the last
block, and of the last one that every longer prompt shares.
Files only appear whole, so writing can be cut off at any moment. Each names what it was computed
from and by (see `SavedCaches`) and has a checksum; one that does not fit is removed, never used.
The chats used least recently are removed where all of them take more than the limit.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import struct
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import version
from itertools import pairwise, takewhile
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from chatlm.engines.model import Model, SavableCache
from chatlm.engines.prompt_cache import CachedPrompt
from chatlm.hub.disk import tree_bytes
from chatlm.hub.model_folder import read_manifest
from chatlm.version import version as program_version

log = logging.getLogger(__name__)

MIN_TOKENS = 1024
"""Shorter chats are not kept: they are read again in the time that a file takes."""

MAX_STATE_BYTES = 32_000_000
"""A larger state of windows and recurrent layers is written only every few hundred tokens."""

MIN_FREE_BYTES = 1_000_000_000
"""What is left free on the disk."""

_SUFFIX = ".safetensors"

_STATE = "state-"

_PARTIAL = ".part-"
"""Beginning of the name of a file that is being written."""

_STALE_SECONDS = 600
"""After that, such a file was left behind by a program that was ended."""

_MAX_HEADER_BYTES = 1_000_000


class SavedCaches:
    """The saved KV caches of one model.

    Args:
        computed_by: all that the numbers depend on besides the tokens and the adapter: the model's
            files, number formats, engine, device, and versions of the program and its libraries.
        limit: of the bytes of all chats' folders, which lie in one folder.
    """

    def __init__(self, computed_by: str, limit: int) -> None:
        self._computed_by = computed_by
        self._limit = limit
        self._written: dict[Path, str] = {}
        """Origins of the files that were written or read by this program."""

    def load(self, folder: Path, best: CachedPrompt, prompt: Sequence[int], adapter: str) -> bool:
        """Fill a cache with what is on disk, if that is more of a prompt than it has.

        Args:
            folder: of the chat.
            best: what is in memory.
            prompt: ids.
            adapter: digest of the adapter's files; empty for none.

        Returns:
            Whether the cache was replaced.
        """
        fresh = best.model.new_cache()
        if not isinstance(fresh, SavableCache):
            return False
        ends = best.shared_ends(prompt)
        ends = ends[: _count_files(folder, ends)]
        shared = _count_kept(best, prompt)
        origins = self._origins(prompt, ends, adapter)
        state: Mapping[str, Tensor] = {}
        if fresh.has_state:
            while ends and ends[-1] > shared:
                found = self._read(_state_file(folder, ends[-1]), _STATE + origins[-1])
                if found is not None:
                    state = found
                    break
                del ends[-1], origins[-1]
        if not ends or ends[-1] <= shared:
            return False
        blocks = []
        for (start, end), origin in zip(pairwise([0, *ends]), origins, strict=True):
            block = self._read(_block_file(folder, start, end), origin)
            if block is None:
                break
            blocks.append(block)
        read = ends[: len(blocks)]
        if not read or (fresh.has_state and len(read) < len(ends)) or read[-1] <= shared:
            return False
        ids = prompt[: read[-1]]
        fresh.restore(ids, read, blocks, state)
        best.restore(fresh, ids, read)
        _touch(folder)
        return True

    def save(self, folder: Path, cached: CachedPrompt, adapter: str) -> Iterator[int]:
        """Write the blocks that are not yet on disk; a failure is logged and ends it.

        Args:
            folder: of the chat, which is made.
            cached: what has read the chat.
            adapter: digest of the adapter's files; empty for none.

        Yields:
            Tokens that are on disk, after each file.
        """
        kept = cached.cache
        if not isinstance(kept, SavableCache):
            return
        ends = cached.read_ends(large=False)
        lasting = cached.read_ends(large=True)
        states: dict[int, Mapping[str, Tensor]] = {}
        if kept.has_state:
            # one for a longer prompt that has a large block where this one ends in small ones
            for end in dict.fromkeys((*lasting[-1:], *ends[-1:])):
                state = kept.read_state(end)
                # a large one is not written anew for each end, only for those that last
                if state and (end in lasting or _count_bytes(state) <= MAX_STATE_BYTES):
                    states[end] = state
            ends = [end for end in ends if end <= max(states, default=0)]
        if not ends or ends[-1] < MIN_TOKENS:
            return
        origins = self._origins(cached.ids, ends, adapter)
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _remove_partial(folder)
            for (start, end), origin in zip(pairwise([0, *ends]), origins, strict=True):
                path = _block_file(folder, start, end)
                if not self._is_written(path, origin):
                    self._write(path, origin, kept.read_block(start, end))
                    yield end
            _remove_moved(folder, ends)
            for end, state in states.items():
                path, origin = _state_file(folder, end), _STATE + origins[ends.index(end)]
                if not self._is_written(path, origin):
                    self._write(path, origin, state)
                    yield end
            # an earlier program may have written one that this one has no more in memory
            kept_files = {_state_file(folder, end) for end in (*states, *lasting[-1:])}
            for path in folder.glob(_STATE + "*"):
                if path not in kept_files:
                    path.unlink(missing_ok=True)
            _touch(folder)
        except OSError as error:  # a full disk, a folder that cannot be written or was deleted
            log.info("the KV cache of a chat is not kept in %s: %s", folder, error)

    def _origins(self, ids: Sequence[int], ends: Sequence[int], adapter: str) -> list[str]:
        """Return for each block a digest of all that its numbers follow from."""
        digest = hashlib.sha256(json.dumps([self._computed_by, adapter]).encode())
        found = []
        for start, end in pairwise([0, *ends]):
            digest.update(struct.pack(f"<QQ{end - start}I", start, end, *ids[start:end]))
            found.append(digest.hexdigest())
        return found

    def _is_written(self, path: Path, origin: str) -> bool:
        if self._written.get(path) == origin and path.exists():
            return True
        return _read_metadata(path).get("origin") == origin

    def _read(self, path: Path, origin: str) -> Mapping[str, Tensor] | None:
        """Read a file; remove one that is damaged or of something else."""
        try:
            if path.stat().st_size > self._limit:
                raise OSError("it is larger than anything that is written")
            content = path.read_bytes()
        except OSError:
            return None
        try:
            metadata = _metadata(content)
            if metadata.get("origin") == origin:
                tensors = load(content)
                if metadata.get("checksum") == _checksum(tensors, origin):
                    self._written[path] = origin
                    return tensors
                log.warning("removed a damaged file of a saved KV cache: %s", path)
        except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
            log.warning("removed a damaged file of a saved KV cache: %s: %s", path, error)
        self._written.pop(path, None)
        try:
            path.unlink(missing_ok=True)
        except OSError:
            log.info("%s cannot be removed", path)
        return None

    def _write(self, path: Path, origin: str, tensors: Mapping[str, Tensor]) -> None:
        """Write a file, readable by its owner only; it appears whole or not at all.

        Raises:
            OSError: there is no room, or the folder cannot be written.
        """
        tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        metadata = {"origin": origin, "checksum": _checksum(tensors, origin)}
        content = save(tensors, metadata)
        self._make_room(path.parent, len(content))
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=_PARTIAL)
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        self._written[path] = origin

    def _make_room(self, folder: Path, size: int) -> None:
        """Remove the chats used least recently until a file fits.

        Raises:
            OSError: it does not fit.
        """
        if tree_bytes(folder) + size > self._limit:
            raise OSError("it would be larger than the setting chat_cache allows")
        if shutil.disk_usage(folder).free < size + MIN_FREE_BYTES:
            raise OSError("the disk is almost full")
        sizes = {each: tree_bytes(each) for each in _chat_folders(folder.parent)}
        total = sum(sizes.values()) + size
        for other in sorted(sizes, key=_used_at):
            if total <= self._limit:
                break
            if other != folder:
                shutil.rmtree(other, ignore_errors=True)
                total -= sizes[other]


def describe_computation(folder: Path, model: Model) -> str:
    """Return all that a model's KV caches depend on besides tokens and adapter, as JSON.

    Args:
        folder: of the model.
        model: loaded from it.
    """
    manifest = read_manifest(folder)
    known = {name: record.sha256 for name, record in manifest.files.items()} if manifest else {}
    files = {}
    for path in sorted(folder.iterdir()):
        if path.is_file():
            facts = path.stat()
            files[path.name] = [facts.st_size, facts.st_mtime_ns, known.get(path.name)]
    info = model.info
    decoder = getattr(model, "decoder", model)
    values = {
        "files": files,
        "engine": [type(model).__name__, type(decoder).__name__],
        "weights": info.weights,
        "kv_cache": info.kv_cache,
        "device": info.device,
        "processor": [torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()],
        "program": [program_version(), _own_code()],
        "libraries": {
            **{name: version(name) for name in ("torch", "transformers")},
            **info.versions,
        },
    }
    return json.dumps(values, sort_keys=True)


@cache
def _own_code() -> str:
    """Return a digest of the code that computes, which may change within a version."""
    digest = hashlib.sha256()
    folder = Path(__file__).parent
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".py", ".c", ".h"):
            digest.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return digest.hexdigest()


def _count_kept(cached: CachedPrompt, prompt: Sequence[int]) -> int:
    """Count the tokens of a prompt that a cache keeps: up to the last state it can go back to."""
    shared, cache = cached.count_shared(prompt), cached.cache
    if not shared or not isinstance(cache, SavableCache) or not cache.has_state:
        return shared
    ends = [end for end in cached.read_ends(large=False) if end < shared]
    possible = (shared, *reversed(ends))
    return next((end for end in possible if cache.read_state(end) is not None), 0)


def _count_files(folder: Path, ends: Sequence[int]) -> int:
    """Count the blocks that can be read, as far as the names of files say."""
    blocks = pairwise([0, *ends])
    return sum(1 for _ in takewhile(lambda block: _block_file(folder, *block).exists(), blocks))


def _chat_folders(root: Path) -> list[Path]:
    try:
        return [each for each in root.iterdir() if each.is_dir()]
    except OSError:
        return []


def _used_at(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except OSError:
        return 0.0


def _touch(folder: Path) -> None:
    try:
        os.utime(folder)
    except OSError:
        log.info("%s cannot be changed", folder)


def _remove_partial(folder: Path) -> None:
    for each in folder.glob(_PARTIAL + "*"):
        if time.time() - each.stat().st_mtime > _STALE_SECONDS:
            each.unlink(missing_ok=True)


def _count_bytes(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


def _remove_moved(folder: Path, ends: Sequence[int]) -> None:
    """Remove the files of blocks that begin or end within those of a prompt."""
    names = {_block_file(folder, *block).name for block in pairwise([0, *ends])}
    for path in folder.glob(f"[0-9]*{_SUFFIX}"):
        start = path.name.partition("-")[0]
        if path.name not in names and start.isdigit() and int(start) < ends[-1]:
            path.unlink(missing_ok=True)


def _block_file(folder: Path, start: int, end: int) -> Path:
    return folder / f"{start}-{end}{_SUFFIX}"


def _state_file(folder: Path, end: int) -> Path:
    return folder / f"{_STATE}{end}{_SUFFIX}"


def _read_metadata(path: Path) -> Mapping[str, str]:
    """Return the metadata of a file; nothing if it is missing or damaged."""
    try:
        with path.open("rb") as file:
            return _metadata(file.read(8) + file.read(_MAX_HEADER_BYTES))
    except (OSError, ValueError):
        return {}


def _metadata(content: bytes) -> Mapping[str, str]:
    """Return the metadata at the beginning of a safetensors file.

    Raises:
        ValueError: it is damaged.
    """
    size = int.from_bytes(content[:8], "little")
    if size > _MAX_HEADER_BYTES or len(content) < 8 + size:
        raise ValueError("the header is damaged")
    header = json.loads(content[8 : 8 + size])
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    return metadata if isinstance(metadata, dict) else {}


def _checksum(tensors: Mapping[str, Tensor], origin: str) -> str:
    digest = hashlib.sha256(origin.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        if tensor.numel():
            digest.update(tensor.contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()
