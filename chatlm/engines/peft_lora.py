"""Read LoRA adapters in peft's format."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from torch import Tensor

from chatlm.engines.adapters import ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE, check_lora_init
from chatlm.engines.model import Unsupported

_UNSUPPORTED_SETTINGS = (
    "use_dora", "modules_to_save", "layer_replication", "lora_bias",
    "trainable_token_indices", "use_qalora", "alora_invocation_tokens", "arrow_config",
)  # fmt: skip
"""Settings that, when set, change more than one pair of matrices per target."""

_TENSOR_NAME = re.compile(r"base_model\.model\.([\w.]+)\.lora_([AB])\.weight")


class PeftLora(NamedTuple):
    """What an adapter adds to the product of one linear layer: `scale * B (A x)`."""

    module: str
    """The layer's name in transformers."""
    lora_a: Tensor
    """(rank, columns)"""
    lora_b: Tensor
    """(rows, rank)"""
    scale: float


def read_peft_lora(folder: Path) -> list[PeftLora]:
    """Read an adapter, in its own number format.

    Args:
        folder: with `ADAPTER_CONFIG_FILE` and `ADAPTER_WEIGHTS_FILE`.

    Raises:
        Unsupported: it uses something other than LoRA on linear layers.
        ValueError: it is damaged.
    """
    try:
        config = json.loads((folder / ADAPTER_CONFIG_FILE).read_bytes())
        if not isinstance(config, dict):
            raise ValueError(f"{ADAPTER_CONFIG_FILE} is not a JSON object")
        _check_config(config)
        with safe_open(folder / ADAPTER_WEIGHTS_FILE, framework="pt") as file:
            # copied, since memory-mapped tensors are gone when the file is closed
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        return _pair(config, tensors)
    except (OSError, SafetensorError, TypeError, ZeroDivisionError, re.error) as error:
        raise ValueError(str(error)) from error


def _check_config(config: Mapping[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        raise Unsupported(f"it is of the type {config.get('peft_type')}")
    if config.get("target_parameters"):
        raise Unsupported("it changes matrices of experts (target_parameters)")
    for setting in _UNSUPPORTED_SETTINGS:
        if config.get(setting):
            raise Unsupported(f"it uses {setting}")
    if config.get("bias", "none") != "none":
        raise Unsupported("it changes biases")
    check_lora_init(config.get("init_lora_weights", True))


def _pair(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> list[PeftLora]:
    pairs: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        match = _TENSOR_NAME.fullmatch(name)
        if match is None:
            raise Unsupported(f"it changes {name.removeprefix('base_model.model.')}")
        pairs.setdefault(match[1], {})[match[2]] = tensor
    adapter = []
    for module, pair in pairs.items():
        if len(pair) != 2:
            raise ValueError(f"one of the two matrices of {module} is missing")
        lora_a, lora_b = pair["A"], pair["B"]
        if lora_a.dim() != 2 or lora_b.dim() != 2 or len(lora_a) != lora_b.shape[1]:
            raise ValueError(f"the matrices of {module} do not fit each other")
        adapter.append(PeftLora(module, lora_a, lora_b, _scale(config, module, len(lora_a))))
    return adapter


def _scale(config: Mapping[str, Any], module: str, rank: int) -> float:
    """Return the factor that peft applies to the module's product."""
    patterns: Mapping[str, Any] = config.get("alpha_pattern") or {}
    own = (alpha for pattern, alpha in patterns.items() if _matches(pattern, module))
    alpha = float(next(own, config.get("lora_alpha", 8)))
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _matches(pattern: str, module: str) -> bool:
    return re.match(rf"(.*\.)?({pattern})$", module) is not None
