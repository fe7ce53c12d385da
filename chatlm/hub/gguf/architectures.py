"""What the architectures of GGUF files are called, and mean, in transformers.

One function for each reads the settings into a config.json, with every value that counts: the
defaults of transformers are those of one model and would silently apply to another. One table
for each names the tensors.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from chatlm.hub.gguf.file import GgufError, GgufFile
from chatlm.hub.gguf.hyperparameters import Hyperparameters
from chatlm.hub.gguf.rope import ROPE_TENSORS, read_rope
from chatlm.hub.gguf.tensor_data import Change, TensorSource

Config = dict[str, Any]


@dataclass(frozen=True)
class Architecture:
    """How the files of one architecture are read."""

    config: Callable[[Hyperparameters], Config]
    layer_names: Mapping[str, str]
    """Names of the tensors of a layer, the file's to those of transformers, without `.weight`."""
    interleaved: bool = False
    """Whether the rows of queries and keys are in the order of interleaved rotation."""
    shifted_norms: bool = False
    """Whether norms are stored as 1 + their weights."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Names of tensors outside the layers that differ from `_NAMES`."""


_NAMES = {
    "token_embd": "model.embed_tokens",
    "output": "lm_head",
    "output_norm": "model.norm",
}


_ATTENTION = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
}


_QK_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}


_PRE_NORMS = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}


