"""What the architectures of GGUF files, and their tensors, are called in transformers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from chatlm.hub.gguf import configs
from chatlm.hub.gguf.decoder_config import Config
from chatlm.hub.gguf.file import GgufError, GgufFile
from chatlm.hub.gguf.hyperparameters import Hyperparameters
from chatlm.hub.gguf.rope import ROPE_TENSORS
from chatlm.hub.gguf.tensor_data import Change, TensorSource, TiledHeads


@dataclass(frozen=True)
class Architecture:
    """How the files of one architecture are read."""

    config: Callable[[Hyperparameters], Config]
    layer_names: Mapping[str, str]
    """Names of the tensors of a layer, the file's to those of transformers; without `.weight` and
    `.bias` unless both have it."""
    interleaved: bool = False
    """Whether the rows of queries and keys are in the order of interleaved rotation."""
    shifted_norms: bool = False
    """Whether norms are stored as 1 + their weights."""
    changes: Mapping[str, Change] = field(default_factory=dict)
    """Other changes to the tensors of a layer, by their names in the file."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Names of tensors outside the layers that differ from `_NAMES`."""
    tiled: Callable[[str, Config], TiledHeads | None] = lambda leaf, config: None
    """How the heads of a tensor of a layer are reordered."""
    joined: Sequence[tuple[str, tuple[str, ...], Change]] = ()
    """Tensors of a layer that are made of several: whole names in transformers, those of the parts
    in the file, and how these are joined."""


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


_QWEN35_LAYERS = (
    _ATTENTION
    | _QK_NORMS
    | _MLP
    | {
        "attn_norm": "input_layernorm",
        "post_attention_norm": "post_attention_layernorm",
        "attn_qkv": "linear_attn.in_proj_qkv",
        "attn_gate": "linear_attn.in_proj_z",
        "ssm_alpha": "linear_attn.in_proj_a",
        "ssm_beta": "linear_attn.in_proj_b",
        "ssm_conv1d": "linear_attn.conv1d",
        "ssm_norm": "linear_attn.norm",
        "ssm_out": "linear_attn.out_proj",
        "ssm_a": "linear_attn.A_log",
        "ssm_dt.bias": "linear_attn.dt_bias",
    }
)


_GRANITE_EXPERTS = {
    "ffn_gate_inp": "block_sparse_moe.router.layer",
    "ffn_down_exps": "block_sparse_moe.output_linear",
}


_GRANITE_EXPERTS_JOINED = (
    (
        "block_sparse_moe.input_linear.weight",
        ("ffn_gate_exps.weight", "ffn_up_exps.weight"),
        Change.JOIN,
    ),
)


def _qwen35_tiled(leaf: str, config: Config) -> TiledHeads | None:
    keys = config["linear_num_key_heads"]
    heads, size = config["linear_num_value_heads"] // keys, config["linear_value_head_dim"]
    match leaf:
        case "ssm_a" | "ssm_dt.bias" | "ssm_alpha.weight" | "ssm_beta.weight":
            return TiledHeads(keys, heads)
        case "attn_gate.weight":
            return TiledHeads(keys, heads, size)
        case "attn_qkv.weight" | "ssm_conv1d.weight":
            return TiledHeads(keys, heads, size, 2 * keys * config["linear_key_head_dim"])
        case "ssm_out.weight":
            return TiledHeads(keys, heads, size, columns=True)
        case _:
            return None


