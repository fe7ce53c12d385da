"""Mixtures of experts in the C kernel's layout."""

from __future__ import annotations

import ctypes
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from ctypes import c_float, c_int64, c_void_p

from torch import Tensor

from chatlm.engines.model import Unsupported
from chatlm.engines.native.kernel import Kernel, PackedMatrix, PackedMatrixStruct
from chatlm.engines.native.moe import MoeConfig
from chatlm.engines.native.stored_matrix import StoredMatrix, stored_tensor
from chatlm.engines.native.weights import MoeWeights

MAX_EXPERTS_PER_TOKEN = 16
"""Limit of the kernel."""

_SAMPLED_EXPERTS = 4
"""Experts on which the format of all is chosen."""


class MoeStruct(ctypes.Structure):
    """The kernel's `Moe`."""

    _fields_ = (
        *((name, c_void_p) for name in ("gate_proj", "up_proj", "down_proj")),
        *(
            (name, c_int64)
            for name in ("num_experts", "num_experts_per_tok", "normalised", "has_sigmoids")
        ),
        ("choice_bias", c_void_p),
        *((name, c_float) for name in ("scaling", "swiglu_limit", "swiglu_alpha")),
    )


class PackedExperts:
    """The packed matrices of a mixture of experts.

    Args:
        config: of the mixture.
        matrices: of each expert, by name.
        router: gives the experts' logits.
        shared_gate: of a shared expert, or None.
        choice_bias: see `MoeConfig.choice_bias`; None without.
    """

    def __init__(
        self,
        config: MoeConfig,
        matrices: Mapping[str, Sequence[PackedMatrix]],
        router: PackedMatrix,
        shared_gate: PackedMatrix | None,
        choice_bias: Tensor | None,
    ) -> None:
        self.config = config
        self.matrices = matrices
        self.router = router
        self.shared_gate = shared_gate
        self._choice_bias = None if choice_bias is None else choice_bias.float().contiguous()
        self._arrays = {
            name: (PackedMatrixStruct * len(each))(*(matrix.as_struct() for matrix in each))
            for name, each in matrices.items()
        }
        self.struct = MoeStruct(
            **{name: ctypes.addressof(array) for name, array in self._arrays.items()},
            num_experts=config.num_experts,
            num_experts_per_tok=config.num_experts_per_tok,
            normalised=config.normalised,
            has_sigmoids=config.scoring == "sigmoid",
            choice_bias=None if self._choice_bias is None else self._choice_bias.data_ptr(),
            scaling=config.scaling,
            swiglu_limit=config.swiglu_limit or 0.0,
            swiglu_alpha=config.swiglu_alpha,
        )
        """Valid while this object lives."""

    @property
    def formats(self) -> set[str]:
        """Their number formats."""
        return {matrices[0].format for matrices in self.matrices.values()}


def check_experts(config: MoeConfig) -> None:
    """Refuse a mixture that the kernel cannot run.

    Raises:
        Unsupported: it uses too many experts per token.
    """
    if config.num_experts_per_tok > MAX_EXPERTS_PER_TOKEN:
        raise Unsupported(
            f"it uses {config.num_experts_per_tok} experts per token, and the C kernel "
            f"{MAX_EXPERTS_PER_TOKEN} at most"
        )


def pack_experts(
    kernel: Kernel,
    config: MoeConfig,
    moe: MoeWeights,
    choose_format: Callable[[Sequence[StoredMatrix]], str],
) -> PackedExperts:
    """Pack a layer's experts, one at a time, and its router in float32.

    Args:
        kernel: the kernel.
        config: of the mixture.
        moe: as its files hold it.
        choose_format: gives the format of a stack of matrices for some of them.

    Raises:
        Unsupported: the type of a matrix is unknown, or its scales are damaged.
        MemoryError: there is not enough memory.
    """
    step = -(-config.num_experts // _SAMPLED_EXPERTS)
    return PackedExperts(
        config,
        {
            name: kernel.pack_stack(
                stack, choose_format([stack[expert] for expert in range(0, len(stack), step)])
            )
            for name, stack in moe.experts.items()
        },
        kernel.pack(_in_memory(moe.router, moe.router_bias), "F32"),
        None if moe.shared_gate is None else kernel.pack(_in_memory(moe.shared_gate), "F32"),
        moe.choice_bias,
    )


def _in_memory(matrix: Tensor, bias: Tensor | None = None) -> StoredMatrix:
    return dataclasses.replace(stored_tensor(matrix), bias=bias, mapped=())
