"""Granite: Llama's block with multipliers on embeddings, attention scores, residuals and logits;
also with experts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from chatlm.engines.native.architectures import llama
from chatlm.engines.native.architectures.config_parser import read_model, read_moe
from chatlm.engines.native.model_config import LayerConfig, ModelConfig, TensorNames

GRANITE_EXPERTS: Mapping[str, Any] = {
    "router": "block_sparse_moe.router.layer",
    "experts": {
        "gate_proj": "block_sparse_moe.input_linear",
        "up_proj": "block_sparse_moe.input_linear",
        "down_proj": "block_sparse_moe.output_linear",
    },
    "stacked_experts": True,
}
"""How `TensorNames` says where Granite's experts are."""


def read_config(values: Mapping[str, Any]) -> ModelConfig:
    """Return the config of a `granite`."""
    return _read(values, llama.read_layers(values, scale=_scale(values)))


def read_moe_config(values: Mapping[str, Any]) -> ModelConfig:
    """Return the config of a `granitemoe`."""
    moe = read_moe(values, "intermediate_size", normalised=True)
    layers = [
        dataclasses.replace(layer, mlp=moe)
        for layer in llama.read_layers(values, scale=_scale(values))
    ]
    return _read(values, layers, tensor_names=TensorNames(**GRANITE_EXPERTS))


def _scale(values: Mapping[str, Any]) -> float:
    return float(values["attention_multiplier"])


def _read(values: Mapping[str, Any], layers: Sequence[LayerConfig], **variants: Any) -> ModelConfig:
    return read_model(
        values,
        layers,
        embedding_multiplier=float(values["embedding_multiplier"]),
        residual_multiplier=float(values["residual_multiplier"]),
        logits_scaling=float(values["logits_scaling"]),
        **variants,
    )
