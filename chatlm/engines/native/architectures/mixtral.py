"""Mixtral: Mistral's block with a mixture of experts."""

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
    router="block_sparse_moe.gate",
    experts={
        "gate_proj": "block_sparse_moe.experts.{expert}.w1",
        "down_proj": "block_sparse_moe.experts.{expert}.w2",
        "up_proj": "block_sparse_moe.experts.{expert}.w3",
    },
)


def read_config(values: Mapping[str, Any]) -> ModelConfig:
    """Return the config of a `mixtral`."""
    window = values.get("sliding_window")
    windows = layer_windows(
        values,
        None if window is None else int(window),
        "full_attention" if window is None else "sliding_attention",
    )
    moe = read_moe(values, "intermediate_size", normalised=True)
    attention = read_attention(values)
    return read_model(
        values,
        [LayerConfig(dataclasses.replace(attention, window=each), moe) for each in windows],
        tensor_names=_NAMES,
    )
