"""Folders that cannot be written, for root too."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

CAPABILITY_VERSION_3 = 0x20080522
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 1, 2


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Words(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Make a folder and its files read-only for this thread and those that it starts."""
    entries = [folder, *folder.rglob("*")]
    modes = {entry: entry.stat().st_mode for entry in entries}
    with _permissions_hold():
        for entry, mode in modes.items():
            entry.chmod(mode & ~0o222)
        try:
            yield
        finally:
            for entry, mode in modes.items():
                if entry.exists():
                    entry.chmod(mode)


@contextmanager
def _permissions_hold() -> Iterator[None]:
    """Take from root what lets it ignore permissions; other users have it not."""
    if os.geteuid() != 0:
        yield
        return
    if sys.platform != "linux":
        pytest.skip("permissions do not hold for root here")
    libc = ctypes.CDLL(None, use_errno=True)
    header, before, after = _Header(CAPABILITY_VERSION_3, 0), (_Words * 2)(), (_Words * 2)()
    assert libc.capget(ctypes.byref(header), before) == 0
    ctypes.memmove(after, before, ctypes.sizeof(before))
    after[0].effective &= ~(1 << CAP_DAC_OVERRIDE | 1 << CAP_DAC_READ_SEARCH)
    assert libc.capset(ctypes.byref(header), after) == 0
    try:
        yield
    finally:
        assert libc.capset(ctypes.byref(header), before) == 0
