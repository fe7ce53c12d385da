"""Take the layers of a transformers cache back to the border of an earlier block.

Full attention can be cropped. A sliding window has dropped what an earlier token saw, and a
recurrent state has taken up what came later, so what they had at the ends of blocks is kept: of
windows the tokens behind them, which borders that lie close together share; of states a copy each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import (
    DummyLayer,
    DynamicIndexedLayer,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionAndSlidingWindowAttentionLayer,
    LinearAttentionLayer,
)

from chatlm.engines.kv_layout import KEPT_BEHIND_WINDOW, MAX_STATES, densest

_CROPPABLE = (DynamicLayer, DynamicIndexedLayer, DummyLayer)
"""Layers that keep all tokens."""

_RECURRENT = (
    LinearAttentionLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionAndSlidingWindowAttentionLayer,
)
"""Layers with a state of a fixed size."""

_KNOWN = (*_CROPPABLE, DynamicSlidingWindowLayer, *_RECURRENT)
"""A model's own kinds of layers, such as subclasses of these, may hold anything else."""

_FULL = (DynamicLayer, LinearAttentionAndFullAttentionLayer)
"""Layers that `read_block` reads."""

_SAVABLE = (*_FULL, DummyLayer, DynamicSlidingWindowLayer, LinearAttentionLayer)
"""Layers that `fill` can fill."""

_STATES = ("conv_states", "recurrent_states")
"""Attributes of recurrent layers: tensors by number."""

_TOKENS = frozenset({"keys", "values"})
"""Attributes with a row per token."""


@dataclass(frozen=True)
class _Segment:
    """The newest tokens of a window at the end of a block, at most as many as it sees."""

    keys: Tensor
    values: Tensor


@dataclass(frozen=True)
class Checkpoint:
    """What the layers had at the end of a block."""

    length: int
    """Tokens of the sequence."""
    windows: Mapping[int, _Segment]
    """By the index of the layer."""
    states: Mapping[int, Mapping[str, Any]]
    """Attributes by the index of the layer; they are never changed."""


class Checkpoints:
    """The checkpoints of one cache, which may be taken at the end of each block."""

    def __init__(self) -> None:
        self._taken: list[Checkpoint] = []
        """The newest last; none where all layers can be cropped."""

    def clear(self) -> None:
        """Drop all."""
        self._taken.clear()

    def take(self, cache: Any, length: int) -> None:
        """Keep what the layers have now.

        Args:
            cache: after the last checkpoint nothing was dropped from it.
            length: tokens in the cache.
        """
        if not _is_known(cache):
            return
        since = length - (self._taken[-1].length if self._taken else 0)
        windows, states = {}, {}
        for index, layer in enumerate(cache.layers):
            if type(layer) is DynamicSlidingWindowLayer:
                if layer.keys is not None and layer.values is not None:  # else another's
                    windows[index] = _Segment(
                        _last_tokens(layer.keys, since), _last_tokens(layer.values, since)
                    )
            elif type(layer) in _RECURRENT:
                states[index] = _copy_state(layer)
        if windows or states:
            self._taken.append(Checkpoint(length, windows, states))
            self._drop_old(cache)

    def restore(self, cache: Any, now: int, length: int) -> int:
        """Take a cache back to the newest border before a length, or to the length itself.

        Args:
            cache: as it was after the newest checkpoint, or with more tokens.
            now: tokens in the cache.
            length: the most tokens to keep.

        Returns:
            The tokens that are left; 0 if there is no such border, and then the cache is spoilt.
        """
        if not _is_known(cache):
            return length if _crop_unknown(cache, now - length) else 0
        if all(_is_whole(layer) for layer in cache.layers):
            cache.crop(length - now)
            self._taken = [each for each in self._taken if each.length <= length]
            return length
        while self._taken and (
            self._taken[-1].length > length or not _covers_windows(self._taken, cache)
        ):
            self._taken.pop()
        if not self._taken:
            return 0
        border = self._taken[-1]
        for index, layer in enumerate(cache.layers):
            if type(layer) in _CROPPABLE:
                layer.crop(border.length - now)
            elif type(layer) is LinearAttentionAndFullAttentionLayer:
                DynamicLayer.crop(layer, border.length - now)
            if index in border.windows:
                window = _window(self._taken, index, layer.sliding_window)
                layer.keys, layer.values = window.keys, window.values
                layer.cumulative_length = border.length
            for name, value in border.states.get(index, {}).items():
                setattr(layer, name, _copy(value))
        return border.length

    def read(self, cache: Any, end: int) -> dict[str, Tensor] | None:
        """Return what windows and states had at a checkpoint, by layer and attribute.

        None if there is no such checkpoint, or the layers are not all known.
        """
        if not has_state(cache):
            return {}
        upto = [each for each in self._taken if each.length <= end]
        if not is_savable(cache) or not upto or upto[-1].length != end:
            return None
        if not _covers_windows(upto, cache):
            return None
        found: dict[str, Tensor] = {}
        for index in upto[-1].windows:
            window = _window(upto, index, cache.layers[index].sliding_window)
            found |= {f"{index}.keys": window.keys, f"{index}.values": window.values}
        for index, state in upto[-1].states.items():
            for name in _STATES:
                for number, tensor in state[name].items():
                    if tensor is not None:
                        found[f"{index}.{name}.{number}"] = tensor
        return found

    def _drop_old(self, cache: Any) -> None:
        """Drop what lies too far behind, and states that lie close together."""
        newest = self._taken[-1]
        if newest.windows:
            reach = max(cache.layers[index].sliding_window for index in newest.windows)
            limit = newest.length - reach - KEPT_BEHIND_WINDOW
            self._taken = [each for each in self._taken if each.length > limit]
        while newest.states and len(self._taken) > MAX_STATES:
            self._taken = _without_densest(self._taken)


