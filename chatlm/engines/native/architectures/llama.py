"""Llama 1 to 3 and models of the same block."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from chatlm.engines.native.architectures.config_parser import parse_config, refuse_sliding_window
from chatlm.engines.native.model_config import ModelConfig


def read_config(values: Mapping[str, Any]) -> ModelConfig:
    """Return the config of a `llama`."""
    refuse_sliding_window(values)
    bias = bool(values.get("attention_bias", False))
    return dataclasses.replace(
        parse_config(values, default_num_key_value_heads=int(values["num_attention_heads"])),
        qkv_bias=bias,
        o_proj_bias=bias,
        mlp_bias=bool(values.get("mlp_bias", False)),
    )
