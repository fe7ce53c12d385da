"""How likely a model found the tokens of its reply, as values; the arithmetic is in the engines."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

MOST_ALTERNATIVES = 20
"""So many may be asked for, as in OpenAI's API."""


@dataclass(frozen=True)
class TokenLogprob:
    """A token, with the probability that the model gave it where it stands."""

    bytes: bytes
    """What it stands for: a part of a character, too; of a control token, its name."""
    logprob: float
    """Natural logarithm of the probability, out of the softmax over the model's own logits for all
    tokens: before logits processors, penalties, temperature, top-k, top-p and min-p."""
    top: tuple[TokenLogprob, ...] = ()
    """The likeliest tokens in its place, the likeliest first; those have none of their own."""

    @property
    def text(self) -> str:
        """The bytes as text; a part of a character is shown as �."""
        return self.bytes.decode("utf-8", "replace")

    def to_dict(self) -> dict[str, Any]:
        """As OpenAI's API has it, ready for JSON."""
        return self._alone() | {"top_logprobs": [each._alone() for each in self.top]}

    def _alone(self) -> dict[str, Any]:
        return {"token": self.text, "logprob": self.logprob, "bytes": list(self.bytes)}


class ShownTokens:
    """Keeps tokens back until all of their text is shown.

    So none says what is withheld, such as a beginning stop string, or was cut off. A token that
    brings no text of its own, such as a part of a character, belongs to the text that follows.
    """

    def __init__(self) -> None:
        self._without_text: list[TokenLogprob] = []
        self._waiting: deque[tuple[int, TokenLogprob]] = deque()
        """With the number of characters at which each ends."""
        self._made = self._shown = 0

    def feed(self, tokens: Iterable[TokenLogprob], text: str) -> None:
        """Add tokens, and the text that they brought."""
        self._without_text += tokens
        if text:
            self._made += len(text)
            self._waiting += ((self._made, token) for token in self._without_text)
            self._without_text.clear()

    def take(self, text: str) -> tuple[TokenLogprob, ...]:
        """The tokens that are shown in full once this text, too, is shown."""
        self._shown += len(text)
        taken = []
        while self._waiting and self._waiting[0][0] <= self._shown:
            taken.append(self._waiting.popleft()[1])
        return tuple(taken)
