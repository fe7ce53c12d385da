"""Vectors that are known already, by the digest of their text: no passage is embedded twice.

They come from the index that is to be replaced and from the `partial` folder, where a build puts
what it has made; whatever moment it dies, the next one finds all of it but the last few seconds.
It does not know which passages the vectors belong to.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from chatlm import write_atomically
from chatlm_rag.index.embedding import EmbedderRecord
from chatlm_rag.index.folder import load_mmap
from chatlm_rag.index.manifest import BuildPlan

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


EMBEDDINGS_FILE = "embeddings.npy"
"""In an index's folder: the vector of each passage, float32, `(pieces, dimension)`."""


DIGESTS_FILE = "digests.npy"
"""In an index's folder: the digest of each passage, uint8, `(pieces, 16)`."""


_PLAN_FILE = "plan.json"


_DIGEST_BYTES = 16


_WRITE_BATCH = 16_384
"""Vectors that are written at once."""


def digest(text: str) -> bytes:
    """What tells a text from all others: the first 16 bytes of its SHA-256."""
    return hashlib.sha256(text.encode()).digest()[:_DIGEST_BYTES]


def read_plan(folder: Path) -> BuildPlan | None:
    """What the unfinished build in a `partial` folder was to make; None where there is none."""
    try:
        return BuildPlan.from_dict(_read_plan_file(folder)["plan"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_plan(folder: Path, plan: BuildPlan, embedder: EmbedderRecord) -> None:
    """Keep what a build is to make; what another embedder made in the folder is forgotten."""
    try:
        same = _read_plan_file(folder)["embedder"] == embedder.to_dict()
    except (OSError, ValueError, KeyError, TypeError):
        same = False
    if not same:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    table = {"plan": plan.to_dict(), "embedder": embedder.to_dict()}
    write_atomically(folder / _PLAN_FILE, [json.dumps(table)])


def _read_plan_file(folder: Path) -> dict[str, Any]:
    table: dict[str, Any] = json.loads((folder / _PLAN_FILE).read_text(encoding="utf-8"))
    return table


class VectorCache:
    """Vectors in blocks, each vector with a row of its own; rows are counted over all blocks.

    Args:
        partial: the folder where new ones go; those in it are known.
        old_shape: the folder of an index that was made with the same embedder; its passage N has
            row N.

    Raises:
        OSError, ValueError, TypeError, EOFError: the old index is damaged.
    """

    def __init__(self, partial: Path, old: Path | None = None) -> None:
        self._partial = partial
        self._digests: list[NDArray[np.uint8]] = []
        self._vectors: list[NDArray[np.float32]] = []
        self._starts: list[int] = []
        self._count = 0
        self._rows: dict[bytes, int] = {}
        self._mapped_blocks = 0
        self._old_blocks = int(old is not None)
        if old:
            self._append(load_mmap(old / DIGESTS_FILE), load_mmap(old / EMBEDDINGS_FILE))
        self.old_shape = self._vectors[0].shape if old else (0, 0)
        """How many come from the old index, and how long they are."""
        for path in sorted(partial.glob("*.npy")):
            try:
                self._load_block(path)
            except (ValueError, TypeError, LookupError, EOFError, OverflowError):
                break  # damaged: it and what follows is made again in its place

    def __len__(self) -> int:
        return self._count

    def find_row(self, text_digest: bytes) -> int | None:
        """The row of a text's vector; None when it is not known."""
        while self._mapped_blocks < len(self._digests):
            data, row = (
                self._digests[self._mapped_blocks].tobytes(),
                self._starts[self._mapped_blocks],
            )
            for begin in range(0, len(data), _DIGEST_BYTES):
                self._rows[data[begin : begin + _DIGEST_BYTES]] = row
                row += 1
            self._mapped_blocks += 1
        return self._rows.get(text_digest)

    def add(self, digests: Sequence[bytes], vectors: NDArray[np.float32]) -> None:
        """Keep new vectors, on disk before it returns; their rows follow those that are there."""
        import numpy as np

        kind = [("digest", np.uint8, (_DIGEST_BYTES,)), ("vector", np.float32, vectors.shape[1:])]
        block = np.empty(len(vectors), dtype=kind)
        block["digest"] = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, _DIGEST_BYTES)
        block["vector"] = vectors
        path = self._partial / f"{len(self._vectors) - self._old_blocks:08}.npy"
        half = path.with_suffix(".half")
        content = BytesIO()
        np.save(content, block, allow_pickle=False)
        with half.open("wb") as file:  # numpy's own writing overlooks some full disks
            file.write(content.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        half.replace(path)
        self._load_block(path)

    def write(self, rows: Sequence[int], folder: Path) -> NDArray[np.float32]:
        """Write the vectors and digests of passages into an index's folder.

        Args:
            rows: of each passage, in their order; at least one.
            folder: of the index.

        Returns:
            the vectors as they are on disk, `(len(rows), dimension)`.
        """
        import numpy as np

        wanted = np.asarray(rows, dtype=np.int64)
        path = folder / EMBEDDINGS_FILE
        shape = (len(wanted), self._vectors[0].shape[1])
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        # not through memory, where a full disk would kill the process
        with path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for begin in range(0, len(wanted), _WRITE_BATCH):
                part = self._gather(self._vectors, wanted[begin : begin + _WRITE_BATCH])
                file.write(part.astype("<f4", copy=False).tobytes())
        np.save(folder / DIGESTS_FILE, self._gather(self._digests, wanted), allow_pickle=False)
        return cast("NDArray[np.float32]", load_mmap(path))

    def _gather(self, blocks: Sequence[NDArray[Any]], rows: NDArray[np.int64]) -> NDArray[Any]:
        """What blocks have in some rows, in their order."""
        import numpy as np

        found = np.empty((len(rows), blocks[0].shape[1]), blocks[0].dtype)
        inside = np.searchsorted(self._starts, rows, side="right") - 1
        for block in np.unique(inside):
            there = inside == block
            found[there] = blocks[block][rows[there] - self._starts[block]]
        return found

    def _load_block(self, path: Path) -> None:
        block = load_mmap(path)
        self._append(block["digest"], block["vector"])

    def _append(self, digests: NDArray[np.uint8], vectors: NDArray[np.float32]) -> None:
        import numpy as np

        if digests.shape != (len(vectors), _DIGEST_BYTES) or digests.dtype != np.uint8:
            raise ValueError("it has not a digest for each vector")
        if vectors.ndim != 2 or vectors.dtype != np.float32:
            raise ValueError("it has no vectors")
        self._digests.append(digests)
        self._vectors.append(vectors)
        self._starts.append(self._count)
        self._count += len(digests)
