"""A tokenizer of single bytes, a model of equally likely tokens, and replies dictated to it.

They show what an engine does around a model, without one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import chatlm
from chatlm import LocalEngine, ModelInfo, Sampling, Unsupported

BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())


class UniformModel:
    """A model to which every next token is equally likely.

    Args:
        vocabulary: number of tokens, of which the last ends a reply.
    """

    device_type = "cpu"
    max_step_tokens = 1
    max_draft_tokens = 0

    def __init__(self, vocabulary: int) -> None:
        self.vocabulary = vocabulary
        self.info = ModelInfo(
            device="cpu",
            weights="32-bit",
            context_length=1024,
            eos_token_ids=(vocabulary - 1,),
            recommended_sampling=Sampling(),
        )
        self.prefilled: list[int] = []
        """Tokens of each block of a prompt."""

    def new_cache(self) -> UniformCache:
        return UniformCache(self)

    def decode(self, caches: Sequence[Any], ids: Sequence[Sequence[int]]) -> torch.Tensor:
        return torch.cat([cache.decode(own) for cache, own in zip(caches, ids, strict=True)])

    def load_adapter(self, folder: Path) -> chatlm.AdaptedModel:
        raise Unsupported("it has no weights")


class UniformCache:
    def __init__(self, model: UniformModel) -> None:
        self._model = model

    def prefill(self, ids: Sequence[int]) -> torch.Tensor:
        self._model.prefilled.append(len(ids))
        return torch.zeros(self._model.vocabulary)

    def decode(self, ids: Sequence[int]) -> torch.Tensor:
        return torch.zeros(len(ids), self._model.vocabulary)

    def truncate(self, length: int) -> int:
        return length


def byte_tokenizer(*added: AddedToken, template: Any) -> PreTrainedTokenizerFast:
    """Return a tokenizer of single bytes with the given added tokens."""
    raw = Tokenizer(models.BPE({letter: i for i, letter in enumerate(BYTES)}, []))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_tokens(list(added))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw)
    tokenizer.chat_template = template
    return tokenizer


END = "<|im_end|>"
"""The token that ends a reply of `open_byte_engine`."""


def open_byte_engine(template: str | None, *tokens: str) -> LocalEngine:
    """Open a uniform model with a tokenizer of bytes and these control tokens."""
    added = [AddedToken(text, special=True, normalized=False) for text in (*tokens, END)]
    tokenizer = byte_tokenizer(*added, template=template)
    return LocalEngine("bytes", UniformModel(len(tokenizer)), tokenizer)


def dictate(
    engine: LocalEngine, *pieces: str, end: str = END
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Return a logits processor that makes the model write these pieces, then end.

    A piece that is a control token's name is that token.
    """
    encoder = engine.prompt_encoder
    ids = [
        number
        for piece in pieces
        for number in (
            [encoder.control_tokens[piece]]
            if piece in encoder.control_tokens
            else encoder.encode_text(piece)
        )
    ]
    ids.append(encoder.control_tokens[end])
    start: list[int] = []

    def process(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        start[:] = start or [input_ids.shape[-1]]
        forced = torch.full_like(scores, float("-inf"))
        forced[0, ids[input_ids.shape[-1] - start[0]]] = 0
        return forced

    return process
