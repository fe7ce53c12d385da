"""Measure how fast the C kernel decodes on this machine.

Large weights are limited by the memory, others by the processor: by the instructions that their
number format takes, and by what each layer does beside its products. So the kernel itself is
timed, with as many threads as replies have, and with weights that no cache holds.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from chatlm.engines.model import Unsupported
from chatlm.engines.native.attention import AttentionConfig
from chatlm.engines.native.c_decoder import CDecoder
from chatlm.engines.native.compiler import decoder_name, ready_library
from chatlm.engines.native.kernel import FORMATS, Kernel, PackedMatrix
from chatlm.engines.native.kv_cache import LANES, KVCache, SequenceInput, allocate_huge_pages
from chatlm.engines.native.mlp import DenseMlpConfig
from chatlm.engines.native.model_config import LayerConfig, ModelConfig
from chatlm.engines.native.rope import RopeConfig, RopeTables
from chatlm.engines.native.stored_matrix import StoredMatrix, stored_tensor
from chatlm.engines.native.weights import LayerWeights, ModelWeights
from chatlm.engines.torch_threads import usual_torch_threads

log = logging.getLogger(__name__)

_LIKE = {
    "F32": "BF16", "F16": "BF16", "Q4_0": "Q4_1", "Q4_Z": "Q4_1", "Q5_0": "Q5_K", "Q5_1": "Q5_K",
    "Q8_Z": "Q8_0", "IQ4_NL": "IQ4_XS", "MXFP4": "IQ4_XS",
}  # fmt: skip
"""Formats that take about as many instructions per byte as another one, which is measured."""

_WEIGHT_BYTES = 96 << 20
"""Weights that are multiplied: more than processors' caches hold."""

_FILL = 0x3C
"""Each byte of the weights, since zeros or denormal scales would be multiplied faster or slower."""

_HIDDEN_SIZE = 1024

_HEAD_DIM = 64

_POSITIONS = 64

_LAYERS = 16
"""By so many the deeper of two models, whose times are compared, has more."""

_TOKENS = 8
"""Decoded one after the other in each round, by each of the two."""


@dataclass(frozen=True)
class KernelSpeed:
    """How fast the kernel decodes."""

    bytes_per_second: Mapping[str, float]
    """Packed weights that are multiplied with a token's vector, by their format."""
    layer_seconds: float
    """What a layer of a token takes beside them: norms, attention, and waiting for threads."""

    def rate(self, weight_format: str) -> float:
        """Return the bytes per second of a format; of the slowest one if it is unknown."""
        known = _LIKE.get(weight_format, weight_format)
        return self.bytes_per_second.get(known) or min(self.bytes_per_second.values())


def is_kernel_ready(*, float32: bool) -> bool:
    """Whether there is a kernel that need not be compiled first.

    Args:
        float32: whether the dtype of models is float32 rather than bfloat16.
    """
    try:
        return ready_library(decoder_name(float32=float32)) is not None
    except Unsupported:
        return False


def measure_kernel(seconds: float, *, float32: bool) -> KernelSpeed | None:
    """Measure the kernel for about so long; None where there is none, or it is not compiled yet.

    Each number is the median of several rounds, so that a short disturbance changes none.

    Args:
        seconds: how long, without the 0.1 s or so in which the weights are prepared.
        float32: see `is_kernel_ready`.
    """
    try:
        library = ready_library(decoder_name(float32=float32))
        if library is None:
            return None
        return _Probe(Kernel(library, torch.float32 if float32 else torch.bfloat16)).run(seconds)
    except (Unsupported, MemoryError) as error:
        log.info("the kernel is not measured: %s", error)
        return None


