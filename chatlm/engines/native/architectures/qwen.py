"""Qwen 2 and 3: biases on queries, keys and values, or QK norm per head."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from chatlm.engines.native.architectures.config_parser import (
    parse_config,
    refuse_sliding_window,
    sliding_window,
)
from chatlm.engines.native.model_config import ModelConfig


def read_qwen2_config(values: Mapping[str, Any]) -> ModelConfig:
    """Return the config of a `qwen2`."""
    _refuse_sliding_window(values)
    return dataclasses.replace(parse_config(values), qkv_bias=True)


def read_qwen3_config(values: Mapping[str, Any]) -> ModelConfig:
    """Return the config of a `qwen3`."""
    _refuse_sliding_window(values)
    bias = bool(values.get("attention_bias", False))
    return dataclasses.replace(
        parse_config(values, default_head_dim=128),
        qkv_bias=bias,
        o_proj_bias=bias,
        qk_norm="head",
    )


def _refuse_sliding_window(values: Mapping[str, Any]) -> None:
    used = values.get("use_sliding_window", False)
    refuse_sliding_window(values, sliding_window(values) if used else math.inf)
