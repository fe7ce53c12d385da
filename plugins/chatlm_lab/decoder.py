"""The decoder-only transformer of the book (chapter 4), written to be read.

In the comments d is the width of the model, d_h that of a head, t the number of tokens that are
read, and s that of all tokens so far.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from chatlm_lab.network import LanguageNetwork, Layer, LayerState

THETA = 10_000.0
"""Base of the angles of RoPE; section 4.4."""

EPSILON = 1e-8
"""Keeps RMSNorm from a division by 0."""


class RMSNorm(nn.Module):
    """Scale a vector to a root mean square of 1 (section 4.7).

    RMS(x) = √(mean of x_i² + ε);  x̄ = γ * x / RMS(x), where γ is learnt

    Args:
        width: of the vectors.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Return x̄, of the same shape."""
        rms = torch.sqrt(x.float().pow(2).mean(-1, keepdim=True) + EPSILON)
        return (x / rms) * self.scale


def rope_angles(start: int, tokens: int, head_width: int) -> Tensor:
    """Return the angles by which RoPE turns each pair: (tokens, d_h / 2), in radians.

    Pair p = 1, 2, … of the token at position m is turned by m · θ_p, with
    θ_p = 10000 ^ (-2 (p - 1) / d_h): the first pair fast, the last one slowly.

    Args:
        start: position of the first token.
        tokens: their number.
        head_width: d_h, which is even.
    """
    positions = torch.arange(start, start + tokens, dtype=torch.float32)
    pairs = torch.arange(head_width // 2, dtype=torch.float32)
    return torch.outer(positions, THETA ** (-2 * pairs / head_width))


def apply_rope(x: Tensor, angles: Tensor) -> Tensor:
    """Turn each pair of neighbouring numbers by its angle (section 4.4).

    (a, b) becomes (a cos φ - b sin φ, a sin φ + b cos φ). The product of a query and a key that
    are turned so depends on their distance only.

    Args:
        x: queries or keys, (…, t, d_h).
        angles: (t, d_h / 2).
    """
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)


def causal_mask(tokens: int, total: int, window: int) -> Tensor:
    """Return which tokens each one attends to: itself and those before it, `window` at most.

    Args:
        tokens: t, the newest ones.
        total: s, the ones before included.
        window: number of tokens that one may see.

    Returns:
        (t, s), true where it attends.
    """
    own = torch.arange(total - tokens, total)[:, None]
    others = torch.arange(total)[None]
    return (others <= own) & (others > own - window)


class MultiHeadAttention(nn.Module):
    """Masked self-attention with several heads (sections 4.2 and 4.5).

    Q, K, V = x W_Q, x W_K, x W_V, divided into heads, Q and K turned by RoPE
    G = softmax(Q Kᵀ / √d_h + M) V for each head, where M is -∞ for tokens that come later
    result = (G_1, G_2, …) W_O

    Keys and values of the tokens read so far are kept: the KV cache (section 4.8). In Llama's form
    several heads of Q share one of K and V, which makes that smaller (grouped-query attention).

    Args:
        width: d.
        heads: a divisor of d with an even quotient.
        window: number of tokens that each one may see.
        dropout: share of the weights that is dropped in training.
        kv_heads: heads of K and V, a divisor of `heads`; 0 for as many.
    """

    def __init__(
        self, width: int, heads: int, window: int, dropout: float, kv_heads: int = 0
    ) -> None:
        super().__init__()
        self.heads, self.window, self.kv_heads = heads, window, kv_heads or heads
        kv_width = width // heads * self.kv_heads
        self.W_Q = nn.Linear(width, width, bias=False)
        self.W_K = nn.Linear(width, kv_width, bias=False)
        self.W_V = nn.Linear(width, kv_width, bias=False)
        self.W_O = nn.Linear(width, width, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, cache: LayerState | None) -> tuple[Tensor, LayerState]:
        """Return what each token gathers, (sequences, t, d), and the new KV cache.

        Args:
            x: (sequences, t, d).
            cache: keys and values, each (sequences, kv_heads, s - t, d_h); None before any token.
        """
        tokens = x.shape[1]
        q = _split(self.W_Q(x), self.heads)
        k, v = _split(self.W_K(x), self.kv_heads), _split(self.W_V(x), self.kv_heads)
        start = cache[0].shape[2] if cache else 0
        angles = rope_angles(start, tokens, q.shape[-1])
        q, k = apply_rope(q, angles), apply_rope(k, angles)
        if cache:
            k, v = torch.cat([cache[0], k], 2), torch.cat([cache[1], v], 2)
        # older ones are out of reach of all these tokens
        reach = min(tokens + self.window - 1, k.shape[2])
        shared = self.heads // self.kv_heads
        near_k = k[:, :, -reach:].repeat_interleave(shared, 1)
        near_v = v[:, :, -reach:].repeat_interleave(shared, 1)
        scores = q @ near_k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        scores = scores.masked_fill(~causal_mask(tokens, reach, self.window), -math.inf)
        weights = self.dropout(torch.softmax(scores, -1))
        gathered = (weights @ near_v).transpose(1, 2).flatten(2)  # the heads beside each other
        return self.W_O(gathered), (k, v)


def _split(x: Tensor, heads: int) -> Tensor:
    """Divide vectors into heads: (sequences, heads, t, d_h)."""
    divided: Tensor = x.unflatten(-1, (heads, -1))
    return divided.transpose(1, 2)


class MLP(nn.Module):
    """Position-wise multilayer perceptron (section 4.3): ReLU(x W_1 + b_1) W_2 + b_2.

    Args:
        width: d; there are four times as many numbers between the two maps.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.W_1 = nn.Linear(width, 4 * width)
        self.W_2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the result for each token by itself."""
        result: Tensor = self.W_2(torch.relu(self.W_1(x)))
        return result


class DecoderBlock(Layer):
    """A block of the decoder (section 4.1), with residual connections (section 4.6).

    x' = x + attention(norm_1(x));  result = x' + MLP(norm_2(x'))

    Args:
        width: d.
        heads: of the attention.
        window: number of tokens that each one may see.
        dropout: in training.
        kv_heads: see `MultiHeadAttention`.
        mlp: another one than the book's.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        window: int,
        dropout: float,
        kv_heads: int = 0,
        mlp: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.norm_1 = RMSNorm(width)
        self.attention = MultiHeadAttention(width, heads, window, dropout, kv_heads)
        self.norm_2 = RMSNorm(width)
        self.mlp = mlp or MLP(width)
        self.dropout = nn.Dropout(dropout)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor, state: LayerState | None) -> tuple[Tensor, LayerState]:
        """Apply the block; the state is the KV cache. See `Layer.forward`."""
        gathered, state = self.attention(self.norm_1(x), state)
        x = x + self.dropout(gathered)
        return x + self.mlp(self.norm_2(x)), state

    def cut_state(self, state: LayerState, length: int) -> LayerState:
        """Return the keys and values of the first tokens."""
        return tuple(each[:, :, :length] for each in state)


def build_decoder(
    vocabulary: int, width: int, layers: int, heads: int, window: int, dropout: float
) -> LanguageNetwork:
    """Build the decoder (section 4.9), with new weights and a norm before the logits.

    Args:
        vocabulary: number of tokens.
        width: d.
        layers: number of blocks.
        heads: of each block.
        window: number of tokens that each one may see.
        dropout: in training.
    """
    blocks: list[Layer] = [DecoderBlock(width, heads, window, dropout) for _ in range(layers)]
    return LanguageNetwork(vocabulary, width, blocks, RMSNorm(width), dropout)
