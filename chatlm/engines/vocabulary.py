"""The tokens of a model as llguidance reads them, and those that begin with some bytes."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import cached_property

from chatlm.engines.prompt_encoder import PromptEncoder


class Vocabulary:
    """A tokenizer in the form that llguidance reads.

    Args:
        encoder: of the model's prompts.
        ends: ids of tokens that end a reply, at least one.
    """

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, encoder: PromptEncoder, ends: Sequence[int]) -> None:
        self.end_ids = tuple(ends)
        self.eos_token_id = ends[0]
        self.special_token_ids = sorted({*encoder.control_tokens.values(), *ends})
        self.tokens = [encoder.token_bytes(number) for number in range(encoder.vocab_size)]
        self._encode = encoder.encode_text

    def __call__(self, text: str | bytes) -> list[int]:
        """Return the ids of a text, which llguidance may give as bytes."""
        return self._encode(text if isinstance(text, str) else text.decode())

    def starting_with(self, prefix: bytes) -> Iterator[int]:
        """Yield the ids of all tokens that begin with a prefix, which must not be empty."""
        for place in range(bisect_left(self._ordered, (prefix, -1)), len(self._ordered)):
            text, number = self._ordered[place]
            if not text.startswith(prefix):
                return
            yield number

    @cached_property
    def _ordered(self) -> list[tuple[bytes, int]]:
        return sorted((text, number) for number, text in enumerate(self.tokens))
