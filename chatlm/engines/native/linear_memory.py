"""Linear attention: a memory of fixed size, which each token reads and writes once.

A head's memory S, (key_dim, value_dim), is a linear map from keys to values. Each token lets it
decay and adds its key and value, `S = decay * S + k v`; the output is `q S`. With the delta rule, v
is what the memory lacks: a share beta of the difference between the token's value and `k S`.

Several tokens are read at once without a loop over them, after Yang et al., "Gated Delta Networks",
2024 (arXiv 2412.06464), and Dao and Gu, "Transformers are SSMs", 2024 (arXiv 2405.21060).
"""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 64
"""Tokens that are read at once."""


def read_tokens(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    decays: Tensor,
    memory: Tensor,
    betas: Tensor | None = None,
) -> Tensor:
    """Read tokens into the memory of all heads; all tensors are float32.

    Args:
        queries: (heads, tokens, key_dim)
        keys: (heads, tokens, key_dim)
        values: (heads, tokens, value_dim)
        decays: logarithms, at most 0: (heads, tokens).
        memory: (heads, key_dim, value_dim); changed in place.
        betas: of the delta rule, from 0 to 1: (heads, tokens); None without it.

    Returns:
        (heads, tokens, value_dim)
    """
    out = [
        _read_chunk(
            queries[:, at], keys[:, at], values[:, at], decays[:, at], memory,
            None if betas is None else betas[:, at, None],
        )
        for at in (slice(start, start + CHUNK) for start in range(0, queries.shape[1], CHUNK))
    ]  # fmt: skip
    return torch.cat(out, dim=1)


def _read_chunk(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    decays: Tensor,
    memory: Tensor,
    betas: Tensor | None,
) -> Tensor:
    since_start = decays.cumsum(-1)  # how much the memory has decayed before each token's output
    between = since_start[..., :, None] - since_start[..., None, :]
    later = torch.ones(between.shape[1:], dtype=torch.bool, device=between.device).triu(1)
    decay = between.masked_fill(later, -torch.inf).exp()
    from_start = since_start.exp()[..., None]
    if betas is not None:
        weighted = keys * betas
        values = values * betas - (weighted * from_start) @ memory
        if keys.shape[1] > 1:  # a token's change depends on those before: a triangular system
            system = (weighted @ keys.transpose(1, 2)) * decay
            values = torch.linalg.solve_triangular(system, values, upper=False, unitriangular=True)
    out = (queries * from_start) @ memory + ((queries @ keys.transpose(1, 2)) * decay) @ values
    left = since_start[..., -1:]
    memory *= left.exp()[..., None]
    memory += (keys * (left - since_start).exp()[..., None]).transpose(1, 2) @ values
    return out


def split_heads(x: Tensor, size: int) -> Tensor:
    """(tokens, heads * size) to (heads, tokens, size)."""
    return x.reshape(len(x), -1, size).transpose(0, 1)


def merge_heads(x: Tensor) -> Tensor:
    """(heads, tokens, size) to (tokens, heads * size)."""
    return x.transpose(0, 1).reshape(x.shape[1], -1)
