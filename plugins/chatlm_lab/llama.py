"""A decoder in Llama's form, saved so that transformers and chatlm's fast engine open it.

It differs from the book's decoder in three ways: several heads of queries share one of keys and
values (grouped-query attention), the MLP is gated (SwiGLU), and linear layers have no bias.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import silu

from chatlm_lab.decoder import EPSILON, THETA, DecoderBlock, RMSNorm
from chatlm_lab.network import LanguageNetwork, Layer
from chatlm_lab.network_recipe import LlamaRecipe

WEIGHTS_FILE = "model.safetensors"

NAMES = {
    "norm_1.scale": "input_layernorm.weight",
    "attention.W_Q.weight": "self_attn.q_proj.weight",
    "attention.W_K.weight": "self_attn.k_proj.weight",
    "attention.W_V.weight": "self_attn.v_proj.weight",
    "attention.W_O.weight": "self_attn.o_proj.weight",
    "norm_2.scale": "post_attention_layernorm.weight",
    "mlp.W_gate.weight": "mlp.gate_proj.weight",
    "mlp.W_up.weight": "mlp.up_proj.weight",
    "mlp.W_down.weight": "mlp.down_proj.weight",
}
"""Names of a block's weights here, and in Llama's files."""


class SwiGLU(nn.Module):
    """Gated MLP (Shazeer 2020): (SiLU(x W_gate) * x W_up) W_down, where SiLU(a) = a σ(a).

    Args:
        width: d.
        hidden: numbers between the maps.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.W_gate = nn.Linear(width, hidden, bias=False)
        self.W_up = nn.Linear(width, hidden, bias=False)
        self.W_down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the result for each token by itself."""
        result: Tensor = self.W_down(silu(self.W_gate(x)) * self.W_up(x))
        return result


def hidden_width(width: int) -> int:
    """Return the numbers between the maps of the MLP.

    They are 8/3 of the width, so that three maps have as many parameters as two with four times
    the width, rounded up to a multiple of 32, as fast kernels and quantized formats like them.
    """
    return -(-8 * width // (3 * 32)) * 32


def build_llama(
    vocabulary: int,
    width: int,
    layers: int,
    heads: int,
    kv_heads: int,
    context: int,
    dropout: float,
) -> LanguageNetwork:
    """Build a decoder in Llama's form, with new weights.

    Args:
        vocabulary: number of tokens.
        width: d.
        layers: number of blocks.
        heads: of queries.
        kv_heads: of keys and values, a divisor of `heads`.
        context: number of tokens that each one may see.
        dropout: in training.
    """
    blocks: list[Layer] = [
        DecoderBlock(width, heads, context, dropout, kv_heads, SwiGLU(width, hidden_width(width)))
        for _ in range(layers)
    ]
    return LanguageNetwork(vocabulary, width, blocks, RMSNorm(width), dropout, bias=False)


def save_llama(network: LanguageNetwork, recipe: LlamaRecipe, folder: Path) -> None:
    """Write config.json, generation_config.json and the weights, with Llama's names.

    Args:
        network: from `build_llama`.
        recipe: it was built by.
        folder: to write to.

    Raises:
        OSError: they cannot be written.
    """
    own = network.state_dict()
    stored = {}
    for name, theirs, heads in _weights(recipe):
        value = own[name]
        stored[theirs] = (_to_halves(value, heads) if heads else value).contiguous()
    save_file(stored, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(own["embedding.weight"]),
        "hidden_size": recipe.width,
        "intermediate_size": hidden_width(recipe.width),
        "num_hidden_layers": recipe.layers,
        "num_attention_heads": recipe.heads,
        "num_key_value_heads": recipe.kv_heads,
        "head_dim": recipe.width // recipe.heads,
        "hidden_act": "silu",
        "max_position_embeddings": recipe.context,
        "rms_norm_eps": EPSILON,
        "rope_theta": THETA,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": 0,
        "dtype": "float32",
    }
    generation = {"eos_token_id": 0, "do_sample": True, "temperature": 1.0, "top_k": 0}
    for name, values in (("config.json", config), ("generation_config.json", generation)):
        (folder / name).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def load_llama(folder: Path, recipe: LlamaRecipe) -> dict[str, Tensor]:
    """Return the weights that `save_llama` wrote, by their names in the network.

    Raises:
        KeyError, OSError, SafetensorError: they cannot be read.
    """
    stored = load_file(folder / WEIGHTS_FILE)
    return {
        name: _from_halves(stored[theirs], heads) if heads else stored[theirs]
        for name, theirs, heads in _weights(recipe)
    }


def _weights(recipe: LlamaRecipe) -> Iterator[tuple[str, str, int]]:
    """Yield the names of all weights here and in Llama's files, and the heads that RoPE turns."""
    yield "embedding.weight", "model.embed_tokens.weight", 0
    for layer in range(recipe.layers):
        for own, theirs in NAMES.items():
            turned = {"attention.W_Q.weight": recipe.heads, "attention.W_K.weight": recipe.kv_heads}
            yield f"layers.{layer}.{own}", f"model.layers.{layer}.{theirs}", turned.get(own, 0)
    yield "norm.scale", "model.norm.weight", 0
    yield "output.weight", "lm_head.weight", 0


def _to_halves(weight: Tensor, heads: int) -> Tensor:
    """Reorder the rows of each head, so that RoPE turns row i with row i + d_h / 2.

    RoPE here turns neighbours, as the book does; Llama's files expect a pair's second numbers in
    the second half of the head.
    """
    divided = weight.unflatten(0, (heads, -1, 2))
    return torch.cat([divided[:, :, 0], divided[:, :, 1]], 1).flatten(0, 1)


def _from_halves(weight: Tensor, heads: int) -> Tensor:
    """Undo `_to_halves`."""
    first, second = weight.unflatten(0, (heads, -1)).chunk(2, 1)
    return torch.stack([first, second], 2).flatten(0, 2)
