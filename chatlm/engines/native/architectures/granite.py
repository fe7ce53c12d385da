"""Granite: Llama's block with multipliers on embeddings, attention scores, residuals and logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chatlm.engines.native.architectures import llama
from chatlm.engines.native.architectures.config_parser import read_model
from chatlm.engines.native.model_config import ModelConfig


def read_config(values: Mapping[str, Any]) -> ModelConfig:
    """Return the config of a `granite`."""
    return read_model(
        values,
        llama.read_layers(values, scale=float(values["attention_multiplier"])),
        embedding_multiplier=float(values["embedding_multiplier"]),
        residual_multiplier=float(values["residual_multiplier"]),
        logits_scaling=float(values["logits_scaling"]),
    )
