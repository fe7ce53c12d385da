"""Read adapter_config.json and safetensors headers without loading any weights."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_CONFIG_BYTES = 1_000_000
"""Larger config files are refused."""


MAX_RANK = 1024


_UNSUPPORTED_SETTINGS = (
    "use_dora", "modules_to_save", "layer_replication", "target_parameters", "lora_bias",
    "trainable_token_indices", "use_qalora", "alora_invocation_tokens", "arrow_config",
)  # fmt: skip
"""Settings that change more than one pair of matrices per layer."""


_SUPPORTED_INITS = (True, False, None, "gaussian", "orthogonal")
"""Initializations that leave the base model unchanged; others change it."""


@dataclass(frozen=True)
class AdapterConfig:
    """The part of adapter_config.json that validation needs."""

    rank: int
    alpha: float
    target_modules: tuple[str, ...] | str
    """Suffixes of module names, or one regular expression."""
    base_model: str
    """Name or path of the base model, as its author wrote it; empty if missing."""
    architecture: str
    """Class of the base model; empty if missing."""
    rank_pattern: Mapping[str, int]
    """Exceptions to `rank`, by suffix or regular expression of the module name."""
    fan_in_fan_out: bool
    """Whether the base model stores its matrices as (inputs, outputs)."""

    def rank_of(self, module: str) -> int:
        """Return the rank of a module's matrices."""
        for pattern, rank in self.rank_pattern.items():
            if module == pattern or module.endswith(f".{pattern}") or _matches(pattern, module):
                return rank
        return self.rank

    def describe_targets(self) -> str:
        """Return the target modules as text."""
        return (
            self.target_modules
            if isinstance(self.target_modules, str)
            else ", ".join(self.target_modules)
        )


def _matches(pattern: str, module: str) -> bool:
    try:
        return re.fullmatch(rf"(.*\.)?({pattern})", module) is not None
    except re.error:
        return False


def read_config(path: Path) -> AdapterConfig:
    """Read `adapter_config.json`.

    Raises:
        InvalidAdapterFile: it is damaged, or the adapter is more than plain LoRA.
        OSError: it is missing or not readable.
    """
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise InvalidAdapterFile("is far too long for a configuration")
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise InvalidAdapterFile("is not JSON") from None
    if not isinstance(values, dict):
        raise InvalidAdapterFile("is not a table of settings")
    _require_plain_lora(values)
    rank: Any = values.get("r")
    alpha = values.get("lora_alpha", 8)
    if not _is_valid_rank(rank):
        raise InvalidAdapterFile(
            f"has the rank {rank!r}; it must be a whole number from 1 to {MAX_RANK}"
        )
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not abs(alpha) < 1e6:
        raise InvalidAdapterFile(f"has lora_alpha {alpha!r}, which is no usable number")
    ranks = values.get("rank_pattern") or {}
    if not isinstance(ranks, dict) or not all(map(_is_valid_rank, ranks.values())):
        raise InvalidAdapterFile("has a rank_pattern that cannot be used")
    mapping = values.get("auto_mapping")
    return AdapterConfig(
        rank=rank,
        alpha=alpha,
        target_modules=_parse_targets(values.get("target_modules")),
        base_model=_text_or_empty(values.get("base_model_name_or_path")),
        architecture=_text_or_empty(
            mapping.get("base_model_class") if isinstance(mapping, dict) else None
        ),
        rank_pattern=ranks,
        fan_in_fan_out=values.get("fan_in_fan_out") is True,
    )


def _require_plain_lora(values: Mapping[str, Any]) -> None:
    kind = values.get("peft_type")
    if kind != "LORA":
        raise InvalidAdapterFile(f"has the type {kind!r}, not LORA")
    for setting in _UNSUPPORTED_SETTINGS:
        if values.get(setting):
            raise InvalidAdapterFile(f"uses {setting}, which is not plain LoRA")
    if values.get("bias", "none") != "none":
        raise InvalidAdapterFile(f"changes the model's biases (bias is {values['bias']!r})")
    init = values.get("init_lora_weights", True)
    if not any(init is known or init == known for known in _SUPPORTED_INITS):
        raise InvalidAdapterFile(
            f"was initialized with {init!r}, which modifies the base weights; convert it to plain "
            "LoRA first (path_initial_model_for_weight_conversion of peft)"
        )


