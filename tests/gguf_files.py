"""GGUF files of tiny random models, written as llama.cpp's converter writes them.

Names of tensors come from the gguf package's own table, so that they do not depend on chatlm's.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from gguf import (
    GGML_QUANT_SIZES,
    MODEL_ARCH_NAMES,
    GGMLQuantizationType,
    GGUFWriter,
    Keys,
    get_tensor_name_map,
    quants,
)
from safetensors.torch import load_file

from chatlm.hub.gguf.file import split_paths
from chatlm.hub.gguf_folder import prepare_in_process
from tests.gguf_originals import ORIGINALS, SIZES, UNREAD, Metadata, Original, save_original
from tests.gguf_tensors import converted_tensors, interleaved_rows

CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


def make_folder(gguf: Path, name: str = "made") -> Path:
    """Make a model's folder from a GGUF file, beside it."""
    folder = gguf.parent / name
    prepare_in_process(gguf, folder)
    for part in split_paths(gguf):
        (folder / part.name).hardlink_to(part)
    return folder


def save_gguf(
    path: Path,
    variant: str = "llama",
    *,
    changes: Mapping[str, Any] | None = None,
    general: Mapping[str, str] | None = None,
    tokenizer: Callable[[GGUFWriter], None] | None = None,
    without: str = " ",
    more: Mapping[str, tuple[int, ...]] | None = None,
    types: Mapping[str, str] | None = None,
    part_tensors: int = 0,
) -> Path:
    """Write an original as a GGUF file, beside a folder `original`.

    Args:
        path: of the file.
        variant: of `ORIGINALS` or `UNREAD`.
        changes: to the settings; None removes one.
        general: what the file says about its origin.
        tokenizer: writes the vocabulary.
        without: pattern of the names of tensors that are left out.
        more: shapes of tensors that do not belong there, by name.
        types: number formats by pattern of the names of tensors; those that the gguf package cannot
            write get random weights.
    """
    original = {**ORIGINALS, **UNREAD}[variant]
    folder = save_original(path.parent / "original", variant)
    config = transformers.AutoConfig.from_pretrained(folder)
    writer = GGUFWriter(path, original.architecture, split_max_tensors=part_tensors)
    for key, value in (file_settings(original, config.to_dict()) | dict(changes or {})).items():
        if value is not None:
            add_setting(writer, f"{original.architecture}.{key}", value)
    for key, text in (general or {}).items():
        writer.add_string(f"general.{key}", text)
    (tokenizer or write_vocabulary)(writer)
    tensors = converted_tensors(original, config, folder)
    tensors |= {name: np.array(values, np.float32) for name, values in original.tensors.items()}
    tensors = {name: values for name, values in tensors.items() if not re.search(without, name)}
    tensors |= {name: np.ones(shape, np.float32) for name, shape in (more or {}).items()}
    for name, values in tensors.items():
        kinds = [kind for pattern, kind in (types or {}).items() if re.search(pattern, name)]
        if kinds:
            kind = GGMLQuantizationType[kinds[0]]
            writer.add_tensor(name, _quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def save_gguf_lora(
    path: Path,
    adapter: Path,
    model: Path,
    *,
    architecture: str = "llama",
    interleaved: bool = True,
    alpha: float | None = None,
    metadata: Mapping[str, Any] | None = None,
    types: Mapping[str, str] | None = None,
    more: Mapping[str, tuple[int, ...]] | None = None,
) -> Path:
    """Write an adapter of peft as llama.cpp's convert_lora_to_gguf.py writes it.

    Args:
        path: of the file.
        adapter: folder of the adapter.
        model: folder of its model.
        architecture: its name in GGUF.
        interleaved: whether the rows of queries and keys are in that order.
        alpha: None for the adapter's own.
        metadata: further settings of the file.
        types: number formats by pattern of the names of tensors, 32 bits if none matches.
        more: shapes of further tensors, by name.
    """
    config = transformers.AutoConfig.from_pretrained(model)
    settings = json.loads((adapter / "adapter_config.json").read_text())
    number = next(k for k, v in MODEL_ARCH_NAMES.items() if v == architecture)
    names = get_tensor_name_map(number, config.num_hidden_layers)
    facts: Metadata = {
        "general.type": "adapter",
        Keys.Adapter.TYPE: "lora",
        Keys.Adapter.LORA_ALPHA: float(settings["lora_alpha"] if alpha is None else alpha),
        **(metadata or {}),
    }
    writer = GGUFWriter(path, architecture)
    for key, value in facts.items():
        match value:
            case str():
                writer.add_string(key, value)
            case float():
                writer.add_float32(key, value)
            case list():
                writer.add_array(key, value)
    tensors: dict[str, Any] = {}
    for name, tensor in load_file(adapter / "adapter_model.safetensors").items():
        if ".lora_" not in name:  # peft also saves an embedding that it adapts
            continue
        module, letter = name.removesuffix(".weight").rsplit(".lora_", 1)
        module = module.removeprefix("base_model.model.")
        values = tensor.float()
        if letter == "B" and interleaved and module.endswith("q_proj"):
            values = interleaved_rows(values, config.num_attention_heads)
        if letter == "B" and interleaved and module.endswith("k_proj"):
            values = interleaved_rows(values, config.num_key_value_heads)
        target = names.get_name(f"{module}.weight", try_suffixes=(".weight",))
        assert target, name
        tensors[f"{target}.lora_{letter.lower()}"] = values.numpy()
    tensors |= {name: np.ones(shape, np.float32) for name, shape in (more or {}).items()}
    for name, values in tensors.items():
        kinds = [kind for pattern, kind in (types or {}).items() if re.search(pattern, name)]
        kind = GGMLQuantizationType[kinds[0] if kinds else "F32"]
        writer.add_tensor(name, quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _quantize(values: Any, kind: GGMLQuantizationType) -> Any:
    try:
        return quants.quantize(values, kind)
    except NotImplementedError:
        *rows, columns = values.shape
        return random_rows(kind, math.prod(rows), columns).reshape(*rows, -1)


_SCALE_OFFSETS = {
    "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,),
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,),
    "IQ4_NL": (0,), "IQ4_XS": (0,),
}  # fmt: skip
"""Where the blocks of a format have their scales and minimums, as 16-bit floats."""


def random_rows(kind: GGMLQuantizationType, rows: int, columns: int, seed: int = 1) -> Any:
    """The bytes of random weights in a number format: (rows, bytes of a row)."""
    generator = np.random.default_rng(seed)
    values, size = GGML_QUANT_SIZES[kind]
    blocks = generator.integers(0, 256, (rows * columns // values, size), dtype=np.uint8)
    if kind is GGMLQuantizationType.MXFP4:
        blocks[:, 0] = generator.integers(118, 124, len(blocks))  # exponents
    for offset in _SCALE_OFFSETS.get(kind.name, ()):
        scales = generator.uniform(-0.01, 0.01, len(blocks)).astype(np.float16)
        blocks[:, offset : offset + 2] = scales.view(np.uint8).reshape(-1, 2)
    return blocks.reshape(rows, -1)


def write_vocabulary(writer: GGUFWriter, pre: str | None = "smollm", **ids: int | None) -> None:
    """Write a byte-level vocabulary with one merge, two spaces.

    Args:
        writer: of the file.
        pre: how text is split.
        ids: special tokens, by key.
    """
    tokens = [*CONTROL, *byte_alphabet(), "ĠĠ"]
    padding = [f"[PAD{index}]" for index in range(len(tokens), SIZES["vocab_size"])]
    writer.add_tokenizer_model("gpt2")
    if pre:
        writer.add_tokenizer_pre(pre)
    writer.add_token_list([*tokens, *padding])
    types = [3] * len(CONTROL) + [1] * (len(tokens) - len(CONTROL)) + [5] * len(padding)
    writer.add_token_types(types)
    writer.add_token_merges(["Ġ Ġ"])
    for key, token in ({"bos_token_id": 1, "eos_token_id": 2} | ids).items():
        if token is not None:
            writer.add_uint32(f"tokenizer.ggml.{key}", token)
    writer.add_chat_template(TEMPLATE)


def byte_alphabet() -> list[str]:
    """The 256 characters that byte-level BPE writes bytes with, in byte order."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(b) if b in plain else chr(next(others)) for b in range(256)]


def file_settings(original: Original, config: Mapping[str, Any]) -> Metadata:
    """Return what a file says of an original with this configuration in transformers."""
    rope = config["rope_parameters"]
    rope = rope.get("full_attention", rope)
    epsilons = ("rms_norm_eps", "norm_eps", "layer_norm_eps")
    return {
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "block_count": config["num_hidden_layers"],
        "feed_forward_length": config.get("intermediate_size"),
        "attention.head_count": config["num_attention_heads"],
        "attention.head_count_kv": config["num_key_value_heads"],
        "rope.freq_base": rope["rope_theta"],
        original.epsilon: next(config[name] for name in epsilons if name in config),
        **original.metadata,
    }


def add_setting(writer: GGUFWriter, key: str, value: Any) -> None:
    """Write a setting with its whole key."""
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case str():
            writer.add_string(key, value)
        case list():
            writer.add_array(key, value)
        case _:
            writer.add_float32(key, float(value))
