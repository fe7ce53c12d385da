"""Named folders of one kind, shipped and user-owned, and folders replaced version by version."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import TypeVar

from chatlm.config.paths import data_dir, write_atomically
from chatlm.errors import ChatlmError, UsageError
from chatlm.hub.checksums import FileRecord, find_mismatch, find_quick_mismatch, record_file
from chatlm.hub.disk import fsync_tree

_NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")

T = TypeVar("T")


@dataclass(frozen=True)
class Artifact:
    """The name and folder of one artifact.

    RECIPES.get("soup").path
    """

    name: str
    path: Path
    collection: Artifacts

    @property
    def user_owned(self) -> bool:
        """Whether it belongs to the user and can be removed."""
        return self.path.parent == self.collection.user_root

    @property
    def size_bytes(self) -> int:
        """Size on disk."""
        return sum(path.stat().st_size for path in self.path.iterdir() if path.is_file())

    def check(self) -> None:
        """Check in milliseconds that its weights are those that were written.

        Raises:
            ChatlmError: one is missing or differs.
        """
        self._require_intact(find_quick_mismatch)

    def verify(self) -> None:
        """Check every byte of its weights.

        Raises:
            ChatlmError: one is missing or differs.
        """
        self._require_intact(find_mismatch)

    def _require_intact(self, find: Callable[[Path, FileRecord], str]) -> None:
        command = self.collection.command
        hint = (
            f"Remove it and add it again: {command} remove {self.name}"
            if self.user_owned
            else "Install chatlm again."
        )
        try:
            problems = {
                name: find(self.path / name, record) for name, record in self._records().items()
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ChatlmError(
                f"The {self.collection.kind} {self.name} cannot be checked: "
                f"{self.path / CHECKSUMS_FILE}: {error}.",
                hint=hint,
            ) from error
        for name, problem in problems.items():
            if problem:
                raise ChatlmError(
                    f"The {self.collection.kind} {self.name} is damaged: {self.path / name}: "
                    f"{problem}.",
                    hint=hint,
                )

    def _records(self) -> dict[str, FileRecord]:
        """Return the records of its weights; none for artifacts of earlier versions."""
        try:
            table = json.loads((self.path / CHECKSUMS_FILE).read_bytes())
        except FileNotFoundError:
            return {}
        return {name: FileRecord.from_dict(record) for name, record in table.items()}

    def remove(self) -> None:
        """Delete the folder.

        Raises:
            UsageError: it comes with chatlm.
            ChatlmError: the folder cannot be changed.
        """
        if not self.user_owned:
            raise UsageError(
                f"The {self.collection.kind} {self.name} comes with chatlm and cannot be removed."
            )
        removed = self.collection.user_root / f".removed-{self.name}-{os.getpid()}"
        try:
            self.path.replace(removed)
        except OSError as error:
            raise self.collection.disk_error(error) from error
        shutil.rmtree(removed, ignore_errors=True)


@dataclass(frozen=True)
class Artifacts:
    """All artifacts of one kind, such as adapters; a user's own one hides a shipped one.

    RECIPES = Artifacts("recipe", "chatlm recipes", Path(__file__).parent / "recipes")
    with RECIPES.create(RECIPES.new("soup")) as folder:
        (folder / "text.md").write_text("…")
    """

    kind: str
    """Singular noun for messages, such as adapter; the user's own are in the folder adapters."""
    command: str
    """The command with the subcommands list and remove, such as chatlm adapters."""
    shipped_root: Path
    """The folder of the artifacts that come with the plugin."""
    reserved: Collection[str] = ()
    """Names with another meaning in commands, which no artifact can have."""

    @property
    def user_root(self) -> Path:
        """The folder of the user's own artifacts; it may not exist."""
        return data_dir() / f"{self.kind}s"

    def all(self) -> list[Artifact]:
        """Return all artifacts, sorted by name."""
        artifacts = {
            path.name: Artifact(path.name, path, self)
            for root in (self.shipped_root, self.user_root)
            for path in sorted(root.glob("*/"))
            if _NAME_PATTERN.fullmatch(path.name)
        }
        return [artifacts[name] for name in sorted(artifacts)]

    def get(self, name: str) -> Artifact:
        """Return the artifact with a name.

        Raises:
            UsageError: it does not exist; the hint suggests the most similar name.
        """
        artifacts = {artifact.name: artifact for artifact in self.all()}
        if name not in artifacts:
            similar = get_close_matches(name, artifacts, 1)
            raise UsageError(
                f"There is no {self.kind} {name!r}.",
                hint=f"Did you mean {similar[0]}?"
                if similar
                else f"List them: {self.command} list",
            )
        return artifacts[name]

    def new(self, name: str) -> Artifact:
        """Return the place for a new artifact, which does not exist yet.

        Raises:
            UsageError: the name is not valid, or the user has an artifact of this name.
        """
        noun = f"{'An' if self.kind[0] in 'aeiou' else 'A'} {self.kind}"
        if not _NAME_PATTERN.fullmatch(name) or name in self.reserved:
            raise UsageError(
                f"{noun} cannot be called {name!r}.",
                hint="Use lower-case letters, digits, hyphens and underscores, 64 at most.",
            )
        artifact = Artifact(name, self.user_root / name, self)
        if artifact.path.exists():
            raise UsageError(
                f"There is already {noun.lower()} {name}.",
                hint=f"Choose another name, or remove it: {self.command} remove {name}",
            )
        return artifact

    @contextmanager
    def create(self, artifact: Artifact) -> Iterator[Path]:
        """Create an artifact whole or, if the block fails, not at all.

        Args:
            artifact: the place that `new` returned.

        Yields:
            An empty folder to fill, which becomes the artifact when the block ends.

        Raises:
            ChatlmError: the disk is full, or the folder cannot be written.
        """
        new = self.user_root / f".new-{artifact.name}-{os.getpid()}"
        try:
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir(parents=True)
            yield new
            write_checksums(new)
            fsync_tree(new)
            new.replace(artifact.path)
        except OSError as error:
            raise self.disk_error(error) from error
        finally:
            shutil.rmtree(new, ignore_errors=True)

    def disk_error(self, error: OSError) -> ChatlmError:
        """Return the error for a folder that cannot be written."""
        return ChatlmError(
            f"{self.kind.capitalize()}s cannot be written in {self.user_root}: "
            f"{error.strerror or error}.",
            hint="Check the folder's permissions and the free disk space, or set CHATLM_HOME.",
        )


