"""A BERT encoder with a linear head, as plain matrix products; needs torch alone.

transformers and peft take seconds to import, which would hold up the first message of a chat; so
the encoder that was trained with them is computed here, its LoRA added to the weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

from chatlm import ModelError

Weights = Mapping[str, Tensor]


class BertClassifier:
    """Scores texts one after the other.

    Args:
        base: the embedder's folder.
        learnt: the LoRA matrices and the head, by the names under which they are stored.
        scale: what the product of LoRA matrices is multiplied by.
        longest: tokens of a text that are read.

    Raises:
        ModelError: the folder holds another kind of model.
    """

    def __init__(self, base: Path, learnt: Weights, scale: float, longest: int) -> None:
        try:
            config = json.loads((base / "config.json").read_bytes())
            self._weights = load_file(base / "model.safetensors")
            self._tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
            self._layers = int(config["num_hidden_layers"])
            self._heads = int(config["num_attention_heads"])
            self._epsilon = float(config["layer_norm_eps"])
            self._longest = min(longest, int(config["max_position_embeddings"]))
            _merge_lora(self._weights, learnt, scale)
            self._head = learnt["head.weight"].float(), learnt["head.bias"].float()
        except Exception as error:  # safetensors and tokenizers raise many kinds
            raise ModelError(
                f"The encoder in {base} cannot be used: {str(error) or type(error).__name__}.",
                hint=f"Check it: chatlm models verify {base.name}",
            ) from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._tokenizer.encode_special_tokens = True
        self._ends = [self._tokenizer.token_to_id(name) for name in ("[CLS]", "[SEP]")]

    def scores(self, texts: Sequence[str]) -> Tensor:
        """Logits of the labels, `(len(texts), labels)`."""
        with torch.inference_mode():
            return torch.stack([self._scores(text) for text in texts])

    def _scores(self, text: str) -> Tensor:
        clean = text.encode("utf-8", "replace").decode("utf-8")
        ids = self._tokenizer.encode(clean, add_special_tokens=False).ids[: self._longest - 2]
        begin, end = self._ends
        states = self._embedded(torch.tensor([begin, *ids, end]))
        for number in range(self._layers):
            states = self._layer(states, f"encoder.layer.{number}")
        return functional.linear(states.mean(0), *self._head)

    def _embedded(self, ids: Tensor) -> Tensor:
        table = self._weights
        states = (
            table["embeddings.word_embeddings.weight"][ids]
            + table["embeddings.position_embeddings.weight"][: len(ids)]
            + table["embeddings.token_type_embeddings.weight"][0]
        )
        return self._normed(states, "embeddings.LayerNorm")

    def _layer(self, states: Tensor, at: str) -> Tensor:
        parts = [
            self._linear(states, f"{at}.attention.self.{name}").unflatten(1, (self._heads, -1))
            for name in ("query", "key", "value")
        ]
        query, key, value = (part.transpose(0, 1) for part in parts)
        seen = functional.scaled_dot_product_attention(query, key, value)
        mixed = self._linear(seen.transpose(0, 1).flatten(1), f"{at}.attention.output.dense")
        states = self._normed(states + mixed, f"{at}.attention.output.LayerNorm")
        wide = functional.gelu(self._linear(states, f"{at}.intermediate.dense"))
        narrow = self._linear(wide, f"{at}.output.dense")
        return self._normed(states + narrow, f"{at}.output.LayerNorm")

    def _linear(self, states: Tensor, name: str) -> Tensor:
        return functional.linear(
            states, self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        )

    def _normed(self, states: Tensor, name: str) -> Tensor:
        weight, bias = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        return functional.layer_norm(states, weight.shape, weight, bias, self._epsilon)


def _merge_lora(weights: dict[str, Tensor], learnt: Weights, scale: float) -> None:
    for name in learnt:
        if name.endswith(".lora_A"):
            layer = name.removesuffix(".lora_A")
            change = learnt[f"{layer}.lora_B"].float() @ learnt[name].float()
            weights[f"{layer}.weight"] = weights[f"{layer}.weight"] + scale * change