def _is_valid_rank(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_RANK


def _parse_targets(value: object) -> tuple[str, ...] | str:
    if isinstance(value, str) and value:
        return value
    if isinstance(value, list) and value and all(isinstance(name, str) for name in value):
        return tuple(sorted(value))
    raise InvalidAdapterFile("names no target modules")


def _text_or_empty(value: object) -> str:
    return value if isinstance(value, str) else ""


MAX_HEADER_BYTES = 20_000_000
"""The header of a model with a hundred thousand tensors is smaller."""


_EXPONENT_MASKS: Mapping[str, tuple[str, int]] = {
    "F32": ("uint32", 0x7F80_0000),
    "F16": ("uint16", 0x7C00),
    "BF16": ("uint16", 0x7F80),
}
"""For each dtype, the integer type of the same width and the exponent bits, which are all set in
infinities and NaN."""


class InvalidAdapterFile(Exception):
    """A file is not valid; the message is the rest of a sentence about the file."""


@dataclass(frozen=True)
class TensorEntry:
    """A tensor's entry in a safetensors header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    """Offset of the data in the file, in bytes."""
    end: int


def read_tensor_table(path: Path) -> dict[str, TensorEntry]:
    """Return the tensors of a safetensors file by name.

    Raises:
        InvalidAdapterFile: it is not a safetensors file, truncated or inconsistent.
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 10 or length > min(size - 8, MAX_HEADER_BYTES):
            raise InvalidAdapterFile("is truncated, or not a safetensors file")
        try:
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            found = {name: _parse_tensor_entry(entry, 8 + length) for name, entry in header.items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise InvalidAdapterFile("has an unreadable tensor table") from None
    place = 8 + length
    for name, tensor in sorted(found.items(), key=lambda item: item[1].start):
        if tensor.start != place:
            raise InvalidAdapterFile(f"has a gap or an overlap before the tensor {name}")
        place = tensor.end
    if place > size:
        raise InvalidAdapterFile(f"is truncated: {size:,} of {place:,} bytes present")
    if place < size:
        raise InvalidAdapterFile("has trailing data after the last tensor")
    return found


def _parse_tensor_entry(entry: Any, data_offset: int) -> TensorEntry:
    shape = tuple(int(number) for number in entry["shape"])
    start, end = (int(number) for number in entry["data_offsets"])
    if min((start, end - start, *shape)) < 0:
        raise ValueError("negative")
    tensor = TensorEntry(str(entry["dtype"]), shape, data_offset + start, data_offset + end)
    if tensor.dtype in _EXPONENT_MASKS:
        width = int(_EXPONENT_MASKS[tensor.dtype][0].removeprefix("uint")) // 8
        if math.prod(shape) * width != end - start:
            raise ValueError("shape and size differ")
    return tensor


def supported_dtypes() -> tuple[str, ...]:
    """Return the dtypes that `has_nonfinite` and `is_all_zero` read."""
    return tuple(_EXPONENT_MASKS)


def has_nonfinite(path: Path, tensor: TensorEntry) -> bool:
    """Return whether the tensor has infinities or NaN; its dtype is one of `supported_dtypes`."""
    mask = _EXPONENT_MASKS[tensor.dtype][1]
    return bool((_read_bits(path, tensor) & mask == mask).any())


def is_all_zero(path: Path, tensor: TensorEntry) -> bool:
    """Return whether all values of the tensor are 0; its dtype is one of `supported_dtypes`."""
    bits = _read_bits(path, tensor)
    sign = 1 << (bits.itemsize * 8 - 1)
    return not bool((bits & (sign - 1)).any())


def _read_bits(path: Path, tensor: TensorEntry) -> NDArray[np.unsignedinteger[Any]]:
    import numpy as np

    kind = np.dtype(_EXPONENT_MASKS[tensor.dtype][0])
    count = (tensor.end - tensor.start) // kind.itemsize
    return np.fromfile(path, kind, count, offset=tensor.start)


CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
"""peft's file names."""
