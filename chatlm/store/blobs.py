"""Bytes of images, stored once by their hash in a folder beside the database."""

from __future__ import annotations

import hashlib
import io
import os
import re
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from chatlm.errors import StoreError
from chatlm.types.parts import Image

MAX_IMAGE_BYTES = 64 * 2**20
"""Maximum size of one image."""

MAX_PIXELS = 64_000_000
"""Maximum pixels of an image; decoded it takes up to four bytes for each."""


_IMAGE_FORMATS = ("PNG", "JPEG", "GIF", "WEBP")

_NAME = re.compile(r"[0-9a-f]{64}")


_PARTIAL_PREFIX = ".part-"


_HASH = re.compile(r'"sha256": ?"([0-9a-f]{64})"')


class Blobs(Mapping[str, bytes]):
    """The bytes of a store's images by hash. Callers that add or remove hold the write lock of its
    database, so that no blob is removed between its writing and the message that refers to it.

    Args:
        folder: where they are, created with the first one; None keeps them in memory.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._in_memory: dict[str, bytes] = {}

    def add(self, content: bytes) -> str:
        """Store bytes unless they are already stored; return their SHA-256 in hex.

        Raises:
            StoreError: they cannot be written.
        """
        sha256 = hashlib.sha256(content).hexdigest()
        if self._folder is None:
            self._in_memory[sha256] = content
            return sha256
        path = self._folder / sha256
        try:
            if not (path.is_file() and path.read_bytes() == content):
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                _write_durably(path, content)
        except OSError as error:
            raise StoreError(
                f"An image cannot be stored in {self._folder}: {error.strerror or error}.",
                hint="Check the folder's permissions and the free space.",
            ) from error
        return sha256

    def read(self, sha256: str) -> bytes:
        """Return bytes by their hash.

        Raises:
            StoreError: they are missing, cannot be read or have another hash.
        """
        if self._folder is None:
            content = self._in_memory.get(sha256)
            if content is None:
                raise StoreError(f"The image {sha256[:12]}… is missing.")
            return content
        path = self._folder / sha256
        hint = f"The chat itself is intact. A backup of {self._folder} has the image."
        try:
            content = path.read_bytes()
        except FileNotFoundError as error:
            raise StoreError(
                f"An image of a chat is missing: {path} does not exist.", hint
            ) from error
        except OSError as error:
            raise StoreError(
                f"An image of a chat cannot be read: {path}: {error.strerror or error}.", hint
            ) from error
        if hashlib.sha256(content).hexdigest() != sha256:
            raise StoreError(
                f"An image of a chat is damaged: {path} does not have the content that its name "
                "stands for.",
                hint,
            )
        return content

    def __getitem__(self, sha256: str) -> bytes:
        if sha256 not in self:
            raise KeyError(sha256)
        return self.read(sha256)

    def __contains__(self, sha256: object) -> bool:
        if not isinstance(sha256, str) or not _NAME.fullmatch(sha256):
            return False
        if self._folder is None:
            return sha256 in self._in_memory
        return (self._folder / sha256).is_file()

    def __iter__(self) -> Iterator[str]:
        if self._folder is None:
            return iter([*self._in_memory])
        if not self._folder.is_dir():
            return iter(())
        return (path.name for path in self._folder.iterdir() if _NAME.fullmatch(path.name))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def is_empty(self) -> bool:
        """Return whether there is nothing that could be removed."""
        if self._folder is None:
            return not self._in_memory
        try:
            return not any(self._folder.iterdir())
        except OSError:
            return True

    def remove_all_but(self, referenced: Collection[str]) -> None:
        """Remove every blob that is not referenced, and what an interrupted write left.

        Raises:
            StoreError: one cannot be removed.
        """
        if self._folder is None:
            for sha256 in self._in_memory.keys() - set(referenced):
                del self._in_memory[sha256]
            return
        try:
            for path in self._folder.iterdir():
                name = path.name
                unused = _NAME.fullmatch(name) and name not in referenced
                if unused or name.startswith(_PARTIAL_PREFIX):
                    path.unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(
                f"An image of a deleted chat cannot be removed from {self._folder}: "
                f"{error.strerror or error}.",
                hint="Check the folder's permissions.",
            ) from error


def _write_durably(path: Path, content: bytes) -> None:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=_PARTIAL_PREFIX)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if hasattr(os, "O_DIRECTORY"):
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def hashes_in(text: str) -> set[str]:
    """Return the hashes of images in the JSON of message parts."""
    return set(_HASH.findall(text))


def describe_image(content: bytes, name: str = "") -> Image | None:
    """Return the message part for an image; None if it is too large or of an unknown
    format.

    Args:
        content: the image as a file: PNG, JPEG, GIF or WebP.
        name: the name of that file; may be empty.
    """
    import PIL.Image

    if len(content) > MAX_IMAGE_BYTES:
        return None
    try:
        with PIL.Image.open(io.BytesIO(content), formats=_IMAGE_FORMATS) as image:
            media_type = PIL.Image.MIME[image.format or ""]
            width, height = image.size
    except (OSError, ValueError, SyntaxError, KeyError, PIL.Image.DecompressionBombError):
        return None
    if not 0 < width * height <= MAX_PIXELS:
        return None
    return Image(media_type, width, height, hashlib.sha256(content).hexdigest(), name)
