"""Qwen 2 and 3: biases on queries, keys and values, or QK norm per head."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from chatlm.engines.native.architectures.config_parser import (
    layer_windows,
    read_attention,
    read_mlp,
    read_model,
)
from chatlm.engines.native.attention import AttentionConfig
from chatlm.engines.native.model_config import LayerConfig, ModelConfig


def read_qwen2_config(values: Mapping[str, Any]) -> ModelConfig:
    """Return the config of a `qwen2`."""
    return _read_config(values, dataclasses.replace(read_attention(values), qkv_bias=True))


def read_qwen3_config(values: Mapping[str, Any]) -> ModelConfig:
    """Return the config of a `qwen3`."""
    return _read_config(values, read_qwen3_attention(values))


def read_qwen3_attention(values: Mapping[str, Any]) -> AttentionConfig:
    """Return the attention of a `qwen3`, which its mixtures of experts have too."""
    bias = bool(values.get("attention_bias", False))
    return dataclasses.replace(
        read_attention(values, default_head_dim=128),
        qkv_bias=bias,
        o_proj_bias=bias,
        qk_norm="head",
    )


def _read_config(values: Mapping[str, Any], attention: AttentionConfig) -> ModelConfig:
    mlp = read_mlp(values)
    return read_model(
        values,
        [
            LayerConfig(dataclasses.replace(attention, window=window), mlp)
            for window in read_windows(values)
        ],
    )


def read_windows(values: Mapping[str, Any]) -> list[int | None]:
    """Return how far each layer looks back; without `layer_types`, from `max_window_layers` on."""
    window = values.get("sliding_window", 4096) if values.get("use_sliding_window") else None
    count = int(values["num_hidden_layers"])
    first = int(values.get("max_window_layers", 28)) if window is not None else count
    types = ["sliding_attention" if n >= first else "full_attention" for n in range(count)]
    known = {**values, "layer_types": values.get("layer_types") or types}
    return layer_windows(known, None if window is None else int(window))
