"""The nearest vectors: exactly, and among many through cells on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from chatlm_rag.index import vectors
from chatlm_rag.index.checkpoint import EMBEDDINGS_FILE

Matrix = NDArray[np.float32]


def unit(rows: NDArray[Any]) -> Matrix:
    return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True), np.float32)


def around_centres(count: int, dimension: int = 32) -> Matrix:
    """Vectors as texts have them: some topics, and much that differs within each."""
    random = np.random.default_rng(0)
    centres = random.standard_normal((50, dimension))
    noise = random.standard_normal((count, dimension))
    return unit(centres[random.integers(50, size=count)] + noise)


def write_index(folder: Path, matrix: Matrix) -> vectors.VectorIndex:
    np.save(folder / EMBEDDINGS_FILE, matrix)
    vectors.write(folder, matrix)
    return vectors.load(folder)


def test_few_vectors_are_compared_exactly(tmp_path: Path) -> None:
    matrix = around_centres(3000)
    opened = write_index(tmp_path, matrix)
    for query in around_centres(20):
        ids, cosines = opened.search(query, 15)
        assert ids.tolist() == np.argsort(-(matrix @ query))[:15].tolist()
        assert cosines == pytest.approx(np.sort(matrix @ query)[::-1][:15], abs=1e-6)
    assert not (tmp_path / vectors.CELLS_FILE).exists()


def test_there_may_be_fewer_than_wanted(tmp_path: Path) -> None:
    matrix = around_centres(3)
    ids, cosines = write_index(tmp_path, matrix).search(matrix[1], 10)
    assert ids[0] == 1
    assert sorted(ids) == [0, 1, 2]
    assert cosines[0] == pytest.approx(1)


def test_among_many_most_of_the_nearest_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "MAX_FLAT_VECTORS", 5000)
    matrix = around_centres(6000)
    opened = write_index(tmp_path, matrix)
    assert (tmp_path / vectors.CELLS_FILE).stat().st_size < matrix.nbytes / 2
    hits = 0
    elsewhere = unit(np.random.default_rng(1).standard_normal((100, 32)))
    for query in unit(matrix[:100] + elsewhere):  # as far from it as a question from its answer
        right = np.argsort(-(matrix @ query))[:10]
        ids, cosines = opened.search(query, 10)
        hits += len(set(ids.tolist()) & set(right.tolist()))
        assert cosines == pytest.approx(matrix[ids] @ query, abs=1e-6)
        assert list(cosines) == sorted(cosines, reverse=True)
    assert hits >= 950
    assert len(opened) == 6000


def test_copies_of_a_vector_make_no_search_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "MAX_FLAT_VECTORS", 1000)
    matrix = np.repeat(around_centres(20), 100, axis=0)
    opened = write_index(tmp_path, matrix)
    _, cosines = opened.search(matrix[500], 10)
    assert cosines == pytest.approx(1)
    import faiss

    cells: Any = faiss.read_index(str(tmp_path / vectors.CELLS_FILE))
    assert cells.nprobe <= cells.nlist / 4


def test_a_search_stays_right_while_the_files_are_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "MAX_FLAT_VECTORS", 1000)
    matrix = around_centres(2000)
    opened = write_index(tmp_path, matrix)
    before = opened.search(matrix[7], 10)[0].tolist()
    for path in list(tmp_path.iterdir()):
        path.unlink()
    write_index(tmp_path, around_centres(1200)[::-1])
    assert opened.search(matrix[7], 10)[0].tolist() == before


@pytest.mark.parametrize("name", [EMBEDDINGS_FILE, vectors.CELLS_FILE])
def test_a_damaged_file_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(vectors, "MAX_FLAT_VECTORS", 1000)
    write_index(tmp_path, around_centres(2000))
    (tmp_path / name).write_bytes(b"not what it was")
    with pytest.raises((OSError, ValueError, RuntimeError)):
        vectors.load(tmp_path)
