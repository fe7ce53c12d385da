"""Tiny models of more vision families, with the config and processor classes of the real ones."""

from __future__ import annotations

from typing import Any

import transformers

from tests.vision_models import (
    GEMMA_TEMPLATE,
    IDEFICS_TEMPLATE,
    QWEN_TEMPLATE,
    TEXT_SIZES,
    make_tokenizer,
)

LFM_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for item in message['content'] %}{% if item['type'] == 'image' %}<image>"
    "{% else %}{{ item['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""In the form of LFM2-VL's."""

MISTRAL_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}[INST]"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for item in message['content'] %}{% if item['type'] == 'image' %}[IMG]"
    "{% else %}{{ item['text'] }}{% endif %}{% endfor %}{% endif %}[/INST]"
    "{% elif message['role'] == 'system' %}[SYSTEM_PROMPT]"
    "{{ message['content'] if message['content'] is string else message['content'][0]['text'] }}"
    "[/SYSTEM_PROMPT]{% else %}"
    "{{ message['content'] if message['content'] is string else message['content'][0]['text'] }}"
    "{{ eos_token }}{% endif %}{% endfor %}"
)
"""In the form of Mistral Small 3.1's and Ministral 3's."""

GEMMA4_TEMPLATE = (
    GEMMA_TEMPLATE.replace("<start_of_turn>", "<|turn>")
    .replace("<end_of_turn>", "<turn|>")
    .replace("<start_of_image>", "<|image|>")
)
"""In the form of Gemma 4's, without tools and thoughts."""


