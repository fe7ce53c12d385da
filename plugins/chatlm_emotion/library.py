"""Where classifiers are: the one that comes with chatlm and the person's own, which win by name.

A folder appears whole or not at all. It does not know what is in a classifier's files.
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

SHIPPED = "mood"
"""The name of the classifier that comes with chatlm."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


@dataclass(frozen=True)
class ClassifierFolder:
    """The place of one classifier."""

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
            raise UsageError(f"The classifier {self.name} comes with chatlm and stays as it is.")
        gone = own_root() / f".removed-{self.name}-{os.getpid()}"
        try:
            self.path.replace(gone)
        except OSError as error:
            raise disk_error(error) from error
        shutil.rmtree(gone, ignore_errors=True)


def own_root() -> Path:
    """The folder of the person's own classifiers."""
    return data_dir() / "classifiers"


def shipped_root() -> Path:
    """The folder of what comes with chatlm."""
    return Path(__file__).parent / "classifiers"


def classifiers() -> list[ClassifierFolder]:
    """All classifiers by name."""
    found = {
        path.name: ClassifierFolder(path.name, path)
        for root in (shipped_root(), own_root())
        for path in sorted(root.glob("*/"))
        if _NAME.fullmatch(path.name)
    }
    return [found[name] for name in sorted(found)]


def located(name: str) -> ClassifierFolder:
    """The classifier of a name.

    Raises:
        UsageError: there is none; the nearest is suggested.
    """
    there = {each.name: each for each in classifiers()}
    if name not in there:
        near = get_close_matches(name, there, 1)
        raise UsageError(
            f"There is no classifier {name!r}.",
            hint=f"Did you mean {near[0]}?" if near else "See them: chatlm emotion list",
        )
    return there[name]


def free(name: str) -> ClassifierFolder:
    """The place of a new classifier.

    Raises:
        UsageError: there can be none of this name, or the person has one.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"A classifier cannot be called {name!r}.",
            hint="A name has small letters, digits, hyphens and underscores, 64 at most.",
        )
    place = ClassifierFolder(name, own_root() / name)
    if place.path.exists():
        raise UsageError(
            f"There is a classifier {name} already.",
            hint=f"Choose another name, or remove it: chatlm emotion remove {name}",
        )
    return place


@contextmanager
def making(place: ClassifierFolder) -> Iterator[Path]:
    """An empty folder to fill, which then becomes the classifier; nothing stays if that fails.

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
        f"Classifiers cannot be written in {own_root()}: {error.strerror or error}.",
        hint="Check the folder's permissions and the room on its disk, or set CHATLM_HOME.",
    )
