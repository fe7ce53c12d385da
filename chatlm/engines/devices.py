"""Choose the device and the dtype of a model from the settings and the hardware."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from dataclasses import dataclass
from typing import Any

import torch

from chatlm.errors import ModelError


@dataclass(frozen=True)
class Placement:
    """How to load a model."""

    device_map: str | dict[str, str]
    """As transformers' `from_pretrained` takes it."""
    dtype: torch.dtype
    quantization_config: Any = None
    dtype_is_explicit: bool = False
    """Whether the user set `dtype`."""

    @property
    def device(self) -> str | None:
        """The device of the whole model; None where it may be spread over several."""
        return self.device_map.get("") if isinstance(self.device_map, dict) else None


def resolve_placement(device: str, dtype: str, quantize: str) -> Placement:
    """Turn the settings device, dtype and quantize into a placement.

    Args:
        device: auto, cpu, cuda, cuda:N or mps.
        dtype: auto, float32, bfloat16 or float16.
        quantize: none, 8bit or 4bit.

    Raises:
        ModelError: the machine has no such device, or a package for quantized weights is missing.
    """
    kind = _resolve_device(device)
    chosen = _resolve_dtype(kind, dtype)
    return Placement(
        # a model that does not fit one GPU is spread over all
        device_map="auto" if device == "auto" and torch.cuda.device_count() > 1 else {"": kind},
        dtype=chosen,
        quantization_config=None if quantize == "none" else _quantization_config(quantize, chosen),
        dtype_is_explicit=dtype != "auto",
    )


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


def _quantization_config(requested: str, compute_dtype: torch.dtype) -> Any:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError(
            f"{requested} weights need the package bitsandbytes",
            hint="Install it with `pip install 'chatlm[quantize]'`, "
            "or use `chatlm config set quantize none`.",
        )
    from transformers import BitsAndBytesConfig

    # its warnings would appear on the screen at every matrix product
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="bitsandbytes")
    if requested == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute_dtype
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the memory of a device ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and (
        "out of memory" in text or "can't allocate memory" in text
    )
