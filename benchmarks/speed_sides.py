"""The programs that the speed benchmark compares, behind one interface."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers.generation.streamers import BaseStreamer

from benchmarks.single_tokens import no_guesses
from chatlm import ModelLocation, load_pretrained
from chatlm.engines.devices import Placement
from chatlm.engines.local_engine import LocalEngine
from chatlm.engines.native.architectures.registry import read_config
from chatlm.types.events import Delta
from chatlm.types.messages import Message
from chatlm.types.requests import Request
from chatlm.types.sampling import Sampling

CPU = Placement({"": "cpu"}, torch.bfloat16)

_BITS = {"8-bit": (8.25, 8.25), "16-bit": (16.0, 16.0), "4-bit": (5.0, 8.25)}
"""Bits per weight of a format in the layers and in the output matrix, with scales."""


@dataclass(frozen=True)
class Timing:
    """Timing of one reply."""

    first_token: float
    """Seconds from the request to the first token."""
    tokens_per_second: float
    """After the first token."""


@dataclass(frozen=True)
class Prompt:
    """A prompt for all programs."""

    messages: tuple[Message, ...]
    ids: list[int]


class Side(Protocol):
    """One program with one format of the weights."""

    name: str
    bytes: float
    """Bytes of weights, with scales, that are read per token."""

    def reply(self, prompt: Prompt, tokens: int) -> Timing:
        """Prefill the prompt without a cache and decode `tokens` tokens greedily."""
        ...


class Chatlm:
    """chatlm's engine with all it does per token, except speculative decoding.

    Args:
        name: of the program; None to name it after the format of the layers' weights.
        folder: of the model.
        engine: the setting.
        weights: the setting.
    """

    def __init__(
        self, name: str | None, folder: Path, engine: str = "auto", weights: str = "auto"
    ) -> None:
        self.engine = LocalEngine.from_folder(
            name or weights, folder, CPU, engine=engine, weights=weights
        )
        self.form = self.engine.info.weights.partition(",")[0]
        self.name = name or f"chatlm {self.form}"
        layers, head = weights_of(folder)
        bits, head_bits = _BITS[self.form]
        self.bytes = (layers * bits + head * head_bits) / 8

    def reply(self, prompt: Prompt, tokens: int) -> Timing:
        """Generate and time a reply."""
        self.engine._prompt_cache.clear()
        sampling = Sampling(temperature=0.0, frequency_penalty=0.0, max_tokens=tokens)
        with no_guesses():
            return timed(
                event
                for event in self.engine.stream(Request(prompt.messages, sampling))
                if isinstance(event, Delta)
            )


def weights_of(folder: Path) -> tuple[int, int]:
    """Count the weights read per token: of the layers, and of the output matrix."""
    shape = read_config(folder)
    layers = sum(
        matrix.rows * matrix.columns
        for layer in shape.layers
        for matrix in layer.matrix_shapes(shape.hidden_size).values()
    )
    return layers, shape.vocab_size * shape.hidden_size


@contextmanager
def no_compiler() -> Iterator[None]:
    """Hide the C compiler and compiled kernels from chatlm."""
    previous = os.environ.get("CC")
    os.environ["CC"] = "no-compiler"
    try:
        yield
    finally:
        os.environ.pop("CC")
        if previous is not None:
            os.environ["CC"] = previous


class Transformers:
    """`generate()` of transformers with a streamer."""

    name = "transformers"

    def __init__(self, folder: Path) -> None:
        self.bytes = 2.0 * sum(weights_of(folder))
        self._model = load_pretrained(
            ModelLocation(self.name, folder, "chat"), device="cpu", dtype="bfloat16"
        )

    def reply(self, prompt: Prompt, tokens: int) -> Timing:
        """Generate and time a reply."""
        ids = torch.tensor([prompt.ids])
        clock = _Clock()
        start = time.perf_counter()
        with torch.inference_mode():
            self._model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), streamer=clock,
                max_new_tokens=tokens, do_sample=False,
            )  # fmt: skip
        return _timing(start, clock.times[1:])  # the first call has the prompt


class _Clock(BaseStreamer):
    """A streamer that records the time of each token."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: Any) -> None:
        """Record a token."""
        self.times.append(time.perf_counter())

    def end(self) -> None:
        """Do nothing at the end."""


class LlamaCpp:
    """llama.cpp through llama-cpp-python, with as many threads as torch."""

    def __init__(self, name: str, gguf: Path) -> None:
        self.name, self.bytes = name, float(gguf.stat().st_size)
        threads = torch.get_num_threads()
        self._llama = importlib.import_module("llama_cpp").Llama(
            str(gguf), n_ctx=4096, n_batch=512, n_threads=threads, n_threads_batch=threads,
            flash_attn=True, verbose=False,
        )  # fmt: skip

    def reply(self, prompt: Prompt, tokens: int) -> Timing:
        """Generate and time a reply."""
        self._llama.reset()
        ids = self._llama.generate(list(prompt.ids), temp=0.0, repeat_penalty=1.0, reset=False)
        return timed(next(ids) for _ in range(tokens))


def timed(events: Iterator[Any]) -> Timing:
    """Pull all events and time each."""
    start = time.perf_counter()
    return _timing(start, [time.perf_counter() for _ in events])


def _timing(start: float, times: list[float]) -> Timing:
    if len(times) < 16:
        raise RuntimeError(f"only {len(times)} tokens were generated")
    return Timing(times[0] - start, (len(times) - 1) / (times[-1] - times[0]))
