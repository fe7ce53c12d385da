"""LFM2: gated short convolutions, and attention with QK norm in some layers; with experts in all
layers but the first."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from chatlm.engines.model import Unsupported
from chatlm.engines.native.architectures.config_parser import (
    read_attention,
    read_mlp,
    read_model,
    read_moe,
)
from chatlm.engines.native.mlp import DenseMlpConfig
from chatlm.engines.native.model_config import (
    LayerConfig,
    Mixer,
    Mlp,
    ModelConfig,
    TensorNames,
)
from chatlm.engines.native.short_conv import ShortConvConfig

_TENSORS = TensorNames(
    norm="model.embedding_norm",
    of_layer={
        "pre_mixer_norm": "operator_norm",
        "pre_mlp_norm": "ffn_norm",
        "in_proj": "conv.in_proj",
        "conv": "conv.conv",
        "conv_bias": "conv.conv.bias",
        "out_proj": "conv.out_proj",
        "q_proj": "self_attn.q_proj",
        "k_proj": "self_attn.k_proj",
        "v_proj": "self_attn.v_proj",
        "o_proj": "self_attn.out_proj",
        "q_norm": "self_attn.q_layernorm",
        "k_norm": "self_attn.k_layernorm",
        "gate_proj": "feed_forward.w1",
        "up_proj": "feed_forward.w3",
        "down_proj": "feed_forward.w2",
    },
    without_suffix=frozenset({"conv_bias"}),
    router="feed_forward.gate",
    experts={
        "gate_proj": "feed_forward.experts.{expert}.w1",
        "up_proj": "feed_forward.experts.{expert}.w3",
        "down_proj": "feed_forward.experts.{expert}.w2",
    },
    choice_bias="feed_forward.expert_bias",
)


def read_config(values: Mapping[str, Any]) -> ModelConfig:
    """Return the config of an `lfm2`."""
    return _read(values, [_read_mlp(values)] * int(values["num_hidden_layers"]))


def read_moe_config(values: Mapping[str, Any]) -> ModelConfig:
    """Return the config of an `lfm2_moe`."""
    values = {"hidden_act": "silu", **values}
    count, dense = int(values["num_hidden_layers"]), int(values.get("num_dense_layers", 2))
    moe = dataclasses.replace(
        read_moe(
            values, "moe_intermediate_size", normalised=bool(values.get("norm_topk_prob", True))
        ),
        scoring="sigmoid",
        choice_bias=bool(values.get("use_expert_bias", True)),
        scaling=float(values.get("routed_scaling_factor", 1.0)),
    )
    return _read(values, [read_mlp(values) if n < dense else moe for n in range(count)])


def _read(values: Mapping[str, Any], mlps: Sequence[Mlp]) -> ModelConfig:
    tied = values.get("tie_embedding", values.get("tie_word_embeddings", True))
    values = {
        "rope_theta": 1e6,
        **values,
        "rms_norm_eps": values["norm_eps"],
        "tie_word_embeddings": tied,
    }
    attention = dataclasses.replace(read_attention(values), qk_norm="head")
    convolution = ShortConvConfig(
        int(values["hidden_size"]),
        int(values["conv_L_cache"]),
        bool(values.get("conv_bias", False)),
    )
    mixers: dict[str, Mixer] = {"full_attention": attention, "conv": convolution}
    types = _layer_types(values)
    if unknown := sorted(set(map(str, types)) - set(mixers)):
        raise Unsupported(f"it has layers of the type {unknown[0]}")
    layers = [LayerConfig(mixers[kind], mlp) for kind, mlp in zip(types, mlps, strict=True)]
    return read_model(values, layers, tensor_names=_TENSORS)


def _layer_types(values: Mapping[str, Any]) -> list[str]:
    count = int(values["num_hidden_layers"])
    types = values.get("layer_types")
    if types is None:
        attends = values.get("full_attn_idxs")
        attends = range(count) if attends is None else attends
        types = ["full_attention" if layer in attends else "conv" for layer in range(count)]
    if len(types) != count:
        raise Unsupported("its layer_types do not fit its number of layers")
    return list(types)


def _read_mlp(values: Mapping[str, Any]) -> DenseMlpConfig:
    """Return the MLP, whose size may be two thirds of what config.json says, rounded up."""
    size = int(values.get("block_ff_dim", values["intermediate_size"]))
    if values.get("block_auto_adjust_ff_dim", True):
        size = int(2 * size / 3)
        if (factor := values.get("block_ffn_dim_multiplier", 1.0)) is not None:
            multiple = int(values.get("block_multiple_of", 256))
            size = -(-int(factor * size) // multiple) * multiple
    return read_mlp({"hidden_act": "silu", **values, "intermediate_size": size})
