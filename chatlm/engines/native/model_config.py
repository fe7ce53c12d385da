"""Sizes, layers and tensor names of a decoder-only transformer, read by every native decoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from chatlm.engines.native.attention import AttentionConfig
from chatlm.engines.native.gated_delta import GatedDeltaConfig
from chatlm.engines.native.layer_inputs import LayerInputConfig
from chatlm.engines.native.mamba import MambaConfig
from chatlm.engines.native.matrix_shape import MatrixShape
from chatlm.engines.native.mlp import DenseMlpConfig
from chatlm.engines.native.moe import SHARED_PREFIX, MoeConfig
from chatlm.engines.native.recurrent_state import StateShape
from chatlm.engines.native.rope import RopeConfig, find_long_past
from chatlm.engines.native.short_conv import ShortConvConfig

MAX_HEAD_DIM = 1024
"""A larger head_dim is taken for a damaged config.json."""

Mixer = AttentionConfig | ShortConvConfig | GatedDeltaConfig | MambaConfig
"""What exchanges information between tokens in a layer."""

Mlp = DenseMlpConfig | MoeConfig
"""What computes each token for itself in a layer."""

PRE_NORMS = {
    "pre_mixer_norm": "input_layernorm",
    "pre_mlp_norm": "post_attention_layernorm",
}
"""Norms of a block that normalizes the inputs of mixer and MLP."""

POST_NORMS = {
    "post_mixer_norm": "post_attention_layernorm",
    "post_mlp_norm": "post_feedforward_layernorm",
}
"""Norms of a block that normalizes the outputs of mixer and MLP."""

TENSOR_NAMES: Mapping[str, str] = {
    **{name: f"self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "o_proj")},
    **{name: f"self_attn.{name}" for name in ("q_norm", "k_norm")},
    **{name: f"mlp.{name}" for name in ("gate_proj", "up_proj", "down_proj")},
    "sinks": "self_attn.sinks",
    **{
        f"{SHARED_PREFIX}{name}": f"mlp.shared_expert.{name}"
        for name in ("gate_proj", "up_proj", "down_proj")
    },
}
"""Usual names of a layer's tensors."""


@dataclass(frozen=True)
class LayerConfig:
    """One layer: a mixer and an MLP, each added to the residual stream."""

    mixer: Mixer
    mlp: Mlp
    norms: tuple[str, ...] = tuple(PRE_NORMS)
    """Which of `pre_mixer_norm`, `post_mixer_norm`, `pre_mlp_norm` and `post_mlp_norm` it has."""
    inputs: LayerInputConfig | None = None
    """Of all layers; None without."""
    is_scaled: bool = False
    """Whether a number multiplies the residual stream after the layer."""

    @property
    def attends(self) -> bool:
        """Whether the mixer is attention, which keeps keys and values; others keep a state."""
        return isinstance(self.mixer, AttentionConfig)

    def matrix_shapes(self, hidden_size: int) -> Mapping[str, MatrixShape]:
        """Return its matrices by name, see `LayerWeights`."""
        parts = [self.mixer, self.mlp] + ([self.inputs] if self.inputs else [])
        return {
            name: shape for part in parts for name, shape in part.matrix_shapes(hidden_size).items()
        }

    def vector_sizes(self, hidden_size: int) -> Mapping[str, int]:
        """Return the sizes of its vectors by name, see `LayerWeights`."""
        return {
            **dict.fromkeys(self.norms, hidden_size),
            **self.mixer.vector_sizes(),
            **self.mlp.vector_sizes(),
            **(self.inputs.vector_sizes(hidden_size) if self.inputs else {}),
            **({"layer_scale": 1} if self.is_scaled else {}),
        }


EXPERT_NAMES: Mapping[str, str] = {
    name: f"mlp.experts.{{expert}}.{name}" for name in ("gate_proj", "up_proj", "down_proj")
}
"""Usual names of an expert's matrices."""


