"""Llama and Mistral without a sliding window; read_config for the registry."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chatlm.engines.model import Unsupported
from chatlm.engines.native.model_config import MAX_HEAD_DIM, ModelConfig
from chatlm.engines.native.rope import inverse_frequencies


def read_config(folder: Path) -> ModelConfig:
    """The shape of the model in a folder.

    Raises:
        Unsuitable: it is of another architecture, or of a variant that is not known here.
    """
    try:
        config = json.loads((folder / "config.json").read_bytes())
        return _parse_config(config)
    except (OSError, ValueError, TypeError, KeyError, ZeroDivisionError, OverflowError) as error:
        raise Unsupported(f"config.json: {type(error).__name__}: {error}") from error


def _parse_config(config: Mapping[str, Any]) -> ModelConfig:
    kind = config["model_type"]
    if kind not in ("llama", "mistral", "qwen2", "qwen3"):
        raise Unsupported(f"the architecture {kind} is not known here")
    if config.get("quantization_config"):
        raise Unsupported("its weights are stored quantized")
    if config["hidden_act"] != "silu":
        raise Unsupported(f"its activation is {config['hidden_act']}")
    heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
    context = int(config["max_position_embeddings"])
    if _sliding_window(kind, config) < context:
        raise Unsupported("its attention has a sliding window")
    head_size = int(config.get("head_dim") or (128 if kind == "qwen3" else hidden // heads))
    if not 2 <= head_size <= MAX_HEAD_DIM:
        raise Unsupported(f"its heads have the size {head_size}")
    bias = kind in ("llama", "qwen3") and bool(config.get("attention_bias", False))
    shape = ModelConfig(
        num_hidden_layers=int(config["num_hidden_layers"]),
        hidden_size=hidden,
        num_attention_heads=heads,
        num_key_value_heads=int(
            config.get("num_key_value_heads") or _default_key_value_heads(kind, heads)
        ),
        head_dim=head_size,
        intermediate_size=int(config["intermediate_size"]),
        vocab_size=int(config["vocab_size"]),
        max_position_embeddings=context,
        rms_norm_eps=float(config["rms_norm_eps"]),
        inv_freq=inverse_frequencies(config, head_size),
        qkv_bias=bias or kind == "qwen2",
        o_proj_bias=bias,
        mlp_bias=kind == "llama" and bool(config.get("mlp_bias", False)),
        qk_norm=kind == "qwen3",
        tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
    )
    sizes = (
        shape.num_hidden_layers,
        hidden,
        heads,
        shape.num_key_value_heads,
        shape.intermediate_size,
        context,
    )
    if min(*sizes, shape.vocab_size) < 1 or heads % shape.num_key_value_heads or head_size % 2:
        raise Unsupported("its sizes do not fit together")
    return shape


def _default_key_value_heads(model_type: str, heads: int) -> int:
    if model_type == "llama":
        return heads
    raise Unsupported("its config.json leaves num_key_value_heads open")


def _sliding_window(model_type: str, config: Mapping[str, Any]) -> float:
    """Tokens that attention looks back."""
    if "sliding_attention" in (config.get("layer_types") or ()):
        return 0
    if model_type == "llama" or (
        model_type != "mistral" and not config.get("use_sliding_window", False)
    ):
        return math.inf
    window = config.get("sliding_window", 4096)
    return math.inf if window is None else int(window)
