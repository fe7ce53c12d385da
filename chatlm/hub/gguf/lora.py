"""Turn a LoRA adapter in a GGUF file, as llama.cpp reads it, into a folder as peft writes it."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chatlm.hub.architecture import read_config
from chatlm.hub.gguf.architectures import ARCHITECTURES, find_linear
from chatlm.hub.gguf.file import GgufError, GgufFile
from chatlm.hub.gguf.tensor_data import read_values

if TYPE_CHECKING:
    import torch

MAX_RANK = 1024
"""A higher rank is taken for a damaged file."""

_MATRIX = re.compile(r"(?P<name>.+\.weight)\.lora_(?P<letter>[ab])")

_LAYER_MODULE = re.compile(r"model\.layers\.\d+\.(.+)")

_MODEL_TYPES: Mapping[str, tuple[str, ...]] = {
    "llama": ("llama", "mistral", "mixtral"),
    "qwen2moe": ("qwen2_moe",),
    "qwen3moe": ("qwen3_moe",),
    "gemma3": ("gemma3_text", "gemma3"),
    "gemma4": ("gemma4_text", "gemma4"),
    "olmo2": ("olmo2", "olmo3"),
    "hunyuan-dense": ("hunyuan_v1_dense",),
    "command-r": ("cohere",),
    "qwen35": ("qwen3_5_text", "qwen3_5"),
    "qwen35moe": ("qwen3_5_moe_text", "qwen3_5_moe"),
    "gpt-oss": ("gpt_oss",),
    "granitehybrid": ("granitemoehybrid",),
    "lfm2moe": ("lfm2_moe",),
}
"""Names of an architecture in config.json; those that are not here have their own."""


def convert_gguf_lora(path: Path, model: Path, folder: Path) -> None:
    """Write adapter_config.json and adapter_model.safetensors from a LoRA adapter in a GGUF file.

    Args:
        path: of the file.
        model: folder of the model that it shall be used with.
        folder: where both are written.

    Raises:
        ModelError: the file is damaged, no LoRA adapter, or for another architecture.
        OSError: the folder cannot be written.
    """
    from safetensors.torch import save_file

    config = read_config(model)
    with GgufFile(path) as file:
        _check_kind(file)
        text_config = config.get("text_config")
        config |= text_config if isinstance(text_config, dict) else {}
        _check_architecture(file, config)
        _check_sizes(config)
        pairs = _read_pairs(file, config)
        settings = _peft_settings(file, pairs, config["num_hidden_layers"])
    tensors = {
        f"base_model.model.{module}.lora_{letter}.weight": matrix
        for module, pair in pairs.items()
        for letter, matrix in zip("AB", pair, strict=True)
    }
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    text = json.dumps(settings, indent=2) + "\n"
    (folder / "adapter_config.json").write_text(text, encoding="utf-8")


def _check_kind(file: GgufFile) -> None:
    kind, adapter = file.get("general.type", "model"), file.get("adapter.type")
    if kind == "adapter" and adapter == "lora":
        if "adapter.alora.invocation_tokens" in file:
            raise GgufError(
                f"{file.path.name} is an activated LoRA, which only works after certain tokens; "
                "chatlm does not apply such adapters."
            )
        return
    if kind == "adapter":
        what = f"an adapter of the type {str(adapter)[:40]!r}"
    elif kind == "controlvector" or file.architecture == "controlvector":
        what = "a control vector"
    else:
        what = f"of the type {str(kind)[:40]!r}"
    raise GgufError(
        f"{file.path.name} is {what}, not a LoRA adapter.",
        "Give a file that llama.cpp's convert_lora_to_gguf.py wrote, or a folder that peft saved.",
    )


def _check_architecture(file: GgufFile, config: Mapping[str, Any]) -> None:
    name, model_type = file.architecture, config.get("model_type")
    if name not in ARCHITECTURES:
        raise GgufError(
            f"chatlm does not read the architecture {name[:60]!r} of {file.path.name} from GGUF.",
            "A version of the adapter that peft saved may work.",
        )
    if model_type not in _MODEL_TYPES.get(name, (name,)):
        raise GgufError(
            f"{file.path.name} is for the architecture {name}, but the model is {model_type}.",
            "Choose the model it was made for: --model",
        )


def _read_pairs(
    file: GgufFile, config: dict[str, Any]
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Return A and B by module."""
    pairs = {}
    for name in file.tensors:
        match = _MATRIX.fullmatch(name)
        if match is None:
            raise GgufError(f"{file.path.name} has the tensor {name[:60]!r}, which is not LoRA.")
        both = [f"{match['name']}.lora_{letter}" for letter in "ab"]
        if not all(each in file.tensors for each in both):
            raise GgufError(f"{file.path.name} has only one of the matrices of {match['name']}.")
        if match["letter"] == "b":
            continue
        found = find_linear(ARCHITECTURES[file.architecture], config, match["name"])
        shapes = [file.tensors[each].shape for each in both]
        if (
            found is None
            or match["name"] == "token_embd.weight"
            or not all(len(shape) == 2 for shape in shapes)
        ):
            raise GgufError(
                f"{file.path.name} changes {match['name'][:60]}, which chatlm cannot do from GGUF.",
                "A version of the adapter that peft saved may work.",
            )
        (rank, _), (rows, other_rank) = shapes
        if rank != other_rank or rank > MAX_RANK:
            raise GgufError(
                f"The matrices of {match['name'][:60]} in {file.path.name} have the ranks {rank} "
                f"and {other_rank}.",
                "Copy or download the adapter again.",
            )
        module, source = found
        lora_a, lora_b = (_read(file, each) for each in both)
        if source.heads and rows % (2 * source.heads):
            raise GgufError(
                f"{match['name'][:60]} in {file.path.name} has {rows} rows, which the "
                f"{source.heads} heads of the model do not divide.",
                "Choose the model it was made for: --model",
            )
        order = source.row_order(rows)
        if order is not None and len(order) != rows:
            raise GgufError(f"{match['name'][:60]} in {file.path.name} does not fit the model.")
        pairs[module] = lora_a, lora_b if order is None else lora_b[order].contiguous()
    if not pairs:
        raise GgufError(f"{file.path.name} holds no matrices.")
    return pairs


