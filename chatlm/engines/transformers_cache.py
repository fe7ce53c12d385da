"""Read prompts with transformers: in blocks, at once, or without a cache, as the model allows."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import DynamicCache

from chatlm.engines.devices import is_out_of_memory
from chatlm.engines.image_ids import plain_ids
from chatlm.engines.layer_checkpoints import Checkpoints, fill, has_state, read_block
from chatlm.engines.transformers_images import TransformersImages
from chatlm.hub.architecture import proven_modes

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PrefillMode:
    """How a model may read a prompt with the results of one plain forward pass."""

    kind: Literal["blocks", "whole", "uncached"]
    """In several blocks into one cache; at once, so that only single tokens follow; or without a
    cache, anew for each token."""
    positions: bool = False
    """Whether it must be told the positions of tokens, since it counts each block from 0."""

    @property
    def note(self) -> str:
        """What the user is told; empty for the usual kind."""
        return _NOTES.get(self.kind, "")

    def __str__(self) -> str:
        return f"{self.kind} with positions" if self.positions else self.kind


UNCACHED = PrefillMode("uncached")

PREFILL_MODES = (
    PrefillMode("blocks"),
    PrefillMode("blocks", positions=True),
    PrefillMode("whole"),
    PrefillMode("whole", positions=True),
    UNCACHED,
)
"""The fastest first."""

_NOTES: Mapping[str, str] = {
    "whole": (
        "The prompt is read at once and anew in each turn: with this architecture, transformers "
        "computes something else when it is read in blocks."
    ),
    "uncached": (
        "Each token is computed from the whole text, which is slow: with this architecture, "
        "transformers computes something else, or nothing, with a KV cache."
    ),
}

_CHECKED_BLOCK = 16
"""Tokens of each of the two blocks that are compared."""

_TOLERANCE = {torch.float32: 0.005}
"""Differences that rounding explains, as a part of the spread of the logits."""

_COARSE_TOLERANCE = 0.1
"""Likewise, of models in 16 bits or fewer."""


class TransformersCache:
    """The cache of one token sequence in transformers.

    Args:
        module: the model.
        mode: how it may be read.
        rope_switch: see `rope_switch`.
        activate: prepares the module for this sequence, such as its adapter.
        images: lets it read images; None for text alone.
        adapter: name of the one that `activate` activates.
    """

    def __init__(
        self,
        module: Any,
        mode: PrefillMode,
        rope_switch: int | None = None,
        activate: Callable[[], None] = lambda: None,
        images: TransformersImages | None = None,
        adapter: str | None = None,
    ) -> None:
        self._module = module
        self._mode = mode
        self._rope_switch = rope_switch
        self._activate = activate
        self._images = images
        self._adapter = adapter
        self._delta: int | None = None
        """By how much positions of text differ from indices, after images."""
        self._ids: list[int] = []
        self._checkpoints = Checkpoints()
        self._cache = self._new_cache()

    def prefill(self, ids: Sequence[int]) -> Tensor:
        """Add a block of tokens; return the last logits."""
        self._delta = None  # tokens may have been dropped
        logits = self._forward(ids)
        if self._mode.kind != "uncached":
            self._checkpoints.take(self._cache, len(self._ids))
        return logits

    def decode(self, ids: Sequence[int]) -> Tensor:
        """Add tokens one by one; return the logits after each."""
        return torch.stack([self._forward([token]) for token in ids])

    def _forward(self, ids: Sequence[int]) -> Tensor:
        self._activate()
        uncached = self._mode.kind == "uncached"
        if uncached or self._crosses_switch(len(self._ids), len(self._ids) + len(ids)):
            ids, self._ids = [*self._ids, *ids], []
            self._cache = self._new_cache()
        positions = range(len(self._ids), len(self._ids) + len(ids))
        extra: Mapping[str, Any] = {}
        plain = ids
        if self._images is not None:
            extra, self._delta = self._images.arguments(
                [*self._ids, *ids], len(self._ids), self._adapter, self._delta
            )
            plain = plain_ids(ids, self._images.feature_id)
        logits, self._cache = forward(
            self._module,
            plain,
            self._cache,
            use_cache=not uncached,
            positions=positions if self._mode.positions else None,
            extra=extra,
        )
        self._ids += ids
        return logits

    def truncate(self, length: int) -> int:
        """Drop all tokens after the first `length`, back to the border of a block if need be."""
        if length < len(self._ids) and self._mode.kind != "uncached":
            length = self._restore(length)
            if not length:
                self._cache = self._new_cache()
        del self._ids[length:]
        return length

    def _restore(self, length: int) -> int:
        """Take the cache back; return the tokens that are left, or 0 if it is spoilt."""
        now = len(self._ids)
        if not length or self._crosses_switch(length, now):
            return 0
        kept = self._checkpoints.restore(self._cache, now, length)
        return 0 if self._crosses_switch(kept, now) else kept

    @property
    def has_state(self) -> bool:
        """Whether windows or recurrent layers have more than full attention."""
        return has_state(self._cache)

    def read_block(self, start: int, end: int) -> Mapping[str, Tensor]:
        """Return keys and values of the layers with full attention."""
        return read_block(self._cache, start, end)

    def read_state(self, end: int) -> Mapping[str, Tensor] | None:
        """Return what windows and recurrent layers had at the end of a block."""
        if len(set((getattr(self._module, "hf_device_map", None) or {}).values())) > 1:
            return None
        return self._checkpoints.read(self._cache, end)

    def restore(
        self,
        ids: Sequence[int],
        ends: Sequence[int],
        blocks: Sequence[Mapping[str, Tensor]],
        state: Mapping[str, Tensor],
    ) -> None:
        """Fill the empty cache."""
        fill(self._cache, blocks, state, len(ids), self._module.device)
        self._ids = [*ids]
        self._checkpoints.take(self._cache, len(ids))

    def _new_cache(self) -> Any:
        """Return an empty cache; None for none, or where the model makes one of its own kind."""
        self._checkpoints.clear()
        own = not self._module._supports_default_dynamic_cache()
        if own or self._mode.kind == "uncached":
            return None
        return DynamicCache(config=self._module.config)

    def _crosses_switch(self, before: int, after: int) -> bool:
        """Whether positions are encoded otherwise after tokens were added."""
        return self._rope_switch is not None and 0 < before <= self._rope_switch < after


def forward(
    module: Any,
    ids: Sequence[int],
    cache: Any = None,
    *,
    use_cache: bool = False,
    positions: Sequence[int] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> tuple[Tensor, Any]:
    """Compute the logits after the last of some tokens.

    Args:
        module: a causal language model of transformers.
        ids: follow those in the cache.
        cache: takes up the tokens; None for a new one of the model's own kind.
        use_cache: whether there is a cache at all.
        positions: of the tokens; None if the model counts them itself.
        extra: further arguments.

    Returns:
        The logits, and the cache with the tokens.
    """
    device = module.device
    arguments: dict[str, Any] = {"use_cache": use_cache, "logits_to_keep": 1}
    if cache is not None:
        arguments["cache"] = cache
    if positions is not None:
        arguments["position_ids"] = torch.tensor([list(positions)], device=device)
    arguments |= extra or {}
    accepted = _arguments(type(module).forward)
    with torch.inference_mode():
        out = module(
            torch.tensor([list(ids)], device=device),
            **{name: value for name, value in arguments.items() if name in accepted},
        )
    return out.logits[0, -1], getattr(out, "cache", None)


@cache
def _arguments(forward_pass: Callable[..., Any]) -> frozenset[str]:
    """Return what a model's forward pass names; others it may take and ignore."""
    return frozenset(inspect.signature(forward_pass).parameters)


