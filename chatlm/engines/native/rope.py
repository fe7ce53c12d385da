"""Rotary position embeddings (RoPE): frequencies, their scaling, tables, and the rotation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from chatlm.engines.model import Unsupported
from chatlm.engines.native.elementwise import elementwise


@dataclass(frozen=True)
class RopeConfig:
    """How the positions of some layers are encoded."""

    inv_freq: tuple[float, ...]
    """Frequencies in radians per position: (rotary_dim // 2,)."""
    attention_factor: float = 1.0
    """Multiplies cosines and sines."""
    interleaved: bool = False
    """Whether a pair is two neighbouring values; otherwise it is two values half of rotary_dim
    apart."""
    long_inv_freq: tuple[float, ...] = ()
    """Frequencies of all positions of a text longer than `long_past` (longrope); empty for one
    set."""
    long_past: int | None = None
    """Tokens."""

    @property
    def rotary_dim(self) -> int:
        """How many values of a head rotate; those after them do not."""
        return 2 * len(self.inv_freq)


def read_rope(
    config: Mapping[str, Any],
    head_dim: int,
    *,
    layer_type: str | None = None,
    interleaved: bool = False,
) -> RopeConfig:
    """Return a model's RoPE with frequencies bit for bit as transformers computes them.

    Args:
        config: values of config.json.
        head_dim: of the model.
        layer_type: where `rope_parameters` has one entry per type of layer, which one to read.
        interleaved: see `RopeConfig`.

    Raises:
        Unsupported: the frequencies are scaled in a way that is not known.
    """
    rope: Mapping[str, Any] = {
        **(config.get("rope_scaling") or {}),
        **(config.get("rope_parameters") or {}),
    }
    if layer_type is not None and isinstance(rope.get(layer_type), Mapping):
        rope = rope[layer_type]
    kind = rope.get("rope_type") or rope.get("type") or "default"
    base = float(rope.get("rope_theta") or config.get("rope_theta") or 10_000.0)
    share = rope.get("partial_rotary_factor") or config.get("partial_rotary_factor") or 1.0
    # with "proportional" all pairs count, of which some have the frequency 0
    rotary_dim = head_dim if kind == "proportional" else int(head_dim * float(share))
    if not 2 <= rotary_dim <= head_dim or rotary_dim % 2:
        raise Unsupported(f"its RoPE rotates {rotary_dim} of {head_dim} values")
    inv_freq = 1.0 / (base ** (torch.arange(0, rotary_dim, 2, dtype=torch.float) / rotary_dim))
    factor = 1.0
    if kind == "longrope":
        return _read_longrope(base, rotary_dim, rope, config, interleaved)
    if kind == "default":
        scaled = inv_freq
    elif kind == "linear":
        scaled = inv_freq / rope["factor"]
    elif kind == "llama3":
        scaled = _scale_llama3(inv_freq, rope)
    elif kind == "proportional":
        turning = min(int(float(share) * head_dim // 2), head_dim // 2)
        scaled = 1.0 / base ** (torch.arange(0, 2 * turning, 2).float() / head_dim)
        scaled = torch.cat((scaled, torch.zeros(head_dim // 2 - turning)))
        scaled = scaled / rope.get("factor", 1.0)
    elif kind == "yarn":
        scaled, factor = _scale_yarn(base, rotary_dim, rope, config)
    else:
        raise Unsupported(f"its RoPE scaling is {kind}")
    return RopeConfig(tuple(scaled.tolist()), factor, interleaved)


def _scale_llama3(inv_freq: Tensor, rope: Mapping[str, Any]) -> Tensor:
    """Divide low frequencies by `factor`, keep high ones, and interpolate between them."""
    factor, low, high = rope["factor"], rope["low_freq_factor"], rope["high_freq_factor"]
    length = rope["original_max_position_embeddings"]
    wavelength = 2 * math.pi / inv_freq
    smooth = (length / wavelength - low) / (high - low)
    interpolated = (1 - smooth) * inv_freq / factor + smooth * inv_freq
    scaled = torch.where(wavelength > length / low, inv_freq / factor, inv_freq)
    is_medium = (wavelength <= length / low) & (wavelength >= length / high)
    return torch.where(is_medium, interpolated, scaled)


def _read_longrope(
    base: float,
    rotary_dim: int,
    rope: Mapping[str, Any],
    config: Mapping[str, Any],
    interleaved: bool,
) -> RopeConfig:
    """Return LongRoPE (https://arxiv.org/abs/2402.13753): a divisor for each frequency, of which
    there is one set for texts up to the original length and one for longer ones."""
    length = int(
        rope.get("original_max_position_embeddings") or config["original_max_position_embeddings"]
    )
    factor = rope.get("factor") or config["max_position_embeddings"] / length
    attention_factor = rope.get("attention_factor")
    if attention_factor is None:
        attention_factor = 1.0
        if factor > 1.0:
            attention_factor = math.sqrt(1 + math.log(factor) / math.log(length))
    exponents = torch.arange(0, rotary_dim, 2, dtype=torch.int64).float() / rotary_dim
    sets = []
    for name in ("short_factor", "long_factor"):
        divisors = torch.tensor(rope[name], dtype=torch.float32)
        if divisors.shape != exponents.shape:
            raise Unsupported(f"its RoPE has {divisors.numel()} divisors as {name}")
        sets.append(tuple((1.0 / (divisors * base**exponents)).tolist()))
    return RopeConfig(sets[0], float(attention_factor), interleaved, sets[1], length)


def _scale_yarn(
    base: float, rotary_dim: int, rope: Mapping[str, Any], config: Mapping[str, Any]
) -> tuple[Tensor, float]:
    """Return frequencies and attention factor of YaRN (https://arxiv.org/abs/2309.00071).

    Frequencies that turn more than `beta_fast` times within the original length are kept, those
    below `beta_slow` are divided by `factor`, and a ramp leads from one to the other.
    """
    length = rope["original_max_position_embeddings"]
    factor = rope.get("factor") or config["max_position_embeddings"] / length
    attention_factor = rope.get("attention_factor")
    if attention_factor is None:
        own, all_dims = rope.get("mscale"), rope.get("mscale_all_dim")
        attention_factor = _yarn_magnitude(factor, own if own and all_dims else 1.0)
        if own and all_dims:
            attention_factor /= _yarn_magnitude(factor, all_dims)

    def dimension(turns: float) -> float:
        return rotary_dim * math.log(length / (turns * 2 * math.pi)) / (2 * math.log(base))

    low, high = dimension(rope.get("beta_fast") or 32), dimension(rope.get("beta_slow") or 1)
    if rope.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rotary_dim - 1)
    if low == high:
        high += 0.001
    ramp = (torch.arange(rotary_dim // 2, dtype=torch.float32) - low) / (high - low)
    kept = 1 - ramp.clamp(0, 1)
    powers = base ** (torch.arange(0, rotary_dim, 2).to(torch.float) / rotary_dim)
    scaled = 1.0 / (factor * powers) * (1 - kept) + 1.0 / powers * kept
    return scaled, float(attention_factor)


def _yarn_magnitude(factor: float, scale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0


def rope_table(rope: RopeConfig, positions: int, *, long: bool = False) -> Tensor:
    """Return cosines, then sines, of the first positions: (positions, rotary_dim), float32.

    Args:
        rope: the RoPE.
        positions: how many.
        long: whether for texts longer than `long_past`.
    """
    inv_freq = (long and rope.long_inv_freq) or rope.inv_freq
    angles = torch.arange(positions, dtype=torch.float)[:, None] * torch.tensor(inv_freq)
    return torch.cat((angles.cos(), angles.sin()), dim=-1) * rope.attention_factor


class RopeTables:
    """The tables of all RoPEs of a model, for the same positions.

    Args:
        ropes: see `ModelConfig.ropes`.
        positions: how many.
        device: of the tables.
    """

    def __init__(
        self, ropes: Sequence[RopeConfig], positions: int, device: torch.device | str = "cpu"
    ) -> None:
        self.positions = positions
        self.tables = tuple(rope_table(rope, positions).to(device) for rope in ropes)
        """(positions, rotary_dim) each."""
        self._long_past = find_long_past(ropes)
        self._long_tables = self.tables
        if self._long_past is not None and positions > self._long_past:
            self._long_tables = tuple(
                rope_table(rope, positions, long=True).to(device) for rope in ropes
            )

    def for_length(self, length: int) -> tuple[Tensor, ...]:
        """Return the tables for a text of some tokens."""
        is_long = self._long_past is not None and length > self._long_past
        return self._long_tables if is_long else self.tables

    def rows(self, first: int, count: int, length: int | None = None) -> tuple[Tensor, ...]:
        """Return the rows of some positions of each table: (count, rotary_dim).

        Args:
            first: position.
            count: of positions.
            length: of the text; None if it ends with them.
        """
        tables = self.for_length(first + count if length is None else length)
        return tuple(table[first : first + count] for table in tables)


def find_long_past(ropes: Sequence[RopeConfig]) -> int | None:
    """Return the length past which all positions are encoded otherwise; None if there is none."""
    return next((rope.long_past for rope in ropes if rope.long_past is not None), None)


@dataclass(frozen=True)
class Rotation:
    """The angles of a block's positions, as `apply_rope` takes them."""

    cos: Tensor
    """(tokens, rotary_dim), as `sin`."""
    sin: Tensor
    interleaved: bool

    @classmethod
    def from_rows(cls, rope: RopeConfig, rows: Tensor) -> Rotation:
        """Make it from rows of `rope_table` in the dtype of the computation."""
        cosines, sines = rows.chunk(2, dim=-1)
        if rope.interleaved:
            return cls(
                cosines.repeat_interleave(2, dim=-1), sines.repeat_interleave(2, dim=-1), True
            )
        return cls(torch.cat((cosines, cosines), dim=-1), torch.cat((sines, sines), dim=-1), False)


def apply_rope(x: Tensor, rotation: Rotation) -> Tensor:
    """Rotate queries or keys, (heads, tokens, head_dim), by the angles of their positions."""
    if compiled := elementwise(x, rotation.cos, rotation.sin):
        return compiled.rotate(x, rotation.cos, rotation.sin, interleaved=rotation.interleaved)
    rotary_dim = rotation.cos.shape[-1]
    rotated = x[..., :rotary_dim]
    if rotation.interleaved:
        pairs = torch.stack((-rotated[..., 1::2], rotated[..., ::2]), dim=-1).flatten(-2)
    else:
        first, second = rotated.chunk(2, dim=-1)
        pairs = torch.cat((-second, first), dim=-1)
    rotated = rotated * rotation.cos + pairs * rotation.sin
    return rotated if rotary_dim == x.shape[-1] else torch.cat((rotated, x[..., rotary_dim:]), -1)
