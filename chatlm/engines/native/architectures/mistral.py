"""Mistral without a sliding window."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chatlm.engines.native.architectures.config_parser import (
    parse_config,
    refuse_sliding_window,
    sliding_window,
)
from chatlm.engines.native.model_config import ModelConfig


def read_config(values: Mapping[str, Any]) -> ModelConfig:
    """Return the config of a `mistral`."""
    refuse_sliding_window(values, sliding_window(values))
    return parse_config(values)