def _check_sizes(config: dict[str, Any]) -> None:
    config.setdefault("num_key_value_heads", config.get("num_attention_heads"))
    for name in ("num_hidden_layers", "num_attention_heads", "num_key_value_heads"):
        if not isinstance(value := config.get(name), int) or value < 1:
            raise GgufError(f"The model's config.json has {name} = {value!r}.")


def _read(file: GgufFile, name: str) -> torch.Tensor:
    """Read a matrix, in 16 bits where the file has 16."""
    import torch

    dtypes = {"F16": torch.float16, "BF16": torch.bfloat16}
    values = torch.tensor(read_values(file, name))
    return values.to(dtypes.get(file.tensors[name].type_name, torch.float32))


def _peft_settings(
    file: GgufFile, pairs: Mapping[str, tuple[torch.Tensor, torch.Tensor]], layers: int
) -> dict[str, Any]:
    ranks = {module: len(lora_a) for module, (lora_a, _) in pairs.items()}
    rank = Counter(ranks.values()).most_common(1)[0][0]
    alpha = file.get("adapter.lora.alpha", 0.0)
    if not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise GgufError(f"{file.path.name} has the alpha {alpha!r}, which is no usable number.")
    others = {module: own for module, own in ranks.items() if own != rank}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": file.get("general.base_model.0.repo_url", ""),
        "r": rank,
        # llama.cpp does not scale an adapter without alpha, as alpha = rank does not
        "lora_alpha": alpha or rank,
        "rank_pattern": others,
        "alpha_pattern": {} if alpha else others,
        "target_modules": _target_modules(ranks, layers),
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
    }


def _target_modules(modules: Mapping[str, int], layers: int) -> list[str]:
    """Return the ends of the modules' names, or whole names of those that not all layers have."""
    matches = {module: _LAYER_MODULE.fullmatch(module) for module in modules}
    counts = Counter(match[1] for match in matches.values() if match)
    return sorted(
        {
            match[1] if match and counts[match[1]] == layers else module
            for module, match in matches.items()
        }
    )
