"""Tiny vision models with random weights, each with a processor and a tokenizer made here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

IDEFICS_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}"
    "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{ line['text'] }}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
"""In the form of SmolVLM's: contents must be lists."""

GEMMA_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<start_of_turn>"
    "{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] | trim }}{% else %}"
    "{% for item in message['content'] %}{% if item['type'] == 'image' %}<start_of_image>"
    "{% elif item['type'] == 'text' %}{{ item['text'] | trim }}{% endif %}{% endfor %}{% endif %}"
    "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
"""In the form of Gemma 3's."""

QWEN_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for item in message['content'] %}{% if item['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% elif 'text' in item %}{{ item['text'] }}"
    "{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""In the form of Qwen's."""

LLAVA_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] | upper }}: "
    "{% for item in message['content'] %}{% if item['type'] == 'image' %}<image>\n"
    "{% else %}{{ item['text'] }}{% endif %}{% endfor %} {% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
"""In the form of LLaVA's."""

TEXT_SIZES: dict[str, Any] = {
    "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 12, "max_position_embeddings": 2048,
    "initializer_range": 0.2,
}  # fmt: skip


def make_tokenizer(specials: Mapping[str, str], others: list[str]) -> Any:
    """A tokenizer of bytes with control tokens.

    Args:
        specials: control tokens by their names in transformers, such as `image_token`.
        others: more control tokens.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [("Ċ", "Ċ"), ("ĊĊ", "Ċ"), ("t", "h"), ("th", "e")]
    words = [*alphabet, *("".join(pair) for pair in pairs)]
    backend = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, pairs))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([*specials.values(), *others])
    known = {
        name: specials[name] for name in ("bos_token", "eos_token", "pad_token") if name in specials
    }
    extra = {name: text for name, text in specials.items() if name not in known}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        extra_special_tokens=extra,
        **known,
    )


@dataclass(frozen=True)
class VisionModel:
    """How a tiny vision model is made."""

    make: Callable[[Mapping[str, Any]], tuple[Any, Any]]
    """Gets changes of the text's sizes; returns the model and its processor."""
    packages: tuple[str, ...] = ()
    """Packages beyond those of chatlm that its processor needs."""


