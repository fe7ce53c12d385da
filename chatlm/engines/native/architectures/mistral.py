"""Mistral: Llama's block, in some models with a sliding window in every layer."""

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
from chatlm.engines.native.model_config import LayerConfig, ModelConfig


def read_config(values: Mapping[str, Any]) -> ModelConfig:
    """Return the config of a `mistral`."""
    attention, mlp = read_attention(values), read_mlp(values)
    window = values.get("sliding_window", 4096)
    windows = layer_windows(
        values, None if window is None else int(window), default_type="sliding_attention"
    )
    return read_model(
        values, [LayerConfig(dataclasses.replace(attention, window=own), mlp) for own in windows]
    )
