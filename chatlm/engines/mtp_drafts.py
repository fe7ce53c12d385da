"""Drafts by a model's own layer for them (multi-token prediction, MTP), as Qwen 3.5 has it.

The layer reads what the model computed of each token together with the embedding of the token
after it, and predicts the one after that. Further tokens of a draft follow from what the layer
itself computed instead. It attends to the newest tokens only, from which the model's hidden states
are still known; a draft changes no reply in any case, see `chatlm.engines.speculative`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chatlm.engines.draft_length import DraftLength
from chatlm.engines.draft_model import choose_drafts
from chatlm.engines.model import ModelInfo, Unsupported
from chatlm.engines.native.c_decoder import CDecoder
from chatlm.engines.native.forward import prefill
from chatlm.engines.native.hidden_states import HiddenStates
from chatlm.engines.native.kv_cache import KVCache, SequenceInput
from chatlm.engines.native.model import NativeCache, NativeModel
from chatlm.engines.native.norms import rms_norm
from chatlm.engines.native.weight_reader import read_mtp_weights
from chatlm.engines.native.weights import MatMul, MtpWeights
from chatlm.engines.prompt_cache import common_prefix_length
from chatlm.engines.samplers import Sampler

MAX_TEXT = 1024
"""Tokens in the layer's KV cache, after which it starts anew with the newest ones."""


class MtpDrafter:
    """A model's own layer for drafts, and its KV cache for the newest text.

    Args:
        name: as the user calls it.
        model: that has the layer; its caches keep hidden states from now on.
        weights: of the layer.

    Raises:
        Unsupported: the C kernel does not run the model, or a matrix is damaged.
        MemoryError: there is not enough memory for the layer.
    """

    def __init__(self, name: str, model: NativeModel, weights: MtpWeights) -> None:
        mtp, decoder = model.config.mtp, model.decoder
        if mtp is None or not isinstance(decoder, CDecoder):
            raise Unsupported("only chatlm's own engine on the CPU runs such a layer")
        self.name = name
        self.length = DraftLength()
        """How long drafts are."""
        self._own = CDecoder(
            decoder.kernel, mtp.model, weights.model, decoder.weight_format,
            torch.get_num_threads(), decoder.head,
        )  # fmt: skip
        info = ModelInfo("cpu", "", 0, model.info.eos_token_ids, model.info.recommended_sampling)
        self._layer = NativeModel(mtp.model, self._own.weights, self._own, info, model.kv_format)
        self._projection: MatMul = self._own.pack_linear(weights.projection)
        self._embedding_norm, self._hidden_norm = weights.embedding_norm, weights.hidden_norm
        self._final_norm = model.weights.norm
        self._ends = frozenset(model.info.eos_token_ids)
        model.keep_hidden_states(decoder)
        self.forget()

    def forget(self) -> None:
        """Drop the KV cache."""
        config, dtype = self._layer.config, self._own.kv_dtype
        self._cache = KVCache(config, dtype, "cpu", self._layer.kv_format)
        self._ids: list[int] = []
        """The tokens whose embeddings it has read."""
        self._start = 0
        """Position of the first of them."""

    def draft(
        self, ids: Sequence[int], cache: Any, sampler: Sampler, vocab_size: int, limit: int
    ) -> list[int]:
        """Return tokens that may follow a text, see `Drafter`."""
        if not isinstance(cache, NativeCache) or not self.length.choose(limit):
            return []
        states = cache.hidden_states
        if states.end != len(ids) - 1 or states.start == states.end:
            return []  # nothing was read since the cache came from the disk
        try:
            return self._draft(ids, states, sampler.fork(), vocab_size, limit)
        except BaseException:  # even an interrupt leaves keys without their values
            self.forget()
            raise

    def _draft(
        self,
        ids: Sequence[int],
        states: HiddenStates,
        sampler: Sampler,
        vocab_size: int,
        limit: int,
    ) -> list[int]:
        unread_from = self._start + common_prefix_length(self._ids, ids[self._start :])
        unread_from = min(unread_from, len(ids) - 1)  # the last one gives the logits
        if unread_from <= states.start or len(ids) - self._start > MAX_TEXT:
            self.forget()
            self._start = unread_from = states.start + 1
        del self._ids[unread_from - self._start :]
        self._cache.length = len(self._ids)
        unread = list(ids[unread_from:])
        count = self.length.choose(limit, len(unread))
        if not count:
            return []
        started = time.perf_counter()
        hidden = rms_norm(states.since(unread_from - 1), self._final_norm, self._eps, torch.float32)
        is_short = len(unread) <= self._layer.max_step_tokens
        with torch.inference_mode():
            logits, hidden = self._read(unread, hidden)
        self._ids += unread
        if not is_short:
            self.length.record_reading(len(unread), time.perf_counter() - started)

        def read_next(token: int) -> Tensor:
            nonlocal hidden
            with torch.inference_mode():
                logits, hidden = self._read([token], hidden)
            return logits

        tokens = choose_drafts(logits, read_next, sampler, vocab_size, count, self._ends)
        if is_short and tokens:
            self.length.record_draft(len(tokens), time.perf_counter() - started)
        return tokens

    @property
    def _eps(self) -> float:
        return self._layer.config.rms_norm_eps

    def _read(self, ids: Sequence[int], hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Read tokens, each with the hidden state of the one before it, normalized.

        Returns:
            The logits after the last one, (vocab_size,), and its own hidden state, normalized:
            (1, hidden_size).
        """
        layer, cache, eps = self._layer, self._cache, self._eps
        embeddings = layer.weights.embed_tokens(torch.tensor(ids))
        joined = [
            rms_norm(embeddings, self._embedding_norm, eps, torch.float32),
            rms_norm(hidden, self._hidden_norm, eps, torch.float32),
        ]
        inputs = self._projection(torch.cat(joined, 1))
        ropes = layer.ropes(cache.length + len(ids))
        if len(ids) <= layer.max_step_tokens:
            states = torch.empty(len(ids), layer.config.hidden_size)
            logits = self._own.decode(
                [SequenceInput(cache, ids)], ropes, inputs=inputs, hidden=states
            )[-1]
        else:
            kept: list[Tensor] = []
            logits = prefill(
                layer.config, layer.weights, cache, ids, ropes,
                attend=self._own.prompt_attention, inputs=inputs, keep=kept.append,
            )  # fmt: skip
            (states,) = kept
        return logits, rms_norm(states[-1:], layer.weights.norm, eps, torch.float32)


def load_mtp(name: str, folder: Path, model: NativeModel) -> MtpDrafter:
    """Load a model's own layer for drafts.

    Args:
        name: as the user calls it.
        folder: of the model.
        model: loaded.

    Raises:
        Unsupported: it has none, or the C kernel does not run the model.
    """
    try:
        return MtpDrafter(name, model, read_mtp_weights(folder, model.config))
    except MemoryError as error:
        raise Unsupported("there is not enough memory for its layer") from error