def smolvlm() -> tuple[Any, Any]:
    """SmolVLM 2: as SmolVLM, and videos."""
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

    tokenizer = make_tokenizer(
        {
            "bos_token": "<|im_start|>", "eos_token": "<end_of_utterance>", "pad_token": "<pad>",
            "image_token": "<image>", "fake_image_token": "<fake_token_around_image>",
            "global_image_token": "<global-img>",
        },
        [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)],
    )  # fmt: skip
    make: Any = transformers.SmolVLMConfig
    config = make(
        text_config={"model_type": "llama", **TEXT_SIZES, "vocab_size": len(tokenizer)},
        vision_config={
            "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 4, "image_size": 28, "patch_size": 7,
            "initializer_range": 0.2,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    sizes: dict[str, Any] = {"size": {"longest_edge": 56}, "max_image_size": {"longest_edge": 28}}
    processor = transformers.SmolVLMProcessor(
        SmolVLMImageProcessorPil(**sizes),
        tokenizer,
        transformers.SmolVLMVideoProcessor(**sizes),
        image_seq_len=4,
        chat_template=IDEFICS_TEMPLATE,
    )
    return transformers.SmolVLMForConditionalGeneration(config), processor


def lfm2_vl(
    *, image_tokens: tuple[int, int] = (4, 16), positions: int = 64, tile_size: int = 32
) -> tuple[Any, Any]:
    """LFM2-VL: convolutions between layers with attention; large images in tiles.

    Args:
        image_tokens: the fewest and the most of a whole image.
        positions: of patches that the encoder knows.
        tile_size: in pixels.
    """
    tokenizer = make_tokenizer(
        {
            "bos_token": "<|startoftext|>", "eos_token": "<|im_end|>", "pad_token": "<|pad|>",
            "image_token": "<image>", "image_start_token": "<|image_start|>",
            "image_end_token": "<|image_end|>", "image_thumbnail_token": "<|img_thumbnail|>",
        },
        [
            "<|im_start|>",
            *(f"<|img_row_{row}_col_{column}|>" for row in range(1, 5) for column in range(1, 5)),
        ],
    )  # fmt: skip
    make: Any = transformers.Lfm2VlConfig
    config = make(
        text_config={
            "model_type": "lfm2", **TEXT_SIZES, "vocab_size": len(tokenizer),
            "layer_types": ["conv", "full_attention", "conv"], "num_hidden_layers": 3,
            "block_auto_adjust_ff_dim": False, "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.bos_token_id,
        },
        vision_config={
            "model_type": "siglip2_vision_model", "hidden_size": 32, "intermediate_size": 48,
            "num_hidden_layers": 2, "num_attention_heads": 4, "patch_size": 4,
            "num_patches": positions,
        },
        projector_hidden_size=40,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    processor = transformers.Lfm2VlProcessor(
        transformers.Lfm2VlImageProcessor(
            encoder_patch_size=4, tile_size=tile_size, min_image_tokens=image_tokens[0],
            max_image_tokens=image_tokens[1], max_tiles=4,
        ),
        tokenizer,
        chat_template=LFM_TEMPLATE,
    )  # fmt: skip
    return transformers.Lfm2VlForConditionalGeneration(config), processor


def mistral3() -> tuple[Any, Any]:
    """Mistral Small 3.1: Pixtral's encoder, with tokens at the ends of an image's lines."""
    return _mistral({"model_type": "mistral", "sliding_window": None})


def ministral3() -> tuple[Any, Any]:
    """Ministral 3: the same encoder."""
    rope = {
        "rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "beta_fast": 32.0, "beta_slow": 1.0,
        "original_max_position_embeddings": 512, "llama_4_scaling_beta": 0.1, "mscale": 1.0,
        "mscale_all_dim": 1.0,
    }  # fmt: skip
    return _mistral({"model_type": "ministral3", "rope_parameters": rope})


def _mistral(text: dict[str, Any]) -> tuple[Any, Any]:
    from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil

    tokenizer = make_tokenizer(
        {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"},
        [
            *("[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
            *("[IMG]", "[IMG_BREAK]", "[IMG_END]"),
        ],
    )
    make: Any = transformers.Mistral3Config
    config = make(
        text_config={**TEXT_SIZES, "vocab_size": len(tokenizer), **text},
        vision_config={
            "model_type": "pixtral", "hidden_size": 32, "intermediate_size": 48,
            "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 8, "image_size": 56,
            "patch_size": 7,
        },
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
        spatial_merge_size=2,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    processor = transformers.PixtralProcessor(
        PixtralImageProcessorPil(size={"longest_edge": 56}, patch_size={"height": 7, "width": 7}),
        tokenizer,
        patch_size=7,
        spatial_merge_size=2,
        chat_template=MISTRAL_TEMPLATE,
    )
    return transformers.Mistral3ForConditionalGeneration(config), processor


def gemma4(*, both_directions: bool = False, image_tokens: int = 70) -> tuple[Any, Any]:
    """Gemma 4: embeddings for each layer, shared keys and values, layers with windows.

    Args:
        both_directions: whether the tokens of an image see each other in both directions, as in the
            larger models.
        image_tokens: the most of an image.
    """
    from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil

    tokenizer = make_tokenizer(
        {
            "bos_token": "<bos>", "eos_token": "<turn|>", "pad_token": "<pad>",
            "image_token": "<|image|>", "boi_token": "<|image>", "eoi_token": "<image|>",
            "audio_token": "<|audio|>", "boa_token": "<|audio>", "eoa_token": "<audio|>",
        },
        ["<|turn>", "<|video|>"],
    )  # fmt: skip
    number = tokenizer.convert_tokens_to_ids
    text = {
        **TEXT_SIZES, "vocab_size": len(tokenizer), "sliding_window": 24, "num_hidden_layers": 4,
        "layer_types": [
            "sliding_attention", "full_attention", "sliding_attention", "full_attention",
        ],
        "global_head_dim": 24, "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id,
        "vocab_size_per_layer_input": len(tokenizer), "hidden_size_per_layer_input": 8,
        "num_kv_shared_layers": 2,
    }  # fmt: skip
    if both_directions:
        text |= {
            "hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0,
            "use_bidirectional_attention": "vision", "attention_k_eq_v": True,
            "num_global_key_value_heads": 1,
        }  # fmt: skip
    make: Any = transformers.Gemma4Config
    config = make(
        text_config=text,
        vision_config={
            "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 8, "patch_size": 4,
            "pooling_kernel_size": 2, "position_embedding_size": 64,
        },
        audio_config=None,
        image_token_id=number("<|image|>"), video_token_id=number("<|video|>"),
        audio_token_id=number("<|audio|>"), boi_token_id=number("<|image>"),
        eoi_token_id=number("<image|>"), eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    processor = transformers.Gemma4Processor(
        transformers.Gemma4AudioFeatureExtractor(),
        Gemma4ImageProcessorPil(patch_size=4, pooling_kernel_size=2, max_soft_tokens=image_tokens),
        tokenizer,
        transformers.Gemma4VideoProcessor(),
        chat_template=GEMMA4_TEMPLATE,
        image_seq_length=16,
    )
    return transformers.Gemma4ForConditionalGeneration(config), processor


def gemma4_large() -> tuple[Any, Any]:
    """Gemma 4's larger models."""
    return gemma4(both_directions=True)


def qwen3_5() -> tuple[Any, Any]:
    """Qwen 3.5: linear attention, and positions in three dimensions."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    tokenizer = make_tokenizer(
        {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
        ["<|im_start|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"],
    )
    number = tokenizer.convert_tokens_to_ids
    make: Any = transformers.Qwen3_5Config
    config = make(
        text_config={
            **TEXT_SIZES, "vocab_size": len(tokenizer), "head_dim": 16,
            "layer_types": ["linear_attention", "full_attention"],
            "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1],
                "mrope_interleaved": True, "partial_rotary_factor": 0.5,
            },
        },
        vision_config={
            "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4,
            "patch_size": 7, "spatial_merge_size": 2, "temporal_patch_size": 2,
            "out_hidden_size": 48, "num_position_embeddings": 64,
        },
        image_token_id=number("<|image_pad|>"), video_token_id=number("<|video_pad|>"),
        vision_start_token_id=number("<|vision_start|>"),
        vision_end_token_id=number("<|vision_end|>"), eos_token_id=number("<|im_end|>"),
    )  # fmt: skip
    processor = transformers.Qwen3VLProcessor(
        Qwen2VLImageProcessorPil(
            patch_size=7, merge_size=2, temporal_patch_size=2,
            size={"shortest_edge": 28 * 28, "longest_edge": 56 * 56},
        ),
        tokenizer,
        transformers.Qwen3VLVideoProcessor(patch_size=7, merge_size=2),
        chat_template=QWEN_TEMPLATE,
    )  # fmt: skip
    return transformers.Qwen3_5ForConditionalGeneration(config), processor


FAMILIES = {
    "smolvlm": smolvlm,
    "lfm2_vl": lfm2_vl,
    "mistral3": mistral3,
    "ministral3": ministral3,
    "gemma4": gemma4,
    "gemma4_large": gemma4_large,
    "qwen3_5": qwen3_5,
}
"""The families by name. All processors need torchvision, since they also read videos."""
