"""Recurrent layers (book, chapter 3): Elman's, GRU, LSTM and minLSTM.

All read a sequence token by token and carry a hidden state h along. They are written to be read:
what depends on the input alone is computed for all tokens at once, the rest in a loop over time.
Elman's, GRU and LSTM compute the same as torch.nn.RNN, GRU and LSTM, which the tests compare.

In the comments x is the input at time t, h the hidden state before it, σ the logistic function,
and * the product of numbers at the same place.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from chatlm_lab.network import LanguageNetwork, Layer, LayerState


class RecurrentLayer(Layer):
    """A layer with one step for each token.

    Args:
        width: of the inputs and the hidden state.
        gates: how many vectors of this width the input and the hidden state are mapped to.
    """

    def __init__(self, width: int, gates: int) -> None:
        super().__init__()
        self.width = width
        self.W = nn.Linear(width, gates * width)  # of the input; its bias serves both
        self.U = nn.Linear(width, gates * width, bias=False)  # of the hidden state
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -1 / math.sqrt(width), 1 / math.sqrt(width))

    def forward(self, x: Tensor, state: LayerState | None) -> tuple[Tensor, LayerState]:
        """Run the steps one after the other; see `Layer.forward`."""
        state = state or self.first_state(x)
        outputs = []
        for inputs in self.W(x).unbind(1):
            state = self.step(inputs, state)
            outputs.append(state[0])
        return torch.stack(outputs, 1), state

    def first_state(self, x: Tensor) -> LayerState:
        """Return the state before the first token, the hidden state first: zeros."""
        return (x.new_zeros(len(x), self.width),)

    @abstractmethod
    def step(self, inputs: Tensor, state: LayerState) -> LayerState:
        """Return the state after one more token, the hidden state first.

        Args:
            inputs: W x + b, (sequences, gates · width).
            state: before the token.
        """

    def cut_state(self, state: LayerState, length: int) -> None:
        """Return None: a state does not tell what it was before."""


class ElmanLayer(RecurrentLayer):
    """The simple recurrent network of Elman (1990); section 3.1.

    h' = tanh(W x + U h + b)
    """

    def __init__(self, width: int) -> None:
        super().__init__(width, gates=1)

    def step(self, inputs: Tensor, state: LayerState) -> LayerState:
        """Return h'; see the class."""
        (h,) = state
        return (torch.tanh(inputs + self.U(h)),)


class GruLayer(RecurrentLayer):
    """Gated recurrent unit (Cho and others 2014), in the form of cuDNN.

    r = σ(W_r x + U_r h + b_r)              how much of h the candidate reads
    z = σ(W_z x + U_z h + b_z)              how much of h is kept
    n = tanh(W_n x + b_n + r * (U_n h + c)) the candidate
    h' = (1 - z) * n + z * h
    """

    def __init__(self, width: int) -> None:
        super().__init__(width, gates=3)
        self.c = nn.Parameter(torch.zeros(width))

    def step(self, inputs: Tensor, state: LayerState) -> LayerState:
        """Return h'; see the class."""
        (h,) = state
        of_input, of_hidden = inputs.chunk(3, -1), self.U(h).chunk(3, -1)
        r = torch.sigmoid(of_input[0] + of_hidden[0])
        z = torch.sigmoid(of_input[1] + of_hidden[1])
        n = torch.tanh(of_input[2] + r * (of_hidden[2] + self.c))
        return ((1 - z) * n + z * h,)


class LstmLayer(RecurrentLayer):
    """Long short-term memory (Hochreiter and Schmidhuber 1997), with a cell state c beside h.

    i, f, o = σ(W x + U h + b)   input, forget and output gate, each with its own W, U, b
    g = tanh(W_g x + U_g h + b_g)
    c' = f * c + i * g
    h' = o * tanh(c')
    """

    def __init__(self, width: int) -> None:
        super().__init__(width, gates=4)
        with torch.no_grad():
            self.W.bias[width : 2 * width] = 1.0  # remember at first (Jozefowicz and others 2015)

    def first_state(self, x: Tensor) -> LayerState:
        """Return zeros for h and c."""
        return (x.new_zeros(len(x), self.width), x.new_zeros(len(x), self.width))

    def step(self, inputs: Tensor, state: LayerState) -> LayerState:
        """Return h' and c'; see the class."""
        h, c = state
        i, f, g, o = (inputs + self.U(h)).chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c


class MinLstmLayer(Layer):
    """minLSTM (Feng and others 2024): gates that do not read h, so that all steps run at once.

    f, i = σ(W_f x + b_f), σ(W_i x + b_i), divided by their sum
    g = s(W_g x + b_g), where s(a) = a + 0.5 for a ≥ 0, else σ(a), which is above 0
    h' = f * h + i * g

    The recurrence is a sum: with F the product of all f up to a time,
    h = F (h_0 + Σ i g / F), computed in logarithms since F falls towards 0.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.W = nn.Linear(width, 3 * width)
        nn.init.uniform_(self.W.weight, -1 / math.sqrt(width), 1 / math.sqrt(width))
        nn.init.zeros_(self.W.bias)

    def forward(self, x: Tensor, state: LayerState | None) -> tuple[Tensor, LayerState]:
        """Compute all steps at once; see `Layer.forward`. The state is the logarithm of h."""
        f, i, g = self.W(x).float().chunk(3, -1)
        # log(f / (f + i)) and log(i / (f + i)) of the logistic functions f and i
        difference = softplus(-f) - softplus(-i)
        log_f, log_i = -softplus(difference), -softplus(-difference)
        log_g = torch.where(g >= 0, torch.log(g.clamp(min=0) + 0.5), -softplus(-g))
        log_products = log_f.cumsum(1)
        terms = log_i + log_g - log_products
        if state:  # h_0 is the first term; it is 0 at the beginning
            terms = torch.cat([state[0][:, None], terms], 1)
        log_h = log_products + torch.logcumsumexp(terms, 1)[:, -x.shape[1] :]
        return log_h.exp(), (log_h[:, -1],)

    def cut_state(self, state: LayerState, length: int) -> None:
        """Return None: a state does not tell what it was before."""


LAYERS: dict[str, Callable[[int], Layer]] = {
    "rnn": ElmanLayer,
    "gru": GruLayer,
    "lstm": LstmLayer,
    "minlstm": MinLstmLayer,
}
"""Layers by the name of their architecture; each takes the width."""


def build_recurrent(
    architecture: str, vocabulary: int, width: int, layers: int, dropout: float
) -> LanguageNetwork:
    """Build a recurrent language model (section 3.4), with new weights.

    Args:
        architecture: a key of `LAYERS`.
        vocabulary: number of tokens.
        width: of the embeddings and the hidden states.
        layers: their number; each reads the hidden states of the one before.
        dropout: in training.
    """
    stack: list[Layer] = [LAYERS[architecture](width) for _ in range(layers)]
    return LanguageNetwork(vocabulary, width, stack, dropout=dropout)
