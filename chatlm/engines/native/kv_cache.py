"""The KV cache of one token sequence, shared by torch and the C kernel without a copy."""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from chatlm.engines.native.attention import AttentionConfig
from chatlm.engines.native.model_config import ModelConfig
from chatlm.engines.native.recurrent_state import RecurrentState

LANES = 16
"""A head's row is padded with zeros to a multiple of it."""

GROUP = 32
"""Values of a quantized row that share a scale; the row is padded to a multiple of it."""

KVFormat = Literal["auto", "int8"]
"""Number format of a KV cache: the dtype of the computation, or codes of 8 bits with a bfloat16
scale per `GROUP` values, about half of 16 bits."""

ROOM = 64
"""Tokens for which there is room at least after the capacity has grown."""

_GPU_ROOM = 512
"""The same on a GPU, where a graph is captured anew after each growth."""

_GROWTH = 8
"""It grows by at least this part, so that little is copied in all; by not much more, since huge
pages take what is only reserved."""

_AREA_BYTES = 32 << 20
"""Layers are allocated together up to this size, so that huge pages suit them, and so that a cache
that grows gives its old memory back little by little: it never takes twice its size."""


def allocate_huge_pages(byte_count: int) -> Tensor:
    """Allocate zeroed bytes in huge pages where available, which saves TLB misses.

    Raises:
        MemoryError: there is not enough memory.
    """
    try:
        if hasattr(mmap, "MAP_PRIVATE"):  # systems give shared memory no huge pages
            area = mmap.mmap(-1, max(byte_count, 1), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        else:
            area = mmap.mmap(-1, max(byte_count, 1))
    except (OSError, OverflowError) as error:
        raise MemoryError from error
    if hasattr(mmap, "MADV_HUGEPAGE"):
        area.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(area, dtype=torch.uint8, count=byte_count)


def kv_row_format(itemsize: int, kv_format: KVFormat) -> tuple[int, float]:
    """Return to what a row is padded, and the bytes of a value with its share of a scale.

    Args:
        itemsize: bytes of the dtype of the computation.
        kv_format: of the cache.
    """
    return (
        (GROUP, 1 + torch.bfloat16.itemsize / GROUP) if kv_format == "int8" else (LANES, itemsize)
    )


def kv_layer_shape(
    attention: AttentionConfig, capacity: int, kv_format: KVFormat
) -> tuple[int, int, int, int]:
    """Return the shape of `KVLayer.kv`: (2, KV heads, capacity, padded head_dim)."""
    multiple, _ = kv_row_format(1, kv_format)
    row = -(-attention.head_dim // multiple) * multiple
    return (2, attention.num_key_value_heads, capacity, row)


def kv_bytes_per_token(config: ModelConfig, dtype: torch.dtype, kv_format: KVFormat) -> int:
    """Return the memory that a token takes in a KV cache."""
    _, value_bytes = kv_row_format(dtype.itemsize, kv_format)
    values = sum(math.prod(kv_layer_shape(each, 1, kv_format)) for each in config.kv_layers)
    return int(values * value_bytes)


@dataclass(frozen=True, eq=False)
class KVLayer:
    """One layer's keys and values: themselves, or codes and their scales."""

    kv: Tensor
    """Keys, then values, see `kv_layer_shape`."""
    scales: Tensor | None
    """Factors of the codes in `kv`: (2, KV heads, capacity, groups); None for values."""
    head_dim: int


@dataclass(frozen=True, eq=False)
class KVBuffer:
    """The memory of a KV cache."""

    layers: tuple[KVLayer, ...]
    """Of `ModelConfig.kv_layers`."""
    dtype: torch.dtype
    """Of the computation."""
    capacity: int
    """Tokens that fit."""

    def store(
        self, layer: int, positions: slice | Tensor, keys: Tensor, values: Tensor, end: int
    ) -> tuple[Tensor, Tensor]:
        """Write keys and values of one layer; return those of the first `end` tokens, as stored.

        Quantized ones are returned in the dtype of `keys`.

        Args:
            layer: index from 0.
            positions: of the tokens; a CUDA graph may be captured with a tensor.
            keys: (KV heads, tokens, head_dim), as `values` and what is returned.
            values: of the same tokens.
            end: at least all positions.
        """
        own = self.layers[layer]
        for number, rows in enumerate((keys, values)):
            if own.scales is None:
                _write(own.kv[number, ..., : own.head_dim], positions, rows)
            else:
                codes, scales = quantize_rows(rows)
                _write(own.kv[number], positions, codes)
                _write(own.scales[number], positions, scales)
        return self.load(layer, end, keys.dtype)

    def load(self, layer: int, end: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return the keys and values of the first `end` tokens of a layer, see `store`."""
        own = self.layers[layer]
        kv = own.kv[:, :, :end]
        if own.scales is not None:
            factors = own.scales[:, :, :end].unsqueeze(-1).to(dtype)
            kv = (kv.unflatten(-1, (-1, GROUP)) * factors).flatten(-2)
        return kv[0, ..., : own.head_dim], kv[1, ..., : own.head_dim]


def _write(rows: Tensor, positions: slice | Tensor, new: Tensor) -> None:
    if isinstance(positions, slice):
        rows[:, positions] = new
    else:
        rows.index_copy_(1, positions, new)


class KVCache:
    """Keys and values of all layers, with a capacity that grows.

    Args:
        config: of the model.
        dtype: of the computation.
        device: of keys and values.
        kv_format: of keys and values.
    """

    def __init__(
        self,
        config: ModelConfig,
        dtype: torch.dtype,
        device: str = "cpu",
        kv_format: KVFormat = "auto",
    ) -> None:
        self.kv_format = kv_format
        self.dtype = dtype
        self.device = torch.device(device)
        self._attention = config.kv_layers
        self._kv_indices = config.kv_indices
        self.buffer = self._allocate(0)
        """Replaced by a larger one when the cache grows."""
        self.length = 0
        """Tokens in the cache."""
        self.prompt: list[int] = []
        """The first of them, which were read in blocks, as far as is known."""
        self.recurrent = RecurrentState(config.state_shapes, device)
        """The states of the layers without attention."""

    @property
    def capacity(self) -> int:
        """Tokens that fit before it has to grow."""
        return self.buffer.capacity

    def reserve(self, tokens: int) -> None:
        """Grow to a capacity of at least `tokens`, and some more."""
        capacity = self.buffer.capacity
        if tokens <= capacity:
            return
        room = ROOM if self.device.type == "cpu" else _GPU_ROOM
        larger = self._allocate(max(tokens + room, capacity + capacity // _GROWTH))
        old = list(reversed(self.buffer.layers))
        self.buffer = larger
        for mine in larger.layers:
            theirs = old.pop()  # the last reference, so that its memory is free once it is copied
            mine.kv[:, :, : self.length] = theirs.kv[:, :, : self.length]
            if mine.scales is not None and theirs.scales is not None:
                mine.scales[:, :, : self.length] = theirs.scales[:, :, : self.length]

    def copy_layer(self, layer: int, source: KVCache, start: int, end: int) -> None:
        """Take the keys and values of some tokens in one layer from another cache of the model.

        Args:
            layer: index among those of `ModelConfig.kv_layers`.
            source: has read the same text up to the last of these tokens.
            start: position of the first of them.
            end: the position after the last one; the capacity must suffice.
        """
        mine, theirs = self.buffer.layers[layer], source.buffer.layers[layer]
        mine.kv[:, :, start:end] = theirs.kv[:, :, start:end]
        if mine.scales is not None and theirs.scales is not None:
            mine.scales[:, :, start:end] = theirs.scales[:, :, start:end]

    def _allocate(self, capacity: int) -> KVBuffer:
        """Allocate the memory of all layers; what is not used yet is not taken from the system."""
        shapes = [kv_layer_shape(each, capacity, self.kv_format) for each in self._attention]
        is_int8 = self.kv_format == "int8"
        scales: Sequence[Tensor | None] = [None] * len(shapes)
        with torch.inference_mode(False):  # a cache that grows there is also written elsewhere
            kv = self._allocate_tensors(shapes, torch.int8 if is_int8 else self.dtype)
            if is_int8:
                groups = [(*shape[:3], shape[3] // GROUP) for shape in shapes]
                scales = self._allocate_tensors(groups, torch.bfloat16)
        return KVBuffer(
            tuple(
                KVLayer(own, own_scales, each.head_dim)
                for own, own_scales, each in zip(kv, scales, self._attention, strict=True)
            ),
            self.dtype,
            capacity,
        )

    def _allocate_tensors(
        self, shapes: Sequence[tuple[int, ...]], dtype: torch.dtype
    ) -> list[Tensor]:
        """Allocate zeroed tensors, several together up to `_AREA_BYTES`."""
        parts: list[Tensor] = []
        for own in _groups(shapes, _AREA_BYTES // dtype.itemsize):
            sizes: list[int] = [math.prod(shape) for shape in own]
            if self.device.type == "cpu" and any(sizes):
                whole = allocate_huge_pages(sum(sizes) * dtype.itemsize).view(dtype)
            else:
                whole = torch.zeros(sum(sizes), dtype=dtype, device=self.device)
            split = whole[: sum(sizes)].split(sizes)
            parts += [part.view(shape) for part, shape in zip(split, own, strict=True)]
        return parts

    def read(self, start: int, end: int) -> dict[str, Tensor]:
        """Return a copy of what is stored of some tokens, by layer."""
        return {name: rows[:, :, start:end].cpu().contiguous() for name, rows in self._stored()}

    def write(self, start: int, end: int, stored: Mapping[str, Tensor]) -> None:
        """Store tokens as `read` returned them; the capacity must suffice."""
        for name, rows in self._stored():
            rows[:, :, start:end] = stored[name]

    def _stored(self) -> Iterator[tuple[str, Tensor]]:
        for number, layer in enumerate(self.buffer.layers):
            yield f"{number}.kv", layer.kv
            if layer.scales is not None:
                yield f"{number}.scales", layer.scales

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append a block to one layer; the caller advances `length` after the last layer.

        Args:
            layer: index among the layers with attention.
            keys: (KV heads, tokens, head_dim), as `values`; the capacity must suffice.
            values: of the same tokens.

        Returns:
            All keys and values of the layer with the block, as stored, in the same layout.
        """
        end = self.length + keys.shape[1]
        layer = self._kv_indices[layer]
        return self.buffer.store(layer, slice(self.length, end), keys, values, end)

    def load(self, layer: int, end: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return the first `end` keys and values of a layer, counted as in `update`."""
        return self.buffer.load(self._kv_indices[layer], end, dtype)


def _groups(shapes: Sequence[tuple[int, ...]], most: int) -> Iterator[Sequence[tuple[int, ...]]]:
    """Yield neighbouring shapes of at most `most` numbers in all, or a single larger one."""
    start, size = 0, 0
    for number, shape in enumerate(shapes):
        if number > start and size + math.prod(shape) > most:
            yield shapes[start:number]
            start, size = number, 0
        size += math.prod(shape)
    yield shapes[start:]


def quantize_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Quantize keys or values to 8 bits, as the C kernel does.

    Args:
        rows: (…, head_dim)

    Returns:
        codes, (…, padded head_dim), and their scales, (…, groups); a group with an infinity or NaN
        has such a scale.
    """
    groups = pad(rows.float(), (0, -rows.shape[-1] % GROUP)).unflatten(-1, (-1, GROUP))
    scales = (groups.abs().amax(-1, keepdim=True) / 127).to(torch.bfloat16)
    steps = scales.float()
    codes = torch.where((steps > 0) & steps.isfinite(), groups / steps, 0.0)
    codes = codes.nan_to_num(0.0).round().clamp(-127, 127).to(torch.int8)
    return codes.flatten(-2), scales.squeeze(-1)


@dataclass(frozen=True)
class SequenceInput:
    """New tokens of one sequence, and its KV cache."""

    kv_cache: KVCache
    tokens: Sequence[int]
    adapter: Any = None
    """As the decoder's `pack_adapter` returned it; None for no adapter."""
