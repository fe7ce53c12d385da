"""A small GPT with its training loop in nanoGPT's manner, to compare the lab's networks with.

It shares no code with the lab but the measurement: learned positions, LayerNorm, GELU, batches at
random places of the text.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional


class GptBlock(nn.Module):
    """Attention and MLP, each after a LayerNorm and added to its input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.projection = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs: (sequences, tokens, width)."""
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(self.norm_1(x)).chunk(3, -1)
        )
        gathered = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.projection(gathered.transpose(1, 2).flatten(2))
        result: Tensor = x + self.mlp(self.norm_2(x))
        return result


class Gpt(nn.Module):
    """The model; it returns logits and an empty state, as the lab's networks do."""

    def __init__(self, vocabulary: int, width: int, layers: int, heads: int, context: int) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(GptBlock(width, heads) for _ in range(layers)))
        self.norm, self.output = nn.LayerNorm(width), nn.Linear(width, vocabulary)
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                deep = name.endswith(("projection.weight", "mlp.2.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * layers) if deep else 0.02)

    def forward(self, ids: Tensor) -> tuple[Tensor, tuple[()]]:
        """Return the logits after each token: (sequences, tokens, vocabulary)."""
        x = self.tokens(ids) + self.places(torch.arange(ids.shape[1]))
        return self.output(self.norm(self.blocks(x))), ()


def train_gpt(
    model: Gpt,
    stream: Tensor,
    steps: int,
    batch_size: int,
    context: int,
    rate: float,
    evaluate: Callable[[int], None],
    every: int,
) -> None:
    """Train a model on a stream of tokens.

    Args:
        model: with new weights.
        stream: ids, (tokens,).
        steps: of the training; the first twentieth warms up.
        batch_size: sequences of a step.
        context: tokens of a sequence.
        rate: highest learning rate.
        evaluate: called with the step, after some.
        every: steps between evaluations.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.1)
    warmup = max(steps // 20, 1)
    for step in range(1, steps + 1):
        done = (step - warmup) / max(steps - warmup, 1)
        share = step / warmup if step < warmup else 0.1 + 0.45 * (1 + math.cos(math.pi * done))
        for group in optimizer.param_groups:
            group["lr"] = rate * share
        starts = torch.randint(len(stream) - context, (batch_size,))
        rows = torch.stack([stream[start : start + context + 1] for start in starts])
        model.train()
        logits, _ = model(rows[:, :-1])
        loss = functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % every == 0 or step == steps:
            evaluate(step)
