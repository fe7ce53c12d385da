"""Write the default model as GGUF files for llama.cpp, in the compared formats."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import gguf
import torch

from benchmarks.random_gguf import add_tokenizer
from chatlm.engines.native.architectures.registry import read_config
from chatlm.engines.native.attention import AttentionConfig
from chatlm.engines.native.weight_reader import read_weights, to_linear

FORMATS = ("BF16", "Q8_0", "Q4_1")


def write_all(folder: Path, into: Path) -> dict[str, Path]:
    """Write a GGUF file for each of `FORMATS` from a model of the Llama architecture.

    Args:
        folder: of the model.
        into: a folder for the files; existing ones are reused.
    """
    into.mkdir(parents=True, exist_ok=True)
    files = {name: into / f"{folder.name}-{name}.gguf" for name in FORMATS}
    if not files["BF16"].exists():
        part = files["BF16"].with_suffix(".part")
        _write(folder, part)
        part.rename(files["BF16"])
    for name, file in files.items():
        if not file.exists():
            part = file.with_suffix(".part")
            _requantize(files["BF16"], part, name)
            part.rename(file)
    return files


def _write(folder: Path, file: Path) -> None:
    shape = read_config(folder)
    weights = to_linear(read_weights(folder, shape), shape, torch.bfloat16)
    layer_shape = shape.layers[0]
    attention, mlp = layer_shape.mixer, layer_shape.mlp
    if not isinstance(attention, AttentionConfig) or attention.rope is None:
        raise ValueError("not the block of a Llama")
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(shape.max_position_embeddings)
    writer.add_embedding_length(shape.hidden_size)
    writer.add_block_count(len(shape.layers))
    writer.add_feed_forward_length(mlp.intermediate_size)
    writer.add_head_count(attention.num_attention_heads)
    writer.add_head_count_kv(attention.num_key_value_heads)
    writer.add_rope_dimension_count(attention.head_dim)
    writer.add_rope_freq_base((1.0 / attention.rope.inv_freq[1]) ** (attention.head_dim / 2))
    writer.add_layer_norm_rms_eps(shape.rms_norm_eps)
    writer.add_vocab_size(shape.vocab_size)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    add_tokenizer(writer, folder, shape.vocab_size)
    add = _adder(writer)
    add("token_embd", weights.embed_tokens.weight)
    add("output_norm", weights.norm)
    for number, layer in enumerate(weights.layers):
        matrices, vectors = layer.matrices, layer.vectors
        for name, tensor in {
            "attn_norm": vectors["pre_mixer_norm"],
            "attn_q": _interleaved(matrices["q_proj"].weight, attention.num_attention_heads),
            "attn_k": _interleaved(matrices["k_proj"].weight, attention.num_key_value_heads),
            "attn_v": matrices["v_proj"].weight,
            "attn_output": matrices["o_proj"].weight,
            "ffn_norm": vectors["pre_mlp_norm"],
            "ffn_gate": matrices["gate_proj"].weight,
            "ffn_up": matrices["up_proj"].weight,
            "ffn_down": matrices["down_proj"].weight,
        }.items():
            add(f"blk.{number}.{name}", tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _adder(writer: gguf.GGUFWriter) -> Callable[[str, torch.Tensor], None]:
    def add(name: str, tensor: torch.Tensor) -> None:
        if tensor.dim() == 1:
            writer.add_tensor(f"{name}.weight", tensor.float().numpy())
            return
        data = tensor.contiguous().view(torch.uint8).numpy()
        writer.add_tensor(
            f"{name}.weight", data, raw_shape=data.shape, raw_dtype=gguf.GGMLQuantizationType.BF16
        )

    return add


def _interleaved(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Reorder rows for llama.cpp, whose RoPE rotates neighbours instead of halves."""
    rows, columns = weight.shape
    pairs = weight.view(heads, 2, rows // heads // 2, columns)
    return pairs.transpose(1, 2).reshape(rows, columns)


def _requantize(source: Path, file: Path, form: str) -> None:
    llama_cpp = importlib.import_module("llama_cpp")
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{form}")
    if llama_cpp.llama_model_quantize(str(source).encode(), str(file).encode(), settings):
        raise RuntimeError(f"llama.cpp could not write {file}")
