"""Tiny vision models as GGUF files: the model, and an mmproj with its vision encoder."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import MODEL_ARCH, GGUFWriter, get_tensor_name_map
from safetensors.torch import save_file
from torch import Tensor

from tests import vision_families, vision_models
from tests.gguf_files import add_setting, file_settings
from tests.gguf_originals import Metadata, Original
from tests.gguf_tensors import converted_tensors, interleaved_rows

IMAGE_SIZE = 28
"""Pixels of an image that need not be scaled for Gemma 3, in each direction."""

_GEMMA3_TEXT: dict[str, Any] = {
    "num_hidden_layers": 6, "hidden_size": 64, "head_dim": 32, "query_pre_attn_scalar": 32,
    "sliding_window": 64, "layer_types": [*["sliding_attention"] * 5, "full_attention"],
    "intermediate_size": 96,
}  # fmt: skip
"""Sizes of the text, with the layers that llama.cpp expects."""

_HEAD = {"attention.key_length": 12, "attention.value_length": 12, "rope.dimension_count": 12}
"""Of the heads of `vision_models.TEXT_SIZES`."""


@dataclass(frozen=True)
class Family:
    """How a model becomes two files."""

    make: Callable[[], tuple[Any, Any]]
    """Returns the original and its processor."""
    text: Original
    projector: str
    settings: Metadata = field(default_factory=dict)
    """Of the mmproj file, without `clip.`, beside the usual sizes."""
    prefix: str = ""
    """Of the names of the vision encoder's tensors in the table of the gguf package."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Names in the mmproj file of tensors that the table lacks, by pattern of their own names."""
    change: Callable[[str, Tensor, Any], Mapping[str, Tensor]] | None = None
    """Gets name and values of a tensor for the mmproj file and the config; returns what is
    written."""


def _gemma3_tensors(name: str, values: Tensor, config: Any) -> Mapping[str, Tensor]:
    return {name: values + ("soft_emb_norm" in name)}


def _pixtral_tensors(name: str, values: Tensor, config: Any) -> Mapping[str, Tensor]:
    if re.search(r"attn_[qk]\.weight", name):
        values = interleaved_rows(values, config.vision_config.num_attention_heads)
    return {name: values}


def _lfm2_tensors(name: str, values: Tensor, config: Any) -> Mapping[str, Tensor]:
    if name == "v.patch_embd.weight":
        size = config.vision_config.patch_size
        values = values.view(-1, size, size, 3).permute(0, 3, 1, 2)
    return {name: values}


def _qwen_tensors(name: str, values: Tensor, config: Any) -> Mapping[str, Tensor]:
    if name == "v.patch_embd.weight":  # of two frames, which are the same in an image
        return {name: values[:, :, 0], f"{name}.1": values[:, :, 1]}
    if "attn_qkv" in name and config.model_type == "qwen2_5_vl":
        parts = zip("qkv", values.chunk(3), strict=True)
        return {name.replace("attn_qkv", f"attn_{which}"): part for which, part in parts}
    return {name: values}


_PROJECTION_NAMES = {r"multi_modal_projector\.linear_(\d)": r"mm.\1"}

_QWEN_NAMES = {
    r"visual\.merger\.mlp\.(\d)": r"mm.\1",
    r"visual\.blocks\.(\d+)\.attn\.qkv": r"v.blk.\1.attn_qkv",
    r"visual\.merger\.linear_fc1": "mm.0",
    r"visual\.merger\.linear_fc2": "mm.2",
    r"visual\.merger\.norm": "v.post_ln",
    r"visual\.deepstack_merger_list\.(\d+)\.linear_fc(\d)": r"v.deepstack.\1.fc\2",
    r"visual\.deepstack_merger_list\.(\d+)\.norm": r"v.deepstack.\1.norm",
}

_SECTIONS = {"rope.dimension_sections": [2, 2, 2, 0]}


def _qwen2_5_vl() -> tuple[Any, Any]:
    """With the window that mtmd takes for granted, and weights with which an image matters."""
    model, processor = vision_models.qwen2_5_vl({}, window_size=112)
    with torch.no_grad():
        for values in model.model.visual.parameters():
            if values.ndim > 1:
                values.mul_(8)
    return model, processor


def _gemma4_tensors(name: str, values: Tensor, config: Any) -> Mapping[str, Tensor]:
    if name == "v.patch_embd.weight":
        size = config.vision_config.patch_size
        values = values.view(-1, size, size, 3).permute(0, 3, 1, 2)
    return {name: values}


