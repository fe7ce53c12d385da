"""Read the header of a GGUF file: its metadata and its table of tensors, never their data.

A split file is several files, `NAME-00001-of-00003.gguf` and so on: the first has the metadata, and
each its own tensors.

The reader of the gguf package makes Python objects of every array element, believes every length
it finds and does not notice the end of the file, so a damaged or hostile file hangs it or is
read wrongly. Here each length is compared with what is left of the file before it is used.
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chatlm.errors import ModelError

if TYPE_CHECKING:
    import numpy as np

MAGIC = b"GGUF"


_VERSIONS = (2, 3)


_ARRAY, _STRING = 9, 8


_SCALARS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q",
    12: "<d",
}  # fmt: skip
"""Formats of `struct`, by the number GGUF gives a type of value."""


_MAX_DIMENSIONS = 4


_MAX_ALIGNMENT = 1 << 20


_LEAST_ENTRY_BYTES = 13
"""Size of the shortest metadata entry; a tensor's is longer."""


_SHOWN_LENGTH = 80


_PART_NAME = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})", re.DOTALL)


class GgufError(ModelError):
    """A GGUF file is truncated, damaged or of a kind that is not read."""


@dataclass(frozen=True)
class GgufTensor:
    """Where a tensor lies in the file and how it is stored."""

    name: str
    shape: tuple[int, ...]
    """In the order of torch: the last dimension is contiguous."""
    type: int
    """Number of the ggml type."""
    offset: int
    """From the start of the file."""
    bytes: int

    @property
    def type_name(self) -> str:
        """Name of the ggml type, such as Q4_K."""
        from gguf.constants import GGMLQuantizationType

        return GGMLQuantizationType(self.type).name


def split_stem(path: Path) -> str:
    """Return a file's name without its suffix and without the number of its part."""
    part = _PART_NAME.fullmatch(path.stem)
    return part["stem"] if part else path.stem


def split_paths(path: Path) -> tuple[Path, ...]:
    """Return the files that one GGUF is split into, in order, by the name of any of them.

    They need not exist. A file that is not split is alone.
    """
    part = _PART_NAME.fullmatch(path.stem)
    if part is None:
        return (path,)
    count = max(1, int(part["count"]))
    return tuple(
        path.with_name(f"{part['stem']}-{number:05}-of-{count:05}{path.suffix}")
        for number in range(1, count + 1)
    )


