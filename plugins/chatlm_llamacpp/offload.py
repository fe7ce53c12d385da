"""Which tensors lie in a GPU's memory and which in main memory."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

GPU_RESERVE = 1 << 30
"""Bytes of a GPU's memory that are left for computing."""

_CPU, _GPU = 0, 1
"""Types of devices in ggml."""


@dataclass(frozen=True)
class Gpu:
    """A GPU as llama.cpp sees it."""

    name: str
    """Such as Vulkan0."""
    free_bytes: int


def expert_patterns(layers: int) -> list[str]:
    """Return the patterns of the experts' tensors in the first layers, as `--n-cpu-moe` does."""
    return [rf"blk\.{layer}\.ffn_(up|down|gate|gate_up)_(ch|)exps" for layer in range(layers)]


def layers_that_fit(
    free_bytes: int, file_bytes: int, num_layers: int, cache_bytes_per_layer: int
) -> int:
    """Return how many layers fit in the memory of the GPUs; the output counts as one more.

    Args:
        free_bytes: free memory of all GPUs, without what is left for computing.
        file_bytes: of the model.
        num_layers: of the model, without the output.
        cache_bytes_per_layer: of a whole context.
    """
    # embeddings count as parts of layers, so that layers seem larger than they are
    per_layer = file_bytes // (num_layers + 1) + cache_bytes_per_layer
    return max(0, min(free_bytes // per_layer, num_layers + 1))


class _Override(ctypes.Structure):
    """llama.cpp's `llama_model_tensor_buft_override`, which the bindings leave out."""

    _fields_ = (("pattern", ctypes.c_char_p), ("buft", ctypes.c_void_p))


class Devices:
    """ggml's devices.

    Args:
        ggml: the library `ggml` of llama-cpp-python.
    """

    def __init__(self, ggml: ctypes.CDLL) -> None:
        self._ggml = ggml
        for name in ("ggml_backend_dev_get", "ggml_backend_dev_by_type"):
            getattr(ggml, name).restype = ctypes.c_void_p
        ggml.ggml_backend_dev_count.restype = ctypes.c_size_t
        ggml.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
        ggml.ggml_backend_dev_name.restype = ctypes.c_char_p
        ggml.ggml_backend_dev_buffer_type.restype = ctypes.c_void_p
        for name in ("name", "type", "buffer_type"):
            getattr(ggml, f"ggml_backend_dev_{name}").argtypes = [ctypes.c_void_p]
        size = ctypes.POINTER(ctypes.c_size_t)
        ggml.ggml_backend_dev_memory.argtypes = [ctypes.c_void_p, size, size]

    def gpus(self) -> list[Gpu]:
        """Return all GPUs."""
        ggml = self._ggml
        found = []
        for index in range(ggml.ggml_backend_dev_count()):
            device = ggml.ggml_backend_dev_get(index)
            if ggml.ggml_backend_dev_type(device) == _GPU:
                free, total = ctypes.c_size_t(), ctypes.c_size_t()
                ggml.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
                name = ggml.ggml_backend_dev_name(device).decode()
                found.append(Gpu(name, free.value))
        return found

    def overrides(self, patterns: Iterable[str]) -> Any:
        """Return llama.cpp's list that puts tensors of these patterns into main memory."""
        device = self._ggml.ggml_backend_dev_by_type(_CPU)
        main_memory = self._ggml.ggml_backend_dev_buffer_type(device)
        entries = [_Override(pattern.encode(), main_memory) for pattern in patterns]
        return (_Override * (len(entries) + 1))(*entries)  # the last one is empty
