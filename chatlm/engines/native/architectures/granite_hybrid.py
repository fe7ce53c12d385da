"""Granite 4: Mamba-2 layers, attention in some, and Granite's multipliers; with experts, also one
that all tokens share."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from chatlm.engines.model import Unsupported
from chatlm.engines.native.architectures.config_parser import (
    read_attention,
    read_mlp,
    read_model,
    read_moe,
)
from chatlm.engines.native.architectures.granite import GRANITE_EXPERTS
from chatlm.engines.native.mamba import MambaConfig
from chatlm.engines.native.mlp import DenseMlpConfig
from chatlm.engines.native.model_config import (
    PRE_NORMS,
    TENSOR_NAMES,
    LayerConfig,
    ModelConfig,
    TensorNames,
)
from chatlm.engines.native.moe import SHARED_PREFIX, MoeConfig

_MAMBA = {
    **dict.fromkeys(("in_proj_z", "in_proj_xbc", "in_proj_dt"), "mamba.in_proj"),
    **{name: f"mamba.{name}" for name in ("out_proj", "A_log", "D", "dt_bias")},
    "conv": "mamba.conv1d",
    "conv_bias": "mamba.conv1d.bias",
    "norm_weight": "mamba.norm",
}

_DENSE = {
    "gate_proj": "shared_mlp.input_linear",
    "up_proj": "shared_mlp.input_linear",
    "down_proj": "shared_mlp.output_linear",
}

_TENSORS = TensorNames(
    of_layer={
        **TENSOR_NAMES,
        **PRE_NORMS,
        **_MAMBA,
        **_DENSE,
        **{f"{SHARED_PREFIX}{name}": target for name, target in _DENSE.items()},
    },
    without_suffix=frozenset({"A_log", "D", "dt_bias", "conv_bias"}),
    **GRANITE_EXPERTS,
)

_TYPES = {"mamba": "linear_attention", "attention": "full_attention"}
"""Types of layers as older files call them."""


def read_config(values: Mapping[str, Any]) -> ModelConfig:
    """Return the config of a `granitemoehybrid`."""
    attention = read_attention(
        values, default_num_key_value_heads=int(values["num_attention_heads"])
    )
    if values.get("position_embedding_type") != "rope":
        attention = dataclasses.replace(attention, rope=None)
    bias = bool(values.get("attention_bias", False))
    attention = dataclasses.replace(
        attention,
        scale=float(values.get("attention_multiplier", 1.0)),
        qkv_bias=bias,
        o_proj_bias=bias,
    )
    mlp = _read_mlp(values)
    kinds = {
        "full_attention": LayerConfig(attention, mlp),
        "linear_attention": LayerConfig(_read_mamba(values), mlp),
    }
    types = values.get("layer_types") or values.get("layers_block_type")
    types = [
        _TYPES.get(kind, kind)
        for kind in types or ["linear_attention"] * int(values["num_hidden_layers"])
    ]
    if unknown := sorted(set(map(str, types)) - set(kinds)):
        raise Unsupported(f"it has layers of the type {unknown[0]}")
    if len(types) != int(values["num_hidden_layers"]):
        raise Unsupported("its layer_types do not fit its number of layers")
    return read_model(
        values,
        [kinds[kind] for kind in types],
        embedding_multiplier=float(values.get("embedding_multiplier", 1.0)),
        residual_multiplier=float(values.get("residual_multiplier", 1.0)),
        logits_scaling=float(values.get("logits_scaling", 1.0)),
        tensor_names=_TENSORS,
    )


def _read_mlp(values: Mapping[str, Any]) -> DenseMlpConfig | MoeConfig:
    size = int(values["shared_intermediate_size"])
    if not int(values.get("num_local_experts") or 0):
        return read_mlp({**values, "intermediate_size": size})
    return dataclasses.replace(
        read_moe(values, "intermediate_size", normalised=True),
        shared_intermediate_size=size,
        shared_gate=False,
    )


def _read_mamba(values: Mapping[str, Any]) -> MambaConfig:
    low, high = values.get("time_step_limit") or (0.0, math.inf)
    if isinstance(high, Mapping):  # JSON has no infinity
        high = float(high["__float__"])
    if low > 0 or high != math.inf:
        raise Unsupported("the time steps of its Mamba layers are limited")
    heads = int(values.get("mamba_n_heads", 128))
    inner_size = int(values.get("mamba_expand", 2)) * int(values["hidden_size"])
    config = MambaConfig(
        num_heads=heads,
        head_dim=inner_size // heads,
        num_groups=int(values.get("mamba_n_groups", 1)),
        state_size=int(values.get("mamba_d_state", 256)),
        kernel_size=int(values.get("mamba_d_conv", 4)),
        conv_bias=bool(values.get("mamba_conv_bias", True)),
        proj_bias=bool(values.get("mamba_proj_bias", False)),
    )
    if config.inner_size != inner_size or heads % config.num_groups:
        raise Unsupported("its sizes do not fit together")
    return config