class GgufFile:
    """A GGUF file whose header has been checked; tensors are mapped, not read.

    Args:
        path: of the file, or of the first part of a split one, whose other parts are opened too.

    Raises:
        GgufError: it is truncated, damaged or of a kind that is not read, or a part is missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self.bytes = file.seek(0, 2)
                if self.bytes < 4:
                    raise self._truncated("it has less than four bytes")
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise GgufError(f"{path} cannot be read: {error.strerror}.") from error
        self._position = 0
        self._arrays: dict[str, tuple[int, int, int]] = {}
        """Type of the elements, their number and the first one's position, by key."""
        self._values: dict[str, Any] = {}
        self._parts: list[GgufFile] = []
        """The other parts of a split file."""
        self._part_of: dict[str, GgufFile] = {}
        """Which of them has a tensor."""
        try:
            self._read_header()
            if self._is_first_part:
                self._open_parts()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Unmap the file."""
        self._map.close()
        for part in self._parts:
            part.close()

    def __enter__(self) -> GgufFile:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __contains__(self, key: str) -> bool:
        return key in self._values or key in self._arrays

    @property
    def keys(self) -> list[str]:
        """The metadata's keys in the file's order, arrays last."""
        return [*self._values, *self._arrays]

    def get(self, key: str, default: Any = None) -> Any:
        """Return a number, truth value, string or array of the metadata."""
        if key in self._values:
            return self._values[key]
        return self.array(key) if key in self._arrays else default

    def array(self, key: str) -> list[Any]:
        """Read an array of the metadata.

        Raises:
            GgufError: a string in it is not UTF-8.
        """
        element, count, position = self._arrays[key]
        if element in _SCALARS:
            return list(struct.unpack_from(f"<{count}{_SCALARS[element][1]}", self._map, position))
        return list(self._strings(key, count, position))

    def array_length(self, key: str) -> int:
        """Return the number of elements of an array without reading it."""
        return self._arrays[key][1]

    @property
    def architecture(self) -> str:
        """Name of the architecture, such as llama."""
        name = self._values.get("general.architecture")
        if not isinstance(name, str) or not name:
            raise self._damaged("its metadata does not name the architecture")
        return name

    def raw_rows(self, name: str) -> np.ndarray[Any, Any]:
        """Map a tensor's bytes as stored: (rows, bytes of a row).

        All dimensions but the last count as rows.
        """
        import numpy as np

        tensor = self.tensors[name]
        data = np.frombuffer(
            self._part_of.get(name, self)._map, np.uint8, tensor.bytes, tensor.offset
        )
        return data.reshape(prod(tensor.shape[:-1]), -1)

    @property
    def _is_first_part(self) -> bool:
        return bool(self.get("split.count", 1) != 1 and self.get("split.no", 0) == 0)

    def _open_parts(self) -> None:
        paths, count = split_paths(self.path), self.get("split.count")
        if not isinstance(count, int):
            raise self._damaged(f"its split.count is {count!r}")
        if len(paths) != count or self.path != paths[0]:
            raise GgufError(
                f"{self.path.name} is the first of {count} parts of a split GGUF, but has another "
                "name.",
                f"Name the parts as they were: NAME-00001-of-{count:05}.gguf and so on.",
            )
        for number, path in enumerate(paths[1:], start=1):
            if not path.is_file():
                raise GgufError(
                    f"{path.name} is missing, a part of {self.path.name}.",
                    "Put all parts of the model into one folder.",
                )
            part = GgufFile(path)
            self._parts.append(part)
            if part.get("split.no") != number or part.get("split.count") != count:
                raise part._damaged(f"it is not part {number + 1} of {count}")
            if twice := sorted(self.tensors.keys() & part.tensors.keys()):
                raise part._damaged(f"the tensor {_shown(twice[0])} is in another part too")
            self.tensors |= part.tensors
            self._part_of |= dict.fromkeys(part.tensors, part)
        total = self.get("split.tensors.count", len(self.tensors))
        if total != len(self.tensors):
            raise self._damaged(f"its parts have {len(self.tensors):,} of {total:,} tensors")

    def _read_header(self) -> None:
        if self._map[:4] != MAGIC:
            raise GgufError(f"{self.path} is not a GGUF file.", "Download it again.")
        self._position = 4
        version = self._number("<I", "its header")
        if version & 0xFFFF == 0:
            raise GgufError(
                f"{self.path.name} is a big-endian GGUF file, which chatlm does not read.",
                "Convert it: gguf-convert-endian FILE little",
            )
        if version not in _VERSIONS:
            raise GgufError(
                f"{self.path.name} is GGUF version {version}; chatlm reads versions 2 and 3.",
                "Use a newer conversion of the model.",
            )
        tensors = self._number("<Q", "its header")
        entries = self._number("<Q", "its header")
        if (tensors + entries) * _LEAST_ENTRY_BYTES > self.bytes - self._position:
            raise self._truncated(
                f"it promises {entries:,} metadata entries and {tensors:,} tensors, "
                f"more than its {self.bytes:,} bytes can hold"
            )
        for _ in range(entries):
            self._read_entry()
        self.tensors: dict[str, GgufTensor] = self._read_tensor_table(tensors)

    def _read_entry(self) -> None:
        key = self._string("a metadata key")
        where = f"the metadata {_shown(key)}"
        if key in self:
            raise self._damaged(f"{where} is there twice")
        kind = self._number("<I", where)
        if kind in _SCALARS:
            self._values[key] = self._number(_SCALARS[kind], where)
        elif kind == _STRING:
            self._values[key] = self._string(where, errors="replace")
        elif kind == _ARRAY:
            self._arrays[key] = self._skip_array(where)
        else:
            raise self._damaged(f"{where} has the unknown type {kind}")

    def _skip_array(self, where: str) -> tuple[int, int, int]:
        element = self._number("<I", where)
        count = self._number("<Q", where)
        if element not in _SCALARS and element != _STRING:
            kind = "arrays" if element == _ARRAY else f"the unknown type {element}"
            raise self._damaged(f"{where} is an array of {kind}")
        width = struct.calcsize(_SCALARS.get(element, "<Q"))
        self._require(count * width, where)
        start = self._position
        if element == _STRING:
            self._skip_strings(count, where)
        else:
            self._position += count * width
        return element, count, start

    def _skip_strings(self, count: int, where: str) -> None:
        # a vocabulary has hundreds of thousands, so nothing is called for each
        read_length, data, position = struct.Struct("<Q").unpack_from, self._map, self._position
        last = self.bytes - 8
        for _ in range(count):
            if position > last:
                raise self._truncated(f"it ends inside {where}")
            position += 8 + read_length(data, position)[0]
        self._position = position
        self._require(0, where)

    def _read_tensor_table(self, count: int) -> dict[str, GgufTensor]:
        entries: list[tuple[str, tuple[int, ...], int, int]] = []
        for _ in range(count):
            name = self._string("the name of a tensor")
            where = f"the table entry of {_shown(name)}"
            dimensions = self._number("<I", where)
            if not 1 <= dimensions <= _MAX_DIMENSIONS:
                raise self._damaged(f"the tensor {_shown(name)} has {dimensions} dimensions")
            shape = tuple(self._number("<Q", where) for _ in range(dimensions))[::-1]
            kind = self._number("<I", where)
            entries.append((name, shape, kind, self._number("<Q", where)))
        alignment = self.get("general.alignment", 32)
        if (
            not isinstance(alignment, int)
            or not 0 < alignment <= _MAX_ALIGNMENT
            or (alignment & (alignment - 1))
        ):
            raise self._damaged(f"its alignment is {alignment!r}, not a power of two")
        start = -(-self._position // alignment) * alignment
        tensors: dict[str, GgufTensor] = {}
        for name, shape, kind, offset in entries:
            if name in tensors:
                raise self._damaged(f"the tensor {_shown(name)} is there twice")
            if offset % alignment:
                raise self._damaged(
                    f"the tensor {_shown(name)} is not aligned to {alignment} bytes"
                )
            size = self._tensor_bytes(name, shape, kind)
            tensors[name] = GgufTensor(name, shape, kind, start + offset, size)
        self._check_places(tensors)
        return tensors

    def _tensor_bytes(self, name: str, shape: tuple[int, ...], kind: int) -> int:
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

        try:
            block, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        except (ValueError, KeyError):
            raise GgufError(
                f"{self.path.name} stores the tensor {_shown(name)} in the format {kind}, "
                "which chatlm does not know.",
                "Use a file with another quantization, such as Q4_K_M.",
            ) from None
        if 0 in shape or shape[-1] % block:
            raise self._damaged(f"the tensor {_shown(name)} cannot have the shape {list(shape)}")
        return prod(shape) // block * size

    def _check_places(self, tensors: Mapping[str, GgufTensor]) -> None:
        previous: GgufTensor | None = None
        for tensor in sorted(tensors.values(), key=lambda each: each.offset):
            end = tensor.offset + tensor.bytes
            if end > self.bytes:
                raise self._truncated(
                    f"the tensor {_shown(tensor.name)} ends at byte {end:,}, "
                    f"but the file has only {self.bytes:,}"
                )
            if previous and tensor.offset < previous.offset + previous.bytes:
                raise self._damaged(
                    f"the tensors {_shown(previous.name)} and {_shown(tensor.name)} overlap"
                )
            previous = tensor

    def _strings(self, key: str, count: int, position: int) -> Iterator[str]:
        for _ in range(count):
            (length,) = struct.unpack_from("<Q", self._map, position)
            position += 8 + length
            try:
                yield self._map[position - length : position].decode("utf-8")
            except UnicodeDecodeError:
                raise self._damaged(f"the metadata {_shown(key)} is not UTF-8") from None

    def _string(self, where: str, errors: str = "strict") -> str:
        length = self._number("<Q", where)
        self._require(length, where)
        self._position += length
        try:
            return self._map[self._position - length : self._position].decode("utf-8", errors)
        except UnicodeDecodeError:
            raise self._damaged(f"{where} is not UTF-8") from None

    def _number(self, format_: str, where: str) -> Any:
        size = struct.calcsize(format_)
        self._require(size, where)
        (value,) = struct.unpack_from(format_, self._map, self._position)
        self._position += size
        return value

    def _require(self, count: int, where: str) -> None:
        if count > self.bytes - self._position:
            raise self._truncated(f"it ends inside {where}")

    def _truncated(self, how: str) -> GgufError:
        return GgufError(
            f"{self.path.name} is truncated: {how}.",
            "Download it again; the file is not complete.",
        )

    def _damaged(self, how: str) -> GgufError:
        return GgufError(
            f"{self.path.name} is damaged: {how}.",
            "Download it again, from another source if it stays so.",
        )


def _shown(name: str) -> str:
    """Return a name from the file for a message: in one line, without control characters."""
    return repr(name if len(name) <= _SHOWN_LENGTH else f"{name[:_SHOWN_LENGTH]}…")