_MLP = {"ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}


_DENSE = _PRE_NORMS | _ATTENTION | _MLP


_EXPERTS = {
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_exps": "mlp.experts.{expert}.gate_proj",
    "ffn_up_exps": "mlp.experts.{expert}.up_proj",
    "ffn_down_exps": "mlp.experts.{expert}.down_proj",
}


_MIXTRAL_EXPERTS = {
    "ffn_gate_inp": "block_sparse_moe.gate",
    "ffn_gate_exps": "block_sparse_moe.experts.{expert}.w1",
    "ffn_down_exps": "block_sparse_moe.experts.{expert}.w2",
    "ffn_up_exps": "block_sparse_moe.experts.{expert}.w3",
}


_SHARED_EXPERT = {
    "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
    "ffn_gate_shexp": "mlp.shared_expert.gate_proj",
    "ffn_up_shexp": "mlp.shared_expert.up_proj",
    "ffn_down_shexp": "mlp.shared_expert.down_proj",
}


_GEMMA_NORMS = {
    "attn_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}


def _has_tensor(parameters: Hyperparameters, name: str) -> bool:
    return name in parameters.file.tensors


def _decoder(
    parameters: Hyperparameters,
    model_type: str,
    class_name: str,
    *,
    norm: str = "layer_norm_rms_epsilon",
    partial_rope: bool = False,
) -> Config:
    """Read what all decoders have."""
    hidden_size = parameters.integer("embedding_length")
    heads = parameters.integer("attention.head_count")
    context_length = parameters.integer("context_length")
    if not heads or (hidden_size % heads and "attention.key_length" not in parameters):
        raise parameters.unsupported("attention.head_count", heads)
    head_dim = parameters.integer("attention.key_length", hidden_size // heads)
    if not head_dim:
        raise parameters.unsupported("attention.key_length", head_dim)
    parameters.require("attention.value_length", head_dim)
    parameters.require("attention.causal", True)
    embedding = parameters.file.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise GgufError(
            f"{parameters.file.path.name} holds no model: it has no embedding (token_embd.weight).",
            "Files of a vocabulary, of images (mmproj) or of an adapter are no models.",
        )
    return {
        "model_type": model_type,
        "architectures": [class_name],
        "vocab_size": embedding.shape[0],
        "hidden_size": hidden_size,
        "intermediate_size": parameters.integer("feed_forward_length", 0),
        "num_hidden_layers": parameters.integer("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": parameters.integer("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "max_position_embeddings": context_length,
        "layer_norm_eps" if norm == "layer_norm_epsilon" else "rms_norm_eps": parameters.number(
            f"attention.{norm}"
        ),
        "rope_parameters": read_rope(parameters, head_dim, context_length, partial=partial_rope),
        "tie_word_embeddings": not _has_tensor(parameters, "output.weight"),
        "attention_dropout": 0.0,
    }


def _experts(parameters: Hyperparameters) -> tuple[int, int]:
    """Return the number of experts and how many a token uses."""
    return parameters.integer("expert_count"), parameters.integer("expert_used_count")


def _expert_size(parameters: Hyperparameters, tensor: str = "ffn_up_exps") -> int:
    """Return the inner size of an expert, which older files do not mention."""
    stored = parameters.file.tensors.get(f"blk.0.{tensor}.weight")
    if stored is None:
        raise GgufError(
            f"{parameters.file.path.name} lacks the tensor blk.0.{tensor}.weight.",
            "Download it again, from another source if it stays so.",
        )
    return stored.shape[-2]


def _llama(parameters: Hyperparameters) -> Config:
    if parameters.integer("expert_count", 0):
        return _mixtral(parameters)
    parameters.require("expert_used_count", 0)
    return _decoder(parameters, "llama", "LlamaForCausalLM") | {
        "hidden_act": "silu",
        "attention_bias": _has_tensor(parameters, "blk.0.attn_q.bias"),
        "mlp_bias": _has_tensor(parameters, "blk.0.ffn_up.bias"),
    }


def _mixtral(parameters: Hyperparameters) -> Config:
    count, used = _experts(parameters)
    parameters.require("expert_weights_norm", True)
    return _decoder(parameters, "mixtral", "MixtralForCausalLM") | {
        "hidden_act": "silu",
        "num_local_experts": count,
        "num_experts_per_tok": used,
        "sliding_window": None,
    }


def _qwen2(parameters: Hyperparameters) -> Config:
    return _decoder(parameters, "qwen2", "Qwen2ForCausalLM") | {
        "hidden_act": "silu",
        "use_sliding_window": False,
        "sliding_window": None,
    }


def _qwen3(parameters: Hyperparameters) -> Config:
    return _decoder(parameters, "qwen3", "Qwen3ForCausalLM") | {
        "hidden_act": "silu",
        "use_sliding_window": False,
        "sliding_window": None,
        "attention_bias": _has_tensor(parameters, "blk.0.attn_q.bias"),
    }


def _qwen2_moe(parameters: Hyperparameters) -> Config:
    count, used = _experts(parameters)
    expert_size = _expert_size(parameters)
    shared_size = _expert_size(parameters, "ffn_up_shexp")
    parameters.require("expert_feed_forward_length", expert_size)
    parameters.require("expert_shared_feed_forward_length", shared_size)
    parameters.require("expert_weights_norm", False)
    return _decoder(parameters, "qwen2_moe", "Qwen2MoeForCausalLM") | {
        "hidden_act": "silu",
        "use_sliding_window": False,
        "num_experts": count,
        "num_experts_per_tok": used,
        "moe_intermediate_size": expert_size,
        "shared_expert_intermediate_size": shared_size,
        "norm_topk_prob": False,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "qkv_bias": _has_tensor(parameters, "blk.0.attn_q.bias"),
    }


def _qwen3_moe(parameters: Hyperparameters) -> Config:
    count, used = _experts(parameters)
    expert_size = _expert_size(parameters)
    parameters.require("expert_feed_forward_length", expert_size)
    parameters.require("expert_weights_norm", True)
    return _decoder(parameters, "qwen3_moe", "Qwen3MoeForCausalLM") | {
        "hidden_act": "silu",
        "use_sliding_window": False,
        "sliding_window": None,
        "attention_bias": _has_tensor(parameters, "blk.0.attn_q.bias"),
        "num_experts": count,
        "num_experts_per_tok": used,
        "moe_intermediate_size": expert_size,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }


def _gemma(parameters: Hyperparameters) -> Config:
    return _decoder(parameters, "gemma", "GemmaForCausalLM") | {
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": False,
    }


_GEMMA2_27B_LAYERS, _GEMMA3_27B_LAYERS = 46, 62


def _gemma_attention_scalar(config: Config, layers_of_27b: int) -> int:
    """Return what the attention scores are divided by the root of.

    GGUF has no setting for it: as in llama.cpp, the largest model is known by its layers.
    """
    if config["num_hidden_layers"] == layers_of_27b:
        return int(config["hidden_size"] // config["num_attention_heads"])
    return int(config["head_dim"])


def _layer_types(parameters: Hyperparameters, layers: int, period: int) -> list[str]:
    """Return the kind of each layer; every `period`th sees the whole context unless the file says
    otherwise."""
    pattern = parameters.per_layer("attention.sliding_window_pattern", layers, period)
    if isinstance(pattern, list) and type(pattern[0]) is int and pattern[0] not in (0, 1):
        pattern = pattern[0]
    if isinstance(pattern, int):
        pattern = [bool((layer + 1) % pattern) for layer in range(layers)]
    return ["sliding_attention" if slides else "full_attention" for slides in pattern]


def _gemma2(parameters: Hyperparameters) -> Config:
    config = _decoder(parameters, "gemma2", "Gemma2ForCausalLM")
    parameters.require("rope.freq_base_swa", config["rope_parameters"]["rope_theta"])
    return config | {
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": False,
        "query_pre_attn_scalar": _gemma_attention_scalar(config, _GEMMA2_27B_LAYERS),
        "sliding_window": parameters.integer("attention.sliding_window", 4096),
        "layer_types": _layer_types(parameters, config["num_hidden_layers"], 2),
        "attn_logit_softcapping": parameters.number("attn_logit_softcapping", 50.0),
        "final_logit_softcapping": parameters.number("final_logit_softcapping", 30.0),
    }


def _gemma3(parameters: Hyperparameters) -> Config:
    config = _decoder(parameters, "gemma3_text", "Gemma3ForCausalLM")
    layers = config["num_hidden_layers"]
    window = parameters.integer("attention.sliding_window", 0)
    types = _layer_types(parameters, layers, 6) if window else ["full_attention"] * layers
    local = {
        "rope_type": "default",
        "rope_theta": parameters.number("rope.freq_base_swa", 10000.0),
    }
    return config | {
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": False,
        "query_pre_attn_scalar": _gemma_attention_scalar(config, _GEMMA3_27B_LAYERS),
        "sliding_window": window or config["max_position_embeddings"],
        "layer_types": types,
        "rope_parameters": {
            "full_attention": config["rope_parameters"],
            "sliding_attention": local,
        },
        "attn_logit_softcapping": None,
        "final_logit_softcapping": parameters.number("final_logit_softcapping", 0.0) or None,
        "use_bidirectional_attention": False,
    }


def _phi3(parameters: Hyperparameters) -> Config:
    config = _decoder(parameters, "phi3", "Phi3ForCausalLM", partial_rope=True)
    rope = config["rope_parameters"]
    original = parameters.integer(
        "rope.scaling.original_context_length", config["max_position_embeddings"]
    )
    if rope["rope_type"] not in ("default", "longrope"):
        raise parameters.unsupported("rope.scaling.type", rope["rope_type"])
    if config["head_dim"] * config["num_attention_heads"] != config["hidden_size"]:
        raise parameters.unsupported("attention.key_length", config["head_dim"])
    return config | {
        "hidden_act": "silu",
        "original_max_position_embeddings": original,
        "sliding_window": parameters.integer("attention.sliding_window") or None,
        "partial_rotary_factor": rope.setdefault("partial_rotary_factor", 1.0),
        "attention_bias": False,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
    }


def _granite(parameters: Hyperparameters) -> Config:
    config = _decoder(parameters, "granite", "GraniteForCausalLM")
    if config["head_dim"] * config["num_attention_heads"] != config["hidden_size"]:
        raise parameters.unsupported("attention.key_length", config["head_dim"])
    return config | {
        "hidden_act": "silu",
        "attention_bias": _has_tensor(parameters, "blk.0.attn_q.bias"),
        "mlp_bias": _has_tensor(parameters, "blk.0.ffn_up.bias"),
        "attention_multiplier": parameters.number("attention.scale", config["head_dim"] ** -0.5),
        "embedding_multiplier": parameters.number("embedding_scale", 1.0),
        "residual_multiplier": parameters.number("residual_scale", 1.0),
        "logits_scaling": parameters.number("logit_scale", 1.0),
    }


def _olmo2(parameters: Hyperparameters) -> Config:
    return _decoder(parameters, "olmo2", "Olmo2ForCausalLM") | {
        "hidden_act": "silu",
        "attention_bias": False,
    }


_SMOLLM3_ROPE_INTERVAL = 4


def _smollm3(parameters: Hyperparameters) -> Config:
    config = _decoder(parameters, "smollm3", "SmolLM3ForCausalLM")
    layers = config["num_hidden_layers"]
    return config | {
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "use_sliding_window": False,
        "sliding_window": None,
        "no_rope_layer_interval": _SMOLLM3_ROPE_INTERVAL,
        "no_rope_layers": [
            int((layer + 1) % _SMOLLM3_ROPE_INTERVAL != 0) for layer in range(layers)
        ],
        "layer_types": ["full_attention"] * layers,
    }


def _stablelm(parameters: Hyperparameters) -> Config:
    config = _decoder(
        parameters, "stablelm", "StableLmForCausalLM", norm="layer_norm_epsilon", partial_rope=True
    )
    return config | {
        "hidden_act": "silu",
        "use_qkv_bias": _has_tensor(parameters, "blk.0.attn_q.bias"),
        "qk_layernorm": False,
        "use_parallel_residual": parameters.flag(
            "use_parallel_residual", not _has_tensor(parameters, "blk.0.ffn_norm.weight")
        ),
        "hidden_dropout": 0.0,
        "partial_rotary_factor": config["rope_parameters"].get("partial_rotary_factor", 1.0),
    }


def _seed_oss(parameters: Hyperparameters) -> Config:
    return _decoder(parameters, "seed_oss", "SeedOssForCausalLM") | {
        "hidden_act": "silu",
        "attention_bias": _has_tensor(parameters, "blk.0.attn_q.bias"),
        "attention_out_bias": _has_tensor(parameters, "blk.0.attn_output.bias"),
        "mlp_bias": False,
        "residual_dropout": 0.0,
    }


def _arcee(parameters: Hyperparameters) -> Config:
    return _decoder(parameters, "arcee", "ArceeForCausalLM") | {
        "hidden_act": "relu2",
        "attention_bias": False,
        "mlp_bias": False,
    }


def _ernie(parameters: Hyperparameters) -> Config:
    return _decoder(parameters, "ernie4_5", "Ernie4_5ForCausalLM") | {
        "hidden_act": "silu",
        "use_bias": _has_tensor(parameters, "blk.0.attn_q.bias"),
    }


def _glm4(parameters: Hyperparameters) -> Config:
    config = _decoder(parameters, "glm4", "Glm4ForCausalLM", partial_rope=True)
    return config | {
        "hidden_act": "silu",
        "attention_bias": _has_tensor(parameters, "blk.0.attn_q.bias"),
        "partial_rotary_factor": config["rope_parameters"].get("partial_rotary_factor", 1.0),
    }


def _lfm2(parameters: Hyperparameters) -> Config:
    layers = parameters.integer("block_count")
    heads = parameters.per_layer("attention.head_count_kv", layers)
    if heads is None or not any(heads) or len({count for count in heads if count}) != 1:
        raise parameters.unsupported("attention.head_count_kv", heads)
    hidden_size = parameters.integer("embedding_length")
    context_length = parameters.integer("context_length")
    attention_heads = parameters.integer("attention.head_count")
    head_dim = hidden_size // attention_heads
    embedding = parameters.file.tensors["token_embd.weight"]
    rope = read_rope(parameters, head_dim, context_length)
    return {
        "model_type": "lfm2",
        "architectures": ["Lfm2ForCausalLM"],
        "vocab_size": embedding.shape[0],
        "hidden_size": hidden_size,
        "intermediate_size": parameters.integer("feed_forward_length"),
        "block_auto_adjust_ff_dim": False,  # the size is the final one
        "num_hidden_layers": layers,
        "num_attention_heads": attention_heads,
        "num_key_value_heads": max(heads),
        "layer_types": ["full_attention" if count else "conv" for count in heads],
        "max_position_embeddings": context_length,
        "norm_eps": parameters.number("attention.layer_norm_rms_epsilon"),
        "conv_L_cache": parameters.integer("shortconv.l_cache"),
        "conv_bias": _has_tensor(parameters, "blk.0.shortconv.in_proj.bias"),
        "rope_parameters": rope,
        "tie_word_embeddings": not _has_tensor(parameters, "output.weight"),
    }


_PHI3_LAYERS = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_qkv": "self_attn.qkv_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_up": "mlp.gate_up_proj",
    "ffn_down": "mlp.down_proj",
}


_OLMO2_LAYERS = (
    _ATTENTION
    | _QK_NORMS
    | _MLP
    | {
        "post_attention_norm": "post_attention_layernorm",
        "post_ffw_norm": "post_feedforward_layernorm",
    }
)


_GLM4_LAYERS = (
    _ATTENTION
    | _PRE_NORMS
    | {
        "post_attention_norm": "post_self_attn_layernorm",
        "post_ffw_norm": "post_mlp_layernorm",
        "ffn_up": "mlp.gate_up_proj",
        "ffn_down": "mlp.down_proj",
    }
)


_LFM2_LAYERS = {
    "attn_norm": "operator_norm",
    "ffn_norm": "ffn_norm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.out_proj",
    "attn_q_norm": "self_attn.q_layernorm",
    "attn_k_norm": "self_attn.k_layernorm",
    "ffn_gate": "feed_forward.w1",
    "ffn_up": "feed_forward.w3",
    "ffn_down": "feed_forward.w2",
    "shortconv.in_proj": "conv.in_proj",
    "shortconv.out_proj": "conv.out_proj",
    "shortconv.conv": "conv.conv",
}


ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": Architecture(_llama, _DENSE | _MIXTRAL_EXPERTS, interleaved=True),
    "qwen2": Architecture(_qwen2, _DENSE),
    "qwen3": Architecture(_qwen3, _DENSE | _QK_NORMS),
    "qwen2moe": Architecture(_qwen2_moe, _DENSE | _EXPERTS | _SHARED_EXPERT),
    "qwen3moe": Architecture(_qwen3_moe, _DENSE | _EXPERTS | _QK_NORMS),
    "gemma": Architecture(_gemma, _DENSE, shifted_norms=True),
    "gemma2": Architecture(_gemma2, _ATTENTION | _MLP | _GEMMA_NORMS, shifted_norms=True),
    "gemma3": Architecture(
        _gemma3, _ATTENTION | _MLP | _GEMMA_NORMS | _QK_NORMS, shifted_norms=True
    ),
    "phi3": Architecture(_phi3, _PHI3_LAYERS),
    "granite": Architecture(_granite, _DENSE, interleaved=True),
    "olmo2": Architecture(_olmo2, _OLMO2_LAYERS),
    "smollm3": Architecture(_smollm3, _DENSE, interleaved=True),
    "stablelm": Architecture(_stablelm, _DENSE),
    "seed_oss": Architecture(
        _seed_oss,
        _ATTENTION
        | _MLP
        | {"attn_norm": "input_layernorm", "post_attention_norm": "post_attention_layernorm"},
    ),
    "arcee": Architecture(_arcee, _DENSE, interleaved=True),
    "ernie4_5": Architecture(_ernie, _DENSE),
    "glm4": Architecture(_glm4, _GLM4_LAYERS),
    "lfm2": Architecture(_lfm2, _LFM2_LAYERS, names={"token_embd_norm": "model.embedding_norm"}),
}
"""By `general.architecture`; tests/unit/test_gguf_architectures.py compares each with its
original."""


def find_architecture(file: GgufFile) -> Architecture:
    """Return how to read a file's architecture.

    Raises:
        GgufError: it is not known, or the file holds no language model.
    """
    name = file.architecture
    kind = file.get("general.type", "model")
    if kind != "model" or name == "clip":
        what = "a part for images or sound" if kind in ("mmproj", "model") else f"of type {kind!r}"
        raise GgufError(
            f"{file.path.name} is {what}, not a language model.",
            "Use the file of the model itself.",
        )
    if file.get("split.count", 1) > 1:
        raise GgufError(
            f"{file.path.name} is one part of a split GGUF.",
            "Join the parts with llama.cpp's gguf-split --merge.",
        )
    if name not in ARCHITECTURES:
        raise GgufError(
            f"chatlm does not read the architecture {name!r} of {file.path.name} from GGUF.",
            "A safetensors version of the model may work: chatlm models pull ORG/NAME",
        )
    return ARCHITECTURES[name]


def read_config(file: GgufFile) -> Config:
    """Return the contents of the config.json that a file stands for.

    Raises:
        GgufError: the architecture is not known, or a setting cannot be applied.
    """
    architecture = find_architecture(file)
    parameters = Hyperparameters(file)
    config = architecture.config(parameters)
    parameters.refuse_unread()
    return config


def map_tensors(file: GgufFile, config: Config) -> dict[str, TensorSource]:
    """Return where each tensor of a checkpoint comes from, by its name in transformers.

    Raises:
        GgufError: the file has a tensor that the architecture does not.
    """
    architecture = find_architecture(file)
    sources: dict[str, TensorSource] = {}
    for name in file.tensors:
        if name not in ROPE_TENSORS:
            sources |= _map_tensor(architecture, file, config, name)
    return sources


_LAYER_TENSOR = re.compile(r"blk\.(?P<layer>\d+)\.(?P<leaf>.+)")


def _map_tensor(
    architecture: Architecture, file: GgufFile, config: Config, name: str
) -> dict[str, TensorSource]:
    stem, _, suffix = name.rpartition(".")
    if layer := _LAYER_TENSOR.fullmatch(stem):
        leaf = architecture.layer_names.get(layer["leaf"])
        target = leaf and f"model.layers.{layer['layer']}.{leaf}"
        kind = layer["leaf"]
    else:
        target = architecture.names.get(stem, _NAMES.get(stem))
        kind = stem
    if target is None or suffix not in ("weight", "bias"):
        raise GgufError(
            f"{file.path.name} has the tensor {name[:60]!r}, which chatlm does not know for the "
            f"architecture {file.architecture}; without it, replies would be wrong.",
            "A safetensors version of the model may work: chatlm models pull ORG/NAME",
        )
    if "{expert}" in target:
        return {
            f"{target.format(expert=expert)}.{suffix}": TensorSource(name, expert)
            for expert in range(file.tensors[name].shape[0])
        }
    heads = 0
    change = Change.NONE
    if architecture.interleaved and kind in ("attn_q", "attn_k"):
        change = Change.UNPERMUTE
        heads = config["num_attention_heads" if kind == "attn_q" else "num_key_value_heads"]
    elif architecture.shifted_norms and kind.endswith("norm"):
        change = Change.MINUS_ONE
    elif kind == "shortconv.conv":
        change = Change.UNSQUEEZE
    return {f"{target}.{suffix}": TensorSource(name, change=change, heads=heads)}
