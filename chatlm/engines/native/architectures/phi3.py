"""Phi-3 and Phi-4: Llama's block with joined projections, some with a window."""

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
from chatlm.engines.native.model_config import (
    PRE_NORMS,
    TENSOR_NAMES,
    LayerConfig,
    ModelConfig,
    TensorNames,
)

_FUSED = {
    **dict.fromkeys(("q_proj", "k_proj", "v_proj"), "self_attn.qkv_proj"),
    **dict.fromkeys(("gate_proj", "up_proj"), "mlp.gate_up_proj"),
}


def read_config(values: Mapping[str, Any]) -> ModelConfig:
    """Return the config of a `phi3`."""
    heads = int(values["num_attention_heads"])
    attention = read_attention(values, default_num_key_value_heads=heads)
    mlp = read_mlp(values)
    windows = layer_windows(values, values.get("sliding_window"), default_type="sliding_attention")
    return read_model(
        values,
        [LayerConfig(dataclasses.replace(attention, window=own), mlp) for own in windows],
        tensor_names=TensorNames(of_layer={**TENSOR_NAMES, **PRE_NORMS, **_FUSED}),
    )
