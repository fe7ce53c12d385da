"""What the configurations of all decoders have in common."""

from __future__ import annotations

from typing import Any

from chatlm.hub.gguf.file import GgufError
from chatlm.hub.gguf.hyperparameters import Hyperparameters
from chatlm.hub.gguf.rope import read_rope

Config = dict[str, Any]


def has_tensor(parameters: Hyperparameters, name: str) -> bool:
    """Tell whether the file has a tensor."""
    return name in parameters.file.tensors


def read_vocabulary_size(parameters: Hyperparameters) -> int:
    """Return the number of embeddings.

    Raises:
        GgufError: there are none.
    """
    embedding = parameters.file.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise GgufError(
            f"{parameters.file.path.name} holds no model: it has no embedding (token_embd.weight).",
            "Files of a vocabulary, of images (mmproj) or of an adapter are no models.",
        )
    return embedding.shape[0]


def read_decoder(
    parameters: Hyperparameters,
    model_type: str,
    class_name: str,
    *,
    norm: str = "layer_norm_rms_epsilon",
    partial_rope: bool = False,
) -> Config:
    """Read what all decoders have."""
    hidden_size = parameters.integer("embedding_length")
    heads = parameters.integer("attention.head_count")
    context_length = parameters.integer("context_length")
    if not heads or (hidden_size % heads and "attention.key_length" not in parameters):
        raise parameters.unsupported("attention.head_count", heads)
    head_dim = parameters.integer("attention.key_length", hidden_size // heads)
    if not head_dim:
        raise parameters.unsupported("attention.key_length", head_dim)
    parameters.require("attention.value_length", head_dim)
    parameters.require("attention.causal", True)
    return {
        "model_type": model_type,
        "architectures": [class_name],
        "vocab_size": read_vocabulary_size(parameters),
        "hidden_size": hidden_size,
        "intermediate_size": parameters.integer("feed_forward_length", 0),
        "num_hidden_layers": parameters.integer("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": parameters.integer("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "max_position_embeddings": context_length,
        "layer_norm_eps" if norm == "layer_norm_epsilon" else "rms_norm_eps": parameters.number(
            f"attention.{norm}"
        ),
        "rope_parameters": read_rope(parameters, head_dim, context_length, partial=partial_rope),
        "tie_word_embeddings": not has_tensor(parameters, "output.weight"),
        "attention_dropout": 0.0,
    }


_SOFTMAX = 1
SIGMOID = 2
"""What makes weights of a router's logits, as llama.cpp numbers it."""


def read_experts(parameters: Hyperparameters, gating: int = _SOFTMAX) -> tuple[int, int]:
    """Return the number of experts and how many a token uses."""
    parameters.require("expert_gating_func", gating)
    return parameters.integer("expert_count"), parameters.integer("expert_used_count")


def read_expert_size(parameters: Hyperparameters, tensor: str = "ffn_up_exps") -> int:
    """Return the inner size of an expert, which older files do not mention."""
    stored = parameters.file.tensors.get(f"blk.0.{tensor}.weight")
    if stored is None:
        raise GgufError(
            f"{parameters.file.path.name} lacks the tensor blk.0.{tensor}.weight.",
            "Download it again, from another source if it stays so.",
        )
    return stored.shape[-2]


def read_layer_types(parameters: Hyperparameters, layers: int, period: int) -> list[str]:
    """Return the kind of each layer; every `period`th sees the whole context unless the file says
    otherwise."""
    pattern = parameters.per_layer("attention.sliding_window_pattern", layers, period)
    if isinstance(pattern, list) and type(pattern[0]) is int and pattern[0] not in (0, 1):
        pattern = pattern[0]
    if isinstance(pattern, int):
        pattern = [bool((layer + 1) % pattern) for layer in range(layers)]
    return ["sliding_attention" if slides else "full_attention" for slides in pattern]