def _gemma4(*, both_directions: bool) -> Family:
    shared = 0 if both_directions else 2
    return Family(
        lambda: vision_families.gemma4(both_directions=both_directions, image_tokens=280),
        Original(
            "Gemma4", "gemma4",
            metadata={
                "attention.key_length": 24, "attention.value_length": 24,
                "attention.key_length_swa": 12, "attention.value_length_swa": 12,
                "rope.dimension_count": 24, "rope.dimension_count_swa": 12,
                "rope.freq_base": 1e6, "rope.freq_base_swa": 1e4, "attention.sliding_window": 24,
                "attention.sliding_window_pattern": [True, False] * 2,
                "embedding_length_per_layer_input": 0 if both_directions else 8,
                "attention.shared_kv_layers": shared,
                "attention.head_count_kv": [2, 1, 2, 1] if both_directions else [2, 2, 2, 2],
            },
            tensors={"rope_freqs.weight": [1.0] * 3 + [1e30] * 9},
        ),
        "gemma4v",
        {"use_gelu": True, "vision.projector.scale_factor": 2, "vision.image_size": 128},
        names={
            r"vision_tower\.patch_embedder\.input_proj": "v.patch_embd",
            r"vision_tower\.patch_embedder\.position_embedding_table": "v.position_embd.weight",
            r"embed_vision\.embedding_projection": "mm.input_projection",
        },
        change=_gemma4_tensors,
    )  # fmt: skip


FAMILIES: dict[str, Family] = {
    "gemma3": Family(
        lambda: vision_models.gemma3(_GEMMA3_TEXT),
        Original(
            "Gemma3", "gemma3", shifted_norms=True,
            metadata={
                "attention.key_length": 32, "attention.value_length": 32,
                "attention.sliding_window": 64, "rope.freq_base": 1e6,
            },
        ),
        "gemma3",
        {"use_gelu": True, "vision.projector.scale_factor": 2},
        prefix="vision_tower.vision_model.",
        names={
            r"multi_modal_projector\.mm_input_projection_weight": "mm.input_projection.weight",
            r"multi_modal_projector\.mm_soft_emb_norm": "mm.soft_emb_norm",
        },
        change=_gemma3_tensors,
    ),
    "gemma4": _gemma4(both_directions=False),
    "gemma4_large": _gemma4(both_directions=True),
    "idefics3": Family(
        lambda: vision_models.idefics3({}),
        Original("Llama", "llama", metadata=_HEAD, interleaved=True),
        "idefics3",
        {"use_gelu": True, "vision.projector.scale_factor": 2, "vision.preproc_image_size": 56},
        prefix="model.",
    ),
    "lfm2_vl": Family(
        lambda: vision_families.lfm2_vl(image_tokens=(64, 256), positions=256, tile_size=512),
        Original(
            "Lfm2", "lfm2",
            metadata={"attention.head_count_kv": [0, 2, 0], "shortconv.l_cache": 3},
        ),
        "lfm2",
        {"use_gelu": True, "vision.projector.scale_factor": 2, "vision.image_size": 64},
        prefix="vision_tower.vision_model.",
        names=_PROJECTION_NAMES,
        change=_lfm2_tensors,
    ),
    "mistral3": Family(
        vision_families.mistral3,
        Original("Mistral", "llama", metadata=_HEAD, interleaved=True),
        "pixtral",
        {"use_silu": True, "vision.spatial_merge_size": 2},
        names=_PROJECTION_NAMES,
        change=_pixtral_tensors,
    ),
    "qwen2_5_vl": Family(
        _qwen2_5_vl,
        Original("Qwen2", "qwen2vl", metadata=_SECTIONS),
        "qwen2.5vl_merger",
        {
            "use_silu": True, "vision.spatial_merge_size": 2, "vision.image_size": 56,
            "vision.n_wa_pattern": 2,
        },
        names=_QWEN_NAMES,
        change=_qwen_tensors,
    ),
    "qwen3_vl": Family(
        lambda: vision_models.qwen3_vl({"num_hidden_layers": 3}),
        Original("Qwen3", "qwen3vl", metadata={**_HEAD, **_SECTIONS, "n_deepstack_layers": 2}),
        "qwen3vl_merger",
        {
            "use_gelu": True, "vision.spatial_merge_size": 2, "vision.image_size": 56,
            "vision.is_deepstack_layers": [True, True],
        },
        names=_QWEN_NAMES,
        change=_qwen_tensors,
    ),
}  # fmt: skip


def save(folder: Path, kind: str = "gemma3") -> tuple[Path, Path]:
    """Write `model.gguf` and `mmproj-model-f32.gguf` beside `original`, which transformers reads.

    Args:
        folder: where.
        kind: of `FAMILIES`.

    Returns:
        Both files.
    """
    family = FAMILIES[kind]
    torch.manual_seed(0)
    model, processor = family.make()
    original = folder / "original"
    model.eval().save_pretrained(original)
    processor.save_pretrained(original)
    tensors = {name: values.float() for name, values in model.state_dict().items()}
    files = folder / "model.gguf", folder / "mmproj-model-f32.gguf"
    _write_text(files[0], family, model.config, processor, tensors)
    _write_mmproj(files[1], family, model.config, processor, tensors)
    return files


