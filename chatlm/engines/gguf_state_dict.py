"""The weights of a GGUF file for transformers: each is dequantized when the model takes it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import EllipsisType
from typing import Any

import torch
from torch import Tensor

from chatlm.hub.architecture import read_config
from chatlm.hub.gguf.architectures import map_tensors
from chatlm.hub.gguf.file import GgufFile
from chatlm.hub.gguf.tensor_data import TensorSource


class LazyTensor:
    """A tensor that transformers reads as it reads a slice of a safetensors file.

    It slices the whole, then moves the result to a device and a dtype; the weights are read only
    then, since a float32 copy of a large matrix would need several times its memory.

    Args:
        file: the GGUF file, which must stay open.
        source: where the tensor is in it.
    """

    def __init__(self, file: GgufFile, source: TensorSource) -> None:
        self._file = file
        self._source = source

    def __getitem__(self, whole: EllipsisType) -> LazyTensor:
        return self

    def to(self, device: Any, dtype: torch.dtype | None) -> Tensor:
        """Dequantize the tensor, a few rows at a time."""
        return self._source.read(self._file, dtype or torch.float32).to(device)


@contextmanager
def open_state_dict(path: Path) -> Iterator[dict[str, LazyTensor]]:
    """Open the GGUF file in a model's folder as a state dict.

    Args:
        path: of the file, beside the config.json that was made from it.

    Yields:
        Its tensors by their names in transformers, which can be read until it is closed.

    Raises:
        GgufError: the file is damaged.
    """
    with GgufFile(path) as file:
        sources = map_tensors(file, read_config(path.parent))
        yield {name: LazyTensor(file, source) for name, source in sources.items()}
