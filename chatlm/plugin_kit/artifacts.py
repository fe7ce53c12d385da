"""Named folders of one kind, such as adapters: what a plugin ships and what a person made.

The person's own win by name. A folder appears whole or not at all. It does not know what is in one.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from chatlm.config.paths import data_dir
from chatlm.errors import ChatlmError, UsageError
from chatlm.hub.disk import fsync_tree

_NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


@dataclass(frozen=True)
class Artifact:
    """The place of one."""

    name: str
    path: Path
    collection: Artifacts

    @property
    def user_owned(self) -> bool:
        """Whether it is the person's own, which can be removed."""
        return self.path.parent == self.collection.user_root

    @property
    def size_bytes(self) -> int:
        """What it takes on disk."""
        return sum(path.stat().st_size for path in self.path.iterdir() if path.is_file())

    def remove(self) -> None:
        """Delete it.

        Raises:
            UsageError: it comes with chatlm.
            ChatlmError: the folder cannot be changed.
        """
        if not self.user_owned:
            raise UsageError(
                f"The {self.collection.kind} {self.name} comes with chatlm and stays as it is."
            )
        gone = self.collection.user_root / f".removed-{self.name}-{os.getpid()}"
        try:
            self.path.replace(gone)
        except OSError as error:
            raise self.collection.disk_error(error) from error
        shutil.rmtree(gone, ignore_errors=True)


@dataclass(frozen=True)
class Artifacts:
    """All of one kind."""

    kind: str
    """What one is called in messages: adapter; the person's own are in the folder adapters."""
    command: str
    """What looks after them, with the subcommands list and remove: chatlm adapters."""
    shipped_root: Path
    """The folder of those that come with the plugin."""
    reserved: Collection[str] = ()
    """Names that mean something else."""

    @property
    def user_root(self) -> Path:
        """The folder of the person's own; it need not be there."""
        return data_dir() / f"{self.kind}s"

    def all(self) -> list[Artifact]:
        """All by name."""
        found = {
            path.name: Artifact(path.name, path, self)
            for root in (self.shipped_root, self.user_root)
            for path in sorted(root.glob("*/"))
            if _NAME_PATTERN.fullmatch(path.name)
        }
        return [found[name] for name in sorted(found)]

    def get(self, name: str) -> Artifact:
        """The one of a name.

        Raises:
            UsageError: there is none; the nearest is suggested.
        """
        there = {each.name: each for each in self.all()}
        if name not in there:
            near = get_close_matches(name, there, 1)
            raise UsageError(
                f"There is no {self.kind} {name!r}.",
                hint=f"Did you mean {near[0]}?" if near else f"See them: {self.command} list",
            )
        return there[name]

    def new(self, name: str) -> Artifact:
        """The place of a new one.

        Raises:
            UsageError: there can be none of this name, or the person has one.
        """
        a = f"{'An' if self.kind[0] in 'aeiou' else 'A'} {self.kind}"
        if not _NAME_PATTERN.fullmatch(name) or name in self.reserved:
            raise UsageError(
                f"{a} cannot be called {name!r}.",
                hint="A name has small letters, digits, hyphens and underscores, 64 at most.",
            )
        place = Artifact(name, self.user_root / name, self)
        if place.path.exists():
            raise UsageError(
                f"There is {a.lower()} {name} already.",
                hint=f"Choose another name, or remove it: {self.command} remove {name}",
            )
        return place

    @contextmanager
    def create(self, artifact: Artifact) -> Iterator[Path]:
        """An empty folder to fill, which then becomes the artifact; nothing stays if that fails.

        Args:
            artifact: as `free` gave it.

        Raises:
            ChatlmError: the disk is full, or the folder cannot be written.
        """
        new = self.user_root / f".new-{artifact.name}-{os.getpid()}"
        try:
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir(parents=True)
            yield new
            fsync_tree(new)
            new.replace(artifact.path)
        except OSError as error:
            raise self.disk_error(error) from error
        finally:
            shutil.rmtree(new, ignore_errors=True)

    def disk_error(self, error: OSError) -> ChatlmError:
        """The error for a folder that cannot be written."""
        return ChatlmError(
            f"{self.kind.capitalize()}s cannot be written in {self.user_root}: "
            f"{error.strerror or error}.",
            hint="Check the folder's permissions and the room on its disk, or set CHATLM_HOME.",
        )
