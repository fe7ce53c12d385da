"""Load LoRA adapters and apply them to a model's matrices."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chatlm.engines.model import Unsupported
from chatlm.engines.native.model_config import ModelConfig
from chatlm.engines.native.products import AdaptedMatMul
from chatlm.engines.native.weight_reader import group_by_name, part_rows
from chatlm.engines.native.weights import (
    ComputedWeights,
    LayerWeights,
    Linear,
    MatMul,
    ModelWeights,
    replace_matrices,
)
from chatlm.engines.peft_lora import read_peft_lora

_MODULE_NAME = re.compile(r"([\w.]+)\.(\d+)\.([\w.]+)")


@dataclass(frozen=True)
class LoraPair:
    """What LoRA adds to the product of one matrix: `scale * B (A x)`."""

    lora_a: Tensor
    """(rank, columns)"""
    lora_b: Tensor
    """(rows, rank)"""
    scale: float


LoraWeights = tuple[Mapping[str, LoraPair], ...]
"""An adapter: for each layer its pairs, by the names of its matrices."""


def with_lora(
    weights: ModelWeights[Any, Any],
    lora: LoraWeights,
    convert: Callable[[Tensor], MatMul] = Linear,
) -> ComputedWeights:
    """Return the weights with an adapter, which is not merged into them.

    Args:
        weights: of the model.
        lora: the adapter.
        convert: returns what multiplies with one of its matrices.
    """
    converted: dict[int, MatMul] = {}

    def multiplier(matrix: Tensor) -> MatMul:  # the same for `lora_a` of several parts
        if id(matrix) not in converted:
            converted[id(matrix)] = convert(matrix)
        return converted[id(matrix)]

    def adapt(layer: LayerWeights[Any], pairs: Mapping[str, LoraPair]) -> LayerWeights[Any]:
        adapted = {
            name: AdaptedMatMul(
                layer.matrices[name], multiplier(pair.lora_a), multiplier(pair.lora_b), pair.scale
            )
            for name, pair in pairs.items()
        }
        return replace_matrices(layer, adapted)

    return dataclasses.replace(weights, layers=tuple(map(adapt, weights.layers, lora)))


def read_lora(
    folder: Path, config: ModelConfig, dtype: torch.dtype, device: torch.device
) -> LoraWeights:
    """Load an adapter in peft's format.

    Args:
        folder: see `read_peft_lora`.
        config: of the model that it adapts.
        dtype: to convert it to.
        device: to load it to.

    Raises:
        Unsupported: it uses something other than LoRA on the layers' matrices.
        ValueError: it is damaged, or does not fit the model.
    """
    layers: list[dict[str, LoraPair]] = [{} for _ in config.layers]
    names = config.tensor_names
    modules = set(names.of_layer.values())
    for module, lora_a, lora_b, scale in read_peft_lora(folder):
        match = _MODULE_NAME.fullmatch(module)
        if ".experts." in module:
            raise Unsupported(f"it changes matrices of experts ({module})")
        if match is None or match[1] != names.layers or match[3] not in modules:
            raise Unsupported(f"it changes {module}")
        layer = int(match[2])
        if layer >= len(layers):
            raise ValueError(f"the model has no {module}")
        shapes = config.layers[layer].matrix_shapes(config.hidden_size)
        parts = group_by_name(shapes, names.of_layer).get(match[3])
        if parts is None:
            raise Unsupported(f"it changes {module}")
        rows, columns = sum(shapes[part].rows for part in parts), shapes[parts[0]].columns
        rank = len(lora_a)
        if lora_b.shape != (rows, rank) or lora_a.shape != (rank, columns):
            raise ValueError(f"the matrices of {module} do not fit the model")
        shared = lora_a.to(device, dtype).contiguous()
        for part, own in part_rows(shapes, parts).items():
            layers[layer][part] = LoraPair(shared, lora_b[own].to(device, dtype), scale)
    return tuple(layers)
