"""How the weights of a checkpoint were quantized, as its config.json says.

Sources: the config.json that GPTQModel, AutoAWQ and compressed-tensors write.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

BLOCK_COLUMNS = 32
"""Groups of columns that share a scale must consist of whole blocks of so many."""


class UnreadableQuantization(Exception):
    """chatlm itself cannot read these weights; the message says why."""


@dataclass(frozen=True)
class QuantizedLayout:
    """A layout of quantized weights that chatlm reads itself, without loss."""

    method: Literal["gptq", "awq", "compressed-tensors"]
    zero_offset: int = 0
    """What is added to the zero points in the file."""


def read_quantization(config: Mapping[str, Any]) -> QuantizedLayout | None:
    """Return the layout of a model's quantized weights; None if they are not quantized.

    Args:
        config: values of config.json.

    Raises:
        UnreadableQuantization: chatlm has no exact form for them.
    """
    settings = config.get("quantization_config")
    if not settings:
        return None
    method = settings.get("quant_method") if isinstance(settings, Mapping) else None
    if method == "gptq":
        return _read_gptq(settings)
    if method == "awq":
        return _read_awq(settings)
    if method == "compressed-tensors":
        return _read_compressed_tensors(settings)
    raise UnreadableQuantization(f"its weights are quantized with {method or 'an unnamed method'}")


def _read_gptq(settings: Mapping[str, Any]) -> QuantizedLayout:
    _check_bits("GPTQ", settings.get("bits"), (4, 8))
    _check_group_size("GPTQ", settings.get("group_size"))
    layout = settings.get("checkpoint_format") or "gptq"
    if layout not in ("gptq", "gptq_v2") or settings.get("is_marlin_format"):
        raise UnreadableQuantization(f"its GPTQ weights have the layout {layout}")
    if settings.get("dynamic"):
        raise UnreadableQuantization("GPTQ quantized its matrices in different ways (dynamic)")
    return QuantizedLayout("gptq", zero_offset=1 if layout == "gptq" else 0)


def _read_awq(settings: Mapping[str, Any]) -> QuantizedLayout:
    _check_bits("AWQ", settings.get("bits") or settings.get("w_bit"), (4,))
    _check_group_size("AWQ", settings.get("group_size") or settings.get("q_group_size"))
    version = str(settings.get("version") or "gemm").lower()
    if version != "gemm":
        raise UnreadableQuantization(f"its AWQ weights have the layout {version}")
    if not settings.get("zero_point", True):
        raise UnreadableQuantization("its AWQ weights have no zero points")
    return QuantizedLayout("awq")


def _read_compressed_tensors(settings: Mapping[str, Any]) -> QuantizedLayout:
    groups = settings.get("config_groups")
    if not isinstance(groups, Mapping) or not groups:
        raise UnreadableQuantization("its quantization_config names no groups of weights")
    for extra in ("kv_cache_scheme", "transform_config"):
        if settings.get(extra):
            raise UnreadableQuantization(f"compressed-tensors changed more than weights ({extra})")
    sparsity = (settings.get("sparsity_config") or {}).get("format") or "dense"
    if sparsity != "dense":
        raise UnreadableQuantization(f"its weights are sparse ({sparsity})")
    for group in groups.values():
        layout = group.get("format") or settings.get("format")
        if layout != "pack-quantized":
            raise UnreadableQuantization(f"its weights have compressed-tensors' layout {layout}")
        if group.get("input_activations") or group.get("output_activations"):
            raise UnreadableQuantization("its activations are quantized too")
        weights = group.get("weights") or {}
        if weights.get("type", "int") != "int" or weights.get("dynamic"):
            raise UnreadableQuantization(f"its weights are of the type {weights.get('type')}")
        _check_bits("compressed-tensors", weights.get("num_bits"), (4, 8))
        strategy = weights.get("strategy")
        if strategy not in ("group", "channel"):
            raise UnreadableQuantization(f"its weights share scales per {strategy}")
        if strategy == "group":
            _check_group_size("compressed-tensors", weights.get("group_size"))
    return QuantizedLayout("compressed-tensors")


def _check_bits(method: str, bits: Any, known: tuple[int, ...]) -> None:
    if bits not in known:
        raise UnreadableQuantization(f"{method} quantized its weights to {bits} bits")


def _check_group_size(method: str, size: Any) -> None:
    if size != -1 and (not isinstance(size, int) or size < 1 or size % BLOCK_COLUMNS):
        raise UnreadableQuantization(f"{method} quantized its weights in groups of {size}")