def _window(taken: Sequence[Checkpoint], index: int, size: int) -> _Segment:
    """Return what a window of this size saw at the newest checkpoint."""
    segments = [each.windows[index] for each in taken if index in each.windows]
    keys = torch.cat([each.keys for each in segments], dim=-2)
    values = torch.cat([each.values for each in segments], dim=-2)
    return _Segment(keys[..., 1 - size :, :], values[..., 1 - size :, :])


def _covers_windows(taken: Sequence[Checkpoint], cache: Any) -> bool:
    """Whether all tokens that the windows saw at the newest checkpoint are there."""
    newest = taken[-1]
    for index in newest.windows:
        needed = min(newest.length, cache.layers[index].sliding_window - 1)
        segments = [each.windows[index] for each in taken if index in each.windows]
        if sum(each.keys.shape[-2] for each in segments) < needed:
            return False
    return True


def has_state(cache: Any) -> bool:
    """Whether a cache has more than the keys and values that `read_block` returns."""
    return not _is_known(cache) or any(
        type(layer) not in (DynamicLayer, DummyLayer) for layer in cache.layers
    )


def is_savable(cache: Any) -> bool:
    """Whether `read_block` and `Checkpoints.read` return all that `fill` needs."""
    return _is_known(cache) and all(type(layer) in _SAVABLE for layer in cache.layers)


def read_block(cache: Any, start: int, end: int) -> dict[str, Tensor]:
    """Return copies of the keys and values of some tokens in layers with full attention."""
    found = {}
    for index, layer in enumerate(cache.layers):
        if type(layer) in _FULL and layer.is_initialized:
            found[f"{index}.keys"] = layer.keys[..., start:end, :].clone()
            found[f"{index}.values"] = layer.values[..., start:end, :].clone()
    return found


def fill(
    cache: DynamicCache,
    blocks: Sequence[Mapping[str, Tensor]],
    state: Mapping[str, Tensor],
    length: int,
    device: torch.device,
) -> None:
    """Fill an empty cache.

    Args:
        cache: of the same model.
        blocks: what `read_block` returned, of all tokens.
        state: what `Checkpoints.read` returned for the end of the last block.
        length: tokens of all blocks.
        device: of the model.
    """
    layers: Sequence[Any] = cache.layers
    for index, layer in enumerate(layers):
        parts = [state] if type(layer) is DynamicSlidingWindowLayer else blocks
        if f"{index}.keys" in parts[0]:
            keys, values = (
                torch.cat([part[f"{index}.{name}"] for part in parts], dim=-2).to(device)
                for name in ("keys", "values")
            )
            DynamicLayer.lazy_initialization(layer, keys, values)
            layer.keys, layer.values = keys, values
        if type(layer) is DynamicSlidingWindowLayer:
            layer.cumulative_length = length
            layer._sliding_window_tensor = layer._sliding_window_tensor.to(device)
        elif isinstance(layer, LinearAttentionLayer):
            _fill_states(layer, index, state, device)


def _fill_states(layer: Any, index: int, state: Mapping[str, Tensor], device: torch.device) -> None:
    for number in range(layer.number_of_states):
        for name in _STATES:
            tensor = state.get(f"{index}.{name}.{number}")
            if tensor is None:
                continue
            tensor = tensor.to(device)
            states: dict[str, Any] = {name: tensor, "state_idx": number}
            LinearAttentionLayer.lazy_initialization(layer, **states)
            getattr(layer, name)[number].copy_(tensor)
            layer.has_previous_state[number] = True


def _is_known(cache: Any) -> bool:
    return type(cache) is DynamicCache and all(type(layer) in _KNOWN for layer in cache.layers)


def _is_whole(layer: Any) -> bool:
    """Whether a layer can be cropped by itself: it keeps all tokens, up to now at least."""
    if type(layer) is DynamicSlidingWindowLayer:
        return bool(layer.get_seq_length() < layer.sliding_window)
    return type(layer) in _CROPPABLE


def _without_densest(taken: Sequence[Checkpoint]) -> list[Checkpoint]:
    """Merge the checkpoint with its successor whose loss costs least."""
    drop = densest([each.length for each in taken])
    dropped, following = taken[drop], taken[drop + 1]
    windows = {
        index: _joined(dropped.windows.get(index), segment)
        for index, segment in following.windows.items()
    }
    merged = Checkpoint(following.length, windows, following.states)
    return [*taken[:drop], merged, *taken[drop + 2 :]]


def _joined(left: _Segment | None, right: _Segment) -> _Segment:
    if left is None:
        return right
    return _Segment(
        torch.cat([left.keys, right.keys], dim=-2), torch.cat([left.values, right.values], dim=-2)
    )


def _last_tokens(rows: Tensor, count: int) -> Tensor:
    return rows[..., max(0, rows.shape[-2] - count) :, :].clone()


def _copy_state(layer: Any) -> dict[str, Any]:
    """Copy all that a layer has, apart from what can be cropped."""
    cropped = _TOKENS if type(layer) is LinearAttentionAndFullAttentionLayer else frozenset()
    return {name: _copy(value) for name, value in vars(layer).items() if name not in cropped}


def _copy(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: _copy(each) for key, each in value.items()}
    return value


def _crop_unknown(cache: Any, removed: int) -> bool:
    """Crop a cache of a model's own kind, if it can."""
    try:
        cache.crop(-removed)
    except (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError):
        return False
    return True