CHECKSUMS_FILE = "checksums.json"
"""Records of an artifact's weights."""


def write_checksums(folder: Path) -> None:
    """Record the safetensors files of an artifact, for `Artifact.check` and `Artifact.verify`.

    Other files are read in full and validated whenever they are used.

    Raises:
        OSError: a file cannot be read or written.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        return
    table = {path.name: record_file(path).to_dict() for path in files}
    (folder / CHECKSUMS_FILE).write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")


CURRENT_FILE = "CURRENT"
"""Names the current version."""

PARTIAL_FOLDER = "partial"
NEW_FOLDER = "new"


@dataclass(frozen=True)
class VersionedFolder:
    """A folder whose content is replaced as a whole, one numbered subfolder per version.

    A process that dies while it writes leaves the current version as it was.

    folder = VersionedFolder(path)
    with folder.lock():
        fill(folder.create_new())
        folder.commit()
    table = folder.open(read_table)
    """

    path: Path

    @property
    def partial(self) -> Path:
        """The subfolder where an unfinished build stores what it can resume from."""
        return self.path / PARTIAL_FOLDER

    def current(self) -> Path | None:
        """Return the subfolder of the current version; None before the first commit."""
        try:
            number = int((self.path / CURRENT_FILE).read_text(encoding="ascii"))
        except (OSError, ValueError):
            return None
        return self.path / str(number)

    def committed_at(self) -> datetime:
        """Return when the current version was committed.

        Raises:
            OSError: nothing was committed yet.
        """
        return datetime.fromtimestamp((self.path / CURRENT_FILE).stat().st_mtime, UTC)

    def open(self, opener: Callable[[Path], T]) -> T:
        """Call `opener` with the current version, again if it is replaced meanwhile.

        Args:
            opener: opens all files that it needs before it returns; open files stay readable.

        Raises:
            FileNotFoundError: nothing was committed yet, or a file is missing.
        """
        while True:
            folder = self.current()
            if folder is None:
                raise FileNotFoundError(f"{self.path} has no current version")
            try:
                return opener(folder)
            except Exception:
                if self.current() == folder:
                    raise

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only process that writes, after deleting what a dead process left.

        Raises:
            TimeoutError: another process is writing.
        """
        from filelock import FileLock

        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock_file = self.path.parent / f".{self.path.name}.lock"
        with FileLock(lock_file, timeout=0, is_singleton=False):
            self._delete_stale()
            yield

    def create_new(self) -> Path:
        """Create an empty folder for the next version; call it inside `lock`."""
        folder = self.path / NEW_FOLDER
        folder.mkdir(parents=True)
        return folder

    def commit(self) -> Path:
        """Make the folder from `create_new` the current version, and return its new path."""
        before = self.current()
        number = int(before.name) + 1 if before else 1
        folder = self.path / str(number)
        fsync_tree(self.path / NEW_FOLDER)
        (self.path / NEW_FOLDER).replace(folder)
        write_atomically(self.path / CURRENT_FILE, [f"{number}\n"])
        self.delete_partial()
        self._delete_stale()
        return folder

    def delete_partial(self) -> None:
        """Delete what an unfinished build stored; call it inside `lock`."""
        shutil.rmtree(self.partial, ignore_errors=True)

    def remove(self) -> None:
        """Delete all versions and what an unfinished build stored; call it inside `lock`."""
        removed = self.path.parent / f".removed-{self.path.name}-{os.getpid()}"
        self.path.replace(removed)
        shutil.rmtree(removed, ignore_errors=True)

    def _delete_stale(self) -> None:
        """Delete all other versions; on Windows, those with open files stay until next time."""
        current = self.current()
        kept = {PARTIAL_FOLDER, CURRENT_FILE, current.name if current else ""}
        with suppress(OSError):
            for entry in self.path.iterdir():
                if entry.name not in kept:
                    shutil.rmtree(entry, ignore_errors=True)