def _write_text(
    path: Path, family: Family, config: Any, processor: Any, tensors: Mapping[str, Tensor]
) -> None:
    """Write the language model, by way of a folder that has nothing else."""
    folder = path.parent / "text"
    folder.mkdir()
    text = {
        re.sub(r"^model\.(language|text)_model\.", "model.", name): values.clone()
        for name, values in tensors.items()
        if re.match(r"model\.(language|text)_model\.|lm_head\.", name)
    }
    save_file(text, folder / "model.safetensors")
    architecture = family.text.architecture
    writer = GGUFWriter(path, architecture)
    for key, value in file_settings(family.text, config.text_config.to_dict()).items():
        add_setting(writer, f"{architecture}.{key}", value)
    _write_vocabulary(writer, processor)
    own = {name: np.array(values, np.float32) for name, values in family.text.tensors.items()}
    for name, values in (converted_tensors(family.text, config.text_config, folder) | own).items():
        writer.add_tensor(name, values)
    _finish(writer)


def _write_vocabulary(writer: GGUFWriter, processor: Any) -> None:
    """Write the tokenizer of `vision_models.make_tokenizer`, byte-level BPE."""
    tokenizer = processor.tokenizer
    added = tokenizer.get_added_vocab()
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in added else 1 for token in tokens])
    writer.add_token_merges(["Ċ Ċ", "ĊĊ Ċ", "t h", "th e"])
    for name in ("bos", "eos", "pad"):
        number = getattr(tokenizer, f"{name}_token_id")
        if number is not None:
            key = "padding" if name == "pad" else name
            writer.add_uint32(f"tokenizer.ggml.{key}_token_id", number)
    writer.add_add_bos_token(False)
    writer.add_chat_template(processor.chat_template)


def _write_mmproj(
    path: Path, family: Family, config: Any, processor: Any, tensors: Mapping[str, Tensor]
) -> None:
    sizes = config.vision_config.to_dict()

    def size(*names: str) -> Any:
        return next(sizes[name] for name in names if name in sizes)

    layers = size("num_hidden_layers", "depth")
    settings: Metadata = {
        "has_vision_encoder": True, "projector_type": family.projector,
        "vision.patch_size": size("patch_size"), "vision.embedding_length": size("hidden_size"),
        "vision.feed_forward_length": size("intermediate_size"), "vision.block_count": layers,
        "vision.attention.head_count": size("num_attention_heads", "num_heads"),
        "vision.attention.layer_norm_epsilon": float(sizes.get("layer_norm_eps", 1e-6)),
        "vision.projection_dim": config.text_config.hidden_size,
        "vision.image_mean": [float(each) for each in processor.image_processor.image_mean],
        "vision.image_std": [float(each) for each in processor.image_processor.image_std],
        **({"vision.image_size": sizes["image_size"]} if "image_size" in sizes else {}),
    }  # fmt: skip
    writer = GGUFWriter(path, "clip")
    writer.add_type("mmproj")
    for key, value in (settings | family.settings).items():
        add_setting(writer, f"clip.{key}", value)
    table = get_tensor_name_map(MODEL_ARCH.MMPROJ, layers)
    for name, values in tensors.items():
        plain = name.removeprefix("model.")
        if re.match(r"(language_model|text_model|lm_head|vision_tower\.head)\.", plain):
            continue  # the encoder's pooling head is not used
        target = _mmproj_name(plain, family, table)
        change = family.change or (lambda name, values, config: {name: values})
        for own, changed in change(target, values, config).items():
            writer.add_tensor(own, changed.contiguous().numpy())
    if family.projector == "pixtral":
        number = processor.tokenizer.convert_tokens_to_ids("[IMG_BREAK]")
        row = tensors["model.language_model.embed_tokens.weight"][number]
        writer.add_tensor("v.token_embd.img_break", row.numpy())
    _finish(writer)


def _mmproj_name(name: str, family: Family, table: Any) -> str:
    for pattern, target in family.names.items():
        if match := re.match(pattern, name):
            return match.expand(target) + name[match.end() :]
    bare = name.removeprefix("vision_tower.") if "vision_model" in family.prefix else name
    gemma4 = name.replace("vision_tower.encoder.", "vision_model.model.")
    own = (gemma4, gemma4.replace(".linear.", "."))
    for candidate in (f"{family.prefix}{bare}", name, f"model.{name}", *own):
        if target := table.get_name(candidate, try_suffixes=(".weight", ".bias")):
            return str(target)
    raise KeyError(name)


def _finish(writer: GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
