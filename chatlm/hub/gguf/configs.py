"""The config.json of each architecture, from the settings of its GGUF files.

Every value that counts is set: the defaults of transformers are those of one model and would
silently apply to another.
"""

from __future__ import annotations

from chatlm.hub.gguf.decoder_config import (
    SIGMOID,
    Config,
    has_tensor,
    read_decoder,
    read_expert_size,
    read_experts,
    read_layer_types,
    read_vocabulary_size,
)
from chatlm.hub.gguf.hyperparameters import Hyperparameters
from chatlm.hub.gguf.rope import read_rope, read_rotated_share


def llama_config(parameters: Hyperparameters) -> Config:
    """Read the configuration of llama."""
    if parameters.integer("expert_count", 0):
        return mixtral_config(parameters)
    parameters.require("expert_used_count", 0)
    return read_decoder(parameters, "llama", "LlamaForCausalLM") | {
        "hidden_act": "silu",
        "attention_bias": has_tensor(parameters, "blk.0.attn_q.bias"),
        "mlp_bias": has_tensor(parameters, "blk.0.ffn_up.bias"),
    }


def mixtral_config(parameters: Hyperparameters) -> Config:
    """Read the configuration of mixtral."""
    count, used = read_experts(parameters)
    parameters.require("expert_weights_norm", True)
    return read_decoder(parameters, "mixtral", "MixtralForCausalLM") | {
        "hidden_act": "silu",
        "num_local_experts": count,
        "num_experts_per_tok": used,
        "sliding_window": None,
    }


def qwen2_config(parameters: Hyperparameters) -> Config:
    """Read the configuration of qwen2."""
    return read_decoder(parameters, "qwen2", "Qwen2ForCausalLM") | {
        "hidden_act": "silu",
        "use_sliding_window": False,
        "sliding_window": None,
    }


def qwen3_config(parameters: Hyperparameters) -> Config:
    """Read the configuration of qwen3."""
    return read_decoder(parameters, "qwen3", "Qwen3ForCausalLM") | {
        "hidden_act": "silu",
        "use_sliding_window": False,
        "sliding_window": None,
        "attention_bias": has_tensor(parameters, "blk.0.attn_q.bias"),
    }


def qwen2_moe_config(parameters: Hyperparameters) -> Config:
    """Read the configuration of qwen2_moe."""
    count, used = read_experts(parameters)
    expert_size = read_expert_size(parameters)
    shared_size = read_expert_size(parameters, "ffn_up_shexp")
    parameters.require("expert_feed_forward_length", expert_size)
    parameters.require("expert_shared_feed_forward_length", shared_size)
    parameters.require("expert_weights_norm", False)
    return read_decoder(parameters, "qwen2_moe", "Qwen2MoeForCausalLM") | {
        "hidden_act": "silu",
        "use_sliding_window": False,
        "num_experts": count,
        "num_experts_per_tok": used,
        "moe_intermediate_size": expert_size,
        "shared_expert_intermediate_size": shared_size,
        "norm_topk_prob": False,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "qkv_bias": has_tensor(parameters, "blk.0.attn_q.bias"),
    }


def qwen3_moe_config(parameters: Hyperparameters) -> Config:
    """Read the configuration of qwen3_moe."""
    count, used = read_experts(parameters)
    expert_size = read_expert_size(parameters)
    parameters.require("expert_feed_forward_length", expert_size)
    parameters.require("expert_weights_norm", True)
    return read_decoder(parameters, "qwen3_moe", "Qwen3MoeForCausalLM") | {
        "hidden_act": "silu",
        "use_sliding_window": False,
        "sliding_window": None,
        "attention_bias": has_tensor(parameters, "blk.0.attn_q.bias"),
        "num_experts": count,
        "num_experts_per_tok": used,
        "moe_intermediate_size": expert_size,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }


