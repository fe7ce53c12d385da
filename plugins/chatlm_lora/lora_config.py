"""Reads an adapter's configuration, and refuses what is more than plain LoRA."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatlm_lora.tensors import Damaged

LONGEST = 1_000_000
"""Bytes of a configuration."""

HIGHEST_RANK = 1024

_MORE_THAN_LORA = (
    "use_dora", "modules_to_save", "layer_replication", "target_parameters", "lora_bias",
    "trainable_token_indices", "use_qalora", "alora_invocation_tokens", "arrow_config",
)  # fmt: skip
"""Settings that, when they are on, change more of a model than one pair of matrices a layer."""

_PLAIN_BEGINNINGS = (True, False, None, "gaussian", "orthogonal")
"""Ways to begin a training that leave the base as it is; others need another base."""


@dataclass(frozen=True)
class LoraConfig:
    """What an adapter says of itself."""

    rank: int
    alpha: float
    targets: tuple[str, ...] | str
    """Ends of names of modules, or one regular expression."""
    base: str
    """The model it was trained on, as its maker named it; empty where that is not said."""
    architecture: str
    """The class of that model; empty where that is not said."""
    ranks: Mapping[str, int]
    """Other ranks, by the end of a module's name, or a regular expression of it."""
    turned: bool
    """Whether the base keeps its matrices as (inputs, outputs)."""

    def rank_of(self, module: str) -> int:
        """The rank that a module's matrices must have."""
        for pattern, rank in self.ranks.items():
            if module == pattern or module.endswith(f".{pattern}") or _matches(pattern, module):
                return rank
        return self.rank

    def targets_of(self) -> str:
        """The targets in words."""
        return self.targets if isinstance(self.targets, str) else ", ".join(self.targets)


def _matches(pattern: str, module: str) -> bool:
    try:
        return re.fullmatch(rf"(.*\.)?({pattern})", module) is not None
    except re.error:
        return False


def read(path: Path) -> LoraConfig:
    """Read `adapter_config.json`.

    Raises:
        Damaged: it cannot be read, or says that the adapter is more than plain LoRA.
        OSError: it is not there or not readable.
    """
    if path.stat().st_size > LONGEST:
        raise Damaged("is far too long for a configuration")
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise Damaged("is not JSON") from None
    if not isinstance(values, dict):
        raise Damaged("is not a table of settings")
    _only_lora(values)
    rank: Any = values.get("r")
    alpha = values.get("lora_alpha", 8)
    if not _is_rank(rank):
        raise Damaged(f"has the rank {rank!r}; it must be a whole number from 1 to {HIGHEST_RANK}")
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not abs(alpha) < 1e6:
        raise Damaged(f"has lora_alpha {alpha!r}, which is no usable number")
    ranks = values.get("rank_pattern") or {}
    if not isinstance(ranks, dict) or not all(map(_is_rank, ranks.values())):
        raise Damaged("has a rank_pattern that cannot be used")
    mapping = values.get("auto_mapping")
    return LoraConfig(
        rank=rank,
        alpha=alpha,
        targets=_targets(values.get("target_modules")),
        base=_text(values.get("base_model_name_or_path")),
        architecture=_text(mapping.get("base_model_class") if isinstance(mapping, dict) else None),
        ranks=ranks,
        turned=values.get("fan_in_fan_out") is True,
    )


def _only_lora(values: Mapping[str, Any]) -> None:
    kind = values.get("peft_type")
    if kind != "LORA":
        raise Damaged(f"says that it is {kind!r}, not LORA")
    for setting in _MORE_THAN_LORA:
        if values.get(setting):
            raise Damaged(f"uses {setting}, which is more than plain LoRA")
    if values.get("bias", "none") != "none":
        raise Damaged(f"changes the model's biases (bias is {values['bias']!r})")
    beginning = values.get("init_lora_weights", True)
    if not any(beginning is known or beginning == known for known in _PLAIN_BEGINNINGS):
        raise Damaged(
            f"was begun by {beginning!r}, which changes the base; it must be saved as plain LoRA "
            "first (path_initial_model_for_weight_conversion of peft)"
        )


def _is_rank(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= HIGHEST_RANK


def _targets(value: object) -> tuple[str, ...] | str:
    if isinstance(value, str) and value:
        return value
    if isinstance(value, list) and value and all(isinstance(name, str) for name in value):
        return tuple(sorted(value))
    raise Damaged("names no target modules")


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