def idefics3(
    text: Mapping[str, Any],
    vision: Mapping[str, Any] | None = None,
    *,
    splits: bool = True,
    image_size: int = 28,
) -> tuple[Any, Any]:
    """SmolVLM's architecture: an image is divided into tiles, and read whole besides."""
    from transformers.models.idefics3.image_processing_pil_idefics3 import (
        Idefics3ImageProcessorPil,
    )

    tokenizer = make_tokenizer(
        {
            "bos_token": "<|im_start|>", "eos_token": "<end_of_utterance>", "pad_token": "<pad>",
            "image_token": "<image>", "fake_image_token": "<fake_token_around_image>",
            "global_image_token": "<global-img>",
        },
        [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)],
    )  # fmt: skip
    make: Any = transformers.Idefics3Config
    config = make(
        text_config={"model_type": "llama", **TEXT_SIZES, "vocab_size": len(tokenizer), **text},
        vision_config={
            "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 4, "image_size": image_size, "patch_size": 7,
            "initializer_range": 0.2, **(vision or {}),
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    processor = transformers.Idefics3Processor(
        Idefics3ImageProcessorPil(
            size={"longest_edge": 2 * image_size if splits else image_size},
            max_image_size={"longest_edge": image_size},
            do_image_splitting=splits,
        ),
        tokenizer,
        image_seq_len=(image_size // config.vision_config.patch_size) ** 2 // 4,
        chat_template=IDEFICS_TEMPLATE,
    )
    return transformers.Idefics3ForConditionalGeneration(config), processor


def gemma3(text: Mapping[str, Any]) -> tuple[Any, Any]:
    """Gemma 3: tokens of an image see each other in both directions; layers with windows."""
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    tokenizer = make_tokenizer(
        {
            "bos_token": "<bos>", "eos_token": "<end_of_turn>", "pad_token": "<pad>",
            "image_token": "<image_soft_token>", "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
        },
        ["<start_of_turn>"],
    )  # fmt: skip
    make: Any = transformers.Gemma3Config
    config = make(
        text_config={
            **TEXT_SIZES, "vocab_size": len(tokenizer), "sliding_window": 24,
            "query_pre_attn_scalar": 12, "num_hidden_layers": 3,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"], **text,
        },
        vision_config={
            "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 4, "image_size": 28, "patch_size": 7,
        },
        mm_tokens_per_image=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image_soft_token>"),
        boi_token_index=tokenizer.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_index=tokenizer.convert_tokens_to_ids("<end_of_image>"),
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    processor = transformers.Gemma3Processor(
        Gemma3ImageProcessorPil(size={"height": 28, "width": 28}),
        tokenizer,
        chat_template=GEMMA_TEMPLATE,
        image_seq_length=4,
    )
    model = transformers.Gemma3ForConditionalGeneration(config)
    # it begins with zeros, so images would not matter
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=0.5)
    return model, processor


def qwen2_5_vl(text: Mapping[str, Any], *, window_size: int = 28) -> tuple[Any, Any]:
    """Qwen 2.5 VL: as many tokens as the image is large, at positions in three dimensions.

    Args:
        text: changes of the sizes of the part for text.
        window_size: of the encoder's attention, in pixels.
    """
    vision = {"out_hidden_size": 48, "fullatt_block_indexes": [1], "window_size": window_size}
    return _qwen("Qwen2_5_VL", vision, text)


def qwen3_vl(text: Mapping[str, Any]) -> tuple[Any, Any]:
    """Qwen 3 VL: image features are added in several layers."""
    return _qwen(
        "Qwen3VL",
        {
            "out_hidden_size": 48, "deepstack_visual_indexes": [0, 1],
            "num_position_embeddings": 64,
        },
        text,
    )  # fmt: skip


def _qwen(name: str, vision: Mapping[str, Any], text: Mapping[str, Any]) -> tuple[Any, Any]:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    tokenizer = make_tokenizer(
        {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
        ["<|im_start|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"],
    )
    number = tokenizer.convert_tokens_to_ids
    config = getattr(transformers, f"{name}Config")(
        text_config={
            **TEXT_SIZES, "vocab_size": len(tokenizer),
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 2, 2],
            }, **text,
        },
        vision_config={
            "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4,
            "patch_size": 7, "spatial_merge_size": 2, "temporal_patch_size": 2, **vision,
        },
        image_token_id=number("<|image_pad|>"), video_token_id=number("<|video_pad|>"),
        vision_start_token_id=number("<|vision_start|>"),
        vision_end_token_id=number("<|vision_end|>"),
        eos_token_id=number("<|im_end|>"),
    )  # fmt: skip
    images = Qwen2VLImageProcessorPil(
        patch_size=7, merge_size=2, temporal_patch_size=2,
        size={"shortest_edge": 28 * 28, "longest_edge": 56 * 56},
    )  # fmt: skip
    videos = (
        transformers.Qwen3VLVideoProcessor
        if name == "Qwen3VL"
        else transformers.Qwen2VLVideoProcessor
    )
    processor = getattr(transformers, f"{name}Processor")(
        images, tokenizer, videos(patch_size=7, merge_size=2), chat_template=QWEN_TEMPLATE
    )
    return getattr(transformers, f"{name}ForConditionalGeneration")(config), processor


MODELS: dict[str, VisionModel] = {
    "idefics3": VisionModel(idefics3),
    "gemma3": VisionModel(gemma3),
    "qwen2_5_vl": VisionModel(qwen2_5_vl, ("torchvision",)),
    "qwen3_vl": VisionModel(qwen3_vl, ("torchvision",)),
}
"""By `model_type`."""


def save(kind: str, folder: Path, **text: Any) -> Path:
    """Save a tiny model of random weights, the same every time.

    Args:
        kind: a key of `MODELS`.
        folder: where.
        text: changes of the sizes of the part for text.
    """
    torch.manual_seed(0)
    model, processor = MODELS[kind].make(text)
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
