"""Mixtures of experts: a router chooses a few experts, each an MLP, for each token."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import linear, silu

from chatlm.engines.native.matrix_shape import MatrixShape
from chatlm.engines.native.products import multiply_all, multiply_gated
from chatlm.engines.native.weights import LayerWeights, MatMul

SHARED_PREFIX = "shared_"
"""Of the names of a shared expert's matrices, such as `shared_up_proj`."""

SIGMOID_EPSILON = 1e-6
"""Added to the sum of sigmoids that divides them, as in LFM2."""


@dataclass(frozen=True)
class MoeConfig:
    """The sizes and variants of a layer's mixture of experts."""

    num_experts: int
    num_experts_per_tok: int
    intermediate_size: int
    """Of each expert."""
    normalised: bool = True
    """Whether the weights of a token's experts sum to 1; otherwise they are their shares among all
    experts, or sigmoids."""
    scoring: Literal["softmax", "sigmoid"] = "softmax"
    """What makes weights of the router's logits."""
    choice_bias: bool = False
    """Whether a bias is added to the sigmoids by which experts are chosen, but not to weights."""
    scaling: float = 1.0
    """Multiplies the weights."""
    bias: bool = False
    """Whether the router and the experts' matrices have biases."""
    swiglu_limit: float | None = None
    """Clamps what enters the activation (gpt-oss); None for plain SwiGLU."""
    swiglu_alpha: float = 1.702
    """Of the clamped activation."""
    shared_intermediate_size: int = 0
    """Of the expert that every token uses as well; 0 for none."""
    shared_gate: bool = True
    """Whether a gate of its own weights the shared expert."""

    def matrix_shapes(self, hidden_size: int) -> Mapping[str, MatrixShape]:
        """Return its matrices by name: those of the shared expert."""
        inner = self.shared_intermediate_size
        shapes = {
            "gate_proj": MatrixShape(inner, hidden_size),
            "up_proj": MatrixShape(inner, hidden_size),
            "down_proj": MatrixShape(hidden_size, inner),
        }
        return {f"{SHARED_PREFIX}{name}": shape for name, shape in shapes.items() if inner}

    def expert_shapes(self, hidden_size: int) -> Mapping[str, MatrixShape]:
        """Return the matrices that each expert has, by name."""
        return {
            "gate_proj": MatrixShape(self.intermediate_size, hidden_size, self.bias),
            "up_proj": MatrixShape(self.intermediate_size, hidden_size, self.bias),
            "down_proj": MatrixShape(hidden_size, self.intermediate_size, self.bias),
        }

    def vector_sizes(self) -> Mapping[str, int]:
        """Return the sizes of its vectors by name: none."""
        return {}


Experts = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Sums up the weighted outputs of each token's experts.

Takes the inputs, (tokens, hidden_size), the chosen experts, (tokens, num_experts_per_tok), int64,
and their weights, float32; returns (tokens, hidden_size).
"""


def mixture_of_experts(config: MoeConfig, weights: LayerWeights[MatMul], x: Tensor) -> Tensor:
    """Return the mixture's output: (tokens, hidden_size), float32.

    Args:
        config: of the layer.
        weights: of the layer.
        x: its input: (tokens, hidden_size).
    """
    own = weights.moe
    if own is None:
        raise ValueError("the layer has no experts")
    wide = x.float()  # a router that rounds would choose other experts
    logits = linear(wide, own.router, own.router_bias)
    experts, shares = choose_experts(logits, config, own.choice_bias)
    out: Tensor = own.experts(x, experts, shares)
    if not config.shared_intermediate_size:
        return out
    gate, up, down = (
        weights.matrices[f"{SHARED_PREFIX}{name}"] for name in ("gate_proj", "up_proj", "down_proj")
    )
    shared = multiply_gated(down, "silu", *multiply_all([gate, up], x))
    if own.shared_gate is None:
        return out + shared
    share: Tensor = torch.sigmoid(linear(wide, own.shared_gate))
    return out + share * shared


def choose_experts(
    logits: Tensor, config: MoeConfig, choice_bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return each token's experts and their weights: (tokens, num_experts_per_tok).

    Args:
        logits: of the router: (tokens, num_experts), float32.
        config: of the mixture.
        choice_bias: see `MoeConfig.choice_bias`; (num_experts,), or None.
    """
    if config.scoring == "sigmoid":
        scores = logits.sigmoid()
        biased = scores if choice_bias is None else scores + choice_bias
        experts = biased.topk(config.num_experts_per_tok, dim=-1).indices
        weights = scores.gather(-1, experts)
        if config.normalised:
            weights = weights / (weights.sum(-1, keepdim=True) + SIGMOID_EPSILON)
        return experts, weights * config.scaling
    best, experts = logits.topk(config.num_experts_per_tok, dim=-1)
    if config.normalised:
        weights = best.softmax(-1)
    else:
        weights = (best - logits.logsumexp(-1, keepdim=True)).exp()
    return experts, weights * config.scaling


def activate(gate: Tensor, up: Tensor, config: MoeConfig) -> Tensor:
    """Return an expert's inner values from the products of its two input matrices."""
    if config.swiglu_limit is None:
        return silu(gate) * up
    gate = gate.clamp(max=config.swiglu_limit)
    up = up.clamp(-config.swiglu_limit, config.swiglu_limit)
    return (up + 1) * gate * torch.sigmoid(gate * config.swiglu_alpha)


@dataclass(frozen=True)
class LinearStack:
    """The same matrix of all experts, (experts, rows, columns), with biases, (experts, rows)."""

    weight: Tensor
    bias: Tensor | None = None

    def multiply(self, expert: int, x: Tensor) -> Tensor:
        """Multiply one expert's matrix: (tokens, columns) to (tokens, rows)."""
        return linear(x, self.weight[expert], None if self.bias is None else self.bias[expert])

    def multiply_each(self, experts: Tensor, x: Tensor) -> Tensor:
        """Multiply some experts' matrices with a vector each: (experts, columns) to (…, rows).

        The shapes do not depend on which experts they are, so a CUDA graph can hold it.
        """
        product = torch.bmm(self.weight[experts], x.unsqueeze(-1)).squeeze(-1)
        return product if self.bias is None else product + self.bias[experts]


@dataclass(frozen=True)
class LinearExperts:
    """Experts as tensors that torch multiplies."""

    config: MoeConfig
    gate_proj: LinearStack
    up_proj: LinearStack
    down_proj: LinearStack

    def __call__(self, x: Tensor, experts: Tensor, weights: Tensor) -> Tensor:
        """Mix, see `Experts`; the sums are float32."""
        if len(x) == 1:
            return self._mix_token(x, experts[0], weights[0])
        out = torch.zeros(x.shape, device=x.device)
        for expert in experts.unique().tolist():
            tokens, ranks = torch.where(experts == expert)
            rows = x[tokens]
            inner = activate(
                self.gate_proj.multiply(expert, rows),
                self.up_proj.multiply(expert, rows),
                self.config,
            )
            product = self.down_proj.multiply(expert, inner).float()
            out.index_add_(0, tokens, product * weights[tokens, ranks, None])
        return out

    def _mix_token(self, x: Tensor, experts: Tensor, weights: Tensor) -> Tensor:
        rows = x.expand(len(experts), -1)
        inner = activate(
            self.gate_proj.multiply_each(experts, rows),
            self.up_proj.multiply_each(experts, rows),
            self.config,
        )
        product = self.down_proj.multiply_each(experts, inner).float()
        return (product * weights[:, None]).sum(0, keepdim=True)
