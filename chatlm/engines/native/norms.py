"""RMSNorm, compiled for the processor or in torch."""

from __future__ import annotations

import torch
from torch import Tensor

from chatlm.engines.native.elementwise import elementwise


def rms_norm(x: Tensor, weight: Tensor | None, eps: float, dtype: torch.dtype) -> Tensor:
    """Apply RMSNorm over the last dimension, computed in float32.

    Args:
        x: of any dtype.
        weight: of the last dimension, or of more; None to leave `x` as it is. Rounding happens in
            its dtype, so that one in float32 is multiplied without any.
        eps: added to the mean square.
        dtype: of the result.
    """
    if weight is None:
        return x.to(dtype)
    if weight.dim() == 1 and (compiled := elementwise(x, weight)):
        return compiled.rms_norm(x, weight, eps, dtype)
    wide = x.float()
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return (weight * wide.to(weight.dtype)).to(dtype)
