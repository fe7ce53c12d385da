"""Load LoRA adapters and apply them to a model's matrices in torch."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn.functional import linear

from chatlm.engines.adapters import ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE, check_lora_init
from chatlm.engines.model import Unsupported
from chatlm.engines.native.model_config import ModelConfig
from chatlm.engines.native.weights import (
    ComputedWeights,
    LayerWeights,
    MatMul,
    ModelWeights,
    linear_shapes,
)

_UNSUPPORTED_SETTINGS = (
    "use_dora", "modules_to_save", "layer_replication", "target_parameters", "lora_bias",
    "trainable_token_indices", "use_qalora", "alora_invocation_tokens", "arrow_config",
)  # fmt: skip
"""Settings that, when set, change more than one pair of matrices per target."""

_TENSOR_NAME = re.compile(r"base_model\.model\.(([\w.]+)\.(\d+)\.([\w.]+))\.lora_([AB])\.weight")


@dataclass(frozen=True)
class LoraPair:
    """What LoRA adds to the product of one matrix: `scale * B (A x)`."""

    lora_a: Tensor
    """(rank, columns)"""
    lora_b: Tensor
    """(rows, rank)"""
    scale: float

    def __call__(self, x: Tensor) -> Tensor:
        """Multiply, see `MatMul`."""
        return linear(linear(x, self.lora_a), self.lora_b) * self.scale


LoraWeights = tuple[Mapping[str, LoraPair], ...]
"""An adapter: for each layer its pairs, by field of `LayerWeights`."""


@dataclass(frozen=True)
class LoraLinear:
    """A matrix with an adapter."""

    base_layer: MatMul
    lora: LoraPair

    def __call__(self, x: Tensor) -> Tensor:
        """Multiply, see `MatMul`."""
        return self.base_layer(x) + self.lora(x)


def with_lora(weights: ModelWeights[Any, Any], lora: LoraWeights) -> ComputedWeights:
    """Return the weights with an adapter; no tensor is copied."""

    def adapt(layer: LayerWeights[Any], pairs: Mapping[str, LoraPair]) -> LayerWeights[MatMul]:
        adapted: Any = {
            name: LoraLinear(getattr(layer, name), pair) for name, pair in pairs.items()
        }
        return dataclasses.replace(layer, **adapted)

    return dataclasses.replace(weights, layers=tuple(map(adapt, weights.layers, lora)))


def read_lora(
    folder: Path, config: ModelConfig, dtype: torch.dtype, device: torch.device
) -> LoraWeights:
    """Load an adapter in peft's format.

    Args:
        folder: with `ADAPTER_CONFIG_FILE` and `ADAPTER_WEIGHTS_FILE`.
        config: of the model that it adapts.
        dtype: to convert it to.
        device: to load it to.

    Raises:
        Unsupported: it uses something other than LoRA on the layers' matrices.
        ValueError: it is damaged, or does not fit the model.
    """
    try:
        adapter_config = json.loads((folder / ADAPTER_CONFIG_FILE).read_bytes())
        if not isinstance(adapter_config, dict):
            raise ValueError(f"{ADAPTER_CONFIG_FILE} is not a JSON object")
        _check_config(adapter_config)
        with safe_open(folder / ADAPTER_WEIGHTS_FILE, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return _assemble(adapter_config, tensors, config, dtype, device)
    except (OSError, SafetensorError, TypeError, ZeroDivisionError, re.error) as error:
        raise ValueError(str(error)) from error


def _check_config(config: Mapping[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        raise Unsupported(f"it is of the type {config.get('peft_type')}")
    for setting in _UNSUPPORTED_SETTINGS:
        if config.get(setting):
            raise Unsupported(f"it uses {setting}")
    if config.get("bias", "none") != "none":
        raise Unsupported("it changes biases")
    check_lora_init(config.get("init_lora_weights", True))


def _assemble(
    adapter_config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    config: ModelConfig,
    dtype: torch.dtype,
    device: torch.device,
) -> LoraWeights:
    field_of_module = {name: field for field, name in config.tensor_names.linear.items()}
    tensors_of_module: dict[str, dict[str, Tensor]] = {}
    targets: dict[str, tuple[int, str]] = {}
    for name, tensor in tensors.items():
        match = _TENSOR_NAME.fullmatch(name)
        if (
            match is None
            or match[2] != config.tensor_names.layers
            or match[4] not in field_of_module
        ):
            raise Unsupported(f"it changes {name.removeprefix('base_model.model.')}")
        targets[match[1]] = int(match[3]), field_of_module[match[4]]
        tensors_of_module.setdefault(match[1], {})[match[5]] = tensor
    layers: list[dict[str, LoraPair]] = [{} for _ in range(config.num_hidden_layers)]
    for module, pair in tensors_of_module.items():
        layer, target = targets[module]
        if layer >= len(layers) or len(pair) != 2:
            raise ValueError(f"the model has no {module}, or one of its two matrices is missing")
        lora_a, lora_b = pair["A"], pair["B"]
        rows, columns, _ = linear_shapes(config)[target]
        rank = len(lora_a)
        if lora_b.shape != (rows, rank) or lora_a.shape != (rank, columns) or not rank:
            raise ValueError(f"the matrices of {module} do not fit the model")
        layers[layer][target] = LoraPair(
            # copied, since memory-mapped tensors are gone when the file is closed
            lora_a.to(device, dtype, copy=True).contiguous(),
            lora_b.to(device, dtype, copy=True).contiguous(),
            _scale(adapter_config, module, rank),
        )
    return tuple(layers)


def _scale(config: Mapping[str, Any], module: str, rank: int) -> float:
    """Return the factor that peft applies to the module's product."""
    patterns: Mapping[str, Any] = config.get("alpha_pattern") or {}
    own = (alpha for pattern, alpha in patterns.items() if _matches(pattern, module))
    alpha = float(next(own, config.get("lora_alpha", 8)))
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _matches(pattern: str, module: str) -> bool:
    return re.match(rf"(.*\.)?({pattern})$", module) is not None
