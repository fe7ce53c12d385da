"""Llama 1 to 3 and models of the same block."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from chatlm.engines.native.architectures.config_parser import read_attention, read_mlp, read_model
from chatlm.engines.native.model_config import LayerConfig, ModelConfig


def read_config(values: Mapping[str, Any]) -> ModelConfig:
    """Return the config of a `llama`."""
    return read_model(values, read_layers(values))


def read_layers(values: Mapping[str, Any], **variants: Any) -> list[LayerConfig]:
    """Return the layers of a `llama`; `variants` are further fields of their attention."""
    bias = bool(values.get("attention_bias", False))
    attention = dataclasses.replace(
        read_attention(values, default_num_key_value_heads=int(values["num_attention_heads"])),
        qkv_bias=bias,
        o_proj_bias=bias,
        **variants,
    )
    mlp = read_mlp(values, bias=bool(values.get("mlp_bias", False)))
    return [LayerConfig(attention, mlp)] * int(values["num_hidden_layers"])
