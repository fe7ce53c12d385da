"""Reading a GGUF file's header: lazily, and never past its end, whatever it says."""

from __future__ import annotations

import random
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from chatlm.hub.gguf.file import GgufError, GgufFile
from tests.gguf_files import save_gguf

HUGE = (1 << 64) - 1
U32, STRING, ARRAY = 4, 8, 9


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def entry(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


ARCHITECTURE = entry("general.architecture", STRING, text("llama"))


def tensor(name: str = "a", shape: tuple[int, ...] = (8,), kind: int = 0, offset: int = 0) -> bytes:
    dimensions = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return text(name) + dimensions + struct.pack("<IQ", kind, offset)


def write(
    path: Path,
    entries: list[bytes] | None = None,
    tensors: list[bytes] | None = None,
    *,
    data: bytes = bytes(64),
    version: int = 3,
    counts: tuple[int, int] | None = None,
) -> Path:
    entries = [ARCHITECTURE] if entries is None else entries
    tensors = tensors or []
    tensor_count, entry_count = counts or (len(tensors), len(entries))
    header = b"GGUF" + struct.pack("<IQQ", version, tensor_count, entry_count)
    content = b"".join([header, *entries, *tensors])
    path.write_bytes(content + bytes(-len(content) % 32) + data)
    return path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def test_metadata_and_tensors_are_read(tiny: Path) -> None:
    with GgufFile(tiny) as file:
        assert file.architecture == "llama"
        assert file.get("llama.embedding_length") == 64
        assert file.get("llama.rope.freq_base") == 10000.0
        assert file.get("tokenizer.ggml.merges") == ["Ġ Ġ"]
        assert file.array_length("tokenizer.ggml.tokens") == 320
        assert file.get("tokenizer.ggml.token_type")[:4] == [3, 3, 3, 1]
        assert file.get("nothing") is None
        norm = file.tensors["output_norm.weight"]
        assert (norm.shape, norm.type_name, norm.bytes) == ((64,), "F32", 256)
        assert file.tensors["blk.0.ffn_up.weight"].shape == (96, 64)
        assert len(file.raw_rows("output_norm.weight")[0]) == 256


def test_the_tensors_of_the_gguf_package_are_the_same(tiny: Path) -> None:
    from gguf import GGUFReader

    with GgufFile(tiny) as file:
        for theirs in GGUFReader(tiny).tensors:
            ours = file.tensors[theirs.name]
            assert ours.shape == tuple(theirs.shape[::-1].tolist())
            assert (ours.offset, ours.bytes) == (theirs.data_offset, theirs.n_bytes)
            assert file.raw_rows(theirs.name).tobytes() == theirs.data.tobytes()


def test_a_file_cut_anywhere_is_called_truncated(tiny: Path, tmp_path: Path) -> None:
    content = tiny.read_bytes()
    cut = tmp_path / "cut.gguf"
    for length in [*range(4, 400, 7), *range(400, len(content), 4099), len(content) - 1]:
        cut.write_bytes(content[:length])
        with pytest.raises(GgufError, match=r"cut\.gguf is truncated: ") as caught:
            GgufFile(cut)
        assert "not complete" in caught.value.hint


def test_a_file_with_changed_bytes_is_read_or_refused(tiny: Path, tmp_path: Path) -> None:
    content = bytearray(tiny.read_bytes())
    generator = random.Random(5)
    changed = tmp_path / "changed.gguf"
    refused = 0
    for _ in range(400):
        copy = content[:]
        for _ in range(generator.randrange(1, 5)):
            copy[generator.randrange(4, 12_000)] = generator.randrange(256)
        changed.write_bytes(copy)
        try:
            with GgufFile(changed) as file:
                for key in file.keys:
                    file.get(key)
        except GgufError:
            refused += 1
    assert 100 < refused < 400


HOSTILE: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "a length of 2^64": (
        "truncated",
        lambda path: write(path, [entry("k", STRING, struct.pack("<Q", HUGE))]),
    ),
    "a key of 2^64 bytes": ("truncated", lambda path: write(path, [struct.pack("<QI", HUGE, 8)])),
    "an array of 2^64 numbers": (
        "truncated",
        lambda path: write(path, [entry("k", ARRAY, struct.pack("<IQ", U32, HUGE))]),
    ),
    "an array of 2^61 strings": (
        "truncated",
        lambda path: write(path, [entry("k", ARRAY, struct.pack("<IQ", STRING, 1 << 61))]),
    ),
    "an array of arrays": (
        "damaged: the metadata 'k' is an array of arrays",
        lambda path: write(path, [entry("k", ARRAY, struct.pack("<IQ", ARRAY, 1 << 30))]),
    ),
    "2^64 entries": ("truncated", lambda path: write(path, counts=(0, HUGE))),
    "2^64 tensors": ("truncated", lambda path: write(path, counts=(HUGE, 0))),
    "a tensor past the end": (
        "truncated: the tensor 'a' ends at byte",
        lambda path: write(path, tensors=[tensor(shape=(1 << 62,))]),
    ),
    "a tensor that begins past the end": (
        "truncated: the tensor 'a' ends at byte",
        lambda path: write(path, tensors=[tensor(offset=1 << 63)]),
    ),
    "overlapping tensors": (
        "damaged: the tensors 'a' and 'b' overlap",
        lambda path: write(path, tensors=[tensor("a", (16,)), tensor("b", (8,), offset=32)]),
    ),
    "two tensors of one name": (
        "damaged: the tensor 'a' is there twice",
        lambda path: write(path, tensors=[tensor("a"), tensor("a", offset=32)]),
    ),
    "a tensor without dimensions": (
        "damaged: the tensor 'a' has 0 dimensions",
        lambda path: write(path, tensors=[tensor(shape=())]),
    ),
    "a tensor of nine dimensions": (
        "damaged: the tensor 'a' has 9 dimensions",
        lambda path: write(path, tensors=[tensor(shape=(1,) * 9)]),
    ),
    "a tensor of no numbers": (
        "damaged: the tensor 'a' cannot have the shape",
        lambda path: write(path, tensors=[tensor(shape=(0,))]),
    ),
    "a tensor of half a block": (
        "damaged: the tensor 'a' cannot have the shape",
        lambda path: write(path, tensors=[tensor(shape=(31,), kind=2)]),
    ),
    "a tensor of an unknown format": (
        "in the format 9999, which chatlm does not know",
        lambda path: write(path, tensors=[tensor(kind=9999)]),
    ),
    "a tensor that is not aligned": (
        "damaged: the tensor 'a' is not aligned",
        lambda path: write(path, tensors=[tensor(offset=3)]),
    ),
    "an odd alignment": (
        "damaged: its alignment is 3",
        lambda path: write(path, [entry("general.alignment", U32, struct.pack("<I", 3))]),
    ),
    "no alignment": (
        "damaged: its alignment is 0",
        lambda path: write(path, [entry("general.alignment", U32, struct.pack("<I", 0))]),
    ),
    "one key twice": (
        "damaged: the metadata 'general.architecture' is there twice",
        lambda path: write(path, [ARCHITECTURE, ARCHITECTURE]),
    ),
    "a value of an unknown type": (
        "damaged: the metadata 'k' has the unknown type 77",
        lambda path: write(path, [entry("k", 77, bytes(8))]),
    ),
    "a key that is not UTF-8": (
        "damaged: a metadata key is not UTF-8",
        lambda path: write(path, [struct.pack("<Q", 1) + b"\xff" + struct.pack("<II", U32, 0)]),
    ),
    "another version": ("is GGUF version 1", lambda path: write(path, version=1)),
    "another order of bytes": ("big-endian", lambda path: write(path, version=3 << 24)),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_file_is_refused_without_memory(tmp_path: Path, what: str) -> None:
    expected, make = HOSTILE[what]
    path = make(tmp_path / "bad.gguf")
    GgufFile(write(tmp_path / "good.gguf")).close()  # what is imported lazily
    tracemalloc.start()
    try:
        with pytest.raises(GgufError) as caught:
            GgufFile(path)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    assert expected in caught.value.message
    assert "architecture" not in caught.value.hint


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "page.gguf"
    path.write_bytes(b"<html>" * 20)
    with pytest.raises(GgufError, match="is not a GGUF file"):
        GgufFile(path)
    path.write_bytes(b"")
    with pytest.raises(GgufError, match="truncated"):
        GgufFile(path)


def test_a_name_is_shown_in_one_line(tmp_path: Path) -> None:
    key = "\x1b[2J" + "k" * 5000
    with pytest.raises(GgufError) as caught:
        GgufFile(write(tmp_path / "bad.gguf", [entry(key, 77, bytes(8))]))
    assert "\x1b" not in caught.value.message
    assert len(caught.value.message) < 300


def test_a_description_that_is_not_utf_8_does_no_harm(tmp_path: Path) -> None:
    odd = entry("general.author", STRING, struct.pack("<Q", 1) + b"\xff")
    with GgufFile(write(tmp_path / "odd.gguf", [ARCHITECTURE, odd])) as file:
        assert file.get("general.author") == "�"
