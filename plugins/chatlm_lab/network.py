"""The frame of the neural language models: embed tokens, apply layers, score the next token."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

LayerState = tuple[Tensor, ...]
"""What a layer remembers of the tokens before; the first dimension is that of the sequences."""

State = tuple[LayerState, ...]
"""The states of all layers; () before the first token."""


class Layer(nn.Module):
    """A layer that reads a sequence from left to right."""

    @abstractmethod
    def forward(self, x: Tensor, state: LayerState | None) -> tuple[Tensor, LayerState]:
        """Return the outputs for the next tokens, and the state after them.

        Args:
            x: inputs, (sequences, tokens, width).
            state: after the tokens before; None at the beginning.
        """

    @abstractmethod
    def cut_state(self, state: LayerState, length: int) -> LayerState | None:
        """Return the state as it was after the first tokens; None if it cannot be known."""


class LanguageNetwork(nn.Module):
    """A neural language model (book, section 3.4).

    The embedding of each token (section 3.5) passes the layers; a linear map of the last output
    gives the logits of the next token.

    Args:
        vocabulary: number of tokens.
        width: numbers for each token.
        layers: from the first to the last.
        norm: applied before the logits.
        dropout: share of the embeddings, and of each layer's outputs, that is dropped in training.
        bias: whether the logits have one.
    """

    def __init__(
        self,
        vocabulary: int,
        width: int,
        layers: list[Layer],
        norm: nn.Module | None = None,
        dropout: float = 0.0,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.layers = nn.ModuleList(layers)
        self.norm = norm or nn.Identity()
        self.output = nn.Linear(width, vocabulary, bias=bias)
        self.dropout = nn.Dropout(dropout)
        nn.init.normal_(self.embedding.weight, std=0.02 if norm else 1.0)
        nn.init.xavier_uniform_(self.output.weight)
        if bias:
            nn.init.zeros_(self.output.bias)

    def forward(self, ids: Tensor, state: State = ()) -> tuple[Tensor, State]:
        """Return the logits after each token, (sequences, tokens, vocabulary), and the new state.

        Args:
            ids: of the next tokens, (sequences, tokens).
            state: after the tokens before.
        """
        x = self.dropout(self.embedding(ids))
        after = []
        for number, layer in enumerate(self.layers):
            x, layer_state = layer(x, state[number] if state else None)
            x = self.dropout(x)
            after.append(layer_state)
        return self.output(self.norm(x)), tuple(after)

    def cut_state(self, state: State, length: int) -> State | None:
        """Return the state as it was after the first tokens; None if it cannot be known.

        Args:
            state: after more tokens.
            length: number of the tokens to keep.
        """
        layers: Any = self.layers
        found = [layer.cut_state(own, length) for layer, own in zip(layers, state, strict=True)]
        return None if None in found else tuple(found)

    @property
    def num_parameters(self) -> int:
        """How many numbers are learnt."""
        return sum(parameter.numel() for parameter in self.parameters())


@torch.inference_mode()
def generate(
    network: LanguageNetwork, tokens: int, seed: int, temperature: float = 0.8
) -> list[int]:
    """Sample a text from its beginning until it ends.

    Args:
        network: the network; its mode is changed to evaluation.
        tokens: limit of the length.
        seed: of the choices, which leave torch's own generator as it is.
        temperature: divides the logits.
    """
    network.eval()
    chance = torch.Generator().manual_seed(seed)
    found: list[int] = []
    state: State = ()
    while len(found) < tokens:
        logits, state = network(torch.tensor([found[-1:] or [0]]), state)
        probabilities = torch.softmax(logits[0, -1].float() / temperature, -1)
        token = int(torch.multinomial(probabilities, 1, generator=chance))
        if not token:
            break
        found.append(token)
    return found
