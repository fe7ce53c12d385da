"""Granite: Llama's block with multipliers on embeddings, attention scores, residuals and logits."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from chatlm.engines.native.architectures import llama
from chatlm.engines.native.model_config import ModelConfig


def read_config(values: Mapping[str, Any]) -> ModelConfig:
    """Return the config of a `granite`."""
    return dataclasses.replace(
        llama.read_config(values),
        embedding_multiplier=float(values["embedding_multiplier"]),
        attention_multiplier=float(values["attention_multiplier"]),
        residual_multiplier=float(values["residual_multiplier"]),
        logits_scaling=float(values["logits_scaling"]),
    )
