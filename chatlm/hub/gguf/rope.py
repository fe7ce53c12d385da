"""Rotary position embeddings of a GGUF file, in the form of transformers' `rope_parameters`."""

from __future__ import annotations

import math
from typing import Any

from chatlm.hub.gguf.file import GgufError, GgufFile
from chatlm.hub.gguf.hyperparameters import Hyperparameters, shortest_float
from chatlm.hub.gguf.tensor_data import read_values

ROPE_TENSORS = ("rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight")
"""Divisors of the frequencies, which are settings and no weights."""


_LLAMA3 = {
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
"""The settings of Llama 3.1 to 3.3, the only ones that llama.cpp's converter writes."""


def read_rope(
    parameters: Hyperparameters, head_dim: int, context_length: int, *, partial: bool = False
) -> dict[str, Any]:
    """Return the `rope_parameters` of a file.

    Args:
        parameters: the file's settings.
        head_dim: dimensions of a head.
        context_length: in tokens.
        partial: whether the architecture may rotate a part of each head.

    Raises:
        GgufError: its scaling cannot be expressed exactly.
    """
    rope: dict[str, Any] = {
        "rope_type": "default",
        "rope_theta": parameters.number("rope.freq_base", 10000.0),
    }
    rotated = parameters.integer("rope.dimension_count", head_dim)
    if rotated != head_dim:
        share = rotated / head_dim
        if not partial or not 0 < share < 1 or int(head_dim * share) != rotated:
            raise parameters.unsupported("rope.dimension_count", rotated)
        rope["partial_rotary_factor"] = share
    return rope | _scaling(parameters, rope["rope_theta"], rotated, context_length)


def _scaling(
    parameters: Hyperparameters, theta: float, rotated: int, context_length: int
) -> dict[str, Any]:
    kind = parameters.text("rope.scaling.type", "linear")
    # files without a factor, or with 0, do not scale
    old = parameters.number("rope.scale_linear", 0.0)
    factor = parameters.number("rope.scaling.factor", old) or 1.0
    original = parameters.integer("rope.scaling.original_context_length", context_length)
    attention = parameters.number("rope.scaling.attn_factor", 1.0)
    tensors = [name for name in ROPE_TENSORS if name in parameters.file.tensors]
    if tensors and (factor != 1.0 or kind == "yarn"):
        raise parameters.unsupported("rope.scaling.type", f"{kind} with {tensors[0]}")
    if tensors == ["rope_freqs.weight"]:
        if attention != 1.0:
            raise parameters.unsupported("rope.scaling.attn_factor", attention)
        return _from_frequencies(parameters.file, theta, rotated, context_length)
    if tensors:
        if tensors != list(ROPE_TENSORS[1:]):
            raise parameters.unsupported("rope.scaling.type", f"only {', '.join(tensors)}")
        short, long = (_factors(parameters.file, name, rotated) for name in tensors)
        return _longrope(short, long, original, attention)
    if kind == "yarn":
        return _yarn(parameters, factor, original, attention)
    if attention != 1.0:
        raise parameters.unsupported("rope.scaling.attn_factor", attention)
    if kind == "none" or (kind == "linear" and factor == 1.0):
        return {}
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    raise parameters.unsupported("rope.scaling.type", kind)


def _yarn(
    parameters: Hyperparameters, factor: float, original: int, attention: float
) -> dict[str, Any]:
    parameters.require("rope.scaling.yarn_ext_factor", 1.0)
    parameters.require("rope.scaling.yarn_log_multiplier", 0.0)
    rope: dict[str, Any] = {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": original,
    }
    for key in ("beta_fast", "beta_slow"):
        if f"rope.scaling.yarn_{key}" in parameters:
            rope[key] = parameters.number(f"rope.scaling.yarn_{key}")
    if "rope.scaling.yarn_attn_factor" in parameters:
        # transformers' attention_factor as it is, while attn_factor multiplies the usual one
        rope["attention_factor"] = parameters.number("rope.scaling.yarn_attn_factor")
        if attention != 1.0:
            raise parameters.unsupported("rope.scaling.attn_factor", attention)
    elif attention != 1.0:
        rope["attention_factor"] = attention * (0.1 * math.log(max(factor, 1.0)) + 1.0)
    return rope


def _longrope(
    short: list[float], long: list[float], original: int, attention: float
) -> dict[str, Any]:
    return {
        "rope_type": "longrope",
        "short_factor": short,
        "long_factor": long,
        "original_max_position_embeddings": original,
        "attention_factor": attention,
    }


def _from_frequencies(
    file: GgufFile, theta: float, rotated: int, context_length: int
) -> dict[str, Any]:
    """Find the settings that give these divisors of the frequencies.

    Those that Llama 3's rule cannot give are kept one by one: longrope with the same factors for
    short and long texts.
    """
    factors = _factors(file, "rope_freqs.weight", rotated)
    largest = max(factors)
    if all(factor == 1.0 for factor in factors):
        return {}
    expected = _llama3_factors(theta, rotated, largest)
    if all(math.isclose(*pair, rel_tol=1e-5) for pair in zip(factors, expected, strict=True)):
        return {"rope_type": "llama3", "factor": largest, **_LLAMA3}
    return _longrope(factors, factors, context_length, 1.0)


def _llama3_factors(theta: float, rotated: int, factor: float) -> list[float]:
    original = _LLAMA3["original_max_position_embeddings"]
    low, high = _LLAMA3["low_freq_factor"], _LLAMA3["high_freq_factor"]
    factors = []
    for index in range(0, rotated, 2):
        rotations = original / (2 * math.pi * theta ** (index / rotated))
        if rotations > high:
            factors.append(1.0)
        elif rotations < low:
            factors.append(factor)
        else:
            smooth = (rotations - low) / (high - low)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return factors


def read_rotated_share(parameters: Hyperparameters, head_dim: int) -> float:
    """Return which share of a head is rotated, as Gemma 4's files say it: by divisors so large that
    the rest stands still.

    Raises:
        GgufError: there are other divisors.
    """
    if "rope_freqs.weight" not in parameters.file.tensors:
        return 1.0
    factors = _factors(parameters.file, "rope_freqs.weight", head_dim)
    rotated = factors.count(1.0)
    if factors[:rotated] != [1.0] * rotated or any(f < _STANDS_STILL for f in factors[rotated:]):
        raise parameters.unsupported("rope_freqs.weight", factors)
    return 2 * rotated / head_dim


_STANDS_STILL = 1e29


def _factors(file: GgufFile, name: str, rotated: int) -> list[float]:
    factors = [shortest_float(value) for value in read_values(file, name).flatten().tolist()]
    if len(factors) != rotated // 2 or not all(0 < factor < math.inf for factor in factors):
        raise GgufError(
            f"{file.path.name} is damaged: {name} does not hold {rotated // 2} positive numbers.",
            "Download it again, from another source if it stays so.",
        )
    return factors
