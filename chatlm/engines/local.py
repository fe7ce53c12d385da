"""The engine that runs a model folder with torch and transformers, by its own decode loop."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from chatlm.engines.context import Fit, fit, reserve_of
from chatlm.engines.decode import Decoding
from chatlm.engines.devices import Placement, is_out_of_memory
from chatlm.engines.loading import load_model, load_tokenizer
from chatlm.engines.prefix import PrefixCache
from chatlm.engines.preview import costs, read_out
from chatlm.engines.samplers import Sampler
from chatlm.engines.stopping import EndTokenStoppingCriteria
from chatlm.engines.tokens import PromptTokenizer
from chatlm.errors import EngineError, OutOfMemoryError, UsageError
from chatlm.events import EngineEvent, Fitted, Prefill
from chatlm.generation import EngineInfo, Prompt, Request, prompt_hash
from chatlm.messages import Message, StopReason, Usage
from chatlm.sampling import DEFAULTS, Sampling
from chatlm.stopping import StopText

log = logging.getLogger(__name__)


class LocalEngine:
    """One model from a folder in the format of transformers.

    Args:
        name: what the person calls the model.
        folder: config.json, safetensors and tokenizer.
        placement: device and number format.
        prompt_format: one of `chatlm.engines.tokens.FORMATS`.
        context: at most this many tokens of context; None takes what the model has.
        suits: sampling known to suit the model, before what its own generation config says.

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
    ) -> None:
        self._model = load_model(name, folder, placement)
        end = self._model.generation_config.eos_token_id
        ends = end if isinstance(end, list) else [end] if end is not None else []
        self.tokens = PromptTokenizer(load_tokenizer(name, folder), prompt_format, ends)
        self._end = EndTokenStoppingCriteria(
            [[number] for number in {*ends, self.tokens.end_id} if number is not None]
            + self.tokens.end_sequences
        )
        self._prefixes = PrefixCache(self._model)
        self._lock = threading.Lock()
        suggested = (suits or Sampling()).over(_model_defaults(self._model))
        text_config = self._model.config.get_text_config()
        longest = getattr(text_config, "max_position_embeddings", None) or 2048
        self.info = EngineInfo(
            model=name,
            device=_devices(self._model),
            dtype=_dtype_name(self._model, placement),
            context_length=min(longest, context or longest),
            prompt_format=self.tokens.format,
            defaults=suggested.over(DEFAULTS),
            suggested=suggested,
            notes=tuple(self.tokens.notes),
            versions={name: version(name) for name in ("torch", "transformers", "tokenizers")},
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
            self._model = None
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def stream(self, request: Request) -> Generator[EngineEvent, None, None]:
        """See `Engine.stream`."""
        if request.adapter is not None:
            raise EngineError(
                f"No adapter {request.adapter} is loaded", hint="Go on without an adapter."
            )
        with self._lock, self._memory_errors():
            yield from self._generate(request)

    def read_ahead(self, request: Request) -> Generator[Prefill, None, None]:
        """See `Engine.read_ahead`."""
        with self._lock, self._memory_errors():
            prompt = self._fit(request, lambda: costs(self.tokens, request.messages))
            keys = self._prefixes.take(request.adapter)
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

    def _generate(self, request: Request) -> Iterator[EngineEvent]:
        started = time.perf_counter()
        sampling = request.sampling.over(self.info.defaults)
        request = dataclasses.replace(request, sampling=sampling)
        prompt = self._fit(request, lambda: costs(self.tokens, request.messages))
        keys = self._prefixes.take(request.adapter)
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
            detokenizer=self.tokens.detokenizer(prompt.ids[-8:] if go_on else ()),
            stops=StopText([*sampling.stop, *self.tokens.stop_texts]),
            format_stops=frozenset(self.tokens.stop_texts) - frozenset(sampling.stop),
            end=self._end,
            most=min(most, limit - total),
            at_most=StopReason.LENGTH if most <= limit - total else StopReason.CONTEXT_FULL,
            usage=Usage(prompt_tokens=total, cached_tokens=cached),
            started=started,
        )
        yield from decoding.run(keys, logits)


def _devices(model: Any) -> str:
    spread = getattr(model, "hf_device_map", None) or {"": model.device}
    names = {f"cuda:{place}" if isinstance(place, int) else str(place) for place in spread.values()}
    return "+".join(sorted(names))


def _dtype_name(model: Any, placement: Placement) -> str:
    if placement.quantization is not None:
        return "8bit" if placement.quantization.load_in_8bit else "4bit"
    return str(model.dtype).removeprefix("torch.")


def _model_defaults(model: Any) -> Sampling:
    """What the model's own generation config says, where chatlm can do it."""
    config, out = model.generation_config, Sampling()
    if config.do_sample is False and config.temperature is None:
        return out
    for name in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty"):
        try:
            out = Sampling.from_dict({name: getattr(config, name)}).over(out)
        except UsageError as error:
            log.warning("%s: left out: %s", model.name_or_path, error.message)
    return out
