"""BERT encoder with a linear head in plain torch.

Importing transformers and peft takes seconds, which would delay the first message of a chat, so the
encoder trained with them runs here, with the LoRA matrices merged into its weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

from chatlm import ModelError
from chatlm_emotion.domain_shift import DomainShift
from chatlm_emotion.neutral import NeutralProbe

Weights = Mapping[str, Tensor]

MAX_UNKNOWN_SHARE = 0.4
"""Share of a text's tokens, see `BertClassifier.are_neutral`. Of 97 % of English comments and
messages at most a third continue a word."""


class BertClassifier:
    """Classifies texts one by one.

    Args:
        base: the embedder's folder.
        trained_weights: LoRA matrices and head, by stored name.
        lora_scale: scale of the product of the LoRA matrices.
        max_tokens: maximum tokens per text; the rest is cut off.

    Raises:
        ModelError: the folder has another kind of model.
    """

    def __init__(
        self, base: Path, trained_weights: Weights, lora_scale: float, max_tokens: int
    ) -> None:
        try:
            config = json.loads((base / "config.json").read_bytes())
            self._weights = load_file(base / "model.safetensors")
            self._tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
            self._tokenizer.no_padding()
            self._tokenizer.no_truncation()
            # [CLS] and [SEP], or what the tokenizer has instead, such as <s> and </s>
            self._begin, self._end = self._tokenizer.encode("").ids
            self._num_layers = int(config["num_hidden_layers"])
            self._num_heads = int(config["num_attention_heads"])
            self._layer_norm_eps = float(config["layer_norm_eps"])
            self._max_tokens = min(max_tokens, int(config["max_position_embeddings"]))
            _merge_lora(self._weights, trained_weights, lora_scale)
            self._head = (
                trained_weights["head.weight"].float(),
                trained_weights["head.bias"].float(),
            )
            self.shift = DomainShift.from_arrays(trained_weights)
            self.neutral = NeutralProbe.from_arrays(trained_weights)
        except Exception as error:  # safetensors and tokenizers raise many kinds
            raise ModelError(
                f"The encoder in {base} cannot be used: {str(error) or type(error).__name__}.",
                hint=f"Check it: chatlm models verify {base.name}",
            ) from error
        self._tokenizer.encode_special_tokens = True

    def logits(self, texts: Sequence[str]) -> Tensor:
        """Logits of the labels, `(len(texts), labels)`."""
        return self.logits_and_states(texts)[0]

    def logits_and_states(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Logits of the labels, `(len(texts), labels)`, and mean states, `(len(texts), width)`."""
        with torch.inference_mode():
            states = torch.stack([self._mean_state(text) for text in texts])
            return functional.linear(states, *self._head), states

    def are_neutral(self, texts: Sequence[str], states: Tensor) -> NDArray[np.bool_]:
        """Return which texts are neutral, `(len(texts),)`.

        None is whose words the tokenizer does not know, such as those of another language: all of
        these look alike to the encoder.

        Args:
            texts: the texts.
            states: of the texts, as from `logits_and_states`.
        """
        if self.neutral is None:
            return np.zeros(len(texts), bool)
        known = [self._share_of_unknown(text) <= MAX_UNKNOWN_SHARE for text in texts]
        found = self.neutral.are_neutral(np.asarray(states))
        both: NDArray[np.bool_] = np.logical_and(found, known)
        return both

    def _share_of_unknown(self, text: str) -> float:
        """Return the share of a text's tokens that continue a word or stand for an unknown one."""
        pieces = self._tokenizer.encode(_clean(text), add_special_tokens=False).tokens
        words = [piece for piece in pieces[: self._max_tokens] if any(map(str.isalnum, piece))]
        unknown = sum(piece.startswith(("##", "[UNK]")) for piece in words)
        return unknown / max(len(words), 1)

    def _mean_state(self, text: str) -> Tensor:
        ids = self._tokenizer.encode(_clean(text), add_special_tokens=False).ids
        ids = ids[: self._max_tokens - 2]
        states = self._embed(torch.tensor([self._begin, *ids, self._end]))
        for number in range(self._num_layers):
            states = self._layer(states, f"encoder.layer.{number}")
        return states.mean(0)

    def _embed(self, ids: Tensor) -> Tensor:
        table = self._weights
        states = (
            table["embeddings.word_embeddings.weight"][ids]
            + table["embeddings.position_embeddings.weight"][: len(ids)]
            + table["embeddings.token_type_embeddings.weight"][0]
        )
        return self._layer_norm(states, "embeddings.LayerNorm")

    def _layer(self, states: Tensor, prefix: str) -> Tensor:
        parts = [
            self._linear(states, f"{prefix}.attention.self.{name}").unflatten(
                1, (self._num_heads, -1)
            )
            for name in ("query", "key", "value")
        ]
        query, key, value = (part.transpose(0, 1) for part in parts)
        seen = functional.scaled_dot_product_attention(query, key, value)
        mixed = self._linear(seen.transpose(0, 1).flatten(1), f"{prefix}.attention.output.dense")
        states = self._layer_norm(states + mixed, f"{prefix}.attention.output.LayerNorm")
        wide = functional.gelu(self._linear(states, f"{prefix}.intermediate.dense"))
        narrow = self._linear(wide, f"{prefix}.output.dense")
        return self._layer_norm(states + narrow, f"{prefix}.output.LayerNorm")

    def _linear(self, states: Tensor, name: str) -> Tensor:
        return functional.linear(
            states, self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        )

    def _layer_norm(self, states: Tensor, name: str) -> Tensor:
        weight, bias = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        return functional.layer_norm(states, weight.shape, weight, bias, self._layer_norm_eps)


def _clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


def _merge_lora(weights: dict[str, Tensor], trained_weights: Weights, lora_scale: float) -> None:
    for name in trained_weights:
        if name.endswith(".lora_A"):
            layer = name.removesuffix(".lora_A")
            change = trained_weights[f"{layer}.lora_B"].float() @ trained_weights[name].float()
            weights[f"{layer}.weight"] = weights[f"{layer}.weight"] + lora_scale * change
