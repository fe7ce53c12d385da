"""Choose the device and the dtype of a model from the settings and the hardware."""

from __future__ import annotations

import errno
import importlib.util
import logging
import warnings
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from chatlm.errors import ChatlmError, ModelError


@dataclass(frozen=True)
class Placement:
    """How to load a model."""

    device_map: str | dict[str, str]
    """As transformers' `from_pretrained` takes it."""
    dtype: torch.dtype | Literal["auto"]
    """Of the computation; auto for that of the model's files, which only transformers takes."""
    quantization_config: Any = None
    """Of transformers."""

    @property
    def device(self) -> str | None:
        """The device of the whole model; None where it may be spread over several."""
        return self.device_map.get("") if isinstance(self.device_map, dict) else None


def resolve_placement(device: str, dtype: str = "auto") -> Placement:
    """Turn the setting device into a placement.

    Args:
        device: auto, cpu, cuda, cuda:N or mps.
        dtype: auto, float32, bfloat16 or float16.

    Raises:
        ModelError: the machine has no such device.
    """
    kind = _resolve_device(device)
    return Placement(
        # a model that does not fit one GPU is spread over all
        device_map="auto" if device == "auto" and torch.cuda.device_count() > 1 else {"": kind},
        dtype=_resolve_dtype(kind, dtype),
    )


def place_weights(placement: Placement, weights: str) -> Placement:
    """Return how transformers loads weights in a format.

    Args:
        placement: the device.
        weights: a value of the setting `weights`.

    Raises:
        ModelError: a package for quantized weights is missing.
    """
    match weights:
        case "stored":
            return replace(placement, dtype="auto")
        case "float32":
            return replace(placement, dtype=torch.float32)
        case "bf16" if placement.dtype is torch.float32:
            return replace(placement, dtype=torch.bfloat16)
        case "int8" | "int4":
            return replace(
                placement, quantization_config=_quantization_config(weights, placement.dtype)
            )
    return placement


def _resolve_device(requested: str) -> str:
    if requested == "auto":
        if torch.cuda.is_available():
            return "cuda:0"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    kind, _, number = requested.partition(":")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise ModelError(
            f"There is no device {requested}: torch sees {torch.cuda.device_count()} CUDA devices",
            hint="Use `chatlm config set device auto`, or check the driver with nvidia-smi.",
        )
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ModelError(
            "There is no device mps on this machine", hint="Use `chatlm config set device auto`."
        )
    return "cuda:0" if requested == "cuda" else requested


def _resolve_dtype(device: str, requested: str) -> torch.dtype:
    if requested != "auto":
        chosen: torch.dtype = getattr(torch, requested)
        return chosen
    if device.startswith("cuda"):
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if device == "mps":
        return torch.float16
    return torch.bfloat16 if _cpu_has_bfloat16() else torch.float32


def _cpu_has_bfloat16() -> bool:
    """Whether the CPU has bfloat16 arithmetic; without it float32 is faster."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported", "_is_arm_bf16_supported")
    return any(getattr(torch.cpu, check, bool)() for check in checks)


def can_quantize() -> bool:
    """Whether the package is installed with which transformers quantizes weights."""
    return importlib.util.find_spec("bitsandbytes") is not None


def _quantization_config(weights: str, compute_dtype: object) -> Any:
    if not can_quantize():
        raise ModelError(
            f"For weights = {weights}, transformers needs the package bitsandbytes",
            hint="Install it with `pip install 'chatlm[quantize]'`, "
            "or use `chatlm config set weights auto`.",
        )
    from transformers import BitsAndBytesConfig

    # its warnings would appear on the screen at every matrix product
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="bitsandbytes")
    if weights == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute_dtype
    )


_OUT_OF_MEMORY = (
    "out of memory",  # CUDA, MPS, HIP
    "can't allocate memory",  # torch's DefaultCPUAllocator
    "cannot allocate memory",  # Linux and macOS, errno 12, quoted by all kinds of libraries
    "not enough memory",  # oneDNN, torch on Windows
    "failed to allocate",
    "bad_alloc",  # C++
    "alloc_failed",  # cuBLAS and cuDNN
    "could not create a memory object",  # oneDNN
    "paging file is too small",  # Windows, error 1455
)
"""Parts of the messages of libraries, in lower case."""


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, means that the memory of a device ran out."""
    while error is not None:
        if isinstance(error, torch.OutOfMemoryError | MemoryError):
            return True
        if isinstance(error, OSError) and error.errno == errno.ENOMEM:
            return True
        # errors of libraries are told from others' by their text alone
        if not isinstance(error, ChatlmError):
            text = str(error).lower()
            if any(part in text for part in _OUT_OF_MEMORY):
                return True
        error = error.__cause__
    return False
