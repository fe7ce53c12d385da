"""Read the part of config.json that all model families share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from chatlm.engines.model import Unsupported
from chatlm.engines.native.model_config import MAX_HEAD_DIM, ModelConfig
from chatlm.engines.native.rope import inverse_frequencies


def parse_config(
    values: Mapping[str, Any],
    *,
    default_head_dim: int | None = None,
    default_num_key_value_heads: int | None = None,
) -> ModelConfig:
    """Return the config of a block without biases and variants; a family adds its own.

    Args:
        values: of config.json.
        default_head_dim: where config.json leaves it open; None for hidden_size / heads.
        default_num_key_value_heads: likewise; None where the file must give it.

    Raises:
        Unsupported: no decoder runs this variant, or the sizes do not fit together.
        KeyError, TypeError, ValueError: a value is missing or malformed.
    """
    if values.get("quantization_config"):
        raise Unsupported("its weights are stored quantized")
    if values["hidden_act"] != "silu":
        raise Unsupported(f"its activation is {values['hidden_act']}")
    heads, hidden_size = int(values["num_attention_heads"]), int(values["hidden_size"])
    head_dim = int(values.get("head_dim") or default_head_dim or hidden_size // heads)
    if not 2 <= head_dim <= MAX_HEAD_DIM:
        raise Unsupported(f"its heads have the size {head_dim}")
    key_value_heads = values.get("num_key_value_heads") or default_num_key_value_heads
    if key_value_heads is None:
        raise Unsupported("its config.json does not say num_key_value_heads")
    config = ModelConfig(
        num_hidden_layers=int(values["num_hidden_layers"]),
        hidden_size=hidden_size,
        num_attention_heads=heads,
        num_key_value_heads=int(key_value_heads),
        head_dim=head_dim,
        intermediate_size=int(values["intermediate_size"]),
        vocab_size=int(values["vocab_size"]),
        max_position_embeddings=int(values["max_position_embeddings"]),
        rms_norm_eps=float(values["rms_norm_eps"]),
        inv_freq=inverse_frequencies(values, head_dim),
        tie_word_embeddings=bool(values.get("tie_word_embeddings", False)),
    )
    sizes = (
        config.num_hidden_layers, hidden_size, heads, config.num_key_value_heads,
        config.intermediate_size, config.vocab_size, config.max_position_embeddings,
    )  # fmt: skip
    if min(sizes) < 1 or heads % config.num_key_value_heads or head_dim % 2:
        raise Unsupported("its sizes do not fit together")
    return config


def refuse_sliding_window(values: Mapping[str, Any], window: float = math.inf) -> None:
    """Refuse a model that looks back less far than its context.

    Args:
        values: of config.json.
        window: tokens that attention looks back, as the family reads them.

    Raises:
        Unsupported: it has such layers.
    """
    sliding = "sliding_attention" in (values.get("layer_types") or ())
    if sliding or window < int(values["max_position_embeddings"]):
        raise Unsupported("its attention has a sliding window")


def sliding_window(values: Mapping[str, Any]) -> float:
    """Return `sliding_window` in tokens; infinity where it is null."""
    window = values.get("sliding_window", 4096)
    return math.inf if window is None else int(window)
