"""The engine that runs a model folder by its own decode loop; how is for `ways` to choose."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import torch

from chatlm.engines.adapters import Adapters, FindAdapter, no_adapter
from chatlm.engines.context import Fit, fit, reserve_of
from chatlm.engines.decode import Decoding
from chatlm.engines.devices import Placement, is_out_of_memory
from chatlm.engines.prefix import KeyValues, PrefixCache
from chatlm.engines.preview import costs, read_out
from chatlm.engines.samplers import Sampler
from chatlm.engines.stopping import EndTokenStoppingCriteria
from chatlm.engines.together import Begun, together
from chatlm.engines.tokens import PromptTokenizer
from chatlm.engines.ways import load, load_tokenizer
from chatlm.errors import OutOfMemoryError
from chatlm.events import EngineEvent, Fitted, Prefill
from chatlm.generation import EngineInfo, Prompt, Request, prompt_hash
from chatlm.messages import Message, StopReason, Usage
from chatlm.models.folder import count_weights
from chatlm.sampling import DEFAULTS, Sampling
from chatlm.stopping import StopText


class LocalEngine:
    """One model from a folder in the format of transformers.

    Args:
        name: what the person calls the model.
        folder: config.json, safetensors and tokenizer.
        placement: device and number format.
        prompt_format: one of `chatlm.engines.tokens.FORMATS`.
        context: at most this many tokens of context; None takes what the model has.
        suits: sampling known to suit the model, before what its own generation config says.
        fast: one of `chatlm.engines.ways.FORMATS`, or off.
        find_adapter: finds the adapters that requests name.

    Raises:
        ModelError: the folder does not hold a model that can be used.
        OutOfMemoryError: the device's memory does not hold it.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        placement: Placement,
        *,
        prompt_format: str = "auto",
        context: int | None = None,
        suits: Sampling | None = None,
        fast: str = "auto",
        find_adapter: FindAdapter = no_adapter,
    ) -> None:
        model = load(name, folder, placement, fast)
        about = model.about
        self.tokens = PromptTokenizer(load_tokenizer(name, folder), prompt_format, about.ends)
        self._end = EndTokenStoppingCriteria(
            [[number] for number in {*about.ends, self.tokens.end_id} if number is not None]
            + self.tokens.end_sequences
        )
        self._adapters = Adapters(model, find_adapter)
        self._prefixes = PrefixCache()
        self._lock = threading.Lock()
        suggested = (suits or Sampling()).over(about.suggested)
        self.info = EngineInfo(
            model=name,
            device=about.device,
            dtype=about.dtype,
            context_length=min(about.context, context or about.context),
            prompt_format=self.tokens.format,
            defaults=suggested.over(DEFAULTS),
            suggested=suggested,
            notes=(*about.notes, *self.tokens.notes),
            versions={name: version(name) for name in ("torch", "transformers", "tokenizers")},
            weights=count_weights(folder),
        )

    def preview(self, request: Request) -> Prompt:
        """See `Engine.preview`."""
        counted = costs(self.tokens, request.messages)
        prompt = self._fit(request, lambda: counted)
        return Prompt(
            tokens=tuple(read_out(self.tokens, request.messages, prompt.kept)),
            costs=counted,
            left_out=prompt.left_out,
            limit=self.info.context_length,
            reserve=reserve_of(request, self.info),
            hash=prompt_hash(prompt.ids),
        )

    def count_tokens(self, messages: Iterable[Message]) -> int:
        """See `Engine.count_tokens`."""
        return len(self.tokens.encode(list(messages)))

    def close(self) -> None:
        """Free the model's memory; the engine is of no use afterwards."""
        with self._lock:
            self._prefixes.clear()
            self._adapters.close()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def stream(self, request: Request) -> Generator[EngineEvent, None, None]:
        """See `Engine.stream`."""
        with self._lock, self._memory_errors():
            yield from self._generate(request)

    def stream_many(
        self, requests: Iterable[Request]
    ) -> Generator[tuple[int, EngineEvent], None, None]:
        """See `chatlm.stream_many`."""
        with self._lock, self._memory_errors():
            yield from together(self._adapters.model, requests, self._begin_anew)

    def read_ahead(self, request: Request) -> Generator[Prefill, None, None]:
        """See `Engine.read_ahead`."""
        with self._lock, self._memory_errors():
            prompt = self._fit(request, lambda: costs(self.tokens, request.messages))
            keys = self._keys(request.adapter)
            keys.keep(prompt.ids)
            for done in keys.read(prompt.ids):
                yield Prefill(done, len(prompt.ids))

    @contextmanager
    def _memory_errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            self._prefixes.clear()
            raise OutOfMemoryError(
                f"The memory of {self.info.device} is full",
                hint="The chat is saved. Start a new chat, lower `chatlm config set context`, "
                "or choose a smaller model.",
            ) from error

    def _fit(self, request: Request, costs: Callable[[], Sequence[int]]) -> Fit:
        messages = request.messages
        return fit(
            messages,
            lambda kept: self.tokens.encode([messages[index] for index in kept]),
            costs,
            limit=self.info.context_length,
            reserve=reserve_of(request, self.info),
        )

    def _keys(self, adapter: str | None) -> KeyValues:
        return self._prefixes.take(adapter, self._adapters.take(adapter))

    def _generate(self, request: Request) -> Iterator[EngineEvent]:
        begun = yield from self._begin(request, self._keys(request.adapter))
        yield from begun.decoding.run(begun.keys)

    def _begin_anew(self, request: Request) -> Generator[EngineEvent, None, Begun]:
        """The same as `_begin`, with keys and values that no other request has."""
        return (yield from self._begin(request, KeyValues(self._adapters.take(request.adapter))))

    def _begin(self, request: Request, keys: KeyValues) -> Generator[EngineEvent, None, Begun]:
        """Fit the prompt and read it."""
        started = time.perf_counter()
        sampling = request.sampling.over(self.info.defaults)
        request = dataclasses.replace(request, sampling=sampling)
        prompt = self._fit(request, lambda: costs(self.tokens, request.messages))
        cached = keys.keep(prompt.ids)
        total, limit = len(prompt.ids), self.info.context_length
        most = sampling.max_tokens or limit
        left_out = tuple(request.messages[index] for index in prompt.left_out)
        yield Fitted(total, limit, left_out, cached, prompt_hash(prompt.ids))
        for done in keys.read(prompt.ids):
            yield Prefill(done, total)
        logits = keys.logits
        go_on = bool(request.messages) and request.messages[-1].role == "assistant"
        decoding = Decoding(
            prompt=prompt.ids,
            request=request,
            sampler=Sampler(sampling, torch.tensor(prompt.ids), logits.shape[-1], logits.device),
            token_bytes=self.tokens.token_bytes,
            detokenizer=self.tokens.detokenizer(prompt.ids[-8:] if go_on else ()),
            stops=StopText([*sampling.stop, *self.tokens.stop_texts]),
            format_stops=frozenset(self.tokens.stop_texts) - frozenset(sampling.stop),
            end=self._end,
            most=min(most, limit - total),
            at_most=StopReason.LENGTH if most <= limit - total else StopReason.CONTEXT_FULL,
            usage=Usage(prompt_tokens=total, cached_tokens=cached),
            started=started,
        )
        return Begun(decoding, keys)
