"""gpt-oss: attention sinks, a window on alternating layers, and experts with clamped SwiGLU."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from chatlm.engines.native.architectures.config_parser import (
    layer_windows,
    read_attention,
    read_model,
    read_moe,
)
from chatlm.engines.native.model_config import LayerConfig, ModelConfig, TensorNames

_NAMES = TensorNames(
    router="mlp.router",
    experts={
        "gate_proj": "mlp.experts.gate_up_proj",
        "up_proj": "mlp.experts.gate_up_proj",
        "down_proj": "mlp.experts.down_proj",
    },
)

_YARN = {
    "rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
    "original_max_position_embeddings": 4096,
}  # fmt: skip
"""RoPE where config.json leaves it open."""

_ROPE_THETA = 150_000.0


def read_config(values: Mapping[str, Any]) -> ModelConfig:
    """Return the config of a `gpt_oss`, whose experts may be stored in MXFP4."""
    quantization = values.get("quantization_config") or {}
    if quantization.get("quant_method") == "mxfp4":
        values = {name: value for name, value in values.items() if name != "quantization_config"}
    if not (values.get("rope_parameters") or values.get("rope_scaling")):
        values = {**values, "rope_parameters": _YARN}
    values = {"rope_theta": _ROPE_THETA, **values}
    bias = bool(values.get("attention_bias", True))
    attention = dataclasses.replace(
        read_attention(values, default_head_dim=64),
        qkv_bias=bias,
        o_proj_bias=bias,
        sinks=True,
    )
    moe = dataclasses.replace(
        read_moe(values, "intermediate_size", normalised=True),
        bias=True,
        swiglu_limit=float(values.get("swiglu_limit", 7.0)),
        swiglu_alpha=float(values.get("swiglu_alpha", 1.702)),
    )
    window = int(values["sliding_window"])
    count = int(values["num_hidden_layers"])
    types = ["full_attention" if number % 2 else "sliding_attention" for number in range(count)]
    windows = layer_windows({"layer_types": types, **values}, window)
    return read_model(
        values,
        [LayerConfig(dataclasses.replace(attention, window=each), moe) for each in windows],
        tensor_names=_NAMES,
    )
