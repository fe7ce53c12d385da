"""Tiny models whose weights are set, not trained, so that they recall what once followed a token.

Such a model has two layers. The first attends to the previous token, by biases that RoPE turns to
agree at a distance of one, and notes its code beside the token's own. The second compares the
token's code with those notes, in the pairs of a head that turn least, and copies the code of the
token that it finds: an induction head (https://arxiv.org/abs/2209.11895). Wrong angles, a wrong
window or keys that are stored badly let it find something else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from chatlm.engines.native.model import NativeModel

CODE, HIDDEN, HEAD_DIM, VOCABULARY = 32, 128, 128, 256
"""Values of a token's code, sizes of the model, and its number of tokens."""

KEY = 200
"""A token that text has once, before the fact."""

FACT = (201, 202, 203, 204)
"""Tokens that no other text has."""

_MOST_ALIKE = 16
"""Limit of the products of two codes, of which each with itself is `CODE`."""

_BLOCK = 256

_SIZES: Mapping[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": HIDDEN, "intermediate_size": 64,
    "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
    "head_dim": HEAD_DIM, "max_position_embeddings": 8192, "tie_word_embeddings": False,
}  # fmt: skip

_YARN: Mapping[str, Any] = {
    "rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 256,
    "rope_theta": 1e4,
}  # fmt: skip
"""Without it, no pair would keep its angle over thousands of tokens."""

_PLAIN: Mapping[str, Any] = {"rope_type": "default", "rope_theta": 1e6}

WINDOW = 512


@dataclass(frozen=True)
class Kind:
    """A family and its settings."""

    family: str
    """Its class in transformers without `ForCausalLM`."""
    settings: Mapping[str, Any]
    reach: int | None = None
    """How far back the second layer sees, with the token itself; None for everything."""


def _windows(*types: str) -> Mapping[str, Any]:
    return {
        "use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 0,
        "layer_types": [f"{kind}_attention" for kind in types],
    }  # fmt: skip


KINDS: Mapping[str, Kind] = {
    "window, then all": Kind(
        "Qwen2", {**_windows("sliding", "full"), "rope_parameters": _PLAIN}
    ),
    "window, then all with YaRN": Kind(
        "Qwen2", {**_windows("sliding", "full"), "rope_parameters": _YARN}
    ),
    "windows alone": Kind(
        "Qwen2", {**_windows("sliding", "sliding"), "rope_parameters": _PLAIN}, WINDOW
    ),
    "YaRN, no window": Kind("Llama", {"attention_bias": True, "rope_parameters": _YARN}),
    "gpt-oss (window 128, YaRN, sinks)": Kind(
        "GptOss",
        {
            "sliding_window": 128, "num_local_experts": 2, "num_experts_per_tok": 1,
            "rope_parameters": {**_YARN, "truncate": False},
        },
    ),
}  # fmt: skip


def save(folder: Path, kind: Kind) -> Path:
    """Write a model into a folder, in bfloat16."""
    config = getattr(transformers, f"{kind.family}Config")(**{**_SIZES, **kind.settings})
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind.family}ForCausalLM")(config)
    codes = _codes()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            tensor.fill_(1.0 if name.endswith("norm.weight") else 0.0)
            if name.endswith("sinks"):
                tensor.fill_(-100.0)
        model.model.embed_tokens.weight[:, :CODE] = codes
        model.lm_head.weight[:, 2 * CODE : 3 * CODE] = codes
        first, second = (layer.self_attn for layer in model.model.layers)
        own = torch.eye(CODE)
        # what norms multiply values of 1 by, where one code is there, and where two are
        one, two = (HIDDEN / (count * CODE) for count in (1, 2))
        bias = 12.0 * torch.ones(HEAD_DIM // 2)
        angles = _frequencies(config)
        first.q_proj.bias[:HEAD_DIM] = torch.cat((bias * angles.cos(), bias * -angles.sin()))
        first.k_proj.bias[: HEAD_DIM // 2] = bias
        first.v_proj.weight[:CODE, :CODE] = own
        first.o_proj.weight[CODE : 2 * CODE, :CODE] = own / one**0.5
        slow = _slow_places()
        second.q_proj.weight[slow, :CODE] = 4.0 * own / two**0.5
        second.k_proj.weight[slow, CODE : 2 * CODE] = 4.0 * own / two**0.5
        second.v_proj.weight[:CODE, :CODE] = own
        second.o_proj.weight[2 * CODE : 3 * CODE, :CODE] = own
    model.to(torch.bfloat16).save_pretrained(folder)
    return folder


def _codes() -> Tensor:
    """Return a code of 1 and -1 for each token, any two of which differ much."""
    generator = torch.Generator().manual_seed(1)
    codes = torch.empty(0, CODE)
    while len(codes) < VOCABULARY:
        new = torch.randint(2, (1, CODE), generator=generator) * 2.0 - 1.0
        if not len(codes) or float((codes @ new.T).abs().max()) <= _MOST_ALIKE:
            codes = torch.cat((codes, new))
    return codes


def _frequencies(config: Any) -> Tensor:
    """Return the model's frequencies in radians per token, as transformers computes them."""
    if config.rope_parameters["rope_type"] == "yarn":
        frequencies: Tensor = ROPE_INIT_FUNCTIONS["yarn"](config, torch.device("cpu"))[0]
        return frequencies
    theta: float = config.rope_parameters["rope_theta"]
    plain: Tensor = 1.0 / theta ** (torch.arange(0, HEAD_DIM, 2).float() / HEAD_DIM)
    return plain


def _slow_places() -> Tensor:
    """Return the values of a head in the pairs that turn least."""
    pairs = torch.arange(HEAD_DIM // 2 - CODE // 2, HEAD_DIM // 2)
    return torch.cat((pairs, pairs + HEAD_DIM // 2))


def prompt(tokens: int, depth: float) -> tuple[list[int], int]:
    """Return a text of some tokens that ends with `KEY`, and how far before that the fact begins.

    Args:
        tokens: length of the text.
        depth: of the fact, 0 for the start of the text and 1 for its end.
    """
    generator = torch.Generator().manual_seed(tokens)
    filler = torch.randint(10, KEY, (tokens - len(FACT) - 2,), generator=generator).tolist()
    at = round(depth * len(filler))
    ids = [*filler[:at], KEY, *FACT, *filler[at:], KEY]
    return ids, len(ids) - 1 - (at + 1)


def is_visible(kind: Kind, distance: int) -> bool:
    """Tell whether a model can see the fact that far back."""
    return kind.reach is None or distance < kind.reach


def recalls(model: NativeModel, ids: Sequence[int]) -> bool:
    """Tell whether a model continues a text with the fact."""
    cache = model.new_cache()
    for start in range(0, len(ids), _BLOCK):
        logits = cache.prefill(ids[start : start + _BLOCK])
    written = [int(logits.argmax())]
    while len(written) < len(FACT):
        written.append(int(cache.decode([written[-1]])[0].argmax()))
    return tuple(written) == FACT
