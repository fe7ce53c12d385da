"""Constrained decoding: only tokens that keep the answer within a JSON schema or a grammar.

llguidance computes which tokens may come next; what is chosen among them is up to the sampler.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from llguidance import LLMatcher
from torch import Tensor

from chatlm.errors import EngineError, UsageError
from chatlm.text import one_line

_EXCESSES = ("limit", "too many", "too large")
"""What llguidance says where one of its limits is exceeded."""

MAX_FORCED = 256
"""Tokens that are taken at once where the grammar leaves no choice."""


def describe_problem(message: str) -> str:
    """Return llguidance's words for a problem, without the state of its parser."""
    reason = message.partition("<state>")[0].strip()
    if reason in ("", "NoExtensionBias"):
        return "no text fits it; perhaps it refers to itself without an end"
    return one_line(reason, 300)


class GrammarState:
    """A place within a grammar.

    Args:
        matcher: at the start of the grammar, or after some of its text.
    """

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher
        self._mask = np.zeros(0, dtype=np.int32)

    @property
    def is_complete(self) -> bool:
        """Whether the text is whole and cannot go on."""
        return bool(self._matcher.is_stopped())

    def forbidden(self, vocab_size: int) -> Any:
        """Return which tokens may not come next: (vocab_size,), bool.

        Raises:
            UsageError: the grammar has become too complex.
        """
        words = (vocab_size + 31) // 32
        if len(self._mask) != words:
            self._mask = np.zeros(words, dtype=np.int32)
        self._matcher.unsafe_compute_mask_ptr(self._mask.ctypes.data, self._mask.nbytes)
        if self._matcher.is_error():
            raise self._too_complex()
        bits = np.unpackbits(self._mask.view(np.uint8), bitorder="little")
        return bits[:vocab_size] == 0

    def accept(self, token: int) -> None:
        """Take the chosen token.

        Raises:
            UsageError: the grammar has become too complex.
            EngineError: the grammar does not allow it.
        """
        if not self._matcher.consume_token(token):
            reason = describe_problem(self._matcher.get_error())
            if any(words in reason for words in _EXCESSES):
                raise self._too_complex()
            raise EngineError(f"The reply left its grammar: {reason}")

    def _too_complex(self) -> UsageError:
        return UsageError(
            "The schema or grammar is too complex: " + describe_problem(self._matcher.get_error()),
            hint="Make it simpler: fewer alternatives, or less nesting.",
        )

    def forced_tokens(self) -> list[int]:
        """Return the tokens that come next because there is no choice; often none."""
        return [] if self.is_complete else list(self._matcher.compute_ff_tokens()[:MAX_FORCED])


class Openings:
    """Token sequences of which one may, or must, come next, such as markers of a thought.

    Args:
        sequences: ids of each.
        is_required: whether one of them must come.
    """

    def __init__(self, sequences: Iterable[Sequence[int]], is_required: bool) -> None:
        self._sequences = [tuple(sequence) for sequence in sequences]
        self._taken: tuple[int, ...] = ()
        self.is_required = is_required and bool(self._sequences)
        """Whether one of them must come."""

    @property
    def is_begun(self) -> bool:
        """Whether one of them has begun, and must be completed."""
        return bool(self._taken)

    def next_ids(self) -> set[int]:
        """Return the ids that may come next: first ones, or the next one of what has begun."""
        place = len(self._taken)
        return {each[place] for each in self._sequences if each[:place] == self._taken}

    def accept(self, token: int) -> bool:
        """Take the chosen token; return whether it belongs to one of them."""
        taken = (*self._taken, token)
        if not any(each[: len(taken)] == taken for each in self._sequences):
            return False
        self._taken = taken
        return True

    @property
    def is_complete(self) -> bool:
        """Whether one of them has come."""
        return self._taken in self._sequences


class AnswerConstraint:
    """What one answer may still be; begins once the model has ended its thoughts.

    Args:
        state: at the start of the grammar, or after the text that is continued.
        is_begun: whether the answer continues a text.
        call_starts: ids of the markers that begin a tool call, which may come instead.
    """

    def __init__(
        self, state: GrammarState, is_begun: bool, call_starts: Iterable[Sequence[int]] = ()
    ) -> None:
        self._state = state
        self._is_begun = is_begun
        self._call_starts = list(call_starts)
        self._openings: Openings | None = None
        if not is_begun and self._call_starts:
            self._openings = Openings(self._call_starts, is_required=False)

    def expect(self, openings: Iterable[Sequence[int]], is_required: bool) -> None:
        """Let a marker come before the answer, such as one that begins a thought.

        Args:
            openings: ids of each marker.
            is_required: whether one of them must come.
        """
        if not self._is_begun:
            self._openings = Openings([*openings, *self._call_starts], is_required)

    @property
    def is_complete(self) -> bool:
        """Whether the answer is whole and cannot go on."""
        return self._state.is_complete

    def forbidden(self, vocab_size: int) -> Any:
        """Return which tokens may not come next: (vocab_size,), bool."""
        openings = self._openings
        if openings is not None and (openings.is_begun or openings.is_required):
            forbidden = np.ones(vocab_size, dtype=bool)
        else:
            forbidden = self._state.forbidden(vocab_size)
        if openings is not None:
            forbidden[list(openings.next_ids())] = False
        return forbidden

    def accept(self, token: int) -> None:
        """Take the chosen token; call it for tokens of the answer only.

        Raises:
            EngineError: the grammar does not allow it.
        """
        if self._openings is not None:
            if self._openings.accept(token):
                if self._openings.is_complete:
                    self._openings = None
                return
            self._openings = None
        self._is_begun = True
        self._state.accept(token)

    def forced_tokens(self) -> list[int]:
        """Return the tokens that come next because there is no choice; often none.

        None before the first token, since a call may come instead.
        """
        return self._state.forced_tokens() if self._is_begun else []


def mask_logits(logits: Tensor, forbidden: Any) -> Tensor:
    """Set the logits of forbidden tokens to -inf.

    Args:
        logits: (vocab_size,)
        forbidden: (vocab_size,), a bool array of numpy.
    """
    return logits.masked_fill(torch.from_numpy(forbidden).to(logits.device), -torch.inf)
