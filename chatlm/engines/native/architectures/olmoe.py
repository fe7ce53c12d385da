"""OLMoE: a mixture of experts with norms over all queries and all keys."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from chatlm.engines.model import Unsupported
from chatlm.engines.native.architectures.config_parser import read_attention, read_model, read_moe
from chatlm.engines.native.model_config import LayerConfig, ModelConfig


def read_config(values: Mapping[str, Any]) -> ModelConfig:
    """Return the config of an `olmoe`."""
    if values.get("clip_qkv") is not None:
        raise Unsupported("it limits queries, keys and values (clip_qkv)")
    bias = bool(values.get("attention_bias", False))
    attention = dataclasses.replace(
        read_attention(values, default_num_key_value_heads=int(values["num_attention_heads"])),
        qkv_bias=bias,
        o_proj_bias=bias,
        qk_norm="projection",
    )
    normalised = bool(values.get("norm_topk_prob", False))
    moe = read_moe(values, "intermediate_size", normalised=normalised)
    return read_model(values, [LayerConfig(attention, moe)] * int(values["num_hidden_layers"]))
