"""Checksums that find a flipped byte: quickly in a sample, for certain in the whole file."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chatlm import ChatlmError
from chatlm.hub.checksums import (
    BLOCK_BYTES,
    STRIPE_BYTES,
    FileRecord,
    find_mismatch,
    find_quick_mismatch,
    record_file,
)
from chatlm.plugin_kit.artifacts import CHECKSUMS_FILE, Artifacts

LARGE = 3 * STRIPE_BYTES + 12_345


def flip(path: Path, place: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1]))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FileRecord]:
    path = tmp_path_factory.mktemp("large") / "weights"
    path.write_bytes(bytes(range(251)) * (LARGE // 251) + b"x" * (LARGE % 251))
    return path, record_file(path)


@given(size=st.integers(0, 5 * BLOCK_BYTES), share=st.floats(0, 1))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_flipped_byte_of_a_small_file_is_found_quickly(
    tmp_path: Path, size: int, share: float
) -> None:
    path = tmp_path / "small"
    path.write_bytes(b"a" * size)
    record = record_file(path)
    assert FileRecord.from_dict(record.to_dict()) == record
    assert (find_quick_mismatch(path, record), find_mismatch(path, record)) == ("", "")
    if size:
        flip(path, round(share * (size - 1)))
        assert "changed" in find_quick_mismatch(path, record)
        assert "changed" in find_mismatch(path, record)


@pytest.mark.parametrize("place", [0, BLOCK_BYTES - 1, BLOCK_BYTES, LARGE // 2, LARGE - 1])
def test_each_byte_of_a_large_file_is_in_the_header_or_in_one_stripe(
    large: tuple[Path, FileRecord], place: int
) -> None:
    path, record = large
    count = len(record.stripes) - 1
    assert count == 3
    flip(path, place)
    try:
        found = [
            bool(find_quick_mismatch(path, record, lambda limit, n=number: n))  # type: ignore[misc]
            for number in range(count)
        ]
        assert "SHA-256" in find_mismatch(path, record)
    finally:
        flip(path, place)
    assert sum(found) == (count if place < BLOCK_BYTES else 1)
    assert find_quick_mismatch(path, record) == ""


def test_the_quick_check_reads_little_of_a_large_file(
    large: tuple[Path, FileRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, record = large
    read: list[int] = []
    opened = Path.open

    def counting(self: Path, *args: object, **more: object) -> object:
        file = opened(self, *args, **more)  # type: ignore[call-overload]

        class Counting:
            def __enter__(self) -> Counting:
                return self

            def __exit__(self, *error: object) -> None:
                file.close()

            def seek(self, place: int) -> None:
                file.seek(place)

            def read(self, count: int) -> bytes:
                read.append(count)
                return bytes(file.read(count))

        return Counting()

    monkeypatch.setattr(Path, "open", counting)
    assert find_quick_mismatch(path, record) == ""
    assert 0 < sum(read) <= STRIPE_BYTES + BLOCK_BYTES


def test_a_missing_or_shorter_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    record = record_file(path)
    path.write_bytes(b"ab")
    assert find_quick_mismatch(path, record) == "2 bytes, should be 3"
    path.unlink()
    assert find_mismatch(path, record) == "missing"


def test_records_of_earlier_versions_have_only_their_sizes_checked(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    known = record_file(path).to_dict()
    del known["stripes"]
    flip(path, 1)
    assert find_quick_mismatch(path, FileRecord.from_dict(known)) == ""
    assert "changed" in find_mismatch(path, FileRecord.from_dict(known))


def test_weights_of_an_artifact_are_checked(home: Path, tmp_path: Path) -> None:
    recipes = Artifacts("recipe", "chatlm recipes", tmp_path)
    with recipes.create(recipes.new("soup")) as folder:
        (folder / "weights.safetensors").write_bytes(b"0123456789")
        (folder / "card.json").write_text("{}")
    soup = recipes.get("soup")
    soup.check()
    (soup.path / "card.json").write_text("[]")
    soup.verify()
    flip(soup.path / "weights.safetensors", 3)
    for check in (soup.check, soup.verify):
        with pytest.raises(ChatlmError, match=r"recipe soup is damaged: .*weights") as damaged:
            check()
        assert damaged.value.hint == "Remove it and add it again: chatlm recipes remove soup"
    (soup.path / CHECKSUMS_FILE).write_bytes(b"\xff{")
    with pytest.raises(ChatlmError, match="cannot be checked"):
        soup.check()
    (soup.path / CHECKSUMS_FILE).unlink()
    soup.verify()
