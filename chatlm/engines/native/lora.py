"""What a LoRA adapter adds to a model's matrices: read from its files, and added by torch."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn.functional import linear

from chatlm.engines.adapters import ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE, check_lora_init
from chatlm.engines.model import Unsupported
from chatlm.engines.native.weights import LayerWeights, Linear, MatMul, ModelWeights

TARGET_MODULES = {
    "self_attn.q_proj": "q_proj",
    "self_attn.k_proj": "k_proj",
    "self_attn.v_proj": "v_proj",
    "self_attn.o_proj": "o_proj",
    "mlp.gate_proj": "gate_proj",
    "mlp.up_proj": "up_proj",
    "mlp.down_proj": "down_proj",
}
"""The matrices that an adapter may change: peft's names and those of `LayerWeights`."""


_UNSUPPORTED_SETTINGS = (
    "use_dora", "modules_to_save", "layer_replication", "target_parameters", "lora_bias",
    "trainable_token_indices", "use_qalora", "alora_invocation_tokens", "arrow_config",
)  # fmt: skip
"""Settings that, when they are on, change more of a model than one pair of matrices a layer."""


_TENSOR_NAME = re.compile(
    r"base_model\.model\.(model\.layers\.(\d+)\.([\w.]+))\.lora_([AB])\.weight"
)


@dataclass(frozen=True)
class LoraPair:
    """What is added to the product of one matrix: `scale * up (down x)`."""

    lora_a: Tensor
    """(rank, columns), peft's A."""
    lora_b: Tensor
    """(rows, rank), peft's B."""
    scale: float

    def __call__(self, x: Tensor) -> Tensor:
        """See `Product`."""
        return linear(linear(x, self.lora_a), self.lora_b) * self.scale


LoraWeights = tuple[Mapping[str, LoraPair], ...]
"""An adapter: for each layer what is added, by the names of `LayerWeights`."""


@dataclass(frozen=True)
class LoraLinear:
    """A matrix with what an adapter adds to it."""

    base_layer: MatMul
    lora: LoraPair

    def __call__(self, x: Tensor) -> Tensor:
        """See `Product`."""
        return self.base_layer(x) + self.lora(x)


def with_lora(weights: ModelWeights[Any], lora: LoraWeights) -> ModelWeights[MatMul]:
    """The weights with an adapter; they share all tensors."""

    def layer(before: LayerWeights[Any], added: Mapping[str, LoraPair]) -> LayerWeights[MatMul]:
        changed: Any = {name: LoraLinear(getattr(before, name), low) for name, low in added.items()}
        return dataclasses.replace(before, **changed)

    layers = tuple(map(layer, weights.layers, lora))
    return dataclasses.replace(weights, layers=layers)


def read_lora(folder: Path, weights: ModelWeights[Linear]) -> LoraWeights:
    """Read an adapter as peft writes it, in the number format of the weights.

    Args:
        folder: with `CONFIG` and `WEIGHTS`.
        weights: of the model that it shall work on.

    Raises:
        Unsuitable: it is more than this package can do.
        ValueError: it is damaged, or does not fit the model.
    """
    try:
        config = json.loads((folder / ADAPTER_CONFIG_FILE).read_bytes())
        if not isinstance(config, dict):
            raise ValueError(f"{ADAPTER_CONFIG_FILE} holds no table")
        _check_config(config)
        with safe_open(folder / ADAPTER_WEIGHTS_FILE, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return _assemble(config, tensors, weights)
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
    config: Mapping[str, Any], tensors: Mapping[str, Tensor], weights: ModelWeights[Linear]
) -> LoraWeights:
    halves: dict[str, dict[str, Tensor]] = {}
    places: dict[str, tuple[int, str]] = {}
    for name, tensor in tensors.items():
        key = _TENSOR_NAME.fullmatch(name)
        if key is None or key[3] not in TARGET_MODULES:
            raise Unsupported(f"it changes {name.removeprefix('base_model.model.')}")
        places[key[1]] = int(key[2]), TARGET_MODULES[key[3]]
        halves.setdefault(key[1], {})[key[4]] = tensor
    additions: list[dict[str, LoraPair]] = [{} for _ in weights.layers]
    for module, half in halves.items():
        layer, target = places[module]
        if layer >= len(additions) or len(half) != 2:
            raise ValueError(f"{module} has no place in the model, or only one matrix")
        down, up = half["A"], half["B"]
        matrix: Linear = getattr(weights.layers[layer], target)
        (rows, columns), rank = matrix.weight.shape, len(down)
        if up.shape != (rows, rank) or down.shape != (rank, columns) or not rank:
            raise ValueError(f"the matrices of {module} do not fit the model")
        additions[layer][target] = LoraPair(
            # a copy, since what stays in the file goes with the file
            down.to(matrix.weight, copy=True).contiguous(),
            up.to(matrix.weight, copy=True).contiguous(),
            _scale(config, module, rank),
        )
    return tuple(additions)


def _scale(config: Mapping[str, Any], module: str, rank: int) -> float:
    """What peft multiplies the product with."""
    patterns: Mapping[str, Any] = config.get("alpha_pattern") or {}
    own = (alpha for pattern, alpha in patterns.items() if _matches(pattern, module))
    alpha = float(next(own, config.get("lora_alpha", 8)))
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _matches(pattern: str, module: str) -> bool:
    return re.match(rf"(.*\.)?({pattern})$", module) is not None
