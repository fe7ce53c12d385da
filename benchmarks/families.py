"""Compare each family with a native decoder: logits with transformers, speed with llama.cpp.

Logits: tiny random models in float32, the largest difference over prompts in blocks and single
tokens, in units of their spread. Speed: random models of 0.1 billion weights in Q8_0, and Gemma 3
270M's real file, each in chatlm and llama.cpp in turns, with the share of the text on which both
agree for the real one. Experts: a token of a mixture in the shape of Qwen3-30B-A3B with few layers,
and one of a dense model, relative to reading what each uses once at the memory's bandwidth.
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
from gguf import GGUFReader

from benchmarks.peer_environments import peer_python
from benchmarks.random_gguf import SHAPES, write_model
from benchmarks.sizes_check import agreement
from benchmarks.sizes_run import (
    DEFAULT_MODEL,
    LeftOut,
    measured_bandwidth,
    peer_command,
    real_file,
    run_child,
)
from chatlm.engines.devices import Placement
from chatlm.engines.load import load
from chatlm.engines.native.model import NativeModel
from chatlm.hub import pull
from tests import gguf_files, gguf_originals
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
    r"(attn_(q|k|v|qkv|gate|output)|ffn_(up|gate|down)(_exps|_shexp)?|ssm_(in|out)|token_embd|"
    r"shortconv\.(in|out)_?proj|output|inp_gate|per_layer_(token_embd|model_proj)|proj)"
    r"\.weight": "Q8_0"
}


@dataclasses.dataclass(frozen=True)
class Larger:
    """How a random model differs from an original of `tests.gguf_originals` and from `SIZES`."""

    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Settings of the file."""
    tensors: Mapping[str, list[float]] = dataclasses.field(default_factory=dict)


_CONVOLUTIONS = {"layer_types": ["conv", "conv", "full_attention", "conv"] * 2}

_NO_HEAD_SIZE = {"attention.key_length": None, "attention.value_length": None}
"""For files that do not say it, since it follows from other sizes."""

_CONVOLUTIONS_METADATA = {"attention.head_count_kv": [0, 0, 4, 0] * 2, **_NO_HEAD_SIZE}

_EXPERTS = {"num_experts": 16, "num_experts_per_tok": 4, "moe_intermediate_size": 768}

_EXPERTS_METADATA = {
    "expert_count": 16, "expert_used_count": 4, "expert_feed_forward_length": 768,
}  # fmt: skip

