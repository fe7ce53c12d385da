"""Settings of the plugin; most go to llama.cpp as they are, under its own names."""

from __future__ import annotations

from dataclasses import dataclass, field

CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")
"""Number formats that llama.cpp's command line offers for the KV cache."""

MAX_PARALLEL = 64


@dataclass(frozen=True)
class Settings:
    """Settings under `[plugins.llamacpp]`."""

    n_gpu_layers: int = field(
        default=-1,
        metadata={"help": "Layers that a GPU computes; -1 for as many as fit.", "minimum": -1},
    )
    n_cpu_moe: int = field(
        default=0,
        metadata={
            "help": "Layers, from the first, whose experts stay in main memory.",
            "minimum": 0,
        },
    )
    cpu_tensors: tuple[str, ...] = field(
        default=(),
        metadata={
            "help": "Patterns of tensors that stay in main memory, as in --override-tensor "
            "PATTERN=CPU of llama.cpp."
        },
    )
    type_k: str = field(
        default="f16",
        metadata={"help": f"Number format of the keys in the KV cache: {', '.join(CACHE_TYPES)}."},
    )
    type_v: str = field(
        default="f16", metadata={"help": "Number format of the values in the KV cache, likewise."}
    )
    swa_full: bool = field(
        default=True,
        metadata={
            "help": "Keep all tokens of layers with a sliding window, so that the next turn need "
            "not read the chat again; off saves memory."
        },
    )
    parallel: int = field(
        default=1,
        metadata={
            "help": "Replies computed in one pass, 1 to 64; above 1 a seed may give another text "
            "than alone.",
            "minimum": 1,
            "maximum": MAX_PARALLEL,
        },
    )

    def __post_init__(self) -> None:
        for name in ("type_k", "type_v"):
            if getattr(self, name) not in CACHE_TYPES:
                raise ValueError(f"{name} must be one of {', '.join(CACHE_TYPES)}")
