"""KV caches of several sequences in one context of llama.cpp, which grows with them."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from chatlm import ModelError, find_images, is_image_id
from chatlm_llamacpp.images import MAX_CHUNK_TOKENS, ImagePiece, LlamaImages
from chatlm_llamacpp.library import forwarder
from chatlm_llamacpp.owned import Owned

FIRST_CAPACITY = 2048
"""Tokens of each sequence that a context has room for at first: it takes its memory at once."""

_CAPACITY_STEP = 256
"""llama.cpp rounds to multiples of it."""

CHUNK_TOKENS = 64
"""Tokens that are computed between two moments at which Ctrl-C is noticed."""


@dataclass(frozen=True)
class ContextOptions:
    """How a context is made."""

    max_capacity: int
    """Limit of tokens of a sequence."""
    sequences: int
    """Number of sequences in the context; further ones wait outside."""
    threads: int
    type_k: int
    type_v: int
    """Numbers of ggml types."""
    swa_full: bool
    grows: bool = True
    """Whether a small context computes the same as a large one."""


class LlamaCache:
    """The KV cache of one token sequence.

    Args:
        context: computes it.
        adapter: of the sequence; None for none.
    """

    def __init__(self, context: LlamaContext, adapter: Owned | None) -> None:
        self.adapter = adapter
        self.length = 0
        self.folded: list[tuple[int, int, int]] = []
        """Pieces of images with fewer positions than tokens: the index of the first token, that
        after the last, and by how many."""
        self.slot: int | None = None
        """Its number in the context; None while it is outside."""
        self.state: bytearray | None = None
        """What it holds while it is outside."""
        self._context = context

    def prefill(self, ids: Sequence[int]) -> Tensor:
        """Add a block of a prompt, which may have images; return the logits after its last token.

        After an image they are NaN: the template writes at least a token before anything is chosen.
        """
        self._context.reserve(self.length + len(ids))
        return self._context.prefill(self, ids)

    def decode(self, ids: Sequence[int]) -> Tensor:
        """Add generated tokens; return the logits after each."""
        return self._context.decode([self], [ids])

    def truncate(self, length: int) -> int:
        """Drop all tokens after the first `length`, or more where the model's memory requires it;
        return the number of those that are kept."""
        return self._context.truncate(self, length)

    def position(self, length: int) -> int:
        """Return the position of the token after the first `length`."""
        return length - sum(fewer for _, stop, fewer in self.folded if stop <= length)


class LlamaContext:
    """A context of llama.cpp with several sequences.

    Args:
        api: see `load_library`.
        model: the loaded model.
        options: how the context is made.
        images: how the model reads images; None if it cannot.
    """

    def __init__(
        self, api: Any, model: Owned, options: ContextOptions, images: LlamaImages | None = None
    ) -> None:
        self._api = api
        self._model = model
        self._images = images
        self._options = options
        self._vocab_size = int(api.llama_vocab_n_tokens(api.llama_model_get_vocab(model.pointer)))
        batch = api.llama_batch_init(max(CHUNK_TOKENS, options.sequences), 0, 1)
        self._batch = Owned(batch, api.llama_batch_free)
        self._owners: list[weakref.ref[LlamaCache] | None] = [None] * options.sequences
        """Which cache each slot holds."""
        self._recent: list[int] = list(range(options.sequences))
        """Slots, the least recently used first."""
        first = FIRST_CAPACITY if options.grows else options.max_capacity
        self.capacity = 0
        self._adapter: Owned | None = None
        self._context: Owned | None = None
        self._open(min(first, options.max_capacity))

    def new_cache(self, adapter: Owned | None = None) -> LlamaCache:
        """Return an empty KV cache."""
        return LlamaCache(self, adapter)

    def decode(self, caches: Sequence[LlamaCache], ids: Sequence[Sequence[int]]) -> Tensor:
        """Add tokens to several caches; return the logits after each."""
        inputs = list(zip(caches, ids, strict=True))
        self.reserve(max(cache.length + len(own) for cache, own in inputs))
        passes: list[list[tuple[LlamaCache, Sequence[int]]]] = []
        for each in inputs:
            newest = passes[-1] if passes else []
            same = newest and newest[0][0].adapter is each[0].adapter
            if same and len(newest) < self._options.sequences:
                newest.append(each)
            else:
                passes.append([each])
        return torch.cat([self.compute(each, True) for each in passes])

    def reserve(self, length: int) -> None:
        """Make room for sequences of a length.

        Raises:
            MemoryError: there is not enough memory; what the context holds stays.
        """
        if length <= self.capacity:
            return
        if length > self._options.max_capacity:
            raise ValueError(f"{length} tokens are more than {self._options.max_capacity}")
        for slot in range(len(self._owners)):
            self._put_outside(slot)
        old, self.capacity = self.capacity, 0
        self._close()
        try:
            self._open(min(max(length, 2 * old), self._options.max_capacity))
        except MemoryError:
            self._open(old)
            raise

    def prefill(self, cache: LlamaCache, ids: Sequence[int]) -> Tensor:
        """Add a block of a prompt that there is room for; see `LlamaCache.prefill`."""
        units = find_images(ids) if self._images is not None else []
        logits, start = torch.full((self._vocab_size,), torch.nan), 0
        for unit in units:
            for piece in self._images.pieces(ids, unit) if self._images is not None else ():
                first = next(at for at in range(start, unit.stop) if is_image_id(ids[at]))
                if not all(map(is_image_id, ids[first : first + piece.tokens])):
                    raise RuntimeError("the tokens of an image are not where llama.cpp reads it")
                self._prefill_text(cache, ids[start:first])
                self._prefill_image(cache, piece)
                start = first + piece.tokens
        return logits if start == len(ids) else self._prefill_text(cache, ids[start:])

    def _prefill_text(self, cache: LlamaCache, ids: Sequence[int]) -> Tensor:
        logits = torch.empty(0)
        for start in range(0, len(ids), CHUNK_TOKENS):
            (logits,) = self.compute([(cache, ids[start : start + CHUNK_TOKENS])], False)
        return logits

    def _prefill_image(self, cache: LlamaCache, piece: ImagePiece) -> None:
        """Add a piece of an image, whose tokens may see each other in both directions."""
        if self._images is None:
            raise ValueError("the model reads no images")
        mtmd = self._images.mtmd
        self._use_adapter(cache.adapter)
        (slot,) = self._bring_inside([cache])
        end = ctypes.c_int32()
        status = mtmd.mtmd_helper_decode_image_chunk(
            self._images.context.pointer,
            self._pointer,
            piece.chunk.pointer,
            piece.embeddings.ctypes.data_as(ctypes.POINTER(ctypes.c_float)),
            cache.position(cache.length),
            slot,
            self._batch_tokens,
            ctypes.byref(end),
            mtmd.mtmd_helper_post_decode_callback(),
            None,
        )
        if status != 0:
            kind = MemoryError if status == -2 else RuntimeError
            raise kind(f"mtmd_helper_decode_image_chunk returned {status}")
        if end.value != cache.position(cache.length) + piece.positions:
            raise RuntimeError("an image has other positions than mtmd says")
        start, cache.length = cache.length, cache.length + piece.tokens
        if piece.positions != piece.tokens:
            cache.folded.append((start, cache.length, piece.tokens - piece.positions))

    @property
    def _batch_tokens(self) -> int:
        """Maximum tokens of one pass."""
        images = MAX_CHUNK_TOKENS if self._images is not None else 0
        return max(CHUNK_TOKENS, self._options.sequences, images)

    def compute(self, inputs: Sequence[tuple[LlamaCache, Sequence[int]]], every: bool) -> Tensor:
        """Add tokens to caches with the same adapter, in one pass; return logits.

        Args:
            inputs: caches that there is room for, and their new tokens; few enough for a batch.
            every: whether to return logits after each token, or only after the last.

        Raises:
            MemoryError: there is not enough memory.
            RuntimeError: llama.cpp failed.
        """
        self._use_adapter(inputs[0][0].adapter)
        slots = self._bring_inside([cache for cache, _ in inputs])
        batch = self._batch.pointer
        index = 0
        for (cache, ids), slot in zip(inputs, slots, strict=True):
            for position, token in enumerate(ids, cache.position(cache.length)):
                batch.token[index] = token
                batch.pos[index] = position
                batch.n_seq_id[index] = 1
                batch.seq_id[index][0] = slot
                batch.logits[index] = every
                index += 1
        batch.n_tokens = index
        batch.logits[index - 1] = True
        status = self._api.llama_decode(self._pointer, batch)
        if status != 0:
            kind = MemoryError if status == -2 else RuntimeError
            raise kind(f"llama_decode returned {status}")
        for cache, ids in inputs:
            cache.length += len(ids)
        return torch.stack([self._logits(row) for row in range(0 if every else index - 1, index)])

    def truncate(self, cache: LlamaCache, length: int) -> int:
        """Drop all tokens of a cache after the first `length`, or all if that is not possible.

        Returns:
            The tokens that are kept.
        """
        if length >= cache.length:
            return cache.length
        # an image whose tokens share positions goes as a whole
        length = min([length, *(start for start, stop, _ in cache.folded if start < length < stop)])
        if length and self._remove_tokens(cache, length):
            cache.length = length
            cache.folded = [each for each in cache.folded if each[1] <= length]
            return length
        if cache.slot is not None:
            self._free_slot(cache.slot)
        cache.slot, cache.state, cache.length, cache.folded = None, None, 0, []
        return 0

    def _remove_tokens(self, cache: LlamaCache, length: int) -> bool:
        (slot,) = self._bring_inside([cache])
        position = cache.position(length)
        window = self._api.llama_model_n_swa(self._model.pointer)
        first = self._api.llama_memory_seq_pos_min(self._memory, slot)
        if window and first > max(0, position - window + 1):  # what the next token sees is gone
            return False
        return bool(self._api.llama_memory_seq_rm(self._memory, slot, position, -1))

    def forget_adapter(self, adapter: Owned) -> None:
        """Take an adapter out of the context before it is freed."""
        if self._adapter is adapter:
            self._use_adapter(None)

    @property
    def _pointer(self) -> Any:
        if self._context is None:
            raise MemoryError("there is no memory for a context")
        return self._context.pointer

    @property
    def _memory(self) -> Any:
        return self._api.llama_get_memory(self._pointer)

    def _open(self, capacity: int) -> None:
        api, options = self._api, self._options
        capacity += -capacity % _CAPACITY_STEP
        params = api.llama_context_default_params()
        params.n_ctx = capacity * options.sequences
        params.n_seq_max = options.sequences
        params.kv_unified = False  # so that no reply depends on where another one lies
        params.n_batch = params.n_ubatch = self._batch_tokens
        params.n_outputs_max = options.sequences
        params.n_outputs_max_per_seq = options.sequences
        params.n_threads = params.n_threads_batch = options.threads
        params.type_k, params.type_v = options.type_k, options.type_v
        params.swa_full = options.swa_full
        params.no_perf = True
        forwarder.errors.clear()
        pointer = api.llama_init_from_model(self._model.pointer, params)
        if not pointer:
            reason = forwarder.cause()
            if "allocate" in reason:
                raise MemoryError(f"{reason} of {capacity} tokens")
            raise ModelError(
                f"llama.cpp cannot make a KV cache for this model: {reason}",
                hint="`chatlm config set plugins.llamacpp.type_k f16` and the same with type_v "
                "suit every model.",
            )
        self._context = Owned(pointer, api.llama_free, self._model)
        self._adapter = None
        self.capacity = capacity

    def _close(self) -> None:
        if self._context is not None:
            self._context.free()
            self._context = None

    def _use_adapter(self, adapter: Owned | None) -> None:
        if adapter is self._adapter:
            return
        pointers = [adapter.pointer] if adapter else []
        adapters = (self._api.llama_adapter_lora_p_ctypes * 1)(*pointers)
        scales = (ctypes.c_float * 1)(1.0)
        status = self._api.llama_set_adapters_lora(self._pointer, adapters, len(pointers), scales)
        if status != 0:
            raise RuntimeError(f"llama_set_adapters_lora returned {status}")
        self._adapter = adapter

    def _logits(self, row: int) -> Tensor:
        pointer = self._api.llama_get_logits_ith(self._pointer, row)
        return torch.from_numpy(np.ctypeslib.as_array(pointer, (self._vocab_size,)).copy())

    def _bring_inside(self, caches: Sequence[LlamaCache]) -> list[int]:
        """Return the slots of caches, which others may have to leave."""
        used = {cache.slot for cache in caches}
        for cache in caches:
            if cache.slot is None:
                slot = next(iter(self._free_slots()), None)
                if slot is None:
                    slot = next(each for each in self._recent if each not in used)
                    self._put_outside(slot)
                used.add(slot)
                self._fill_slot(slot, cache)
        slots = [cache.slot for cache in caches if cache.slot is not None]
        self._recent = [*(slot for slot in self._recent if slot not in slots), *slots]
        return slots

    def _free_slots(self) -> Iterable[int]:
        return (slot for slot in range(len(self._owners)) if self._owner(slot) is None)

    def _owner(self, slot: int) -> LlamaCache | None:
        reference = self._owners[slot]
        cache = reference() if reference is not None else None
        # an interrupt may have come before the cache knew its slot
        return cache if cache is not None and cache.slot == slot else None

    def _fill_slot(self, slot: int, cache: LlamaCache) -> None:
        self._free_slot(slot)
        self._owners[slot] = weakref.ref(cache)
        if cache.state is not None:
            size = len(cache.state)
            data = (ctypes.c_uint8 * size).from_buffer(cache.state)
            if self._api.llama_state_seq_set_data(self._pointer, data, size, slot) != size:
                raise RuntimeError("llama_state_seq_set_data failed")
        cache.slot = slot
        cache.state = None

    def _free_slot(self, slot: int) -> None:
        self._owners[slot] = None
        self._api.llama_memory_seq_rm(self._memory, slot, -1, -1)

    def _put_outside(self, slot: int) -> None:
        """Copy what a slot holds to its cache."""
        cache = self._owner(slot)
        if cache is None:
            return
        size = self._api.llama_state_seq_get_size(self._pointer, slot)
        state = bytearray(size)
        data = (ctypes.c_uint8 * size).from_buffer(state)
        if self._api.llama_state_seq_get_data(self._pointer, data, size, slot) != size:
            raise RuntimeError("llama_state_seq_get_data failed")
        cache.state = state
        cache.slot = None
        self._owners[slot] = None
