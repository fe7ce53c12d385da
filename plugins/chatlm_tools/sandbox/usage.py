"""Measure what a sandboxed program and everything that it started use, from `/proc`."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")
_MAX_DEPTH = 64


@dataclass(frozen=True)
class Process:
    """A running process."""

    pid: int
    threads: int
    resident: int
    """Bytes, shared ones included."""


def _processes() -> list[int]:
    """Return the numbers of all processes."""
    return [int(entry.name) for entry in os.scandir("/proc") if entry.name.isdecimal()]


def _read_stat(pid: int) -> tuple[int, Process] | None:
    """Return the parent and the process; None if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("latin-1").rpartition(")")[2].split()
    except OSError:
        return None
    state, parent, threads, resident = fields[0], fields[1], fields[17], fields[21]
    if state in "ZX":
        return None
    return int(parent), Process(pid, int(threads), int(resident) * _PAGE)


def descendants(root: int) -> list[Process]:
    """Return the running processes that come from `root`, which is left out.

    Args:
        root: a process that orphans of its descendants are given to.
    """
    children: dict[int, list[Process]] = {}
    for pid in _processes():
        if found := _read_stat(pid):
            children.setdefault(found[0], []).append(found[1])
    result: list[Process] = []
    pending = [root]
    while pending:
        for process in children.get(pending.pop(), ()):
            result.append(process)
            pending.append(process.pid)
    return result


def count_tasks(user: int) -> int:
    """Return how many processes and threads a user has."""
    total = 0
    for pid in _processes():
        folder = Path(f"/proc/{pid}")
        try:
            if folder.stat().st_uid == user:
                total += sum(1 for _ in (folder / "task").iterdir())
        except OSError:
            continue
    return total


def proportional_memory(process: Process) -> int:
    """Return resident bytes with shared ones divided among those that share them."""
    try:
        for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return process.resident


def _removed_files(process: Process) -> Iterator[tuple[tuple[int, int], int]]:
    """Yield files that are open but in no folder any more: what they are, and their bytes."""
    try:
        descriptors = list(Path(f"/proc/{process.pid}/fd").iterdir())
    except OSError:
        return
    for descriptor in descriptors:
        try:
            found = descriptor.stat()
        except OSError:
            continue
        if stat.S_ISREG(found.st_mode) and found.st_nlink == 0:
            yield (found.st_dev, found.st_ino), found.st_blocks * 512


def disk_use(folder: str, processes: list[Process], max_files: int) -> tuple[int, int]:
    """Return the bytes and the number of files in a folder and in removed files.

    Stops counting at `max_files`; a folder within more than 64 others counts as that many.
    """
    size, count = 0, 0
    pending = [(folder, 0)]
    while pending:
        path, depth = pending.pop()
        if depth > _MAX_DEPTH:
            return size, max_files + 1
        try:
            entries = list(os.scandir(path))
        except OSError:
            continue
        for entry in entries:
            count += 1
            if count > max_files:
                return size, count
            try:
                found = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            size += found.st_blocks * 512
            if stat.S_ISDIR(found.st_mode):
                pending.append((entry.path, depth + 1))
    removed: dict[tuple[int, int], int] = {}
    for process in processes:
        removed.update(_removed_files(process))
    return size + sum(removed.values()), count + len(removed)
