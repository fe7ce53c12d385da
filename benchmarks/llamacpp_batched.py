"""Decode several sequences at once with llama.cpp, as its batched bench does: a child process.

`PYTHON llamacpp_batched.py GGUF THREADS PROMPT_TOKENS TOKENS COUNT…`, with a Python that has
llama-cpp-python; it imports nothing of chatlm. No tokens are sampled: each sequence gets the same
ones. Prints a JSON object with two numbers for each count: tokens per second with the prompts, and
without them.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import sys
import time
from typing import Any

TOKEN = 1000
"""Id of the tokens of all prompts and replies; their choice makes no difference to the time."""


class Bench:
    """One model in llama.cpp.

    Args:
        gguf: its file.
        threads: at least one.
    """

    def __init__(self, gguf: str, threads: int) -> None:
        self._llama: Any = importlib.import_module("llama_cpp")
        self._threads = threads
        self._model = self._llama.llama_model_load_from_file(
            gguf.encode(), self._llama.llama_model_default_params()
        )

    def run(self, count: int, prompt_tokens: int, tokens: int) -> tuple[float, float]:
        """Decode `tokens` of `count` sequences; return tokens/s with the prompts and without."""
        llama = self._llama
        options = llama.llama_context_default_params()
        options.n_ctx = count * (prompt_tokens + tokens + 8)
        options.n_seq_max = count
        options.n_batch = options.n_ubatch = 512
        options.n_threads = options.n_threads_batch = self._threads
        context = llama.llama_init_from_model(self._model, options)
        batch = llama.llama_batch_init(512, 0, 1)
        try:
            start = time.perf_counter()
            for sequence in range(count):
                self._decode(context, batch, [(sequence, at) for at in range(prompt_tokens)])
            read = time.perf_counter()
            for at in range(prompt_tokens, prompt_tokens + tokens):
                self._decode(context, batch, [(sequence, at) for sequence in range(count)])
            end = time.perf_counter()
        finally:
            llama.llama_batch_free(batch)
            llama.llama_free(context)
        return count * tokens / (end - start), count * tokens / (end - read)

    def _decode(self, context: Any, batch: Any, places: list[tuple[int, int]]) -> None:
        """Decode tokens, each given by its sequence and position; the last of each has logits."""
        batch.n_tokens = len(places)
        last = {sequence: index for index, (sequence, _) in enumerate(places)}
        for index, (sequence, position) in enumerate(places):
            batch.token[index], batch.pos[index] = TOKEN, position
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = sequence
            batch.logits[index] = last[sequence] == index
        if status := self._llama.llama_decode(context, batch):
            raise RuntimeError(f"llama_decode returned {status}")
        self._llama.llama_synchronize(context)


def main() -> None:
    """Measure and print the numbers."""
    gguf, threads, prompt_tokens, tokens, *counts = sys.argv[1:]
    llama: Any = importlib.import_module("llama_cpp")
    quiet = llama.llama_log_callback(lambda *_: None)
    llama.llama_log_set(quiet, ctypes.c_void_p(0))
    bench = Bench(gguf, int(threads))
    bench.run(1, 8, 8)  # reads the file
    found = {count: bench.run(int(count), int(prompt_tokens), int(tokens)) for count in counts}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
