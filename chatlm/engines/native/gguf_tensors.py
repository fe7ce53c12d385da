"""Read a model's tensors from a GGUF file: matrices as they are stored, vectors as numbers."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from chatlm.engines.model import Unsupported
from chatlm.engines.native.stored_matrix import StoredExperts, StoredMatrix
from chatlm.hub.architecture import read_config
from chatlm.hub.gguf.architectures import map_tensors
from chatlm.hub.gguf.file import GgufError, GgufFile
from chatlm.hub.gguf.tensor_data import Change, TensorSource


class GgufTensors:
    """A `TensorReader` of a GGUF file, which stays mapped as long as one of its matrices is used.

    Args:
        file: the file.
        sources: where its tensors are, by their names in transformers.
    """

    def __init__(self, file: GgufFile, sources: Mapping[str, TensorSource]) -> None:
        self._file = file
        self._sources = sources
        self._unused = set(sources)

    @classmethod
    def open(cls, path: Path, folder: Path) -> GgufTensors:
        """Map a file.

        Args:
            path: of the file.
            folder: has the config.json that was made from it.

        Raises:
            Unsupported: the file is damaged, or does not fit its config.json.
        """
        try:
            file = GgufFile(path)
            return cls(file, map_tensors(file, read_config(folder)))
        except (GgufError, KeyError) as error:
            raise Unsupported(f"its weights cannot be read: {error}") from error

    def matrix(self, name: str, rows: int, columns: int) -> StoredMatrix:
        """Return a matrix without its bias; nothing is copied."""
        source = self._find(name, rows, columns)
        if source.change not in (Change.NONE, Change.UNPERMUTE):
            raise Unsupported(f"{name} is stored in another order ({source.change.value})")
        matrix = self._rows(source.names[0], source.rows(self._file), columns)
        return dataclasses.replace(
            matrix, row_order=source.row_order(rows), column_order=source.column_order()
        )

    def matrices(self, name: str, rows: Sequence[int], columns: int) -> tuple[StoredMatrix, ...]:
        """Return the parts of a matrix, which may be tensors of their own in the file."""
        source = self._find(name, sum(rows), columns)
        if source.change is Change.JOIN:
            sizes = [self._file.tensors[stored_name].shape[0] for stored_name in source.names]
            if sizes != list(rows):
                raise Unsupported(f"{name} consists of {sizes} rows, not {list(rows)}")
            return tuple(
                self._rows(stored_name, slice(0, size), columns)
                for stored_name, size in zip(source.names, sizes, strict=True)
            )
        return self.matrix(name, sum(rows), columns).split_rows(rows)

    def experts(
        self, name: str, count: int, rows: int, columns: int, parts: int
    ) -> tuple[StoredExperts, ...]:
        """Return the matrices of all experts; the file has them neither swapped nor alternating."""
        source = self._find(name, count, columns, parts * rows)
        return self._experts(name, source, (Change.TRANSPOSE, Change.ALTERNATE), count, rows)

    def stacked_experts(
        self, name: str, count: int, rows: int, columns: int, parts: int
    ) -> tuple[StoredExperts, ...]:
        """Return the matrices of all experts, which are tensors of their own in the file."""
        source = self._find(name, count, parts * rows, columns)
        return self._experts(name, source, (Change.NONE, Change.JOIN), count, rows)

    def _experts(
        self, name: str, source: TensorSource, changes: tuple[Change, ...], count: int, rows: int
    ) -> tuple[StoredExperts, ...]:
        sizes = [self._file.tensors[stored_name].shape for stored_name in source.names]
        if source.change not in changes or any(size[1] != rows for size in sizes):
            raise Unsupported(f"{name} is stored in another order ({source.change.value})")

        def part(stored_name: str) -> StoredExperts:
            def read(expert: int) -> StoredMatrix:
                own = slice(expert * rows, (expert + 1) * rows)
                return self._rows(stored_name, own, self._file.tensors[stored_name].shape[-1])

            return StoredExperts(count, read)

        return tuple(part(stored_name) for stored_name in source.names)

    def _rows(self, stored_name: str, rows: slice, columns: int) -> StoredMatrix:
        """Return rows of a tensor of the file, all but the last dimension counted as rows."""
        raw = self._file.raw_rows(stored_name)[rows]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the tensor cannot be written to
            data = torch.from_numpy(raw)
        return StoredMatrix(data, self._file.tensors[stored_name].type_name, columns)

    def vector(self, name: str, *shape: int) -> Tensor:
        """Return a small tensor, such as a norm or bias, in float32."""
        source = self._find(name, *shape)
        try:
            return source.read(self._file, torch.float32).reshape(shape)
        except GgufError as error:
            raise Unsupported(error.message) from error

    def check_all_used(self, ignored: tuple[str, ...]) -> None:
        """Refuse a model with tensors that were not asked for."""
        if unknown := sorted(name for name in self._unused if not name.startswith(ignored)):
            raise Unsupported(f"it has the unknown tensor {unknown[0]}")

    def _find(self, name: str, *shape: int) -> TensorSource:
        source = self._sources.get(name)
        if source is None:
            raise Unsupported(f"it has no tensor {name}")
        found = source.shape(self._file)
        if found != shape and shape != (prod(found),):
            raise Unsupported(f"{name} is {found}, not {shape}")
        self._unused.discard(name)
        return source