def gemma_config(parameters: Hyperparameters) -> Config:
    """Read the configuration of gemma."""
    return read_decoder(parameters, "gemma", "GemmaForCausalLM") | {
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


def gemma2_config(parameters: Hyperparameters) -> Config:
    """Read the configuration of gemma2."""
    config = read_decoder(parameters, "gemma2", "Gemma2ForCausalLM")
    parameters.require("rope.freq_base_swa", config["rope_parameters"]["rope_theta"])
    return config | {
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": False,
        "query_pre_attn_scalar": _gemma_attention_scalar(config, _GEMMA2_27B_LAYERS),
        "sliding_window": parameters.integer("attention.sliding_window", 4096),
        "layer_types": read_layer_types(parameters, config["num_hidden_layers"], 2),
        "attn_logit_softcapping": parameters.number("attn_logit_softcapping", 50.0),
        "final_logit_softcapping": parameters.number("final_logit_softcapping", 30.0),
    }


def gemma3_config(parameters: Hyperparameters) -> Config:
    """Read the configuration of gemma3."""
    config = read_decoder(parameters, "gemma3_text", "Gemma3ForCausalLM")
    layers = config["num_hidden_layers"]
    window = parameters.integer("attention.sliding_window", 0)
    types = read_layer_types(parameters, layers, 6) if window else ["full_attention"] * layers
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


def gemma4_config(parameters: Hyperparameters) -> Config:
    """Read the configuration of gemma4, without mixtures of experts."""
    layers = parameters.integer("block_count")
    types = read_layer_types(parameters, layers, 6)
    full = [kind == "full_attention" for kind in types]
    head_dim = parameters.integer("attention.key_length_swa")
    full_head_dim = parameters.integer("attention.key_length")
    parameters.require("attention.value_length_swa", head_dim)
    parameters.require("attention.value_length", full_head_dim)
    parameters.require("rope.dimension_count_swa", head_dim)
    parameters.require("rope.dimension_count", full_head_dim)
    heads = parameters.per_layer("attention.head_count_kv", layers) or [0] * layers
    sizes = parameters.per_layer("feed_forward_length", layers) or [0] * layers
    shared = parameters.integer("attention.shared_kv_layers", 0)
    wide = sizes[-1] == 2 * sizes[0]
    if sizes != [sizes[0]] * (layers - shared) + [sizes[0] * (1 + wide)] * shared:
        raise parameters.unsupported("feed_forward_length", sizes)
    few, many = (
        [count for count, is_full in zip(heads, full, strict=True) if is_full is wanted]
        for wanted in (True, False)
    )
    if len({*few}) != 1 or len({*many}) != 1:
        raise parameters.unsupported("attention.head_count_kv", heads)
    shares_values = not has_tensor(parameters, f"blk.{full.index(True)}.attn_v.weight")
    if few[0] != many[0] and not shares_values:
        raise parameters.unsupported("attention.head_count_kv", heads)
    embedding = parameters.file.tensors.get("per_layer_token_embd.weight")
    return {
        "model_type": "gemma4_text",
        "architectures": ["Gemma4ForCausalLM"],
        "vocab_size": read_vocabulary_size(parameters),
        "hidden_size": parameters.integer("embedding_length"),
        "intermediate_size": sizes[0],
        "num_hidden_layers": layers,
        "num_attention_heads": parameters.integer("attention.head_count"),
        "num_key_value_heads": many[0],
        "num_global_key_value_heads": few[0] if shares_values else None,
        "attention_k_eq_v": shares_values,
        "head_dim": head_dim,
        "global_head_dim": full_head_dim,
        "hidden_activation": "gelu_pytorch_tanh",
        "max_position_embeddings": parameters.integer("context_length"),
        "rms_norm_eps": parameters.number("attention.layer_norm_rms_epsilon"),
        "tie_word_embeddings": not has_tensor(parameters, "output.weight"),
        "rope_parameters": {
            "full_attention": {
                "rope_type": "proportional",
                "partial_rotary_factor": read_rotated_share(parameters, full_head_dim),
                "rope_theta": parameters.number("rope.freq_base"),
            },
            "sliding_attention": {
                "rope_type": "default",
                "rope_theta": parameters.number("rope.freq_base_swa", 10000.0),
            },
        },
        "attention_bias": False,
        "attention_dropout": 0.0,
        "sliding_window": parameters.integer("attention.sliding_window"),
        "layer_types": types,
        "final_logit_softcapping": parameters.number("final_logit_softcapping", 0.0) or None,
        "use_bidirectional_attention": None,  # it concerns images alone
        "vocab_size_per_layer_input": embedding.shape[0] if embedding else 0,
        "hidden_size_per_layer_input": parameters.integer("embedding_length_per_layer_input", 0),
        "num_kv_shared_layers": shared,
        "enable_moe_block": False,
        "use_double_wide_mlp": wide,
    }


def phi3_config(parameters: Hyperparameters) -> Config:
    """Read the configuration of phi3."""
    config = read_decoder(parameters, "phi3", "Phi3ForCausalLM", partial_rope=True)
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


def granite_config(parameters: Hyperparameters) -> Config:
    """Read the configuration of granite."""
    config = read_decoder(parameters, "granite", "GraniteForCausalLM")
    if config["head_dim"] * config["num_attention_heads"] != config["hidden_size"]:
        raise parameters.unsupported("attention.key_length", config["head_dim"])
    return config | {
        "hidden_act": "silu",
        "attention_bias": has_tensor(parameters, "blk.0.attn_q.bias"),
        "mlp_bias": has_tensor(parameters, "blk.0.ffn_up.bias"),
        "attention_multiplier": parameters.number("attention.scale", config["head_dim"] ** -0.5),
        "embedding_multiplier": parameters.number("embedding_scale", 1.0),
        "residual_multiplier": parameters.number("residual_scale", 1.0),
        "logits_scaling": parameters.number("logit_scale", 1.0),
    }


def olmo2_config(parameters: Hyperparameters) -> Config:
    """Read the configuration of olmo2, or of olmo3, which has sliding windows."""
    config = read_decoder(parameters, "olmo2", "Olmo2ForCausalLM") | {
        "hidden_act": "silu",
        "attention_bias": False,
    }
    window = parameters.integer("attention.sliding_window", 0)
    if not window:
        return config
    rope = config["rope_parameters"]
    parameters.require("rope.freq_base_swa", rope["rope_theta"])
    return config | {
        "model_type": "olmo3",
        "architectures": ["Olmo3ForCausalLM"],
        "sliding_window": window,
        "layer_types": read_layer_types(parameters, config["num_hidden_layers"], 4),
        "rope_parameters": {
            "full_attention": rope,
            "sliding_attention": {"rope_type": "default", "rope_theta": rope["rope_theta"]},
        },
    }


_SMOLLM3_ROPE_INTERVAL = 4


def smollm3_config(parameters: Hyperparameters) -> Config:
    """Read the configuration of smollm3."""
    config = read_decoder(parameters, "smollm3", "SmolLM3ForCausalLM")
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


def stablelm_config(parameters: Hyperparameters) -> Config:
    """Read the configuration of stablelm."""
    config = read_decoder(
        parameters, "stablelm", "StableLmForCausalLM", norm="layer_norm_epsilon", partial_rope=True
    )
    return config | {
        "hidden_act": "silu",
        "use_qkv_bias": has_tensor(parameters, "blk.0.attn_q.bias"),
        "qk_layernorm": False,
        "use_parallel_residual": parameters.flag(
            "use_parallel_residual", not has_tensor(parameters, "blk.0.ffn_norm.weight")
        ),
        "hidden_dropout": 0.0,
        "partial_rotary_factor": config["rope_parameters"].get("partial_rotary_factor", 1.0),
    }


def seed_oss_config(parameters: Hyperparameters) -> Config:
    """Read the configuration of seed_oss."""
    return read_decoder(parameters, "seed_oss", "SeedOssForCausalLM") | {
        "hidden_act": "silu",
        "attention_bias": has_tensor(parameters, "blk.0.attn_q.bias"),
        "attention_out_bias": has_tensor(parameters, "blk.0.attn_output.bias"),
        "mlp_bias": False,
        "residual_dropout": 0.0,
    }


def arcee_config(parameters: Hyperparameters) -> Config:
    """Read the configuration of arcee."""
    return read_decoder(parameters, "arcee", "ArceeForCausalLM") | {
        "hidden_act": "relu2",
        "attention_bias": False,
        "mlp_bias": False,
    }


def ernie_config(parameters: Hyperparameters) -> Config:
    """Read the configuration of ernie."""
    return read_decoder(parameters, "ernie4_5", "Ernie4_5ForCausalLM") | {
        "hidden_act": "silu",
        "use_bias": has_tensor(parameters, "blk.0.attn_q.bias"),
    }


def glm4_config(parameters: Hyperparameters) -> Config:
    """Read the configuration of glm4."""
    config = read_decoder(parameters, "glm4", "Glm4ForCausalLM", partial_rope=True)
    return config | {
        "hidden_act": "silu",
        "attention_bias": has_tensor(parameters, "blk.0.attn_q.bias"),
        "partial_rotary_factor": config["rope_parameters"].get("partial_rotary_factor", 1.0),
    }


def lfm2_config(parameters: Hyperparameters) -> Config:
    """Read the configuration of lfm2."""
    layers = parameters.integer("block_count")
    heads = parameters.per_layer("attention.head_count_kv", layers)
    if heads is None or not any(heads) or len({count for count in heads if count}) != 1:
        raise parameters.unsupported("attention.head_count_kv", heads)
    hidden_size = parameters.integer("embedding_length")
    context_length = parameters.integer("context_length")
    attention_heads = parameters.integer("attention.head_count")
    head_dim = hidden_size // attention_heads
    rope = read_rope(parameters, head_dim, context_length)
    return {
        "model_type": "lfm2",
        "architectures": ["Lfm2ForCausalLM"],
        "vocab_size": read_vocabulary_size(parameters),
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
        "conv_bias": has_tensor(parameters, "blk.0.shortconv.in_proj.bias"),
        "rope_parameters": rope,
        "tie_word_embeddings": not has_tensor(parameters, "output.weight"),
    }


def lfm2_moe_config(parameters: Hyperparameters) -> Config:
    """Read the configuration of lfm2moe."""
    count, used = read_experts(parameters, gating=SIGMOID)
    dense = parameters.integer("leading_dense_block_count", 0)
    parameters.require("expert_weights_norm", True)
    parameters.require("expert_weights_scale", 1.0)
    config = lfm2_config(parameters)
    del config["block_auto_adjust_ff_dim"]
    return config | {
        "model_type": "lfm2_moe",
        "architectures": ["Lfm2MoeForCausalLM"],
        "moe_intermediate_size": parameters.integer("expert_feed_forward_length"),
        "num_dense_layers": dense,
        "num_experts": count,
        "num_experts_per_tok": used,
        "norm_topk_prob": True,
        "routed_scaling_factor": 1.0,
        "use_expert_bias": has_tensor(parameters, f"blk.{dense}.exp_probs_b.bias"),
    }


def granite_moe_config(parameters: Hyperparameters) -> Config:
    """Read the configuration of granitemoe."""
    count, used = read_experts(parameters)
    config = granite_config(parameters)
    del config["mlp_bias"]
    return config | {
        "model_type": "granitemoe",
        "architectures": ["GraniteMoeForCausalLM"],
        "intermediate_size": read_expert_size(parameters),
        "num_local_experts": count,
        "num_experts_per_tok": used,
    }


def granite_hybrid_config(parameters: Hyperparameters) -> Config:
    """Read the configuration of granitehybrid."""
    count = parameters.integer("expert_count", 0)
    used = parameters.integer("expert_used_count", 0)
    layers = parameters.integer("block_count")
    heads = parameters.per_layer("attention.head_count_kv", layers)
    if heads is None or len({count for count in heads if count}) != 1:
        raise parameters.unsupported("attention.head_count_kv", heads)
    hidden_size = parameters.integer("embedding_length")
    context_length = parameters.integer("context_length")
    attention_heads = parameters.integer("attention.head_count")
    if not attention_heads or hidden_size % attention_heads:
        raise parameters.unsupported("attention.head_count", attention_heads)
    inner_size, mamba_heads = (
        parameters.integer(f"ssm.{key}") for key in ("inner_size", "time_step_rank")
    )
    if not mamba_heads or inner_size % mamba_heads or inner_size % hidden_size:
        raise parameters.unsupported("ssm.inner_size", inner_size)
    size = parameters.integer("feed_forward_length")
    shared_size = parameters.integer("expert_shared_feed_forward_length", size)
    if count:
        read_experts(parameters)
    elif shared_size != size:
        raise parameters.unsupported("expert_shared_feed_forward_length", shared_size)
    recurrent = heads.index(0) if 0 in heads else 0
    return {
        "model_type": "granitemoehybrid",
        "architectures": ["GraniteMoeHybridForCausalLM"],
        "vocab_size": read_vocabulary_size(parameters),
        "hidden_size": hidden_size,
        "hidden_act": "silu",
        "intermediate_size": size,
        "shared_intermediate_size": shared_size,
        "num_local_experts": count,
        "num_experts_per_tok": used,
        "num_hidden_layers": layers,
        "num_attention_heads": attention_heads,
        "num_key_value_heads": max(heads),
        "layer_types": ["full_attention" if count else "linear_attention" for count in heads],
        "max_position_embeddings": context_length,
        "rms_norm_eps": parameters.number("attention.layer_norm_rms_epsilon"),
        "rope_parameters": read_rope(parameters, hidden_size // attention_heads, context_length),
        # llama.cpp uses this setting to say whether queries and keys are rotated at all
        "position_embedding_type": "rope"
        if parameters.flag("rope.scaling.finetuned", True)
        else None,
        "attention_bias": has_tensor(parameters, f"blk.{heads.index(max(heads))}.attn_q.bias"),
        "attention_multiplier": parameters.number("attention.scale", 1.0),
        "embedding_multiplier": parameters.number("embedding_scale", 1.0),
        "residual_multiplier": parameters.number("residual_scale", 1.0),
        "logits_scaling": parameters.number("logit_scale", 1.0),
        "mamba_d_conv": parameters.integer("ssm.conv_kernel"),
        "mamba_d_state": parameters.integer("ssm.state_size"),
        "mamba_n_groups": parameters.integer("ssm.group_count"),
        "mamba_n_heads": mamba_heads,
        "mamba_d_head": inner_size // mamba_heads,
        "mamba_expand": inner_size // hidden_size,
        "mamba_conv_bias": has_tensor(parameters, f"blk.{recurrent}.ssm_conv1d.bias"),
        "mamba_proj_bias": has_tensor(parameters, f"blk.{recurrent}.ssm_in.bias"),
        "tie_word_embeddings": not has_tensor(parameters, "output.weight"),
    }


_EXAONE4_32B_LAYERS = 64


def exaone4_config(parameters: Hyperparameters) -> Config:
    """Read the configuration of exaone4."""
    config = read_decoder(parameters, "exaone4", "Exaone4ForCausalLM")
    layers = config["num_hidden_layers"]
    default = 4096 if layers == _EXAONE4_32B_LAYERS else 0
    window = parameters.integer("attention.sliding_window", default)
    parameters.require("rope.freq_base_swa", config["rope_parameters"]["rope_theta"])
    return config | {
        "hidden_act": "silu",
        "sliding_window": window or None,
        "sliding_window_pattern": 4 if window else None,
        "layer_types": read_layer_types(parameters, layers, 4)
        if window
        else ["full_attention"] * layers,
    }


def hunyuan_config(parameters: Hyperparameters) -> Config:
    """Read the configuration of hunyuan."""
    return read_decoder(parameters, "hunyuan_v1_dense", "HunYuanDenseV1ForCausalLM") | {
        "hidden_act": "silu",
        "attention_bias": has_tensor(parameters, "blk.0.attn_q.bias"),
        "mlp_bias": False,
    }


def command_r_config(parameters: Hyperparameters) -> Config:
    """Read the configuration of command_r."""
    config = read_decoder(parameters, "cohere", "CohereForCausalLM", norm="layer_norm_epsilon")
    if config["head_dim"] * config["num_attention_heads"] != config["hidden_size"]:
        raise parameters.unsupported("attention.key_length", config["head_dim"])
    return config | {
        "hidden_act": "silu",
        "attention_bias": has_tensor(parameters, "blk.0.attn_q.bias"),
        "logit_scale": parameters.number("logit_scale"),
        "use_qk_norm": has_tensor(parameters, "blk.0.attn_q_norm.weight"),
    }


def nemotron_config(parameters: Hyperparameters) -> Config:
    """Read the configuration of nemotron."""
    config = read_decoder(
        parameters,
        "nemotron",
        "NemotronForCausalLM",
        norm="layer_norm_epsilon",
        partial_rope=True,
    )
    epsilon = config.pop("layer_norm_eps")
    parameters.require("attention.layer_norm_rms_epsilon", epsilon)
    return config | {
        "hidden_act": "relu2",
        "norm_eps": epsilon,
        "attention_bias": has_tensor(parameters, "blk.0.attn_q.bias"),
        "mlp_bias": has_tensor(parameters, "blk.0.ffn_up.bias"),
        "partial_rotary_factor": config["rope_parameters"].get("partial_rotary_factor", 1.0),
    }


def olmoe_config(parameters: Hyperparameters) -> Config:
    """Read the configuration of olmoe."""
    count, used = read_experts(parameters)
    parameters.require("expert_weights_norm", False)
    return read_decoder(parameters, "olmoe", "OlmoeForCausalLM") | {
        "hidden_act": "silu",
        "intermediate_size": read_expert_size(parameters),
        "attention_bias": False,
        "clip_qkv": parameters.number("attention.clamp_kqv", 0.0) or None,
        "num_experts": count,
        "num_experts_per_tok": used,
        "norm_topk_prob": False,
    }


def gpt_oss_config(parameters: Hyperparameters) -> Config:
    """Read the configuration of gpt_oss."""
    count, used = read_experts(parameters)
    config = read_decoder(parameters, "gpt_oss", "GptOssForCausalLM")
    expert_size = read_expert_size(parameters)
    parameters.require("expert_feed_forward_length", expert_size)
    if config["rope_parameters"]["rope_type"] == "yarn":  # as OpenAI's own code rounds
        config["rope_parameters"]["truncate"] = False
    return config | {
        "hidden_act": "silu",
        "intermediate_size": expert_size,
        "num_local_experts": count,
        "num_experts_per_tok": used,
        "attention_bias": True,
        "sliding_window": parameters.integer("attention.sliding_window"),
        "layer_types": read_layer_types(parameters, config["num_hidden_layers"], 2),
    }


def qwen35_config(parameters: Hyperparameters) -> Config:
    """Read the configuration of qwen35."""
    config = read_decoder(parameters, "qwen3_5_text", "Qwen3_5ForCausalLM", partial_rope=True)
    layers = config["num_hidden_layers"] - parameters.integer("nextn_predict_layers", 0)
    interval = parameters.integer("full_attention_interval", 4)
    usual = [bool((layer + 1) % max(interval, 1)) for layer in range(layers)]
    recurrent = parameters.per_layer("attention.recurrent_layers", config["num_hidden_layers"])
    key_heads = parameters.integer("ssm.group_count")
    value_heads = parameters.integer("ssm.time_step_rank")
    inner_size = parameters.integer("ssm.inner_size")
    if not key_heads or not value_heads or value_heads % key_heads or inner_size % value_heads:
        raise parameters.unsupported("ssm.time_step_rank", value_heads)
    sections = parameters.per_layer("rope.dimension_sections", 4) or []
    rope = config["rope_parameters"]
    if rope["rope_type"] != "default":
        raise parameters.unsupported("rope.scaling.type", rope["rope_type"])
    rope |= {
        "mrope_section": [section for section in sections if section],
        "mrope_interleaved": True,
    }
    rope.setdefault("partial_rotary_factor", 1.0)
    return config | {
        "hidden_act": "silu",
        "attention_bias": False,
        "num_hidden_layers": layers,
        "mtp_num_hidden_layers": config["num_hidden_layers"] - layers,
        "layer_types": [
            "linear_attention" if recurs else "full_attention"
            for recurs in (usual if recurrent is None else recurrent[:layers])
        ],
        "linear_conv_kernel_dim": parameters.integer("ssm.conv_kernel"),
        "linear_key_head_dim": parameters.integer("ssm.state_size"),
        "linear_num_key_heads": key_heads,
        "linear_num_value_heads": value_heads,
        "linear_value_head_dim": inner_size // value_heads,
        "partial_rotary_factor": rope["partial_rotary_factor"],
    }


def qwen35_moe_config(parameters: Hyperparameters) -> Config:
    """Read the configuration of qwen35_moe."""
    count, used = read_experts(parameters)
    expert_size = read_expert_size(parameters)
    shared_size = read_expert_size(parameters, "ffn_up_shexp")
    parameters.require("expert_feed_forward_length", expert_size)
    parameters.require("expert_shared_feed_forward_length", shared_size)
    return qwen35_config(parameters) | {
        "model_type": "qwen3_5_moe_text",
        "architectures": ["Qwen3_5MoeForCausalLM"],
        "num_experts": count,
        "num_experts_per_tok": used,
        "moe_intermediate_size": expert_size,
        "shared_expert_intermediate_size": shared_size,
    }
