"""Where adapters are: those that come with chatlm and the person's own, which win by name.

A folder appears whole or not at all. It does not know what is in an adapter's files.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from chatlm import ChatlmError, UsageError, data_dir, sync_tree

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
"""An adapter's files, as peft names them."""

NAMES = "A name has small letters, digits, hyphens and underscores, 64 at most."

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_RESERVED = {"off", "base", "default"}
"""Words that mean something else where an adapter is named."""


def own_root() -> Path:
    """The folder of the person's own adapters."""
    return data_dir() / "adapters"


def shipped_root() -> Path:
    """The folder of the adapters that come with chatlm."""
    return Path(__file__).parent / "adapters"


@dataclass(frozen=True)
class AdapterFolder:
    """The place of one adapter."""

    name: str
    path: Path

    @property
    def own(self) -> bool:
        """Whether it is the person's own, which can be removed."""
        return self.path.parent == own_root()

    @property
    def bytes(self) -> int:
        """What it takes on disk."""
        return sum(path.stat().st_size for path in self.path.iterdir() if path.is_file())

    def remove(self) -> None:
        """Delete it.

        Raises:
            UsageError: it comes with chatlm.
            ChatlmError: the folder cannot be changed.
        """
        if not self.own:
            raise UsageError(f"The adapter {self.name} comes with chatlm and stays as it is.")
        gone = own_root() / f".removed-{self.name}-{os.getpid()}"
        try:
            self.path.replace(gone)
        except OSError as error:
            raise disk_error(error) from error
        shutil.rmtree(gone, ignore_errors=True)


def adapters() -> list[AdapterFolder]:
    """All adapters by name."""
    found = {
        path.name: AdapterFolder(path.name, path)
        for root in (shipped_root(), own_root())
        for path in sorted(root.glob("*/"))
        if _NAME.fullmatch(path.name)
    }
    return [found[name] for name in sorted(found)]


def located(name: str) -> AdapterFolder:
    """The adapter of a name.

    Raises:
        UsageError: there is none; the nearest is suggested.
    """
    there = {adapter.name: adapter for adapter in adapters()}
    if name not in there:
        near = get_close_matches(name, there, 1)
        raise UsageError(
            f"There is no adapter {name!r}.",
            hint=f"Did you mean {near[0]}?" if near else "See them: chatlm adapters list",
        )
    return there[name]


def free(name: str) -> AdapterFolder:
    """The place of a new adapter.

    Raises:
        UsageError: there can be none of this name, or the person has one.
    """
    if not _NAME.fullmatch(name) or name in _RESERVED:
        raise UsageError(f"An adapter cannot be called {name!r}.", hint=NAMES)
    place = AdapterFolder(name, own_root() / name)
    if place.path.exists():
        raise UsageError(
            f"There is an adapter {name} already.",
            hint=f"Choose another name, or remove it: chatlm adapters remove {name}",
        )
    return place


@contextmanager
def making(place: AdapterFolder) -> Iterator[Path]:
    """An empty folder to fill, which then becomes the adapter; nothing stays if that fails.

    Raises:
        ChatlmError: the disk is full, or the folder cannot be written.
    """
    new = own_root() / f".new-{place.name}-{os.getpid()}"
    try:
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        yield new
        sync_tree(new)
        new.replace(place.path)
    except OSError as error:
        raise disk_error(error) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)


def disk_error(error: OSError) -> ChatlmError:
    """The error for a folder that cannot be written."""
    return ChatlmError(
        f"Adapters cannot be written in {own_root()}: {error.strerror or error}.",
        hint="Check the folder's permissions and the room on its disk, or set CHATLM_HOME.",
    )