@dataclass(frozen=True)
class TensorNames:
    """Names of a model's tensors, without `.weight` or `.bias`."""

    embed_tokens: str = "model.embed_tokens"
    layers: str = "model.layers"
    norm: str = "model.norm"
    lm_head: str = "lm_head"
    of_layer: Mapping[str, str] = field(default_factory=lambda: {**TENSOR_NAMES, **PRE_NORMS})
    """Names within a layer, by those of `LayerWeights`. Matrices with the same name are its rows,
    one after the other."""
    unread: tuple[str, ...] = ()
    """What the names of tensors begin with that have no part in text, such as those for images."""
    without_suffix: frozenset[str] = frozenset({"sinks"})
    """Vectors whose names in the file do not end in `.weight`, by those of `LayerWeights`."""
    router: str = "mlp.gate"
    experts: Mapping[str, str] = field(default_factory=lambda: EXPERT_NAMES)
    """Names of the experts' matrices. Without `{expert}` a tensor has all experts, with rows and
    columns swapped, and the rows of matrices with the same name alternate."""
    stacked_experts: bool = False
    """Whether such a tensor has the rows of matrices one after the other instead, not swapped."""
    shared_gate: str = "mlp.shared_expert_gate"
    choice_bias: str = ""
    """Name of `MoeWeights.choice_bias`, whole."""
    layer_inputs: Mapping[str, str] = field(default_factory=dict)
    """Names of `LayerInputWeights`."""


@dataclass(frozen=True)
class MtpConfig:
    """A layer that predicts the token after the next one (multi-token prediction): from what the
    model computed of a token, and the embedding of the next one."""

    model: ModelConfig
    """The layer as a model, with the embedding and the output matrix of the one it belongs to."""
    projection: str = "mtp.fc"
    """Name of the matrix that joins both inputs, of the embedding and then of the hidden state:
    (hidden_size, 2 * hidden_size)."""
    embedding_norm: str = "mtp.pre_fc_norm_embedding"
    hidden_norm: str = "mtp.pre_fc_norm_hidden"


@dataclass(frozen=True)
class ModelConfig:
    """A model's sizes and variants, under the names of the hub's config.json where it has them."""

    hidden_size: int
    vocab_size: int
    max_position_embeddings: int
    rms_norm_eps: float
    layers: tuple[LayerConfig, ...]
    tie_word_embeddings: bool = False
    """Whether the embedding is the output matrix too."""
    embedding_multiplier: float = 1.0
    residual_multiplier: float = 1.0
    """Scales the outputs of mixer and MLP before they are added to the residual stream."""
    logits_scaling: float = 1.0
    """Divides the logits."""
    final_logit_softcapping: float | None = None
    """Logits become `softcap * tanh(logit / softcap)`; None for no such limit."""
    one_plus_norms: bool = False
    """Whether norms multiply by 1 + their weights, which are then kept in float32."""
    tensor_names: TensorNames = field(default_factory=TensorNames)
    mtp: MtpConfig | None = None
    """Its own layer for drafts; None without."""

    @property
    def layer_inputs(self) -> LayerInputConfig | None:
        """The inputs of the layers; None without."""
        return self.layers[0].inputs

    @cached_property
    def attention_layers(self) -> tuple[AttentionConfig, ...]:
        """The attention of the layers that have one, in order."""
        return tuple(
            layer.mixer for layer in self.layers if isinstance(layer.mixer, AttentionConfig)
        )

    @cached_property
    def kv_layers(self) -> tuple[AttentionConfig, ...]:
        """The attention of the layers with keys and values of their own, those of a KV cache."""
        return tuple(each for each in self.attention_layers if each.shares_kv_of is None)

    @cached_property
    def kv_indices(self) -> tuple[int, ...]:
        """Which of `kv_layers` has the keys and values of each of `attention_layers`."""
        indices: list[int] = []
        for each in self.attention_layers:
            if each.shares_kv_of is None:
                indices.append(len(set(indices)))
            else:
                indices.append(indices[each.shares_kv_of])
        return tuple(indices)

    @cached_property
    def storing_layers(self) -> int:
        """How many of the first layers there are up to the last that keeps something of a token.

        Those after them matter for tokens whose logits are needed alone.
        """
        return 1 + max(
            number
            for number, layer in enumerate(self.layers)
            if not isinstance(layer.mixer, AttentionConfig) or layer.mixer.shares_kv_of is None
        )

    @cached_property
    def state_shapes(self) -> tuple[StateShape, ...]:
        """The states of the recurrent layers, in order; such layers are all without attention."""
        return tuple(
            layer.mixer.state_shape
            for layer in self.layers
            if not isinstance(layer.mixer, AttentionConfig)
        )

    @cached_property
    def ropes(self) -> tuple[RopeConfig, ...]:
        """The different RoPEs of the layers."""
        ropes = (mixer.rope for mixer in self.attention_layers if mixer.rope is not None)
        return tuple(dict.fromkeys(ropes))

    @cached_property
    def long_past(self) -> int | None:
        """The length past which all positions are encoded otherwise (longrope); None for none."""
        return find_long_past(self.ropes)
