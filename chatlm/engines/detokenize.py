"""Turns token ids into text piece by piece, never showing half a character."""

from __future__ import annotations

from typing import Any

# The package before its part: while another thread imports the package, `tokenizers.decoders` would
# wait for that thread, which waits for `tokenizers.decoders`, and both imports fail.
from tokenizers import decoders


class Detokenizer:
    """Decodes a growing sequence of ids; control tokens give no text.

    Args:
        tokenizer: a `tokenizers.Tokenizer`.
        context: ids that stand before, so that the first piece is decoded as a continuation.
    """

    def __init__(self, tokenizer: Any, context: list[int] | None = None) -> None:
        self._tokenizer = tokenizer
        self._stream = decoders.DecodeStream(ids=context or [], skip_special_tokens=True)
        self._waiting: list[int] = []

    def feed(self, token: int) -> str:
        """The text that is certain once this token is known, perhaps none."""
        self._waiting.append(token)
        piece = self._stream.step(self._tokenizer, token)
        if piece is None:
            return ""
        self._waiting.clear()
        return str(piece)

    def peek(self, tokens: list[int]) -> str:
        """What `tokens` would say, without feeding them."""
        text = str(self._tokenizer.decode([*self._waiting, *tokens], skip_special_tokens=True))
        return text.rstrip("\ufffd")

    def flush(self) -> str:
        """What the waiting tokens say at the very end; an incomplete character is dropped."""
        text = self.peek([])
        self._waiting.clear()
        return text