_QWEN35_CHANGES = {"ssm_a": Change.LOG_NEGATED, "ssm_conv1d.weight": Change.UNSQUEEZE}


ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": Architecture(configs.llama_config, _DENSE | _MIXTRAL_EXPERTS, interleaved=True),
    "qwen2": Architecture(configs.qwen2_config, _DENSE),
    "qwen3": Architecture(configs.qwen3_config, _DENSE | _QK_NORMS),
    "qwen2moe": Architecture(configs.qwen2_moe_config, _DENSE | _EXPERTS | _SHARED_EXPERT),
    "qwen3moe": Architecture(configs.qwen3_moe_config, _DENSE | _EXPERTS | _QK_NORMS),
    "gemma": Architecture(configs.gemma_config, _DENSE, shifted_norms=True),
    "gemma2": Architecture(
        configs.gemma2_config, _ATTENTION | _MLP | _GEMMA_NORMS, shifted_norms=True
    ),
    "gemma3": Architecture(
        configs.gemma3_config, _ATTENTION | _MLP | _GEMMA_NORMS | _QK_NORMS, shifted_norms=True
    ),
    "gemma4": Architecture(
        configs.gemma4_config,
        _ATTENTION
        | _MLP
        | _GEMMA_NORMS
        | _QK_NORMS
        | {
            "layer_output_scale.weight": "layer_scalar",
            "inp_gate": "per_layer_input_gate",
            "proj": "per_layer_projection",
            "post_norm": "post_per_layer_input_norm",
        },
        names={
            "per_layer_token_embd": "model.embed_tokens_per_layer",
            "per_layer_model_proj": "model.per_layer_model_projection",
            "per_layer_proj_norm": "model.per_layer_projection_norm",
        },
    ),
    "phi3": Architecture(configs.phi3_config, _PHI3_LAYERS),
    "granite": Architecture(configs.granite_config, _DENSE, interleaved=True),
    "olmo2": Architecture(configs.olmo2_config, _OLMO2_LAYERS),
    "smollm3": Architecture(configs.smollm3_config, _DENSE, interleaved=True),
    "stablelm": Architecture(configs.stablelm_config, _DENSE),
    "seed_oss": Architecture(
        configs.seed_oss_config,
        _ATTENTION
        | _MLP
        | {"attn_norm": "input_layernorm", "post_attention_norm": "post_attention_layernorm"},
    ),
    "arcee": Architecture(configs.arcee_config, _DENSE, interleaved=True),
    "ernie4_5": Architecture(configs.ernie_config, _DENSE),
    "glm4": Architecture(configs.glm4_config, _GLM4_LAYERS),
    "lfm2": Architecture(
        configs.lfm2_config,
        _LFM2_LAYERS,
        names={"token_embd_norm": "model.embedding_norm"},
        changes={"shortconv.conv.weight": Change.UNSQUEEZE},
    ),
    "lfm2moe": Architecture(
        configs.lfm2_moe_config,
        _LFM2_LAYERS
        | {
            "ffn_gate_inp": "feed_forward.gate",
            "ffn_gate_exps": "feed_forward.experts.{expert}.w1",
            "ffn_down_exps": "feed_forward.experts.{expert}.w2",
            "ffn_up_exps": "feed_forward.experts.{expert}.w3",
            "exp_probs_b.bias": "feed_forward.expert_bias",
        },
        names={"token_embd_norm": "model.embedding_norm"},
        changes={"shortconv.conv.weight": Change.UNSQUEEZE},
    ),
    "granitemoe": Architecture(
        configs.granite_moe_config,
        _ATTENTION | _PRE_NORMS | _GRANITE_EXPERTS,
        interleaved=True,
        joined=_GRANITE_EXPERTS_JOINED,
    ),
    "granitehybrid": Architecture(
        configs.granite_hybrid_config,
        _ATTENTION
        | _PRE_NORMS
        | _GRANITE_EXPERTS
        | {
            "ffn_down": "shared_mlp.output_linear",
            "ffn_down_shexp": "shared_mlp.output_linear",
            "ssm_in": "mamba.in_proj",
            "ssm_conv1d": "mamba.conv1d",
            "ssm_dt.bias": "mamba.dt_bias",
            "ssm_a": "mamba.A_log",
            "ssm_d": "mamba.D",
            "ssm_norm": "mamba.norm",
            "ssm_out": "mamba.out_proj",
        },
        interleaved=True,
        changes={
            "ssm_a": Change.LOG_NEGATED,
            "ssm_conv1d.weight": Change.UNSQUEEZE,
            "ssm_d": Change.FLATTEN,
            "ssm_norm.weight": Change.FLATTEN,
        },
        joined=(
            *_GRANITE_EXPERTS_JOINED,
            *(
                (
                    "shared_mlp.input_linear.weight",
                    (f"ffn_gate{end}.weight", f"ffn_up{end}.weight"),
                    Change.JOIN,
                )
                for end in ("", "_shexp")  # without and with experts beside it
            ),
        ),
    ),
    "exaone4": Architecture(configs.exaone4_config, _OLMO2_LAYERS),
    "hunyuan-dense": Architecture(
        configs.hunyuan_config,
        _DENSE
        | {
            "attn_q_norm": "self_attn.query_layernorm",
            "attn_k_norm": "self_attn.key_layernorm",
        },
    ),
    "command-r": Architecture(configs.command_r_config, _DENSE | _QK_NORMS),
    "nemotron": Architecture(configs.nemotron_config, _DENSE, shifted_norms=True),
    "olmoe": Architecture(configs.olmoe_config, _DENSE | _EXPERTS | _QK_NORMS),
    "qwen35": Architecture(
        configs.qwen35_config,
        _QWEN35_LAYERS,
        shifted_norms=True,
        changes=_QWEN35_CHANGES,
        tiled=_qwen35_tiled,
    ),
    "qwen35moe": Architecture(
        configs.qwen35_moe_config,
        _QWEN35_LAYERS | _EXPERTS | _SHARED_EXPERT,
        shifted_norms=True,
        changes=_QWEN35_CHANGES,
        tiled=_qwen35_tiled,
    ),
    "gpt-oss": Architecture(
        configs.gpt_oss_config,
        _ATTENTION
        | {
            "attn_norm": "input_layernorm",
            "post_attention_norm": "post_attention_layernorm",
            "attn_sinks.weight": "self_attn.sinks",
            "ffn_gate_inp": "mlp.router",
            "ffn_down_exps.weight": "mlp.experts.down_proj",
            "ffn_down_exps.bias": "mlp.experts.down_proj_bias",
        },
        changes={"ffn_down_exps.weight": Change.TRANSPOSE},
        joined=(
            (
                "mlp.experts.gate_up_proj",
                ("ffn_gate_exps.weight", "ffn_up_exps.weight"),
                Change.ALTERNATE,
            ),
            (
                "mlp.experts.gate_up_proj_bias",
                ("ffn_gate_exps.bias", "ffn_up_exps.bias"),
                Change.ALTERNATE,
            ),
        ),
    ),
}
"""By `general.architecture`; tests/unit/test_gguf_architectures.py compares each with its
original."""


