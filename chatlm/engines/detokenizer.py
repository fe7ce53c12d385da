"""Turns token ids into text, never showing half a character, or each into its bytes."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from tokenizers import decoders

TokenBytes = Callable[[int], bytes]
"""What a token stands for, by its id."""


_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
"""A token for a single byte, in a vocabulary of text."""


class Detokenizer:
    """Decodes a growing sequence of ids; control tokens give no text.

    Args:
        tokenizer: a `tokenizers.Tokenizer`.
        context_ids: ids that stand before, so that the first piece is decoded as a continuation.
    """

    def __init__(self, tokenizer: Any, context_ids: list[int] | None = None) -> None:
        self._tokenizer = tokenizer
        self._stream = decoders.DecodeStream(ids=context_ids or [], skip_special_tokens=True)
        self._pending: list[int] = []

    def feed(self, token: int) -> str:
        """The text that is certain once this token is known, perhaps none."""
        self._pending.append(token)
        piece = self._stream.step(self._tokenizer, token)
        if piece is None:
            return ""
        self._pending.clear()
        return str(piece)

    def peek(self, tokens: list[int]) -> str:
        """What `tokens` would say, without feeding them."""
        text = str(self._tokenizer.decode([*self._pending, *tokens], skip_special_tokens=True))
        return text.rstrip("\ufffd")

    def flush(self) -> str:
        """What the waiting tokens say at the very end; an incomplete character is dropped."""
        text = self.peek([])
        self._pending.clear()
        return text


def make_token_bytes(tokenizer: Any) -> TokenBytes:
    """How the tokens of a `tokenizers.Tokenizer` are spelled.

    Vocabularies write bytes by letters, as GPT-2's does, or text with ▁ for a blank.
    """
    added: dict[int, str] = {
        number: each.content for number, each in tokenizer.get_added_tokens_decoder().items()
    }
    by_letters = isinstance(tokenizer.decoder, decoders.ByteLevel)

    def spelled(number: int) -> bytes:
        if number in added:
            return added[number].encode()
        token: str = tokenizer.id_to_token(number) or ""  # a model may have more rows than tokens
        if by_letters:
            return b"".join(
                bytes([_BYTE_DECODER[each]]) if each in _BYTE_DECODER else each.encode()
                for each in token
            )
        if byte := _BYTE_TOKEN.fullmatch(token):
            return bytes.fromhex(byte[1])
        return token.replace("▁", " ").encode()

    return spelled


def _gpt2_byte_decoder() -> dict[str, int]:
    """GPT-2's letter for each byte: itself where it can be printed, else one from 256 on."""
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printed]
    return {chr(byte): byte for byte in printed} | {
        chr(256 + place): byte for place, byte in enumerate(others)
    }


_BYTE_DECODER = _gpt2_byte_decoder()
