"""Decode tokens on CUDA by replaying a CUDA graph.

Launching the many small kernels of a token one by one takes longer than running them, so they are
captured once per KV cache and replayed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from chatlm.engines.devices import is_out_of_memory
from chatlm.engines.model import Unsupported
from chatlm.engines.native.attention import VisibleKeys
from chatlm.engines.native.forward import Rotations, forward
from chatlm.engines.native.kv_cache import KVBuffer, KVCache, SequenceInput
from chatlm.engines.native.lora import LoraWeights, with_lora
from chatlm.engines.native.model import NativeModel
from chatlm.engines.native.model_config import ModelConfig
from chatlm.engines.native.recurrent_state import RecurrentState
from chatlm.engines.native.rope import RopeConfig, RopeTables, Rotation
from chatlm.engines.native.weights import ComputedWeights, Linear, LinearWeights, MatMul

_LOGITS_TOLERANCE = 0.05
"""Relative to the norm of the logits; another order of summation in 16 bits changes less."""


_WARMUP_RUNS = 3
"""Before a capture, as torch's documentation requires."""


class CudaGraphDecoder:
    """A decoder for every architecture with unpacked weights.

    On devices other than CUDA it runs the same steps without a graph.

    Args:
        config: of the model.
        weights: of the model, on its device.
    """

    max_step_tokens = 1
    prompt_attention = None

    def __init__(self, config: ModelConfig, weights: LinearWeights) -> None:
        self._config = config
        self.kv_dtype = weights.embed_tokens.weight.dtype
        self._weights: ComputedWeights = weights
        self._steps: WeakKeyDictionary[KVCache, _DecodeStep] = WeakKeyDictionary()

    def pack_adapter(self, lora: LoraWeights) -> ComputedWeights:
        """Return the weights with an adapter."""
        return with_lora(self._weights, lora)

    def prompt_matrix(self, matrix: Tensor) -> MatMul:
        """Return what multiplies with a matrix in torch."""
        return Linear(matrix)

    def settle(self, sequence: SequenceInput) -> None:
        """Do nothing: `decode` leaves nothing out."""

    def decode(self, sequences: Sequence[SequenceInput], ropes: RopeTables) -> Tensor:
        """Decode the tokens one by one."""
        return torch.stack(
            [
                self._decode_token(sequence, token, ropes)
                for sequence in sequences
                for token in sequence.tokens
            ]
        )

    def _decode_token(self, sequence: SequenceInput, token: int, ropes: RopeTables) -> Tensor:
        kv_cache, weights = sequence.kv_cache, sequence.adapter or self._weights
        kv_cache.reserve(kv_cache.length + 1)
        step = self._steps.get(kv_cache)
        if step is None or step.buffer is not kv_cache.buffer or step.weights is not weights:
            step = self._steps[kv_cache] = _DecodeStep(
                self._config, weights, kv_cache.buffer, kv_cache.recurrent
            )
        logits = step.run(token, kv_cache.length, ropes)
        kv_cache.length += 1
        kv_cache.recurrent.length = kv_cache.length
        return logits


class _DecodeStep:
    """The decode step of one KV cache, with all inputs and outputs at fixed addresses.

    It is the `BlockContext` of its token.

    Args:
        config: of the model.
        weights: of the model, with an adapter or without.
        buffer: of the KV cache, with capacity for the token.
        recurrent: the states of the same sequence.
    """

    attend = None

    def __init__(
        self,
        config: ModelConfig,
        weights: ComputedWeights,
        buffer: KVBuffer,
        recurrent: RecurrentState,
    ) -> None:
        self.weights = weights
        self.buffer = buffer
        self.state = recurrent.layers.__getitem__
        self._states = recurrent.buffer
        device = recurrent.buffer.device
        self._device = device
        self._config = config
        self._token = torch.zeros(1, dtype=torch.long, device=device)
        self._position = torch.zeros(1, dtype=torch.long, device=device)
        self._ropes = [torch.zeros(1, rope.rotary_dim, device=device) for rope in config.ropes]
        self._cache_positions = torch.arange(buffer.capacity, device=device)
        self._logits = torch.empty(0)
        self._visible: dict[int | None, VisibleKeys] = {}
        self.rotation: Callable[[RopeConfig], Rotation]
        self._replay: Callable[[], object] | None = None

    def run(self, token: int, position: int, ropes: RopeTables) -> Tensor:
        """Return the logits after a token at a position: (vocab_size,), float32."""
        self._token.fill_(token)
        self._position.fill_(position)
        for own, row in zip(self._ropes, ropes.rows(position, 1), strict=True):
            own.copy_(row)
        if self._replay is None and self._device.type == "cuda":
            self._replay = self._capture()
        (self._replay or self._forward)()
        return self._logits.clone()  # the next replay overwrites them

    def _capture(self) -> Callable[[], object]:
        device, states = self._device, self._states.clone()
        with torch.cuda.device(device):
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(_WARMUP_RUNS):
                    self._forward()
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            # other threads may use CUDA meanwhile
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                self._forward()
            self._states.copy_(states)  # which the warm-up has changed

        def replay() -> None:
            with torch.cuda.device(device):
                graph.replay()

        return replay

    def _forward(self) -> None:
        """Compute the logits; repeating it for the same token changes only recurrent states."""
        embeddings = self.weights.embed_tokens(self._token)
        rotations = Rotations(self._config.ropes, self._ropes, embeddings.dtype)
        self.rotation = rotations.of
        self._visible.clear()
        self._logits = forward(self._config, self.weights, self._token, embeddings, self)

    def store(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store the token's keys and values; return those of the whole buffer."""
        layer = self._config.kv_indices[layer]
        return self.buffer.store(layer, self._position, keys, values, self.buffer.capacity)

    def load(self, layer: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return a layer's keys and values of the whole buffer."""
        return self.buffer.load(self._config.kv_indices[layer], self.buffer.capacity, dtype)

    def visible_keys(self, window: int | None) -> VisibleKeys:
        """Return the mask of the tokens up to this one."""
        if window not in self._visible:
            mask = self._cache_positions <= self._position
            if window is not None:
                mask &= self._cache_positions > self._position - window
            self._visible[window] = VisibleKeys(mask=mask[None, None, None])
        return self._visible[window]


def check_against_prefill(model: NativeModel) -> None:
    """Compare decoded tokens with a prefill, to find a broken device or driver before a reply.

    Raises:
        Unsupported: decoding fails, or gives other logits than a prefill of the same tokens.
    """
    ids = [token % model.config.vocab_size for token in range(1, 9)]
    try:
        expected = model.new_cache().prefill(ids)
        cache = model.new_cache()
        cache.prefill(ids[:-2])
        decoded = [cache.decode([token])[0] for token in ids[-2:]][-1]
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise Unsupported(f"decoding failed on {model.info.device}: {error}") from error
    if not float((decoded - expected).norm()) <= _LOGITS_TOLERANCE * float(expected.norm()):
        raise Unsupported(f"decoding gives wrong logits on {model.info.device}")
