"""Decode token ids into streamed text, in whole characters, or into bytes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from tokenizers import decoders

TokenBytes = Callable[[int], bytes]
"""Returns the bytes of a token by its id."""


_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
"""A byte-fallback token."""


class Detokenizer:
    """A streaming decoder of token ids; control tokens yield no text.

    Args:
        tokenizer: a `tokenizers.Tokenizer`.
        context_ids: ids before the first token, so that its text continues theirs.
        named_tokens: control tokens that give their name as text.
    """

    def __init__(
        self,
        tokenizer: Any,
        context_ids: list[int] | None = None,
        named_tokens: Mapping[int, str] = MappingProxyType({}),
    ) -> None:
        self._tokenizer = tokenizer
        self._named_tokens = named_tokens
        self._stream = decoders.DecodeStream(ids=context_ids or [], skip_special_tokens=True)
        self._pending: list[int] = []

    def feed(self, token: int) -> str:
        """Add a token; return the text that is now complete, possibly none."""
        if token in self._named_tokens:
            return self.flush() + self._named_tokens[token]
        self._pending.append(token)
        text = self._stream.step(self._tokenizer, token)
        if text is None:
            return ""
        self._pending.clear()
        return str(text)

    def peek(self, tokens: list[int]) -> str:
        """Decode `tokens` after those fed so far, without feeding them."""
        text = str(self._tokenizer.decode([*self._pending, *tokens], skip_special_tokens=True))
        return text.rstrip("\ufffd")

    def flush(self) -> str:
        """Return the text of pending tokens at the end; an incomplete character is dropped."""
        text = self.peek([])
        self._pending.clear()
        return text


def make_token_bytes(tokenizer: Any) -> TokenBytes:
    """Return a function from the ids of a `tokenizers.Tokenizer` to the bytes of the token.

    A vocabulary maps bytes to letters, as GPT-2's does, or has text with ▁ for a space.
    """
    added: dict[int, str] = {
        number: each.content for number, each in tokenizer.get_added_tokens_decoder().items()
    }
    is_byte_level = isinstance(tokenizer.decoder, decoders.ByteLevel)

    def token_bytes(number: int) -> bytes:
        if number in added:
            return added[number].encode()
        # an embedding may have more rows than the vocabulary has tokens
        token: str = tokenizer.id_to_token(number) or ""
        if is_byte_level:
            return b"".join(
                bytes([_BYTE_DECODER[each]]) if each in _BYTE_DECODER else each.encode()
                for each in token
            )
        if byte := _BYTE_TOKEN.fullmatch(token):
            return bytes.fromhex(byte[1])
        return token.replace("▁", " ").encode()

    return token_bytes


def _gpt2_byte_decoder() -> dict[str, int]:
    """Return GPT-2's byte of each letter: printable bytes as they are, the others from 256."""
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printed]
    return {chr(byte): byte for byte in printed} | {
        chr(256 + place): byte for place, byte in enumerate(others)
    }


_BYTE_DECODER = _gpt2_byte_decoder()
