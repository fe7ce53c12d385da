"""Checkpoints of GPTQ, AWQ and compressed-tensors are computed with as they are stored."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from chatlm.engines.model import Unsupported
from chatlm.engines.native.architectures.registry import read_config
from chatlm.engines.native.c_decoder import CDecoder
from chatlm.engines.native.compiler import kernel_library
from chatlm.engines.native.kernel import Kernel
from chatlm.engines.native.model import NativeModel
from chatlm.engines.native.weight_reader import read_weights, to_linear
from tests.engine import tiny
from tests.engine.test_native import ABOUT, divergence, random_ids

SIZES = {
    "hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 32, "num_hidden_layers": 2,
}  # fmt: skip

GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": False}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 64, "version": "gemm", "zero_point": True}

CHECKPOINTS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "gptq": (GPTQ, {"Q4_Z"}),
    "gptq symmetric": ({**GPTQ, "sym": True, "group_size": 128}, {"Q4_0"}),
    "gptq 8 bits": ({**GPTQ, "bits": 8, "group_size": 64}, {"Q8_Z"}),
    "gptq v2": ({**GPTQ, "checkpoint_format": "gptq_v2", "group_size": -1}, {"Q4_Z"}),
    "awq": (AWQ, {"Q4_Z"}),
    "compressed-tensors": ({"bits": 4, "group_size": 32, "sym": True}, {"Q4_0"}),
    "compressed-tensors zero points": ({"bits": 4, "group_size": 128, "sym": False}, {"Q4_Z"}),
    "compressed-tensors 8 bits": ({"bits": 8, "group_size": -1, "sym": True}, {"Q8_0"}),
}
"""Settings of each kind of checkpoint, and the formats that its matrices are packed in."""


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def pack_words(codes: np.ndarray[Any, Any], bits: int, order: list[int]) -> Tensor:
    """Pack the last dimension into int32, each word's code `order[n]` into its n-th bits."""
    count = 32 // bits
    words = np.zeros((*codes.shape[:-1], codes.shape[-1] // count), np.uint32)
    for word in range(words.shape[-1]):
        for place in range(count):
            code = codes[..., word * count + order[place]].astype(np.uint32)
            words[..., word] |= code << np.uint32(bits * place)
    return torch.from_numpy(words.view(np.int32).copy())


def quantized_tensors(
    weight: Tensor, kind: str, settings: dict[str, Any]
) -> tuple[dict[str, Tensor], Tensor]:
    """Quantize a matrix; return its tensors in the file, and the values they stand for."""
    bits, size = settings["bits"], settings["group_size"]
    size = weight.shape[1] if size == -1 else size
    groups = weight.float().unflatten(1, (-1, size))
    top = 2**bits - 1
    scales = ((groups.amax(-1) - groups.amin(-1)) / top).to(torch.float16)
    if settings.get("sym"):
        zeros = torch.full_like(scales, 2 ** (bits - 1), dtype=torch.float32)
    else:  # 1 to 15, or to 255
        zeros = (-groups.amin(-1) / scales.float()).round().clamp(1, top)
    if kind.startswith("compressed"):
        scales = scales.bfloat16().half()  # as it is stored
    codes = (groups / scales.float()[..., None] + zeros[..., None]).round().clamp(0, top)
    values = ((codes - zeros[..., None]) * scales.float()[..., None]).flatten(1)
    q = codes.flatten(1).numpy().astype(np.uint32)
    z = zeros.numpy().astype(np.uint32)
    plain = list(range(32 // bits))
    if kind.startswith("gptq"):
        stored = z - (1 if settings.get("checkpoint_format", "gptq") == "gptq" else 0)
        tensors = {
            "qweight": pack_words(q, bits, plain).T.contiguous(),  # packs columns
            "qzeros": pack_words(stored.T, bits, plain),
            "scales": scales.T.contiguous(),
            "g_idx": (torch.arange(weight.shape[1]) // size).int(),
        }
    elif kind.startswith("awq"):
        interleaved = [0, 2, 4, 6, 1, 3, 5, 7]
        tensors = {
            "qweight": pack_words(q.T, bits, interleaved),
            "qzeros": pack_words(z.T, bits, interleaved),
            "scales": scales.T.contiguous(),
        }
    else:
        tensors = {
            "weight_packed": pack_words(q, bits, plain),
            "weight_scale": scales.bfloat16(),
            "weight_shape": torch.tensor(weight.shape),
        }
        if not settings["sym"]:
            tensors["weight_zero_point"] = pack_words(z.T, bits, plain).T.contiguous()
    return tensors, values


def config_settings(kind: str, settings: dict[str, Any]) -> dict[str, Any]:
    if not kind.startswith("compressed"):
        return settings
    is_channel = settings["group_size"] == -1
    weights = {
        "num_bits": settings["bits"], "type": "int", "symmetric": settings["sym"],
        "strategy": "channel" if is_channel else "group",
        "group_size": None if is_channel else settings["group_size"],
    }  # fmt: skip
    return {
        "quant_method": "compressed-tensors", "format": "pack-quantized", "ignore": ["lm_head"],
        "config_groups": {"group_0": {"weights": weights, "input_activations": None}},
    }  # fmt: skip


def save_checkpoint(folder: Path, kind: str, settings: dict[str, Any]) -> Path:
    """Write a quantized model, and beside it the model of the numbers that it stands for."""
    quantized, exact = folder / "quantized", folder / "exact"
    tiny.save(exact, "qwen3", **SIZES)
    tensors = load_file(exact / "model.safetensors")
    stored = {}
    for name, tensor in tensors.items():
        if not name.endswith("_proj.weight"):
            stored[name] = tensor
            tensors[name] = tensor.float()
            continue
        parts, values = quantized_tensors(tensor, kind, settings)
        stored |= {f"{name.removesuffix('.weight')}.{part}": own for part, own in parts.items()}
        tensors[name] = values
    quantized.mkdir()
    config = json.loads((exact / "config.json").read_text())
    config["quantization_config"] = config_settings(kind, settings)
    (quantized / "config.json").write_text(json.dumps(config))
    (quantized / "generation_config.json").write_text("{}")
    save_file(stored, quantized / "model.safetensors")
    save_file(tensors, exact / "model.safetensors", {"format": "pt"})
    return quantized


def open_model(folder: Path, dtype: torch.dtype) -> tuple[NativeModel, set[str]]:
    config = read_config(folder)
    kernel = Kernel(kernel_library(float32=dtype is torch.float32), dtype)
    decoder = CDecoder(kernel, config, read_weights(folder, config), "stored", 2)
    return NativeModel(config, decoder.weights, decoder, ABOUT), decoder.formats


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_logits_are_those_of_the_dequantized_model(tmp_path: Path, kind: str) -> None:
    settings, formats = CHECKPOINTS[kind]
    folder = save_checkpoint(tmp_path, kind, settings)
    ids = random_ids(folder)[:70]
    expected = tiny.reference(tmp_path / "exact", torch.float32)(torch.tensor([ids])).logits[0]
    for dtype, most in ((torch.float32, 1e-6), (torch.bfloat16, 1e-4)):
        model, found = open_model(folder, dtype)
        assert found == formats
        cache = model.new_cache()
        made = [cache.prefill(ids[:50]), *(cache.decode([token])[0] for token in ids[50:])]
        assert divergence(expected[49:], torch.stack(made)) < most


def test_torch_reads_the_same_numbers(tmp_path: Path) -> None:
    """Without a C compiler the matrices are dequantized."""
    folder = save_checkpoint(tmp_path, "awq", AWQ)
    config = read_config(folder)
    linear = to_linear(read_weights(folder, config), config, torch.float32)
    tensors = load_file(tmp_path / "exact" / "model.safetensors")
    for name in ("q_proj", "o_proj"):
        weight = linear.layers[1].matrices[name].weight
        assert torch.equal(weight, tensors[f"model.layers.1.self_attn.{name}.weight"])


def with_changed(folder: Path, change: str) -> None:
    """Change a checkpoint of GPTQ so that it has no exact form."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    module = "model.layers.1.mlp.up_proj"
    if change == "order":
        order = torch.randperm(128, generator=torch.Generator().manual_seed(1))
        tensors[f"{module}.g_idx"] = (order // 32).int()
    elif change == "scales":
        tensors[f"{module}.scales"] = torch.full((4, 256), 1e30, dtype=torch.bfloat16)
    elif change == "zeros":
        tensors[f"{module}.qzeros"].fill_(-1)
    elif change == "shape":
        tensors[f"{module}.qweight"] = tensors[f"{module}.qweight"][:, 8:].contiguous()
    else:
        tensors[f"{module}.extra"] = torch.zeros(1)
    save_file(tensors, path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("order", r"up_proj.g_idx mixes the columns .* \(desc_act\)"),
        ("scales", "scales of .*up_proj have no exact value in float16"),
        ("zeros", "up_proj has zero points that GPTQ's first layout cannot express"),
        ("shape", "up_proj.qweight is"),
        ("unknown", "unknown tensor .*up_proj.extra"),
    ],
)
def test_what_has_no_exact_form_is_refused(tmp_path: Path, change: str, reason: str) -> None:
    folder = save_checkpoint(tmp_path, "gptq", GPTQ)
    with_changed(folder, change)
    with pytest.raises(Unsupported, match=reason):
        read_weights(folder, read_config(folder))


CT = config_settings("compressed", {"bits": 4, "group_size": 32, "sym": True})
ACTIVATIONS = {**CT["config_groups"]["group_0"], "input_activations": {"num_bits": 8}}


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({**GPTQ, "bits": 3}, "GPTQ quantized its weights to 3 bits"),
        ({**GPTQ, "group_size": 48}, "in groups of 48"),
        ({**GPTQ, "checkpoint_format": "marlin"}, "layout marlin"),
        ({**GPTQ, "dynamic": {"+:.*": {"bits": 8}}}, "dynamic"),
        ({**AWQ, "version": "gemv"}, "layout gemv"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "quantized with bitsandbytes"),
        ({"quant_method": "fp8"}, "quantized with fp8"),
        ({**CT, "format": "float-quantized"}, "layout float-quantized"),
        ({**CT, "kv_cache_scheme": {"num_bits": 8}}, "kv_cache_scheme"),
        ({**CT, "config_groups": {"a": ACTIVATIONS}}, "its activations are quantized too"),
    ],
)  # fmt: skip
def test_other_layouts_are_refused_by_name(
    tmp_path: Path, settings: dict[str, Any], reason: str
) -> None:
    config = tiny.config_of("qwen3").to_dict() | {"quantization_config": settings}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(Unsupported, match=reason):
        read_config(tmp_path)
