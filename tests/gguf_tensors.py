"""Tensors of a model in transformers, as llama.cpp's converter names and arranges them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from gguf import MODEL_ARCH_NAMES, get_tensor_name_map
from safetensors.torch import load_file

from tests.gguf_originals import Original


def converted_tensors(original: Original, config: Any, folder: Path) -> dict[str, Any]:
    """Return the tensors of a saved original by their names in its GGUF file.

    Args:
        original: what it is.
        config: its settings in transformers.
        folder: has its weights.
    """
    architecture = next(k for k, v in MODEL_ARCH_NAMES.items() if v == original.architecture)
    names = get_tensor_name_map(architecture, config.num_hidden_layers)
    tensors: dict[str, Any] = {}
    for name, tensor in _join_experts(load_file(folder / "model.safetensors")).items():
        values = tensor.float()
        if original.interleaved and re.search(r"q_proj\.(weight|bias)$", name):
            values = interleaved_rows(values, config.num_attention_heads)
        if original.interleaved and re.search(r"k_proj\.(weight|bias)$", name):
            values = interleaved_rows(values, config.num_key_value_heads)
        if original.shifted_norms and re.search(r"norm\.weight$", name):
            values = values + (0 if "linear_attn.norm" in name else 1)
        if special := _split(name, values, config):
            tensors |= special
            continue
        if name.endswith("conv.conv.weight"):
            values = values.squeeze(1)
        target = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert target, name
        tensors[target] = values.numpy()
    return tensors


def _split(name: str, values: torch.Tensor, config: Any) -> dict[str, Any]:
    """The tensors of the file for one that has no counterpart there; none for others."""
    match = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", name)
    prefix, leaf = (f"blk.{match[1]}", match[2]) if match else ("", name)
    gate, up, down = (f"{prefix}.ffn_{kind}_exps" for kind in ("gate", "up", "down"))
    made: dict[str, torch.Tensor] = {}
    match leaf:
        case "block_sparse_moe.input_linear.weight":
            first, second = values.chunk(2, dim=1)
            made = {f"{gate}.weight": first, f"{up}.weight": second}
        case "block_sparse_moe.output_linear.weight":
            made = {f"{down}.weight": values}
        case "mlp.experts.gate_up_proj":
            rows = values.transpose(1, 2)
            made = {f"{gate}.weight": rows[:, ::2], f"{up}.weight": rows[:, 1::2]}
        case "mlp.experts.gate_up_proj_bias":
            made = {f"{gate}.bias": values[:, ::2], f"{up}.bias": values[:, 1::2]}
        case "mlp.experts.down_proj":
            made = {f"{down}.weight": values.transpose(1, 2)}
        case "mlp.experts.down_proj_bias":
            made = {f"{down}.bias": values}
        case "layer_scalar":
            made = {f"{prefix}.layer_output_scale.weight": values}
        case "self_attn.sinks":
            made = {f"{prefix}.attn_sinks.weight": values}
        case "shared_mlp.input_linear.weight":
            first, second = values.chunk(2)
            end = "_shexp" if config.num_local_experts else ""
            made = {
                f"{prefix}.ffn_gate{end}.weight": first,
                f"{prefix}.ffn_up{end}.weight": second,
            }
        case "shared_mlp.output_linear.weight" if not config.num_local_experts:
            made = {f"{prefix}.ffn_down.weight": values}
        case "feed_forward.expert_bias":
            made = {f"{prefix}.exp_probs_b.bias": values}
        case "mamba.A_log":
            made = {f"{prefix}.ssm_a": -values.exp()[:, None]}
        case "mamba.D":
            made = {f"{prefix}.ssm_d": values[:, None]}
        case "mamba.dt_bias":
            made = {f"{prefix}.ssm_dt.bias": values}
        case "mamba.norm.weight":
            made = {f"{prefix}.ssm_norm.weight": values.view(config.mamba_n_groups, -1)}
        case "mamba.conv1d.weight":
            made = {f"{prefix}.ssm_conv1d.weight": values.squeeze(1)}
        case "linear_attn.A_log":
            made = {f"{prefix}.ssm_a": _tile(-values.exp(), config, 1)}
        case "linear_attn.dt_bias":
            made = {f"{prefix}.ssm_dt.bias": _tile(values, config, 1)}
        case "linear_attn.in_proj_a.weight":
            made = {f"{prefix}.ssm_alpha.weight": _tile(values, config, 1)}
        case "linear_attn.in_proj_b.weight":
            made = {f"{prefix}.ssm_beta.weight": _tile(values, config, 1)}
        case "linear_attn.in_proj_z.weight":
            size = config.linear_value_head_dim
            made = {f"{prefix}.attn_gate.weight": _tile(values, config, size)}
        case "linear_attn.out_proj.weight":
            size = config.linear_value_head_dim
            made = {f"{prefix}.ssm_out.weight": _tile(values.T, config, size).T}
        case "linear_attn.in_proj_qkv.weight" | "linear_attn.conv1d.weight":
            kept = 2 * config.linear_num_key_heads * config.linear_key_head_dim
            tail = _tile(values[kept:], config, config.linear_value_head_dim)
            kind = "attn_qkv" if "qkv" in leaf else "ssm_conv1d"
            made = {f"{prefix}.{kind}.weight": torch.cat([values[:kept], tail]).squeeze(1)}
    return {target: tensor.contiguous().numpy() for target, tensor in made.items()}


def _tile(tensor: torch.Tensor, config: Any, size: int) -> torch.Tensor:
    """Bring the first value head of every key together, then the second, and so on."""
    keys = config.linear_num_key_heads
    heads = config.linear_num_value_heads // keys
    grouped = tensor.reshape(keys, heads, size, *tensor.shape[1:])
    return grouped.transpose(0, 1).reshape(tensor.shape)


def _join_experts(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    joined: dict[str, torch.Tensor] = {}
    experts: dict[str, list[torch.Tensor]] = {}
    for name in sorted(tensors, key=lambda each: [int(n) for n in re.findall(r"\d+", each)]):
        if match := re.fullmatch(r"(.*)\.experts\.\d+\.(\w+)\.weight", name):
            prefix, kind = match.groups()
            prefix = prefix.replace("model.layers", "layers").replace(
                "block_sparse_moe", "feed_forward"
            )
            own = "layers" if "feed_forward" in prefix else "model.layers"
            prefix = prefix.replace("layers", own)
            experts.setdefault(f"{prefix}.experts.{kind}.weight", []).append(tensors[name])
        else:
            joined[name] = tensors[name]
    return joined | {name: torch.stack(parts) for name, parts in experts.items()}


def interleaved_rows(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """Bring the two halves of each head's rows together, pair by pair."""
    rest = tensor.shape[1:]
    halves = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *rest)
    return halves.swapaxes(1, 2).reshape(tensor.shape)
