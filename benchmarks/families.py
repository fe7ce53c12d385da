"""Compare each family with a native decoder: logits with transformers, speed with llama.cpp.

Logits: tiny random models in float32, the largest difference over prompts in blocks and single
tokens, in units of their spread. Speed: random models of 0.1 billion weights in Q8_0, and Gemma 3
270M's real file, each in chatlm and llama.cpp in turns, with the share of the text on which both
agree for the real one.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.peer_environments import peer_python
from benchmarks.sizes_check import agreement
from benchmarks.sizes_run import LeftOut, peer_command, real_file, run_child
from chatlm.engines.devices import Placement
from chatlm.engines.load import load
from chatlm.engines.native.model import NativeModel
from tests import gguf_files
from tests.engine import tiny

PROMPT, REPLY = 100, 40
"""Tokens whose logits are compared."""

SPEED_PROMPT, SPEED_REPLY = 64, 128
"""Tokens around the timed ones; the second are timed."""

SIZES: Mapping[str, Any] = {
    "vocab_size": 32_000, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 8,
    "num_attention_heads": 16, "num_key_value_heads": 4, "max_position_embeddings": 4096,
}  # fmt: skip
"""Of the random models whose speed is measured."""

HEAD_DIM = 64

MATRICES = {
    r"(attn_(q|k|v|qkv|output)|ffn_(up|gate|down)(_exps)?|token_embd|output)\.weight": "Q8_0"
}

SPEED: Mapping[str, Mapping[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "gemma": {},
    "gemma2": {"sliding_window": 512, "query_pre_attn_scalar": 64},
    "gemma3": {"sliding_window": 512, "query_pre_attn_scalar": 64},
    "phi3": {"sliding_window": None},
    "granite": {"attention_multiplier": 0.125},
    "olmo2": {},
    "smollm3": {},
    "glm4": {},
}
"""Originals of `tests.gguf_files`, and what differs from `SIZES` besides."""

REAL = "gemma3-270m"

REAL_TARGET = 1.3
"""Speed of the real file, relative to llama.cpp."""


@dataclasses.dataclass(frozen=True)
class Logits:
    """How near a family's logits are to transformers'."""

    family: str
    difference: float
    """The largest, in units of the spread."""


@dataclasses.dataclass(frozen=True)
class Speed:
    """Tokens per second with one file, medians."""

    family: str
    chatlm: float
    llama_cpp: float | None
    ratio: float | None
    agreement: float | None = None
    """Share of llama.cpp's greedy text that chatlm would write as well."""


def compare_logits(family: str) -> Logits:
    """Compare a variant of `tiny` with transformers."""
    with tempfile.TemporaryDirectory() as place, torch.inference_mode():
        folder = tiny.save(Path(place), family)
        model = _open(folder, torch.float32)
        generator = torch.Generator().manual_seed(2)
        ids = torch.randint(model.config.vocab_size, (PROMPT + REPLY,), generator=generator)
        expected = tiny.reference(folder, torch.float32)(ids[None]).logits[0, 63:]
        cache = model.new_cache()
        rows = [cache.prefill(ids[:64].tolist()), cache.prefill(ids[64:PROMPT].tolist())]
        rows += [cache.decode([token])[0] for token in ids[PROMPT:].tolist()]
    expected = torch.cat([expected[:1], expected[PROMPT - 64 :]])
    difference = (torch.stack(rows) - expected).abs().max() / expected.std()
    return Logits(family, float(difference))


def write_random(variant: str, folder: Path) -> Path:
    """Write a random GGUF file of an original's structure and `SIZES`; return its folder."""
    original = gguf_files.ORIGINALS[variant]
    changes = {**original.changes, "head_dim": HEAD_DIM, **SPEED[variant]}
    changes = {name: value for name, value in changes.items() if name not in SIZES}
    metadata = dict(original.metadata)
    for key in ("attention.key_length", "attention.value_length"):
        metadata[key] = HEAD_DIM
    if "rope.dimension_count" in metadata:
        metadata["rope.dimension_count"] = HEAD_DIM // 2 if variant == "glm4" else HEAD_DIM
    if "attention.sliding_window" in metadata:
        metadata["attention.sliding_window"] = changes.get("sliding_window") or 0
    if "attention.scale" in metadata:
        metadata["attention.scale"] = changes["attention_multiplier"]
    larger = dataclasses.replace(original, changes=changes, metadata=metadata)
    with (
        patch.dict(gguf_files.SIZES, {**SIZES, "initializer_range": 0.03}),
        patch.dict(gguf_files.ORIGINALS, {variant: larger}),
    ):
        file = gguf_files.save_gguf(folder / "random.gguf", variant, types=MATRICES)
    return gguf_files.make_folder(file)


