"""Every type of ggml's weights is computed with as it is stored, in decoding and in prompts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from chatlm.engines.native.architectures.registry import read_config
from chatlm.engines.native.c_decoder import CDecoder
from chatlm.engines.native.compiler import kernel_library
from chatlm.engines.native.dequantize import dequantize_matrix
from chatlm.engines.native.forward import prefill
from chatlm.engines.native.kernel import Kernel
from chatlm.engines.native.kv_cache import KVCache
from chatlm.engines.native.model import NativeModel
from chatlm.engines.native.weight_reader import read_weights, to_linear
from chatlm.hub.gguf import architectures
from chatlm.hub.gguf.file import GgufFile
from tests.engine.test_gguf_tensors import TYPES
from tests.engine.test_native import ABOUT, divergence, random_ids
from tests.gguf_files import save_gguf

LAYER_MATRICES = r"(attn_(q|k|v|output)|ffn_(gate|up|down)|token_embd|output)\.weight"


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def stored_model(folder: Path, kind: str, dtype: torch.dtype) -> NativeModel:
    """Return a model whose matrices are all of one type."""
    gguf = save_gguf(folder / "tiny.gguf", "llama wide", types={LAYER_MATRICES: kind})
    with GgufFile(gguf) as file:
        (folder / "config.json").write_text(json.dumps(architectures.read_config(file)))
    config = read_config(folder)
    kernel = Kernel(kernel_library(float32=dtype is torch.float32), dtype)
    decoder = CDecoder(kernel, config, read_weights(folder, config), "stored", 2)
    assert decoder.formats == {kind}
    return NativeModel(config, decoder.weights, decoder, ABOUT)


@pytest.mark.parametrize("kind", TYPES)
def test_decoded_tokens_have_the_logits_of_the_stored_numbers(tmp_path: Path, kind: str) -> None:
    model = stored_model(tmp_path, kind, torch.float32)
    weights = to_linear(read_weights(tmp_path, model.config), model.config, torch.float32)
    ids, rope = random_ids(tmp_path)[:80], model.ropes(512)
    kv_cache, cache = KVCache(model.config, torch.float32), model.new_cache()
    expected = torch.stack(
        [prefill(model.config, weights, kv_cache, [token], rope) for token in ids]
    )
    made = torch.cat([cache.decode([token]) for token in ids])
    assert divergence(expected, made) < 1e-5
    torch.testing.assert_close(made, expected, rtol=0, atol=0.02 * float(expected.std()))


@pytest.mark.parametrize("kind", TYPES)
def test_a_prompt_is_multiplied_with_the_stored_numbers(tmp_path: Path, kind: str) -> None:
    """In float32 nothing is rounded; the number of vectors changes nothing."""
    model = stored_model(tmp_path, kind, torch.float32)
    stored = read_weights(tmp_path, model.config)
    for name in ("q_proj", "v_proj", "down_proj"):
        matrix = stored.layers[1].matrices[name]
        exact = dequantize_matrix(matrix, torch.float32)
        x = torch.randn(75, matrix.columns, generator=torch.Generator().manual_seed(3))
        packed = model.weights.layers[1].matrices[name]
        made = packed(x)
        torch.testing.assert_close(made, x @ exact.T, rtol=1e-4, atol=1e-4 * float(exact.std()))
        assert torch.equal(packed(x[:33]), made[:33])
        assert torch.equal(packed(x[40:41]), made[40:41])
    rows = torch.tensor([5, 0, 5, 319])
    table = dequantize_matrix(stored.embed_tokens, torch.float32)
    torch.testing.assert_close(model.weights.embed_tokens(rows), table[rows], rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", ["Q4_K", "Q6_K", "Q8_0", "BF16"])
def test_a_prompt_in_bfloat16_is_near(tmp_path: Path, kind: str) -> None:
    model = stored_model(tmp_path, kind, torch.bfloat16)
    matrix = read_weights(tmp_path, model.config).layers[0].matrices["gate_proj"]
    exact = dequantize_matrix(matrix, torch.bfloat16).float()
    x = torch.randn(75, matrix.columns, generator=torch.Generator().manual_seed(3)).bfloat16()
    made, expected = model.weights.layers[0].matrices["gate_proj"](x).float(), x.float() @ exact.T
    torch.testing.assert_close(made, expected, rtol=1e-2, atol=1e-2 * float(expected.std()))
