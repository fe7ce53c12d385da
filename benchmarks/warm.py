"""Time to the first token of a long chat: warm, cold, and after a restart.

Run it with `python -m benchmarks.warm`. Models have the shapes of real ones with random weights,
fewer layers where that keeps the run short, and the default model's tokenizer; the time does not
depend on the weights. With `--gguf` they are GGUF files of the same families in one size, which
chatlm and llama.cpp run in turn, both below chatlm's prompt cache. Measured is the ninth turn of a
chat of 1,600 tokens whose last message has about 40: read anew, with what the eighth turn left, and
after reading ahead. Then a chat of 4,000 tokens is continued by a new engine on the loaded model,
with the KV cache on disk and without. Whether all replies are the same is printed, too. Nothing
here is a pass or a fail.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from benchmarks.families import write_random
from benchmarks.speed_sides import CPU
from chatlm.engines.load import load
from chatlm.engines.local_engine import LocalEngine
from chatlm.engines.saved_caches import SavedCaches
from chatlm.engines.tokenizer import load_tokenizer
from chatlm.hub import pull
from chatlm.types.events import Delta, PromptReady
from chatlm.types.messages import Message
from chatlm.types.requests import Request
from chatlm.types.runtimes import GgufModel
from chatlm.types.sampling import Sampling

DEFAULT = "smollm2-135m-instruct"

_COMMON: dict[str, Any] = {
    "vocab_size": 49152,
    "max_position_embeddings": 8192,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}

SHAPES: Mapping[str, tuple[str, dict[str, Any]]] = {
    "gemma3": (
        "gemma3_text",
        {
            "hidden_size": 640, "intermediate_size": 2048, "num_hidden_layers": 18,
            "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256,
            "sliding_window": 512, "query_pre_attn_scalar": 256,
        },
    ),
    "gpt_oss": (
        "gpt_oss",
        {
            "hidden_size": 2880, "intermediate_size": 2880, "num_hidden_layers": 2,
            "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 64,
            "num_local_experts": 8, "num_experts_per_tok": 4, "sliding_window": 128,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "qwen3_5": (
        "qwen3_5_text",
        {
            "hidden_size": 1024, "intermediate_size": 3584, "num_hidden_layers": 8,
            "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 256,
            "linear_num_key_heads": 16, "linear_num_value_heads": 16,
            "linear_key_head_dim": 128, "linear_value_head_dim": 128,
            "layer_types": (["linear_attention"] * 3 + ["full_attention"]) * 2,
        },
    ),
    "lfm2": (
        "lfm2",
        {
            "hidden_size": 1024, "intermediate_size": 6656, "num_hidden_layers": 16,
            "num_attention_heads": 16, "num_key_value_heads": 8,
            "full_attn_idxs": [2, 5, 8, 10, 12, 14],
        },
    ),
    "granite-hybrid": (
        "granitemoehybrid",
        {
            "hidden_size": 768, "intermediate_size": 2048, "shared_intermediate_size": 2048,
            "num_hidden_layers": 8, "num_attention_heads": 12, "num_key_value_heads": 4,
            "num_local_experts": 0, "num_experts_per_tok": 0, "position_embedding_type": "nope",
            "mamba_n_heads": 48, "mamba_d_head": 32, "mamba_d_state": 128, "mamba_expand": 2,
            "layer_types": (["linear_attention"] * 3 + ["full_attention"]) * 2,
        },
    ),
}  # fmt: skip
"""The model type and sizes of Gemma 3 270M, gpt-oss-20b with 2 layers and 8 experts, Qwen3.5 0.8B
with 8 layers, LFM2 350M, and Granite 4.0 H 350M with 8 layers."""

GGUF: Mapping[str, str] = {
    "default": "llama", "gemma3": "gemma3", "gpt_oss": "gpt-oss", "qwen3_5": "qwen35",
    "lfm2": "lfm2", "granite-hybrid": "granitehybrid",
}  # fmt: skip
"""Which rows of `benchmarks.families.SPEED` have the structures of the models."""

CONTEXT = 8192

TURNS, CHAT_TOKENS, LONG_TOKENS = 9, 1600, 4000

QUESTION = "Which of all those places would you visit first, in what season of the year, and why? "


@dataclass(frozen=True)
class Result:
    """First tokens of one model with one engine, in seconds."""

    model: str
    engine: str
    """What runs it, and how it holds its weights."""
    prompt_tokens: int
    """Of the ninth turn."""
    message_tokens: int
    """That the last message adds."""
    cold: float
    """Everything is read."""
    reused: float
    """What the eighth turn read is reused."""
    read_ahead: float
    """The eighth reply was read ahead, too."""
    read_in_vain: int
    """Tokens that were read ahead and then not used."""
    long_tokens: int
    restart_cold: float
    """A new engine reads everything."""
    restart: float
    """A new engine takes the KV cache from disk."""
    saved_mb: float
    same_text: bool
    """Whether all replies were the same."""


def make_folder(folder: Path, name: str, *, gguf: bool = False) -> Path:
    """Return the folder of a model; one with random weights is written."""
    if gguf:
        folder.mkdir(parents=True)
        return write_random(GGUF[name], folder, max_position_embeddings=CONTEXT)
    default = pull.ensure_model(DEFAULT).folder
    if name == "default":
        return default
    kind, sizes = SHAPES[name]
    torch.manual_seed(0)
    config = CONFIG_MAPPING[kind](**_COMMON, **sizes)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    for path in default.iterdir():
        if path.name.startswith(
            ("tokenizer", "special_tokens", "chat_template", "vocab", "merges")
        ):
            shutil.copy(path, folder)
    return folder


def make_chat(engine: LocalEngine, tokens: int) -> list[Message]:
    """Return a chat of nine turns with this many tokens, the last reply missing."""
    words = "The river rose in spring and the people of the village moved their goats uphill. "
    question = Message("user", QUESTION + "Please say it in a few short sentences.")
    size = 1
    while True:
        chat = []
        for number in range(TURNS - 1):
            chat += [
                Message("user", f"Tell me more about place {number}, please."),
                Message("assistant", " ".join([f"Place {number}.", *[words] * size])),
            ]
        if engine.count_tokens([*chat, question]) >= tokens:
            return [*chat, question]
        size += 1


def first_token(engine: LocalEngine, request: Request) -> tuple[float, int, int, str]:
    """Return the seconds to the first token, cached and all tokens of the prompt, and the text."""
    began, at, text = time.perf_counter(), 0.0, ""
    with closing(engine.stream(request)) as events:
        for event in events:
            if isinstance(event, PromptReady):
                ready = event
            elif isinstance(event, Delta):
                at = at or time.perf_counter() - began
                text += event.text
    return at, ready.cached_tokens, ready.prompt_tokens, text


def measure(name: str, folder: Path, engine_setting: str, caches: Path) -> Result:
    """Measure one model."""
    runtimes = {"llamacpp": _open_by_llamacpp}
    model = load(name, folder, CPU, engine_setting, context=CONTEXT, runtimes=runtimes)
    tokenizer = load_tokenizer(name, folder)
    saved_in = caches / name

    def open_engine() -> LocalEngine:
        saved = SavedCaches(name + engine_setting, 10**10)
        return LocalEngine(name, model, tokenizer, context=CONTEXT, saved_caches=saved)

    sampling = Sampling(temperature=0.8, seed=1, max_tokens=4)
    engine = open_engine()
    chat = make_chat(engine, CHAT_TOKENS)
    request, before = Request(tuple(chat), sampling), Request(tuple(chat[:-2]), sampling)
    first_token(engine, Request(tuple(chat[:1]), sampling))  # allocations, compiled code
    engine._prompt_cache.clear()
    cold, _, prompt_tokens, text = first_token(engine, request)
    engine._prompt_cache.clear()
    first_token(engine, before)
    reused, _, _, text_reused = first_token(engine, request)
    engine._prompt_cache.clear()
    ahead = [event.done for event in engine.read_ahead(Request(tuple(chat[:-1]), sampling))]
    read_ahead, cached, _, text_ahead = first_token(engine, request)
    message = prompt_tokens - engine.count_tokens(chat[:-1])
    long_chat = make_chat(engine, LONG_TOKENS)
    engine._prompt_cache.clear()
    long_request = Request(tuple(long_chat), sampling)
    restart_cold, _, long_tokens, text_long = first_token(engine, long_request)
    kept = Request(tuple(long_chat[:-1]), sampling, cache_folder=saved_in)
    list(engine.read_ahead(kept))
    engine._prompt_cache.clear()
    restart, _, _, text_restart = first_token(
        open_engine(), Request(tuple(long_chat), sampling, cache_folder=saved_in)
    )
    # llama.cpp's caches are not kept on disk
    size = sum(path.stat().st_size for path in saved_in.glob("*")) / 1e6
    return Result(
        name,
        f"{type(model).__name__}, {model.info.weights}",
        prompt_tokens,
        message,
        cold,
        reused,
        read_ahead,
        ahead[-1] - cached,
        long_tokens,
        restart_cold,
        restart,
        size,
        text == text_reused == text_ahead and text_long == text_restart,
    )


def _open_by_llamacpp(model: GgufModel) -> Any:
    from chatlm_llamacpp.model import open_model
    from chatlm_llamacpp.settings import Settings

    return open_model(model, Settings())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Time the first token of long chats.")
    names = ["default", *SHAPES]
    parser.add_argument("--only", choices=names, action="append", help="may be given repeatedly")
    parser.add_argument("--engine", default="auto", help="auto or transformers")
    parser.add_argument(
        "--gguf", action="store_true", help="GGUF files, in chatlm and in llama.cpp"
    )
    parser.add_argument("--folder", type=Path, help="where models are kept between runs")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = []
    engines = ("auto", "llamacpp") if options.gguf else (options.engine,)
    for name in options.only or names:
        with tempfile.TemporaryDirectory() as place:
            home = (options.folder or Path(place)) / f"{name}{'-gguf' if options.gguf else ''}"
            folder = home / "made" if options.gguf else home
            if not folder.exists():
                folder = make_folder(home, name, gguf=options.gguf)
            for engine in engines:
                result = measure(name, folder, engine, Path(place) / f"caches-{engine}")
                results.append(result)
                if not options.json:
                    print_result(result)
    if options.json:
        print(json.dumps([asdict(each) for each in results]))


def print_result(result: Result) -> None:
    """Print a table of one model."""
    print(f"\n{result.model}, {result.engine}; same text: {'yes' if result.same_text else 'NO'}")
    print(f"  turn 9, {result.prompt_tokens:,} tokens, {result.message_tokens} of them new")
    for label, seconds in (("reuse", result.reused), ("reuse, read ahead", result.read_ahead)):
        print(f"    {label:18} {seconds * 1000:8.0f} ms   {result.cold / seconds:5.1f} x")
    print(f"    {'nothing reused':18} {result.cold * 1000:8.0f} ms")
    print(f"    tokens read ahead in vain: {result.read_in_vain}")
    print(f"  restart, {result.long_tokens:,} tokens, {result.saved_mb:.0f} MB on disk")
    gain = result.restart_cold / result.restart
    print(f"    {'from disk':18} {result.restart * 1000:8.0f} ms   {gain:5.1f} x")
    print(f"    {'read again':18} {result.restart_cold * 1000:8.0f} ms", flush=True)


if __name__ == "__main__":
    main()