def measure(
    family: str, folder: Path, python: Path | None, rounds: int, threads: int
) -> tuple[NativeModel, Speed, list[int], list[int]]:
    """Time chatlm and llama.cpp in turns with the GGUF file of a folder.

    Returns:
        chatlm's model, the speeds, the prompt, and what llama.cpp wrote.
    """
    model = _open(folder, torch.bfloat16)
    prompt = [3 + 7 * number % 250 for number in range(SPEED_PROMPT)]
    own, theirs, written = [], [], []
    with tempfile.TemporaryDirectory() as place:
        prompts = Path(place) / "prompts.json"
        prompts.write_text(json.dumps({"0": {"ids": prompt}}), encoding="utf-8")
        file = next(folder.glob("*.gguf"))
        task = {
            "program": "llamacpp", "file": str(file), "prompts": str(prompts), "context": 2048,
            "threads": threads, "replies": [("0", SPEED_REPLY)],
        }  # fmt: skip
        for _ in range(rounds):
            own.append(_tokens_per_second(model, prompt))
            if python is not None:
                try:
                    reply = run_child(peer_command(python), task, {})["replies"][0]
                except LeftOut as reason:
                    print(f"{family}: llama.cpp: {reason}")
                    python = None
                    continue
                theirs.append(reply["tokens_per_second"])
                written = reply["written"]
    speed = statistics.median(own)
    other = statistics.median(theirs) if theirs else None
    return model, Speed(family, speed, other, speed / other if other else None), prompt, written


def _tokens_per_second(model: NativeModel, prompt: list[int]) -> float:
    cache = model.new_cache()
    token = int(cache.prefill(prompt).argmax())
    start = time.perf_counter()
    for _ in range(SPEED_REPLY):
        token = int(cache.decode([token])[0].argmax())
    return SPEED_REPLY / (time.perf_counter() - start)


def _open(folder: Path, dtype: torch.dtype) -> NativeModel:
    weights = "auto" if list(folder.glob("*.gguf")) else "bf16"
    model = load("family", folder, Placement({"": "cpu"}, dtype), "native", weights)
    if not isinstance(model, NativeModel):
        raise TypeError("not a native decoder")
    return model


def measure_random(variant: str, python: Path | None, rounds: int, threads: int) -> Speed:
    """Time a random model of a family."""
    with tempfile.TemporaryDirectory() as place:
        _, speed, _, _ = measure(
            variant, write_random(variant, Path(place)), python, rounds, threads
        )
    return speed


def measure_real(cache: Path, python: Path | None, rounds: int, threads: int) -> Speed:
    """Time the real file, and compare what it writes with llama.cpp's text."""
    file = real_file(REAL, cache).path
    with tempfile.TemporaryDirectory(dir=cache) as place:
        (Path(place) / file.name).hardlink_to(file)
        folder = gguf_files.make_folder(Path(place) / file.name)
        model, speed, prompt, written = measure(REAL, folder, python, rounds, threads)
        same, compared = agreement(model, prompt, written) if written else (0, 0)
    return dataclasses.replace(speed, agreement=same / compared if compared else None)


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description="Compare each family with a native decoder.")
    parser.add_argument("--only", help="families of the first table, with commas")
    parser.add_argument("--no-speed", action="store_true", help="compare logits only")
    parser.add_argument("--speed", help="rows of the second table, with commas")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/chatlm-bench").expanduser())
    parser.add_argument("--peer-python", type=Path, help="a Python that has llama-cpp-python")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    families = [*tiny.CONFIGS, *tiny.FAMILIES]
    logits = []
    for family in options.only.split(",") if options.only else families:
        logits.append(compare_logits(family))
        print(f"{family:<20} largest difference {logits[-1].difference:.1e}", flush=True)
    speeds = []
    if not options.no_speed:
        options.cache.mkdir(parents=True, exist_ok=True)
        python = options.peer_python or peer_python("llamacpp", options.cache / "peers")
        common = python, options.rounds, options.threads
        for row in options.speed.split(",") if options.speed else [*SPEED, REAL]:
            real = row == REAL
            speed = measure_real(options.cache, *common) if real else measure_random(row, *common)
            speeds.append(speed)
            ratio = "" if speed.ratio is None else f", {speed.ratio:.2f} × llama.cpp"
            if speed.ratio is not None and real:
                ratio += f" (at least {REAL_TARGET}: {speed.ratio >= REAL_TARGET})"
            if speed.agreement is not None:
                ratio += f", the same token {100 * speed.agreement:.1f} %"
            print(f"{row:<20} {speed.chatlm:.0f} tokens/s{ratio}", flush=True)
    if options.json:
        values = {
            "logits": [dataclasses.asdict(each) for each in logits],
            "speed": [dataclasses.asdict(each) for each in speeds],
        }
        print(json.dumps(values))


if __name__ == "__main__":
    main()