def rope_switch(config: Any) -> int | None:
    """Return the length past which a model with longrope encodes all positions otherwise.

    None for other models.
    """
    text_config = config.get_text_config()
    for rope in _rope_parameters(getattr(text_config, "rope_parameters", None)):
        if rope.get("rope_type") == "longrope":
            length = rope.get("original_max_position_embeddings")
            return length or getattr(text_config, "original_max_position_embeddings", None)
    return None


def _rope_parameters(values: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the RoPE settings, which may differ by kind of layer."""
    if isinstance(values, Mapping):
        yield values
        for value in values.values():
            yield from _rope_parameters(value)


def choose_mode(module: Any) -> PrefillMode:
    """Return the fastest mode in which a model gives the logits of a plain forward pass.

    Proven ones are known; others are compared here, over two blocks and the tokens that follow.

    Raises:
        Exception: the model cannot read text alone.
    """
    proven_with, modes = proven_modes()
    name = modes.get(module.config.model_type)
    proven = next((mode for mode in PREFILL_MODES if str(mode) == name), None)
    if proven and proven_with == version("transformers"):
        return proven
    # with another version, what the longer proof has found may escape the short check
    fastest = PREFILL_MODES.index(proven) if proven else 0
    for mode in PREFILL_MODES[fastest:-1]:
        if reads_exactly(module, mode):
            return mode
    forward(module, [0])
    return UNCACHED


def reads_exactly(module: Any, mode: PrefillMode) -> bool:
    """Compare a mode with plain forward passes, over two blocks and the tokens that follow.

    The blocks are much shorter than those of real prompts, so that a large model is checked in
    seconds: what a model does wrong with a cache, it does from the second block on.

    Raises:
        Exception: a plain forward pass fails.
    """
    size = min(module.config.get_text_config().vocab_size, 50_000)
    end = 2 * _CHECKED_BLOCK
    ids = [size // 3 + 7 * index % (size // 2) for index in range(end + 3)]
    expected = {count: forward(module, ids[:count])[0] for count in (end, end + 1, end + 3)}
    found = {}
    try:
        tokens = TransformersCache(module, mode)
        if mode.kind == "blocks":
            tokens.prefill(ids[:_CHECKED_BLOCK])
            found[end] = tokens.prefill(ids[_CHECKED_BLOCK:end])
        else:
            found[end] = tokens.prefill(ids[:end])
        found[end + 1] = tokens.decode(ids[end : end + 1])[0]
        if mode.kind == "blocks" and tokens.truncate(end) == end:
            found[end + 3] = tokens.prefill(ids[end:])
    except Exception as error:  # a model may raise anything
        if is_out_of_memory(error):
            raise
        log.info("%s, %s: %s", type(module).__name__, mode, error)
        return False
    return all(are_close(logits, expected[n], module.dtype) for n, logits in found.items())


def are_close(found: Tensor, expected: Tensor, dtype: torch.dtype) -> bool:
    """Whether rounding explains the difference of two logits of a model in this dtype."""
    difference = float((found.float() - expected.float()).abs().max())
    limit = _TOLERANCE.get(dtype, _COARSE_TOLERANCE) * float(expected.float().std())
    return difference <= limit  # False for NaN