SPEED: Mapping[str, Larger] = {
    "llama": Larger(),
    "qwen2": Larger(),
    "qwen3": Larger(),
    "gemma": Larger(),
    "gemma2": Larger({"sliding_window": 512, "query_pre_attn_scalar": 64}),
    "gemma3": Larger({"sliding_window": 512, "query_pre_attn_scalar": 64}),
    "gemma4": Larger(
        {
            "sliding_window": 512,
            "global_head_dim": 2 * HEAD_DIM,
            "layer_types": [*["sliding_attention"] * 3, "full_attention"] * 2,
            "num_kv_shared_layers": 4,
            "vocab_size_per_layer_input": 32_000,
            "hidden_size_per_layer_input": 64,
        },
        {
            "attention.key_length": 2 * HEAD_DIM,
            "attention.value_length": 2 * HEAD_DIM,
            "attention.key_length_swa": HEAD_DIM,
            "attention.value_length_swa": HEAD_DIM,
            "rope.dimension_count": 2 * HEAD_DIM,
            "rope.dimension_count_swa": HEAD_DIM,
            "attention.sliding_window_pattern": [True, True, True, False] * 2,
            "embedding_length_per_layer_input": 64,
            "attention.shared_kv_layers": 4,
            "feed_forward_length": [3072] * 4 + [6144] * 4,
        },
        {"rope_freqs.weight": [1.0] * 16 + [1e30] * 48},
    ),
    "phi3": Larger({"sliding_window": None}),
    "granite": Larger({"attention_multiplier": 0.125}),
    "granitehybrid": Larger(
        {
            "layer_types": [*["linear_attention"] * 3, "full_attention"] * 2,
            "shared_intermediate_size": 3072,
            "mamba_n_heads": 32,
            "mamba_d_state": 64,
            "attention_multiplier": 0.125,
        },
        {
            "attention.head_count_kv": [0, 0, 0, 4] * 2,
            "ssm.state_size": 64,
            "ssm.inner_size": 2048,
            "ssm.time_step_rank": 32,
            "expert_shared_feed_forward_length": 3072,
            **_NO_HEAD_SIZE,
        },
    ),
    "olmo2": Larger(),
    "smollm3": Larger(),
    "glm4": Larger({}, {"rope.dimension_count": HEAD_DIM // 2}),
    "lfm2": Larger(_CONVOLUTIONS, _CONVOLUTIONS_METADATA),
    "lfm2moe": Larger(_CONVOLUTIONS | _EXPERTS, _CONVOLUTIONS_METADATA | _EXPERTS_METADATA),
    "qwen3moe": Larger(_EXPERTS, _EXPERTS_METADATA),
    "gpt-oss": Larger(
        {"sliding_window": 128}, {"expert_feed_forward_length": SIZES["intermediate_size"]}
    ),
    "qwen35": Larger(),
}

MOE, DENSE = "30b-a3b", "4b"
"""Of `random_gguf.SHAPES`: a mixture, and what it is compared with."""

MOE_LAYERS = {MOE: 2, DENSE: 4}

MOE_TARGET = 1.3
"""Limit of the mixture's cost relative to the dense model's, each in units of its floor."""

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


def write_random(variant: str, folder: Path, **sizes: Any) -> Path:
    """Write a random GGUF file of an original's structure and `SIZES`; return its folder.

    Args:
        variant: of `SPEED`.
        folder: where the file goes.
        sizes: that differ from `SIZES`.
    """
    original = gguf_originals.ORIGINALS[variant]
    own = SPEED[variant]
    changes = {**original.changes, "head_dim": HEAD_DIM}
    changes = {name: value for name, value in changes.items() if name not in SIZES}
    changes |= own.changes
    metadata = dict(original.metadata)
    for key in ("attention.key_length", "attention.value_length"):
        metadata[key] = HEAD_DIM
    if "rope.dimension_count" in metadata:
        metadata["rope.dimension_count"] = HEAD_DIM
    if "attention.sliding_window" in metadata:
        metadata["attention.sliding_window"] = changes.get("sliding_window") or 0
    if "attention.scale" in metadata:
        metadata["attention.scale"] = changes["attention_multiplier"]
    metadata |= own.metadata
    larger = dataclasses.replace(
        original, changes=changes, metadata=metadata, tensors={**original.tensors, **own.tensors}
    )
    with (
        patch.dict(gguf_originals.SIZES, {**SIZES, "initializer_range": 0.03, **sizes}),
        patch.dict(gguf_originals.ORIGINALS, {variant: larger}),
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


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a token costs."""

    model: str
    active_bytes: int
    """Of the file, that a token uses."""
    seconds: float
    floor: float
    """Seconds for reading these bytes once."""

    @property
    def ratio(self) -> float:
        """The time in units of the floor."""
        return self.seconds / self.floor


def active_bytes(file: Path) -> int:
    """Return the bytes of a GGUF file that a token uses: of its experts, those it chooses."""
    reader = GGUFReader(file)
    architecture = reader.fields["general.architecture"].contents()

    def setting(name: str) -> int:
        field = reader.fields.get(f"{architecture}.{name}")
        return 0 if field is None else int(field.contents())

    count, used = setting("expert_count"), setting("expert_used_count")
    sizes = {tensor.name: int(tensor.n_bytes) for tensor in reader.tensors}
    if "output.weight" in sizes:
        del sizes["token_embd.weight"]
    return sum(size * used // count if "_exps." in name else size for name, size in sizes.items())


def write_shape(shape: str, folder: Path) -> Path:
    """Write a random model of a real one's shape with few layers, unless it is there already."""
    home = folder / f"{shape}-{MOE_LAYERS[shape]}-layers"
    if not home.exists():
        with tempfile.TemporaryDirectory(dir=folder) as place:
            file = Path(place) / "random.gguf"
            sizes = dataclasses.replace(SHAPES[shape], layers=MOE_LAYERS[shape])
            write_model(file, sizes, "q4_k_m", pull.ensure_model(DEFAULT_MODEL).folder)
            gguf_files.make_folder(file).rename(home)
    return home


def measure_cost(shape: str, folder: Path, rounds: int) -> Cost:
    """Time the tokens of a model, and read the memory in turns with that."""
    home = write_shape(shape, folder)
    model = _open(home, torch.bfloat16)
    prompt = [3 + 7 * number % 250 for number in range(SPEED_PROMPT)]
    seconds, speeds = [], []
    for _ in range(rounds):
        speeds.append(measured_bandwidth())
        seconds.append(1 / _tokens_per_second(model, prompt))
    size = active_bytes(next(home.glob("*.gguf")))
    return Cost(
        f"{shape}, {MOE_LAYERS[shape]} layers", size, statistics.median(seconds),
        size / statistics.median(speeds),
    )  # fmt: skip


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description="Compare each family with a native decoder.")
    parser.add_argument("--only", help="families of the first table, with commas")
    parser.add_argument("--no-speed", action="store_true", help="compare logits only")
    parser.add_argument("--speed", help="rows of the second table, with commas")
    parser.add_argument("--experts", action="store_true", help="measure experts alone")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/chatlm-bench").expanduser())
    parser.add_argument("--peer-python", type=Path, help="a Python that has llama-cpp-python")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    families = [*tiny.CONFIGS, *tiny.FAMILIES]
    logits = []
    for family in _chosen(options.only, families) if not options.experts else ():
        logits.append(compare_logits(family))
        print(f"{family:<20} largest difference {logits[-1].difference:.1e}", flush=True)
    speeds = []
    if not options.no_speed and not options.experts:
        options.cache.mkdir(parents=True, exist_ok=True)
        python = options.peer_python or peer_python("llamacpp", options.cache / "peers")
        common = python, options.rounds, options.threads
        for row in _chosen(options.speed, [*SPEED, REAL]):
            real = row == REAL
            speed = measure_real(options.cache, *common) if real else measure_random(row, *common)
            speeds.append(speed)
            ratio = "" if speed.ratio is None else f", {speed.ratio:.2f} × llama.cpp"
            if speed.ratio is not None and real:
                ratio += f" (at least {REAL_TARGET}: {speed.ratio >= REAL_TARGET})"
            if speed.agreement is not None:
                ratio += f", the same token {100 * speed.agreement:.1f} %"
            print(f"{row:<20} {speed.chatlm:.0f} tokens/s{ratio}", flush=True)
    costs = []
    if options.experts or not (options.no_speed or options.speed):
        options.cache.mkdir(parents=True, exist_ok=True)
        costs = [measure_cost(shape, options.cache, options.rounds) for shape in (DENSE, MOE)]
        for cost in costs:
            print(
                f"{cost.model:<20} {1000 * cost.seconds:.1f} ms a token, {cost.ratio:.2f} × its "
                f"floor ({cost.active_bytes / 1e6:.0f} MB)"
            )
        relative = costs[1].ratio / costs[0].ratio
        print(f"a mixture's token beside a dense one's: {relative:.2f} (at most {MOE_TARGET})")
    if options.json:
        values = {
            "logits": [dataclasses.asdict(each) for each in logits],
            "speed": [dataclasses.asdict(each) for each in speeds],
            "experts": [dataclasses.asdict(each) | {"ratio": each.ratio} for each in costs],
        }
        print(json.dumps(values))


def _chosen(given: str | None, all_rows: list[str]) -> list[str]:
    return given.split(",") if given else all_rows


if __name__ == "__main__":
    main()
