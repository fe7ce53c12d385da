"""OLMo 2 and 3: norms after attention and MLP, and over all queries and all keys."""

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
from chatlm.engines.native.model_config import (
    POST_NORMS,
    TENSOR_NAMES,
    LayerConfig,
    ModelConfig,
    TensorNames,
)
from chatlm.engines.native.rope import read_rope


def read_olmo2_config(values: Mapping[str, Any]) -> ModelConfig:
    """Return the config of an `olmo2`."""
    attention = _read_attention(values)
    return _read_model(values, [attention] * int(values["num_hidden_layers"]))


def read_olmo3_config(values: Mapping[str, Any]) -> ModelConfig:
    """Return the config of an `olmo3`; only its layers without a window scale their RoPE."""
    count = int(values["num_hidden_layers"])
    types = values.get("layer_types") or [
        "sliding_attention" if number % 4 else "full_attention" for number in range(1, count + 1)
    ]
    parameters = values.get("rope_parameters") or {}
    windows = layer_windows({**values, "layer_types": types}, values.get("sliding_window", 4096))
    attention = _read_attention({**values, "rope_parameters": None, "rope_scaling": None})
    head_dim = attention.head_dim
    theta = values.get("rope_theta", 500_000.0)
    ropes = {
        "sliding_attention": read_rope({"rope_theta": theta}, head_dim),
        "full_attention": read_rope({"rope_theta": theta, **values}, head_dim),
    }
    ropes |= {
        kind: read_rope(values, head_dim, layer_type=kind) for kind in ropes if kind in parameters
    }
    return _read_model(
        values,
        [
            dataclasses.replace(attention, window=window, rope=ropes[kind])
            for window, kind in zip(windows, types, strict=True)
        ],
    )


def _read_attention(values: Mapping[str, Any]) -> AttentionConfig:
    bias = bool(values.get("attention_bias", False))
    heads = int(values["num_attention_heads"])
    return dataclasses.replace(
        read_attention(values, default_num_key_value_heads=heads),
        qk_norm="projection",
        qkv_bias=bias,
        o_proj_bias=bias,
    )


def _read_model(values: Mapping[str, Any], mixers: list[AttentionConfig]) -> ModelConfig:
    mlp = read_mlp(values)
    return read_model(
        values,
        [LayerConfig(mixer, mlp, tuple(POST_NORMS)) for mixer in mixers],
        tensor_names=TensorNames(of_layer={**TENSOR_NAMES, **POST_NORMS}),
    )
