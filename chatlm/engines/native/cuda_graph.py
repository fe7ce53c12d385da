"""Reads single tokens on CUDA. Starting the many small computations of a token one by one takes
longer than they do, so they are recorded once for each memory, as a CUDA graph, and replayed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from chatlm.engines.devices import is_out_of_memory
from chatlm.engines.model import Unsupported
from chatlm.engines.native.forward import forward
from chatlm.engines.native.kv_cache import KVCache, SequenceInput
from chatlm.engines.native.lora import LoraWeights, with_lora
from chatlm.engines.native.model import NativeModel
from chatlm.engines.native.model_config import ModelConfig
from chatlm.engines.native.weights import Linear, MatMul, ModelWeights

_LOGITS_TOLERANCE = 0.05
"""Of the logits' length; what the order of sums changes in 16-bit numbers is smaller."""


_WARMUP_RUNS = 3
"""Before a recording, as torch's documentation asks for."""


class CudaGraphDecoder:
    """A model whose weights stay as they are.

    On other devices than CUDA the same steps are taken without a recording.

    Args:
        config: of the model.
        weights: of the model, on its device.
    """

    max_step_tokens = 1

    def __init__(self, config: ModelConfig, weights: ModelWeights[Linear]) -> None:
        self._config = config
        self._weights: ModelWeights[MatMul] = weights
        self._steps: WeakKeyDictionary[KVCache, _DecodeStep] = WeakKeyDictionary()

    def pack_adapter(self, lora: LoraWeights) -> ModelWeights[MatMul]:
        """See `TokenDecoder.packed`."""
        return with_lora(self._weights, lora)

    def decode(self, sequences: Sequence[SequenceInput], rope: Tensor) -> Tensor:
        """See `TokenDecoder.decode`."""
        return torch.stack(
            [self._decode_token(each, token, rope) for each in sequences for token in each.tokens]
        )

    def _decode_token(self, sequence: SequenceInput, token: int, rope: Tensor) -> Tensor:
        memory, weights = sequence.kv_cache, sequence.adapter or self._weights
        memory.reserve(memory.length + 1)
        step = self._steps.get(memory)
        if step is None or step.kv is not memory.kv or step.weights is not weights:
            step = self._steps[memory] = _DecodeStep(self._config, weights, memory.kv)
        logits = step.run(token, memory.length, rope)
        memory.length += 1
        return logits


class _DecodeStep:
    """What is computed for one more token of one memory, all of it at fixed addresses.

    Args:
        config: of the model.
        weights: of the model, with an adapter or without.
        kv: see `Memory.sides`; they hold room for the token.
    """

    def __init__(self, config: ModelConfig, weights: ModelWeights[MatMul], kv: Tensor) -> None:
        self.weights = weights
        self.kv = kv
        self._config = config
        self._token = torch.zeros(1, dtype=torch.long, device=kv.device)
        self._position = torch.zeros(1, dtype=torch.long, device=kv.device)
        self._rope = torch.zeros(1, config.head_dim, device=kv.device)
        self._cache_positions = torch.arange(kv.shape[3], device=kv.device)
        self._logits = torch.empty(0)
        self._replay: Callable[[], object] | None = None

    def run(self, token: int, position: int, rope: Tensor) -> Tensor:
        """The logits after a token at a position: (vocabulary,), float32."""
        self._token.fill_(token)
        self._position.fill_(position)
        self._rope.copy_(rope[position : position + 1])
        if self._replay is None and self.kv.is_cuda:
            self._replay = self._capture()
        (self._replay or self._forward)()
        return self._logits.clone()  # the next replay writes into the same place

    def _capture(self) -> Callable[[], object]:
        device = self.kv.device
        with torch.cuda.device(device):
            beside = torch.cuda.Stream()
            beside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(beside):
                for _ in range(_WARMUP_RUNS):
                    self._forward()
            torch.cuda.current_stream().wait_stream(beside)
            graph = torch.cuda.CUDAGraph()
            # other threads may be loading or embedding something meanwhile
            with torch.cuda.graph(graph, stream=beside, capture_error_mode="thread_local"):
                self._forward()

        def replay() -> None:
            with torch.cuda.device(device):
                graph.replay()

        return replay

    def _forward(self) -> None:
        """Doing it again for the same token changes nothing."""
        seen = (self._cache_positions <= self._position)[None, None, None]
        self._logits = forward(
            self._config, self.weights, self._token, self._rope, self._update_cache, seen
        )

    def _update_cache(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        whole = self.kv[:, layer, :, :, : self._config.head_dim]
        whole[0].index_copy_(1, self._position, keys)
        whole[1].index_copy_(1, self._position, values)
        return whole[0], whole[1]


def check_against_prefill(model: NativeModel) -> None:
    """Take a step, so that a device or driver on which that goes wrong is known before a reply.

    Raises:
        Unsuitable: it fails, or says something else than reading the same tokens at once.
    """
    ids = [token % model.config.vocab_size for token in range(1, 9)]
    whole, grown = model.new_cache(), model.new_cache()
    try:
        true = whole.prefill(ids)
        grown.prefill(ids[:-2])
        made = [grown.decode([token])[0] for token in ids[-2:]][-1]
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise Unsupported(f"a step failed on {model.info.device}: {error}") from error
    if not float((made - true).norm()) <= _LOGITS_TOLERANCE * float(true.norm()):
        raise Unsupported(f"its steps give other numbers on {model.info.device}")
