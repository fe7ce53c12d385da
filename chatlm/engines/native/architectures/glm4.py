"""GLM-4: four norms, gate and up in one matrix, and RoPE that rotates neighbours in half a head."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from chatlm.engines.native.architectures.config_parser import read_attention, read_mlp, read_model
from chatlm.engines.native.model_config import (
    TENSOR_NAMES,
    LayerConfig,
    ModelConfig,
    TensorNames,
)

_NORMS = {
    "pre_mixer_norm": "input_layernorm",
    "post_mixer_norm": "post_self_attn_layernorm",
    "pre_mlp_norm": "post_attention_layernorm",
    "post_mlp_norm": "post_mlp_layernorm",
}

_FUSED = {"gate_proj": "mlp.gate_up_proj", "up_proj": "mlp.gate_up_proj"}


def read_config(values: Mapping[str, Any]) -> ModelConfig:
    """Return the config of a `glm4`."""
    rotary = {"partial_rotary_factor": 0.5, **values}
    attention = dataclasses.replace(
        read_attention(rotary, default_head_dim=128, interleaved=True),
        qkv_bias=bool(values.get("attention_bias", True)),
    )
    layer = LayerConfig(attention, read_mlp(values), tuple(_NORMS))
    return read_model(
        values,
        [layer] * int(values["num_hidden_layers"]),
        tensor_names=TensorNames(of_layer={**TENSOR_NAMES, **_NORMS, **_FUSED}),
    )
