"""Write GGUF files with random weights in the shapes of real models.

A file has all that llama.cpp's converter writes, the types that its quantizer chooses, and the
default model's tokenizer and chat template, padded to the real model's vocabulary. Tensors are made
one by one, so a file may be larger than the memory.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter
from numpy.typing import NDArray

from benchmarks.random_blocks import block_size, random_rows
from tests.gguf_originals import llama3_factors

WEIGHTS_AT_ONCE = 16 << 20
"""Weights that are made at once."""


@dataclass(frozen=True)
class Shape:
    """The sizes of a model of the Llama or Qwen 3 architecture, from its public config.json; a
    mixture of experts has fewer layers here."""

    model: str
    """The real model."""
    architecture: str
    """In GGUF: llama, qwen3 or qwen3moe."""
    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_value_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    theta: float
    epsilon: float
    context: int
    llama3_factor: float | None = None
    """Of the RoPE scaling of Llama 3.1 and 3.2."""
    experts: int = 0
    """Number of experts; 0 for a dense model."""
    experts_per_token: int = 0
    expert_size: int = 0
    """Inner size of an expert."""

    @property
    def cache_bytes(self) -> int:
        """Bytes of a KV cache of 16 bits per token of context."""
        return 2 * 2 * self.layers * self.key_value_heads * self.head_dim

    @property
    def parameters(self) -> int:
        """Number of weights in matrices."""
        return sum(math.prod(tensor.shape) for tensor in tensors(self) if len(tensor.shape) > 1)


SHAPES: dict[str, Shape] = {
    "0.4b": Shape(
        "ERNIE-4.5-0.3B", "llama", 1024, 3072, 18, 16, 2, 128, 103424, True, 5e5, 1e-5, 131072
    ),
    "0.4b-smollm2": Shape(
        "SmolLM2-360M", "llama", 960, 2560, 32, 15, 5, 64, 49152, True, 1e5, 1e-5, 8192
    ),
    "0.6b": Shape(
        "Qwen3-0.6B", "qwen3", 1024, 3072, 28, 16, 8, 128, 151936, True, 1e6, 1e-6, 40960
    ),
    "1b": Shape(
        "Llama-3.2-1B", "llama", 2048, 8192, 16, 32, 8, 64, 128256, True, 5e5, 1e-5, 131072, 32.0
    ),
    "1.7b": Shape(
        "SmolLM2-1.7B", "llama", 2048, 8192, 24, 32, 32, 64, 49152, True, 1.3e5, 1e-5, 8192
    ),
    "1.7b-qwen3": Shape(
        "Qwen3-1.7B", "qwen3", 2048, 6144, 28, 16, 8, 128, 151936, True, 1e6, 1e-6, 40960
    ),
    "4b": Shape(
        "Qwen3-4B", "qwen3", 2560, 9728, 36, 32, 8, 128, 151936, True, 1e6, 1e-6, 40960
    ),
    "8b": Shape(
        "Llama-3.1-8B", "llama", 4096, 14336, 32, 32, 8, 128, 128256, False, 5e5, 1e-5, 131072, 8.0
    ),
    "8b-qwen3": Shape(
        "Qwen3-8B", "qwen3", 4096, 12288, 36, 32, 8, 128, 151936, False, 1e6, 1e-6, 40960
    ),
    "30b-a3b": Shape(
        "Qwen3-30B-A3B", "qwen3moe", 2048, 6144, 6, 32, 4, 128, 49408, False, 1e6, 1e-6, 40960,
        experts=128, experts_per_token=8, expert_size=768,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class NamedTensor:
    """A tensor of a file."""

    name: str
    """Without `.weight`."""
    shape: tuple[int, ...]
    layer: int = 0


def tensors(shape: Shape) -> Iterator[NamedTensor]:
    """Yield the tensors of a model in the order of llama.cpp's converter."""
    hidden, wide = shape.hidden, shape.intermediate
    queries, values = (n * shape.head_dim for n in (shape.heads, shape.key_value_heads))
    yield NamedTensor("token_embd", (shape.vocabulary, hidden))
    if shape.llama3_factor:
        yield NamedTensor("rope_freqs", (shape.head_dim // 2,))
    for layer in range(shape.layers):
        sizes: dict[str, tuple[int, ...]] = {
            "attn_norm": (hidden,),
            "attn_q": (queries, hidden),
            "attn_k": (values, hidden),
            "attn_v": (values, hidden),
            "attn_output": (hidden, queries),
            "ffn_norm": (hidden,),
        }
        if count := shape.experts:
            inner = shape.expert_size
            sizes |= {
                "ffn_gate_inp": (count, hidden),
                "ffn_gate_exps": (count, inner, hidden),
                "ffn_up_exps": (count, inner, hidden),
                "ffn_down_exps": (count, hidden, inner),
            }
        else:
            sizes |= {"ffn_gate": (wide, hidden), "ffn_up": (wide, hidden)}
            sizes["ffn_down"] = (hidden, wide)
        if shape.architecture != "llama":
            sizes |= dict.fromkeys(("attn_q_norm", "attn_k_norm"), (shape.head_dim,))
        for name, size in sizes.items():
            yield NamedTensor(f"blk.{layer}.{name}", size, layer)
    yield NamedTensor("output_norm", (hidden,))
    if not shape.tied:
        yield NamedTensor("output", (shape.vocabulary, hidden))


QUANTS = {
    "q4_k_m": gguf.LlamaFileType.MOSTLY_Q4_K_M,
    "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
    "bf16": gguf.LlamaFileType.MOSTLY_BF16,
}
"""The quantizations that are measured, with their numbers in a file. A type's name, such as Q5_K,
is a quantization too: all matrices have that type."""

_FALLBACKS = {
    "Q2_K": "Q4_0", "Q3_K": "Q4_0", "IQ4_XS": "IQ4_NL",
    "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0",
}  # fmt: skip
"""What llama.cpp stores instead where rows are not a multiple of 256 long."""


def tensor_type(tensor: NamedTensor, shape: Shape, quant: str) -> str:
    """Return the type in which llama.cpp stores a tensor of a quantized model."""
    if len(tensor.shape) == 1 or tensor.name.endswith("ffn_gate_inp"):
        return "F32"
    wanted = _mixture(tensor, shape) if quant == "q4_k_m" else quant.upper()
    return wanted if tensor.shape[-1] % block_size(wanted)[0] == 0 else _FALLBACKS[wanted]


def _mixture(tensor: NamedTensor, shape: Shape) -> str:
    """Return the type in a Q4_K_M file, as `llama_tensor_get_type` of llama.cpp chooses it."""
    if tensor.name == "output" or (tensor.name == "token_embd" and shape.tied):
        return "Q6_K"
    eighth = shape.layers // 8
    more_bits = (
        tensor.layer < eighth
        or tensor.layer >= 7 * shape.layers // 8
        or (tensor.layer - eighth) % 3 == 2
    )
    return "Q6_K" if more_bits and re.search(r"attn_v$|ffn_down(_exps)?$", tensor.name) else "Q4_K"


def write_model(file: Path, shape: Shape, quant: str, tokenizer: Path) -> None:
    """Write a random model, the same each time.

    Args:
        file: which must not exist.
        shape: of the model.
        quant: one of `QUANTS`, or the name of a type.
        tokenizer: folder of a model with a byte-level tokenizer and a chat template.
    """
    writer = GGUFWriter(file, shape.architecture, use_temp_file=False)
    _add_settings(writer, shape, quant)
    add_tokenizer(writer, tokenizer, shape.vocabulary)
    planned = [(tensor, tensor_type(tensor, shape, quant)) for tensor in tensors(shape)]
    for tensor, type_name in planned:
        weights, size = block_size(type_name)
        stored = (*tensor.shape[:-1], tensor.shape[-1] // weights * size)
        writer.add_tensor_info(
            f"{tensor.name}.weight",
            stored,
            np.dtype(np.uint8),
            math.prod(stored),
            GGMLQuantizationType[type_name],
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    loud = plain_words(tokenizer, shape.vocabulary)
    for number, (tensor, type_name) in enumerate(planned):
        values = _values(tensor, type_name, shape, loud, np.random.default_rng(number))
        writer.write_tensor_data(values)
    writer.close()


def _values(
    tensor: NamedTensor,
    type_name: str,
    shape: Shape,
    loud: NDArray[np.bool_],
    rng: np.random.Generator,
) -> NDArray[np.uint8]:
    if tensor.name == "rope_freqs":
        factors = llama3_factors(shape.theta, shape.head_dim, shape.llama3_factor or 1.0)
        return np.array(factors, np.float32).view(np.uint8)
    if len(tensor.shape) == 1:
        return rng.uniform(0.5, 1.5, tensor.shape).astype(np.float32).view(np.uint8)
    *rows, columns = tensor.shape
    sizes = np.full(math.prod(rows), 1 / math.sqrt(columns))
    if tensor.name in ("token_embd", "output"):
        sizes *= np.where(loud, 2.0, 1 / 16)
    return _rows(type_name, columns, sizes, rng)


def _rows(
    type_name: str, columns: int, sizes: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Return random rows, made from some at a time."""
    weights, size = block_size(type_name)
    data = np.empty((len(sizes), columns // weights * size), np.uint8)
    step = max(1, WEIGHTS_AT_ONCE // columns)
    for start in range(0, len(sizes), step):
        part = sizes[start : start + step]
        data[start : start + step] = random_rows(type_name, columns, part, rng)
    return data


def plain_words(tokenizer: Path, vocabulary: int) -> NDArray[np.bool_]:
    """Tell which tokens are English letters; the embeddings of others are small.

    So a random model writes only these, each of which a program shows at once, and never a token
    that ends the reply.
    """
    known = json.loads((tokenizer / "tokenizer.json").read_bytes())
    plain = np.zeros(vocabulary, np.bool_)
    for text, number in known["model"]["vocab"].items():
        if number < vocabulary:
            plain[number] = re.fullmatch("Ġ?[A-Za-z]+", text) is not None
    return plain


def _add_settings(writer: GGUFWriter, shape: Shape, quant: str) -> None:
    writer.add_name(f"Random {shape.model}")
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.intermediate)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.key_value_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    if shape.experts:
        writer.add_expert_count(shape.experts)
        writer.add_expert_used_count(shape.experts_per_token)
        writer.add_expert_feed_forward_length(shape.expert_size)
    if shape.architecture == "llama":
        writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(shape.theta)
    writer.add_layer_norm_rms_eps(shape.epsilon)
    writer.add_vocab_size(shape.vocabulary)
    file_type = QUANTS.get(quant, gguf.LlamaFileType.GUESSED)
    writer.add_file_type(file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def add_tokenizer(writer: GGUFWriter, folder: Path, vocabulary: int) -> None:
    """Add the tokenizer of the default model, padded to a vocabulary, and its chat template.

    Args:
        writer: of the file.
        folder: of the model.
        vocabulary: number of tokens.
    """
    tokenizer = json.loads((folder / "tokenizer.json").read_bytes())
    settings = json.loads((folder / "tokenizer_config.json").read_bytes())
    tokens = [f"[PAD{number}]" for number in range(vocabulary)]
    kinds = [gguf.TokenType.UNUSED] * vocabulary
    ids = tokenizer["model"]["vocab"] | {t["content"]: t["id"] for t in tokenizer["added_tokens"]}
    control = {token["content"] for token in tokenizer["added_tokens"]}
    for text, number in ids.items():
        tokens[number] = text
        kinds[number] = gguf.TokenType.CONTROL if text in control else gguf.TokenType.NORMAL
    merges = tokenizer["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    special: dict[str, Callable[[int], None]] = {
        "bos_token": writer.add_bos_token_id,
        "eos_token": writer.add_eos_token_id,
        "unk_token": writer.add_unk_token_id,
        "pad_token": writer.add_pad_token_id,
    }
    for name, add in special.items():
        add(ids[settings[name]])
    writer.add_add_bos_token(False)
    writer.add_chat_template((folder / "chat_template.jinja").read_text(encoding="utf-8"))


_FOLDER_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""Names of tensors in transformers."""


def folder_name(tensor: NamedTensor) -> str:
    """Return the name of a tensor in transformers."""
    _, _, leaf = tensor.name.rpartition(".")
    prefix = f"model.layers.{tensor.layer}." if tensor.name.startswith("blk.") else ""
    return f"{prefix}{_FOLDER_NAMES[leaf]}.weight"


def config(shape: Shape) -> dict[str, Any]:
    """Return the config.json of a model."""
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": shape.theta}
    if shape.llama3_factor:
        rope |= {
            "rope_type": "llama3", "factor": shape.llama3_factor, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
        }  # fmt: skip
    return {
        "architectures": [{"llama": "Llama", "qwen3": "Qwen3"}[shape.architecture] + "ForCausalLM"],
        "model_type": shape.architecture,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.key_value_heads,
        "head_dim": shape.head_dim,
        "vocab_size": shape.vocabulary,
        "tie_word_embeddings": shape.tied,
        "rope_parameters": rope,
        "rms_norm_eps": shape.epsilon,
        "max_position_embeddings": shape.context,
        "dtype": "bfloat16",
    }


def write_folder(folder: Path, shape: Shape) -> None:
    """Write a random model in bfloat16 as transformers reads it: config.json and safetensors.

    Args:
        folder: which must not exist.
        shape: of the model, without experts.

    Raises:
        ValueError: it has experts.
    """
    if shape.experts:
        raise ValueError("only models without experts are written for transformers")
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config(shape)), encoding="utf-8")
    planned = [tensor for tensor in tensors(shape) if tensor.name != "rope_freqs"]
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in planned:
        start, end = end, end + 2 * math.prod(tensor.shape)
        header[folder_name(tensor)] = {
            "dtype": "BF16", "shape": tensor.shape, "data_offsets": [start, end],
        }  # fmt: skip
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    rng = np.random.default_rng(0)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in planned:
            *rows, columns = tensor.shape
            sizes = np.full(rows[0], columns**-0.5) if rows else np.ones(1)
            _rows("BF16", columns, sizes, rng).tofile(file)