class UnknownArchitecture(GgufError):
    """Only a plugin's runtime may know the architecture of a file."""


def find_architecture(file: GgufFile) -> Architecture:
    """Return how to read a file's architecture.

    Raises:
        UnknownArchitecture: it is not known.
        GgufError: the file holds no language model.
    """
    if file.get("split.no", 0) != 0:
        raise GgufError(
            f"{file.path.name} is a later part of a split GGUF.",
            "Give the first part; its name ends in -00001-of-0000N.",
        )
    name = file.architecture
    kind = file.get("general.type", "model")
    if kind != "model" or name == "clip":
        what = "a part for images or sound" if kind in ("mmproj", "model") else f"of type {kind!r}"
        raise GgufError(
            f"{file.path.name} is {what}, not a language model.",
            "Use the file of the model itself.",
        )
    if name not in ARCHITECTURES:
        raise UnknownArchitecture(
            f"chatlm does not read the architecture {name!r} of {file.path.name} from GGUF.",
            "llama.cpp may run it: pip install 'chatlm[llamacpp]'. Or a safetensors version of the "
            "model may work: chatlm models pull ORG/NAME",
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
    joined = set(ROPE_TENSORS)
    for layer in range(config["num_hidden_layers"]):
        for target, leaves, change in architecture.joined:
            names = tuple(f"blk.{layer}.{leaf}" for leaf in leaves)
            joined.update(names)
            if all(name in file.tensors for name in names):
                sources[f"model.layers.{layer}.{target}"] = TensorSource(names, change=change)
    for name in file.tensors:
        if name in joined:
            continue
        if not _predicts_further(file, config, name):
            sources |= _map_tensor(architecture, file, config, name)
        elif config.get("mtp_num_hidden_layers") == 1:
            sources |= _map_mtp_tensor(architecture, file, config, name)
    return sources


_MTP_NAMES = {
    "nextn.eh_proj.weight": "mtp.fc.weight",
    "nextn.enorm.weight": "mtp.pre_fc_norm_embedding.weight",
    "nextn.hnorm.weight": "mtp.pre_fc_norm_hidden.weight",
    "nextn.shared_head_norm.weight": "mtp.norm.weight",
}
"""Tensors of the layer that predicts further tokens, besides those that all layers have."""


def _map_mtp_tensor(
    architecture: Architecture, file: GgufFile, config: Config, name: str
) -> dict[str, TensorSource]:
    """Return where a tensor of the only layer is that predicts further tokens, or nothing."""
    leaf = name.split(".", 2)[-1]
    if target := _MTP_NAMES.get(leaf):
        return {target: _source(architecture, config, name)}
    if _target(architecture, name) is None:
        return {}
    prefix = f"model.layers.{config['num_hidden_layers']}."
    return {
        target.replace(prefix, "mtp.layers.0."): source
        for target, source in _map_tensor(architecture, file, config, name).items()
    }


_LAYER_TENSOR = re.compile(r"blk\.(?P<layer>\d+)\.(?P<leaf>(?P<stem>.+?)(\.(?P<suffix>\w+))?)")


def _predicts_further(file: GgufFile, config: Config, name: str) -> bool:
    """Tell whether a tensor belongs to the layers that only predict further tokens."""
    layer = _LAYER_TENSOR.fullmatch(name)
    further = file.get(f"{file.architecture}.nextn_predict_layers", 0)
    return bool(further and layer and int(layer["layer"]) >= config["num_hidden_layers"])


def _map_tensor(
    architecture: Architecture, file: GgufFile, config: Config, name: str
) -> dict[str, TensorSource]:
    target = _target(architecture, name)
    if target is None:
        raise GgufError(
            f"{file.path.name} has the tensor {name[:60]!r}, which chatlm does not know for the "
            f"architecture {file.architecture}; without it, replies would be wrong.",
            "A safetensors version of the model may work: chatlm models pull ORG/NAME",
        )
    if "{expert}" in target:
        return {
            target.format(expert=expert): TensorSource((name,), expert)
            for expert in range(file.tensors[name].shape[0])
        }
    return {target: _source(architecture, config, name)}


def _source(architecture: Architecture, config: Config, name: str) -> TensorSource:
    heads = 0
    leaf = name.split(".", 2)[-1]
    change = architecture.changes.get(leaf, Change.NONE)
    if architecture.interleaved and leaf.startswith(("attn_q.", "attn_k.")):
        change = Change.UNPERMUTE
        queries = leaf.startswith("attn_q.")
        heads = config["num_attention_heads" if queries else "num_key_value_heads"]
    elif architecture.shifted_norms and name.endswith("norm.weight") and leaf != "ssm_norm.weight":
        change = Change.MINUS_ONE
    tiled = architecture.tiled(leaf, config)
    return TensorSource((name,), change=change, heads=heads, tiled=tiled)


def find_linear(
    architecture: Architecture, config: Config, name: str
) -> tuple[str, TensorSource] | None:
    """Return the module of transformers that a matrix of a file belongs to, and how it is stored.

    None where it is not the matrix of a linear layer of its own, such as that of several experts.

    Args:
        architecture: of the file.
        config: of the model, as in config.json.
        name: of the matrix in the file.
    """
    target = _target(architecture, name)
    if target is None or "{expert}" in target or not target.endswith(".weight"):
        return None
    source = _source(architecture, config, name)
    return (target.removesuffix(".weight"), source) if source.only_rows_move else None


def _target(architecture: Architecture, name: str) -> str | None:
    """Return the name of a tensor in transformers; None if it has none."""
    layer = _LAYER_TENSOR.fullmatch(name)
    if layer is None:
        stem, _, suffix = name.rpartition(".")
        outer = architecture.names.get(stem, _NAMES.get(stem))
        return f"{outer}.{suffix}" if outer and suffix in ("weight", "bias") else None
    prefix = f"model.layers.{layer['layer']}"
    if whole := architecture.layer_names.get(layer["leaf"]):
        return f"{prefix}.{whole}"
    leaf = architecture.layer_names.get(layer["stem"])
    return f"{prefix}.{leaf}.{layer['suffix']}" if leaf and layer["suffix"] else None
