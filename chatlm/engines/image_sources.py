"""The bytes of the images that running requests refer to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from chatlm.engines.image_ids import ImageUnit, image_ids, is_image_id
from chatlm.errors import UsageError


class ImageSources:
    """Knows the images of running requests; several requests may refer to the same one."""

    def __init__(self) -> None:
        self._images: dict[str, Mapping[str, bytes]] = {}
        self._users: Counter[str] = Counter()

    @contextmanager
    def available(self, hashes: Iterable[str], images: Mapping[str, bytes]) -> Iterator[None]:
        """Keep images while a request runs, see `chatlm.ImageReader.available`.

        Args:
            hashes: of the images in its prompt.
            images: their bytes by hash.
        """
        wanted = set(hashes)
        for sha256 in wanted:
            self._images.setdefault(sha256, images)
        self._users.update(wanted)
        try:
            yield
        finally:
            self._users.subtract(wanted)
            for sha256 in wanted:
                if not self._users[sha256]:
                    del self._users[sha256], self._images[sha256]

    def find(self, ids: Sequence[int], unit: ImageUnit) -> str:
        """Return the hash of an image in a prompt.

        Args:
            ids: of the prompt or a block of it, see `chatlm.image_ids`.
            unit: the image in it.

        Raises:
            UsageError: no running request has it.
        """
        numbers = [number for number in ids[unit.start : unit.stop] if is_image_id(number)]
        for sha256 in self._images:
            if image_ids(sha256, 1)[0] == unit.first_id and numbers == image_ids(
                sha256, len(numbers)
            ):
                return sha256
        raise UsageError(
            "The bytes of an image in the prompt are not here", hint="Attach the image again."
        )

    def read(self, sha256: str) -> bytes:
        """Return the bytes of an image that `find` returned."""
        return self._images[sha256][sha256]
