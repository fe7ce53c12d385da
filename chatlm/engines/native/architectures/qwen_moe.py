"""Qwen 2 and 3 as mixtures of experts: Qwen 2 with an expert that all tokens share."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from chatlm.engines.native.architectures.config_parser import (
    read_attention,
    read_mlp,
    read_model,
    read_moe,
)
from chatlm.engines.native.architectures.qwen import read_qwen3_attention, read_windows
from chatlm.engines.native.attention import AttentionConfig
from chatlm.engines.native.mlp import DenseMlpConfig
from chatlm.engines.native.model_config import LayerConfig, ModelConfig
from chatlm.engines.native.moe import MoeConfig


def read_qwen3_moe_config(values: Mapping[str, Any]) -> ModelConfig:
    """Return the config of a `qwen3_moe`."""
    moe = read_moe(values, "moe_intermediate_size", normalised=_is_normalised(values))
    return _read_config(values, read_qwen3_attention(values), moe)


def read_qwen2_moe_config(values: Mapping[str, Any]) -> ModelConfig:
    """Return the config of a `qwen2_moe`."""
    attention = dataclasses.replace(
        read_attention(values), qkv_bias=bool(values.get("qkv_bias", True))
    )
    moe = dataclasses.replace(
        read_moe(values, "moe_intermediate_size", normalised=_is_normalised(values)),
        shared_intermediate_size=int(values["shared_expert_intermediate_size"]),
    )
    return _read_config(values, attention, moe)


def _is_normalised(values: Mapping[str, Any]) -> bool:
    return bool(values.get("norm_topk_prob", False))


def _read_config(
    values: Mapping[str, Any], attention: AttentionConfig, moe: MoeConfig
) -> ModelConfig:
    dense = set(map(int, values.get("mlp_only_layers") or ()))
    step = int(values.get("decoder_sparse_step", 1))

    def mlp(number: int) -> DenseMlpConfig | MoeConfig:
        return read_mlp(values) if number in dense or (number + 1) % step else moe

    return read_model(
        values,
        [
            LayerConfig(dataclasses.replace(attention, window=window), mlp(number))
            for number, window in enumerate(read_windows(values))
        ],
    )
