"""Correctness of a model that is read from a GGUF file, for `benchmarks.sizes --check`.

Random models of every type are compared with transformers in float32, whose weights the gguf
package decodes. Real files are compared with the greedy text of llama.cpp.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import torch
from gguf import GGMLQuantizationType
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.random_gguf import Shape, config, folder_name, tensors, write_model
from benchmarks.speed_quality import LENGTH, Quality, Reference
from chatlm.config.config import Config
from chatlm.engines.model import Model
from chatlm.engines.open import open_engine
from chatlm.hub.jobs import ignore_progress
from chatlm.plugin_host.host import PluginHost

MOST_DIVERGENCE = 1e-4
"""KL divergence that is allowed, in nats."""

TEXTS = 8
"""Random texts that both read."""

SMALL = {
    name: Shape("Small", name, 512, 1024, 4, 8, 4, 64, 49408, True, 1e5, 1e-5, 2048)
    for name in ("llama", "qwen3")
}
"""Shapes with blocks of 256, by architecture."""


def compare_random(architecture: str, quant: str, folder: Path, tokenizer: Path) -> Quality:
    """Compare chatlm with the reference on a random model.

    Args:
        architecture: one of `SMALL`.
        quant: as for `write_model`.
        folder: for the file.
        tokenizer: as for `write_model`.
    """
    file = folder / f"{architecture}-{quant}.gguf"
    file.unlink(missing_ok=True)
    write_model(file, SMALL[architecture], quant, tokenizer)
    generator = torch.Generator().manual_seed(0)
    texts = torch.randint(1000, 40_000, (TEXTS, LENGTH), generator=generator).tolist()
    reference = Reference(reference_model(file, SMALL[architecture], folder), texts)
    return reference.compare(open_model(str(file)))


def compare_real(file: Path, model: Model, texts: list[list[int]]) -> Quality:
    """Compare chatlm with transformers in float32 on a real file.

    Args:
        file: which transformers decodes itself.
        model: chatlm's.
        texts: ids, `LENGTH` each.
    """
    module = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    )
    return Reference(module.eval(), texts).compare(model)


def reference_model(file: Path, shape: Shape, folder: Path) -> Any:
    """Return transformers' model in float32 with the weights of a file."""
    path = folder / "config.json"
    path.write_text(json.dumps(config(shape)), encoding="utf-8")
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(path), dtype=torch.float32)
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    weights = {}
    for tensor in tensors(shape):
        values = _decode(stored[f"{tensor.name}.weight"]).view(tensor.shape)
        heads = {"attn_q": shape.heads, "attn_k": shape.key_value_heads}
        count = heads.get(tensor.name.rpartition(".")[2])
        if count and shape.architecture == "llama":  # its RoPE rotates neighbours, not halves
            values = values.view(count, -1, 2, shape.hidden).transpose(1, 2).reshape(tensor.shape)
        weights[folder_name(tensor)] = values
    missing, unexpected = model.load_state_dict(weights, strict=False)
    if unexpected or set(missing) - {"lm_head.weight"}:
        raise ValueError(f"missing: {missing}, unexpected: {unexpected}")
    return model.float().eval()


def _decode(tensor: gguf.ReaderTensor) -> Tensor:
    if tensor.tensor_type in (GGMLQuantizationType.F32, GGMLQuantizationType.F16):
        return torch.tensor(tensor.data).float()
    return torch.tensor(gguf.dequantize(tensor.data, tensor.tensor_type))


def open_model(name: str, **settings: Any) -> Model:
    """Return the model that chatlm opens for a name or a file."""
    engine: Any = open_engine(
        Config(model=name, safe_mode=True, **settings), PluginHost(), ignore_progress
    )
    model: Model = engine._adapters.model
    return model


def agreement(model: Model, prompt: Sequence[int], written: Sequence[int]) -> tuple[int, int]:
    """Count how often a model's most likely token is the one that another program wrote.

    Args:
        model: reads each token singly, as when it writes.
        prompt: before the text.
        written: the text; what follows a token that ends the reply is ignored.

    Returns:
        The tokens that agree, and all that were compared.
    """
    ends = [n for n, token in enumerate(written) if token in model.info.eos_token_ids]
    cache, same = model.new_cache(), 0
    compared = written[: ends[0] + 1] if ends else written
    logits = cache.prefill(prompt)
    for token in compared:
        same += int(logits.argmax()) == token
        logits = cache.decode([token])[0]
    return same, len(compared)
