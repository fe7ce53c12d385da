"""A tiny Gemma 3 as GGUF files: the model, and an mmproj with its vision encoder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import transformers
from gguf import MODEL_ARCH, GGUFWriter, get_tensor_name_map
from safetensors.torch import load_file
from torch import Tensor

from tests import vision_models

TEXT: dict[str, Any] = {
    "num_hidden_layers": 6, "hidden_size": 64, "head_dim": 32, "query_pre_attn_scalar": 32,
    "sliding_window": 64, "layer_types": [*["sliding_attention"] * 5, "full_attention"],
    "intermediate_size": 96,
}  # fmt: skip
"""Sizes of the text, with the layers that llama.cpp expects."""

IMAGE_SIZE = 28
"""Pixels of an image that need not be scaled, in each direction."""

_MMPROJ_NAMES = {
    "multi_modal_projector.mm_input_projection_weight": "mm.input_projection.weight",
    "multi_modal_projector.mm_soft_emb_norm.weight": "mm.soft_emb_norm.weight",
}


def save(folder: Path) -> tuple[Path, Path]:
    """Write `model.gguf` and `mmproj-model-f32.gguf` beside `original`, which transformers reads.

    Returns:
        Both files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    original = vision_models.save("gemma3", folder / "original", **TEXT)
    tensors = load_file(original / "model.safetensors")
    config = transformers.AutoConfig.from_pretrained(original)
    model, mmproj = folder / "model.gguf", folder / "mmproj-model-f32.gguf"
    _write_model(model, config.text_config, tensors, original)
    _write_mmproj(mmproj, config, tensors)
    return model, mmproj


def _write_model(path: Path, config: Any, tensors: dict[str, Tensor], original: Path) -> None:
    writer = GGUFWriter(path, "gemma3")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_sliding_window(config.sliding_window)
    writer.add_rope_freq_base(config.rope_parameters["full_attention"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    _write_vocabulary(writer, original)
    names = get_tensor_name_map(MODEL_ARCH.GEMMA3, config.num_hidden_layers)
    for name, values in tensors.items():
        if "language_model" not in name:
            continue
        plain = "model." + name.removeprefix("language_model.").removeprefix("model.")
        plain = re.sub(r"^(model\.)+(language_model\.)?(model\.)?", "model.", plain)
        target = names.get_name(plain, try_suffixes=(".weight", ".bias"))
        assert target, name
        shift = 1.0 if plain.endswith("norm.weight") else 0.0
        writer.add_tensor(target, (values.float() + shift).numpy())
    _finish(writer)


def _write_vocabulary(writer: GGUFWriter, original: Path) -> None:
    """Write the tokenizer of `vision_models.make_tokenizer`, byte-level BPE."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(original)
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    added = tokenizer.get_added_vocab()
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in added else 1 for token in tokens])
    writer.add_token_merges(["Ċ Ċ", "ĊĊ Ċ", "t h", "th e"])
    writer.add_bos_token_id(added["<bos>"])
    writer.add_eos_token_id(added["<end_of_turn>"])
    writer.add_pad_token_id(added["<pad>"])
    writer.add_add_bos_token(False)
    writer.add_chat_template(vision_models.GEMMA_TEMPLATE)


def _write_mmproj(path: Path, config: Any, tensors: dict[str, Tensor]) -> None:
    vision = config.vision_config
    writer = GGUFWriter(path, "clip")
    writer.add_type("mmproj")
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_string("clip.projector_type", "gemma3")
    writer.add_bool("clip.use_gelu", True)
    for key, value in {
        "image_size": vision.image_size, "patch_size": vision.patch_size,
        "embedding_length": vision.hidden_size, "feed_forward_length": vision.intermediate_size,
        "block_count": vision.num_hidden_layers, "projection_dim": config.text_config.hidden_size,
        "attention.head_count": vision.num_attention_heads, "projector.scale_factor": 2,
    }.items():  # fmt: skip
        writer.add_uint32(f"clip.vision.{key}", value)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", vision.layer_norm_eps)
    for key in ("image_mean", "image_std"):
        writer.add_array(f"clip.vision.{key}", [0.5, 0.5, 0.5])
    names = get_tensor_name_map(MODEL_ARCH.MMPROJ, vision.num_hidden_layers)
    for name, values in tensors.items():
        if any(part in name for part in ("language_model", "lm_head", ".head.")):
            continue  # the encoder's pooling head is not used
        plain = name.removeprefix("model.").removeprefix("vision_tower.")
        target = _MMPROJ_NAMES.get(plain) or names.get_name(
            f"vision_tower.vision_model.{plain}", try_suffixes=(".weight", ".bias")
        )
        assert target, name
        shift = 1.0 if "soft_emb_norm" in plain else 0.0
        writer.add_tensor(target, (values.float() + shift).contiguous().numpy())
    _finish(writer)


def _finish(writer: GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
