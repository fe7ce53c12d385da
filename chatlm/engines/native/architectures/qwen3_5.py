"""Qwen 3.5: gated delta nets, and attention with an output gate in each fourth layer; with experts,
also one that all tokens share."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from chatlm.engines.model import Unsupported
from chatlm.engines.native.architectures.config_parser import (
    read_attention,
    read_mlp,
    read_model,
    read_moe,
)
from chatlm.engines.native.gated_delta import GatedDeltaConfig
from chatlm.engines.native.mlp import DenseMlpConfig
from chatlm.engines.native.model_config import (
    PRE_NORMS,
    TENSOR_NAMES,
    LayerConfig,
    ModelConfig,
    MtpConfig,
    TensorNames,
)
from chatlm.engines.native.moe import MoeConfig

_LINEAR_ATTENTION = {
    **{
        name: f"linear_attn.{name}"
        for name in (
            "in_proj_qkv", "in_proj_a", "in_proj_b", "in_proj_z", "out_proj", "A_log", "dt_bias",
        )
    },
    "conv": "linear_attn.conv1d",
    "norm_weight": "linear_attn.norm",
}  # fmt: skip

_OF_LAYER = {
    **TENSOR_NAMES,
    **PRE_NORMS,
    **_LINEAR_ATTENTION,
    "output_gate": "self_attn.q_proj",  # whose rows alternate between queries and gates
}

_UNREAD = ("mtp.",)
"""Of the layer that predicts further tokens, which is read only for drafts."""

_WITHOUT_SUFFIX = frozenset({"A_log", "dt_bias"})


def read_text_config(values: Mapping[str, Any]) -> ModelConfig:
    """Return the config of a `qwen3_5_text` or `qwen3_5_moe_text`."""
    names = TensorNames(of_layer=_OF_LAYER, unread=_UNREAD, without_suffix=_WITHOUT_SUFFIX)
    return _read(values, names)


def read_config(values: Mapping[str, Any]) -> ModelConfig:
    """Return the config of the language model of a `qwen3_5` or `qwen3_5_moe`, which also reads
    images."""
    text = {
        **values["text_config"],
        "quantization_config": values.get("quantization_config"),
        "tie_word_embeddings": values.get("tie_word_embeddings", False),
    }
    names = TensorNames(
        embed_tokens="model.language_model.embed_tokens",
        layers="model.language_model.layers",
        norm="model.language_model.norm",
        of_layer=_OF_LAYER,
        unread=(*_UNREAD, "model.visual."),
        without_suffix=_WITHOUT_SUFFIX,
    )
    return _read(text, names)


def _read(values: Mapping[str, Any], names: TensorNames) -> ModelConfig:
    values = {"partial_rotary_factor": 0.25, "hidden_act": "silu", **values}
    attention = dataclasses.replace(
        read_attention(values, default_head_dim=256), qk_norm="head", output_gate=True
    )
    if values.get("attention_bias"):
        attention = dataclasses.replace(attention, qkv_bias=True, o_proj_bias=True)
    linear = GatedDeltaConfig(
        num_key_heads=int(values.get("linear_num_key_heads", 16)),
        num_value_heads=int(values.get("linear_num_value_heads", 32)),
        key_head_dim=int(values.get("linear_key_head_dim", 128)),
        value_head_dim=int(values.get("linear_value_head_dim", 128)),
        kernel_size=int(values.get("linear_conv_kernel_dim", 4)),
    )
    if linear.num_value_heads % linear.num_key_heads:
        raise Unsupported("its sizes do not fit together")
    mlp = _read_mlp(values)
    kinds = {
        "full_attention": LayerConfig(attention, mlp),
        "linear_attention": LayerConfig(linear, mlp),
    }
    types = _layer_types(values)
    if unknown := sorted(set(map(str, types)) - set(kinds)):
        raise Unsupported(f"it has layers of the type {unknown[0]}")
    config = read_model(
        values, [kinds[kind] for kind in types], one_plus_norms=True, tensor_names=names
    )
    if values.get("mtp_num_hidden_layers") != 1:
        return config
    own = dataclasses.replace(names, layers="mtp.layers", norm="mtp.norm")
    layer = dataclasses.replace(config, layers=(kinds["full_attention"],), tensor_names=own)
    return dataclasses.replace(config, mtp=MtpConfig(layer))


def _read_mlp(values: Mapping[str, Any]) -> DenseMlpConfig | MoeConfig:
    if "moe_intermediate_size" not in values:
        return read_mlp(values)
    return dataclasses.replace(
        read_moe(values, "moe_intermediate_size", normalised=True),
        shared_intermediate_size=int(values["shared_expert_intermediate_size"]),
    )


def _layer_types(values: Mapping[str, Any]) -> list[str]:
    count = int(values["num_hidden_layers"])
    interval = int(values.get("full_attention_interval") or 4)
    types = values.get("layer_types") or [
        "linear_attention" if (layer + 1) % interval else "full_attention" for layer in range(count)
    ]
    if len(types) != count:
        raise Unsupported("its layer_types do not fit its number of layers")
    return list(types)
