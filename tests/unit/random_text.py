"""Generate random text that fits a grammar of llguidance, byte by byte."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLTokenizer

END = 256
"""Id of the token that ends a text."""


class ByteVocabulary:
    """A token for each byte, one for the end, and one for each control token.

    Args:
        names: of the control tokens; their ids follow `END`.
    """

    is_tokenizer_wrapper = True
    bos_token_id = None
    eos_token_id = END

    def __init__(self, names: Sequence[str] = ()) -> None:
        self.names = list(names)
        self.special_token_ids = list(range(END, END + 1 + len(self.names)))
        self.tokens = [bytes([value]) for value in range(256)]
        self.tokens += [b"<eos>", *(name.encode() for name in self.names)]

    def __call__(self, text: str | bytes) -> list[int]:
        return list(text if isinstance(text, bytes) else text.encode())


def random_text(grammar: str, seed: int, names: Sequence[str] = ()) -> str:
    """Return a text that fits a grammar, rather a short one."""
    vocabulary: Any = ByteVocabulary(names)
    size = len(vocabulary.tokens)
    tokenizer = LLTokenizer(vocabulary, n_vocab=size, eos_token=[END])
    matcher = LLMatcher(tokenizer, grammar, log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    chance = random.Random(seed)
    written = b""
    mask = np.zeros((size + 31) // 32, dtype=np.int32)
    for _ in range(3000):
        if matcher.is_stopped():
            break
        matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        bits = np.unpackbits(mask.view(np.uint8), bitorder="little")[:size]
        allowed = np.flatnonzero(bits).tolist()
        # rather what ends a value than letters, and these rather than bytes of rare characters
        weights = [
            9.0 if one > 255 or chr(one) in '"</]}' else float(31 < one < 127) or 0.01
            for one in allowed
        ]
        (token,) = chance.choices(allowed, weights)
        assert matcher.consume_token(token)
        if token == END:
            break
        written += vocabulary.tokens[token]
    else:
        raise AssertionError(f"no end: {written[:300]!r}")
    return written.decode()
