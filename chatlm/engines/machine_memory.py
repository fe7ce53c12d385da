"""The memory that is available on this machine: to the process, and on its GPUs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import torch

CGROUP_ROOT = Path("/sys/fs/cgroup")

CGROUP_OF_PROCESS = Path("/proc/self/cgroup")


def available_memory(device: str) -> int | None:
    """Return how many bytes a model may take on a device; None if unknown.

    Args:
        device: cpu, mps, cuda:N, or auto for all CUDA devices together.
    """
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[0])
    if device == "auto":
        return sum(torch.cuda.mem_get_info(n)[0] for n in range(torch.cuda.device_count()))
    return available_main_memory()


def available_main_memory() -> int:
    """Return how many bytes of main memory this process can still take without swapping.

    Pages of files that the system can drop count as available, and the limits of the control
    groups that the process is in count as they are used by all processes in each.
    """
    return min([int(psutil.virtual_memory().available), *_left_in_cgroups()])


def own_memory() -> int:
    """Return how many bytes of main memory this process has taken."""
    return int(psutil.Process().memory_info().rss)


def _left_in_cgroups() -> Iterator[int]:
    """Yield what each control group of this process with a limit has left."""
    try:
        lines = CGROUP_OF_PROCESS.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):  # not Linux
        return
    for line in lines:
        _, _, controllers_and_path = line.partition(":")
        controllers, _, path = controllers_and_path.partition(":")
        if not controllers:  # version 2
            for mount in (CGROUP_ROOT, CGROUP_ROOT / "unified"):
                for folder in _folders_up_to(mount, path):
                    yield from _left(folder, "memory.max", "memory.current", "")
        elif "memory" in controllers.split(","):
            for folder in _folders_up_to(CGROUP_ROOT / "memory", path):
                yield from _left(folder, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_")


def _folders_up_to(mount: Path, path: str) -> Iterator[Path]:
    """Yield the folder of a control group and those above it; in a container, where the path may
    be that of the host, at least the mount itself."""
    folder = mount / path.lstrip("/")
    if ".." in folder.parts:  # above the root of the process's namespace
        folder = mount
    while True:
        yield folder
        if folder == mount:
            return
        folder = folder.parent


def _left(folder: Path, limit_file: str, usage_file: str, prefix: str) -> Iterator[int]:
    """Yield what a control group has left, unless it has no limit."""
    try:
        limit = int((folder / limit_file).read_text("ascii"))
        usage = int((folder / usage_file).read_text("ascii"))
    except (OSError, ValueError):  # no such group, or the limit is "max"
        return
    droppable = 0
    try:
        for line in (folder / "memory.stat").read_text("ascii").splitlines():
            name, _, value = line.partition(" ")
            if name in (f"{prefix}inactive_file", f"{prefix}active_file"):
                droppable += int(value)
    except (OSError, ValueError):
        droppable = 0
    yield max(0, limit - max(0, usage - droppable))