class _Probe:
    """Small models with large output matrices, and with few and many layers.

    Args:
        kernel: to be measured.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        memory = allocate_huge_pages(_WEIGHT_BYTES).fill_(_FILL)
        formats = [each for each in FORMATS if each not in _LIKE]
        self._heads = {each: self._head(memory, each) for each in formats}
        self._products = {
            each: partial(self._model(1, head).weights.lm_head, torch.ones(1, _HIDDEN_SIZE))
            for each, head in self._heads.items()
        }
        small = self._head(memory[: 4 * LANES * _HIDDEN_SIZE], "Q8_0")
        self._shallow = self._decoding(1, small)
        self._deep = self._decoding(1 + _LAYERS, small)

    def run(self, seconds: float) -> KernelSpeed:
        """Repeat rounds of all measurements until the time is over."""
        self._round()  # wakes threads, touches memory
        rounds: list[tuple[Mapping[str, float], float]] = []
        end = time.perf_counter() + seconds
        while not rounds or time.perf_counter() < end:
            rounds.append(self._round())
        return KernelSpeed(
            {
                each: statistics.median(products[each] for products, _ in rounds)
                for each in self._heads
            },
            statistics.median(layer for _, layer in rounds),
        )

    def _round(self) -> tuple[Mapping[str, float], float]:
        """Return bytes per second by format, and seconds per layer."""
        rates = {
            each: self._heads[each].panels.numel() / _duration(product)
            for each, product in self._products.items()
        }
        # the faster half of the calls, as one that waits for a processor says nothing of the others
        deep, shallow = (
            statistics.quantiles([_duration(decode) for _ in range(_TOKENS)], n=4)[0]
            for decode in (self._deep, self._shallow)
        )
        return rates, max(0.0, deep - shallow) / _LAYERS

    def _head(self, memory: Tensor, weight_format: str) -> PackedMatrix:
        """Take as many rows of a format as the memory holds for a packed matrix."""
        code = FORMATS.index(weight_format)
        panel = self._kernel.functions.panel_bytes(code, _HIDDEN_SIZE)
        panels = len(memory) // panel // 2 * 2
        return PackedMatrix(
            memory[: panels * panel],
            None,
            panels * LANES,
            _HIDDEN_SIZE,
            _HIDDEN_SIZE,
            weight_format,
        )

    def _model(self, layers: int, head: PackedMatrix) -> CDecoder:
        config, layer = _config(layers, head.rows), _layer()
        matrices = {
            name: _matrix(shape.rows, shape.columns)
            for name, shape in layer.matrix_shapes(_HIDDEN_SIZE).items()
        }
        vectors = {
            name: torch.ones(size) for name, size in layer.vector_sizes(_HIDDEN_SIZE).items()
        }
        weights = ModelWeights(
            embed_tokens=_matrix(1, _HIDDEN_SIZE),
            layers=(LayerWeights(matrices, vectors),) * layers,
            norm=torch.ones(_HIDDEN_SIZE),
            lm_head=_matrix(1, _HIDDEN_SIZE),
        )
        return CDecoder(self._kernel, config, weights, "int4", usual_torch_threads(), head)

    def _decoding(self, layers: int, head: PackedMatrix) -> Callable[[], Tensor]:
        """Return what decodes a token of a text, always the same one."""
        decoder, config = self._model(layers, head), _config(layers, head.rows)
        cache = KVCache(config, self._kernel.dtype, "cpu")
        ropes = RopeTables(config.ropes, _POSITIONS, torch.device("cpu"))

        def decode() -> Tensor:
            cache.length = 0
            return decoder.decode([SequenceInput(cache, [0], None)], ropes)

        return decode


def _duration(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _config(layers: int, vocab_size: int) -> ModelConfig:
    return ModelConfig(_HIDDEN_SIZE, vocab_size, _POSITIONS, 1e-5, (_layer(),) * layers)


def _layer() -> LayerConfig:
    """Return a layer whose matrices are so small that its other work takes longer."""
    pairs = range(0, _HEAD_DIM, 2)
    rope = RopeConfig(tuple(1e4 ** (-pair / _HEAD_DIM) for pair in pairs))
    attention = AttentionConfig(1, 1, _HEAD_DIM, rope, _HEAD_DIM**-0.5)
    return LayerConfig(attention, DenseMlpConfig(_HEAD_DIM))


def _matrix(rows: int, columns: int) -> StoredMatrix:
    stored = stored_tensor(torch.full((rows, columns), 0.01, dtype=torch.bfloat16))
    return replace(stored, mapped=())  # it is in no file, so no memory is given back to the system
