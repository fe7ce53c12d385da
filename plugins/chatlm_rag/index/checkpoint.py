"""Checkpoint of an unfinished build: its plan, and vectors by the digest of their text.

Vectors are reused from the previous index and from the `partial` folder, to which a build saves its
progress. A build that is killed at any point loses only the last few seconds of work.
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
"""In an index version: the vector of each chunk, float32, `(chunks, dimension)`."""


DIGESTS_FILE = "digests.npy"
"""In an index version: the digest of each chunk's text, uint8, `(chunks, 16)`."""


_PLAN_FILE = "plan.json"


_DIGEST_BYTES = 16


_WRITE_BATCH = 16_384
"""Vectors that are copied at a time."""


def digest(text: str) -> bytes:
    """Return the first 16 bytes of a text's SHA-256."""
    return hashlib.sha256(text.encode()).digest()[:_DIGEST_BYTES]


def read_plan(folder: Path) -> BuildPlan | None:
    """Return the plan of the unfinished build in a `partial` folder; None without one."""
    try:
        return BuildPlan.from_dict(_read_plan_file(folder)["plan"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_plan(folder: Path, plan: BuildPlan, embedder: EmbedderRecord) -> None:
    """Save the plan of a build, and delete the vectors of another embedder from the folder."""
    try:
        same_embedder = _read_plan_file(folder)["embedder"] == embedder.to_dict()
    except (OSError, ValueError, KeyError, TypeError):
        same_embedder = False
    if not same_embedder:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    values = {"plan": plan.to_dict(), "embedder": embedder.to_dict()}
    write_atomically(folder / _PLAN_FILE, [json.dumps(values)])


def _read_plan_file(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / _PLAN_FILE).read_text(encoding="utf-8"))
    return values


class VectorCache:
    """Vectors found by the digest of their text.

    They are stored in blocks; row numbers count on from one block to the next.

    Args:
        partial: folder with the blocks of an unfinished build; new blocks are saved there.
        old: version of an index built with the same embedder; the vector of its chunk N is row N.

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
        """Shape of the old index's vectors, `(chunks, dimension)`; (0, 0) without one."""
        for path in sorted(partial.glob("*.npy")):
            try:
                self._load_block(path)
            except (ValueError, TypeError, LookupError, EOFError, OverflowError):
                break  # damaged: this block and those after it are overwritten

    def __len__(self) -> int:
        return self._count

    def find_row(self, text_digest: bytes) -> int | None:
        """Return the row of a text's vector, or None."""
        while self._mapped_blocks < len(self._digests):
            data, row = (
                self._digests[self._mapped_blocks].tobytes(),
                self._starts[self._mapped_blocks],
            )
            for start in range(0, len(data), _DIGEST_BYTES):
                self._rows[data[start : start + _DIGEST_BYTES]] = row
                row += 1
            self._mapped_blocks += 1
        return self._rows.get(text_digest)

    def add(self, digests: Sequence[bytes], vectors: NDArray[np.float32]) -> None:
        """Append a block of vectors and flush it to disk before returning.

        Args:
            digests: of the texts, one for each vector.
            vectors: `(n, dimension)`.
        """
        import numpy as np

        dtype = [("digest", np.uint8, (_DIGEST_BYTES,)), ("vector", np.float32, vectors.shape[1:])]
        block = np.empty(len(vectors), dtype=dtype)
        block["digest"] = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, _DIGEST_BYTES)
        block["vector"] = vectors
        path = self._partial / f"{len(self._vectors) - self._old_blocks:08}.npy"
        unfinished = path.with_suffix(".half")
        content = BytesIO()
        np.save(content, block, allow_pickle=False)
        with unfinished.open("wb") as file:  # np.save misses some errors of a full disk
            file.write(content.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
        self._load_block(path)

    def write(self, rows: Sequence[int], folder: Path) -> NDArray[np.float32]:
        """Write the vectors and digests of an index version.

        Args:
            rows: the row of each chunk's vector, in the order of the chunks; at least one.
            folder: the index version.

        Returns:
            The vectors, memory-mapped, `(len(rows), dimension)`.
        """
        import numpy as np

        row_ids = np.asarray(rows, dtype=np.int64)
        path = folder / EMBEDDINGS_FILE
        shape = (len(row_ids), self._vectors[0].shape[1])
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        # written as a file: with a writable memory map, a full disk would kill the process
        with path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for start in range(0, len(row_ids), _WRITE_BATCH):
                batch = self._gather(self._vectors, row_ids[start : start + _WRITE_BATCH])
                file.write(batch.astype("<f4", copy=False).tobytes())
        np.save(folder / DIGESTS_FILE, self._gather(self._digests, row_ids), allow_pickle=False)
        return cast("NDArray[np.float32]", load_mmap(path))

    def _gather(self, blocks: Sequence[NDArray[Any]], rows: NDArray[np.int64]) -> NDArray[Any]:
        """Copy some rows out of the blocks, in the given order."""
        import numpy as np

        gathered = np.empty((len(rows), blocks[0].shape[1]), blocks[0].dtype)
        block_of_row = np.searchsorted(self._starts, rows, side="right") - 1
        for block in np.unique(block_of_row):
            mask = block_of_row == block
            gathered[mask] = blocks[block][rows[mask] - self._starts[block]]
        return gathered

    def _load_block(self, path: Path) -> None:
        block = load_mmap(path)
        self._append(block["digest"], block["vector"])

    def _append(self, digests: NDArray[np.uint8], vectors: NDArray[np.float32]) -> None:
        import numpy as np

        if digests.shape != (len(vectors), _DIGEST_BYTES) or digests.dtype != np.uint8:
            raise ValueError("digests and vectors do not match")
        if vectors.ndim != 2 or vectors.dtype != np.float32:
            raise ValueError("it does not contain vectors")
        self._digests.append(digests)
        self._vectors.append(vectors)
        self._starts.append(self._count)
        self._count += len(digests)
