"""Steps of a prompt's forward pass compiled for the processor, each in place of several of torch.

Where there is no C compiler, and on other devices, their callers compute the same with torch.
"""

from __future__ import annotations

import ctypes
import functools
import logging
from ctypes import c_bool, c_float, c_int64, c_void_p
from pathlib import Path

import torch
from torch import Tensor

from chatlm.engines.native.compiler import KernelUnavailable, open_library

log = logging.getLogger(__name__)

_DTYPES = (torch.float32, torch.bfloat16)


class Elementwise:
    """The compiled functions; tensors are on the CPU, in float32 or bfloat16, and contiguous.

    Args:
        library: the compiled elementwise.c.

    Raises:
        KernelUnavailable: the system cannot load it.
    """

    def __init__(self, library: Path) -> None:
        try:
            functions = ctypes.CDLL(str(library))
            functions.norm_rows.argtypes = (
                c_void_p, c_int64, c_void_p, c_int64, c_int64, c_int64, c_float, c_void_p, c_int64,
            )  # fmt: skip
            functions.add_to_residual.argtypes = (c_void_p, c_void_p, c_int64, c_float, c_int64)
            functions.apply_gate.argtypes = (
                c_bool, c_void_p, c_void_p, c_int64, c_int64, c_void_p,
            )  # fmt: skip
            functions.rotate_heads.argtypes = (
                c_void_p, *(c_int64,) * 6, c_void_p, c_void_p, c_int64, c_bool, c_void_p,
            )  # fmt: skip
            for name in ("norm_rows", "add_to_residual", "apply_gate", "rotate_heads"):
                getattr(functions, name).restype = None
        except (OSError, AttributeError) as error:
            raise KernelUnavailable(f"{library} cannot be loaded: {error}") from error
        self._functions = functions

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        """Apply RMSNorm over the last dimension: to the same shape, in `dtype`."""
        x, weight = x.contiguous(), weight.contiguous()
        out = torch.empty(x.shape, dtype=dtype)
        size = x.shape[-1]
        self._functions.norm_rows(
            x.data_ptr(), x.itemsize, weight.data_ptr(), weight.itemsize, x.numel() // size, size,
            eps, out.data_ptr(), out.itemsize,
        )  # fmt: skip
        return out

    def add_to_residual(self, residual: Tensor, x: Tensor, multiplier: float) -> None:
        """Add `multiplier * x` to a tensor in float32 of the same shape, in place."""
        if residual.dtype != torch.float32 or not residual.is_contiguous():
            raise ValueError("the residual is not contiguous in float32")
        x = x.contiguous()
        self._functions.add_to_residual(
            residual.data_ptr(), x.data_ptr(), x.itemsize, multiplier, x.numel()
        )

    def apply_gate(self, gate: Tensor, up: Tensor, *, is_gelu: bool) -> Tensor:
        """Return `activation(gate) * up` in their shape and dtype.

        Args:
            gate: of any shape.
            up: of the same.
            is_gelu: whether the activation is GELU, approximated by tanh, rather than SiLU.
        """
        gate, up = gate.contiguous(), up.to(gate.dtype).contiguous()
        out = torch.empty_like(gate)
        self._functions.apply_gate(
            is_gelu, gate.data_ptr(), up.data_ptr(), gate.itemsize, gate.numel(), out.data_ptr()
        )
        return out

    def rotate(self, x: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool) -> Tensor:
        """Rotate queries or keys by RoPE.

        Args:
            x: (heads, tokens, head_dim); only the last dimension has to be contiguous.
            cos: (tokens, rotary_dim), for both numbers of each pair, in the dtype of `x`.
            sin: as `cos`.
            interleaved: whether pairs are neighbours rather than half of `rotary_dim` apart.

        Returns:
            a contiguous tensor of the same shape.
        """
        cos, sin = cos.to(x.dtype).contiguous(), sin.to(x.dtype).contiguous()
        out = torch.empty(x.shape, dtype=x.dtype)
        self._functions.rotate_heads(
            x.data_ptr(), x.itemsize, *x.shape, x.stride(0), x.stride(1), cos.data_ptr(),
            sin.data_ptr(), cos.shape[-1], interleaved, out.data_ptr(),
        )  # fmt: skip
        return out


@functools.cache
def _compiled() -> Elementwise | None:
    try:
        return open_library("elementwise", Elementwise)
    except KernelUnavailable as error:
        log.info("prompts are computed with torch: %s", error)
        return None


def elementwise(*tensors: Tensor) -> Elementwise | None:
    """Return the functions if they can take these tensors, whose last dimension is contiguous."""
    fits = all(
        each.device.type == "cpu" and each.dtype in _DTYPES and each.stride(-1) == 1
        for each in tensors
    )
    return _compiled() if fits else None
