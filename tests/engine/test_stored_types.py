"""Every type of ggml's weights is computed with as it is stored, in decoding and in prompts."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
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
from chatlm.engines.native.products import multiply_all, multiply_gated
from chatlm.engines.native.weight_reader import read_weights, to_linear
from chatlm.hub.gguf import architectures
from chatlm.hub.gguf.file import GgufFile
from tests.engine.test_gguf_tensors import TYPES
from tests.engine.test_native import ABOUT, divergence, random_ids
from tests.gguf_files import save_gguf

EMULATION = Path(__file__).with_name("amx_emulation.h")

LAYER_MATRICES = r"(attn_(q|k|v|output)|ffn_(gate|up|down)|token_embd|output)\.weight"


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that makes, once, a model whose matrices are all of one type."""

    return cache(lambda kind: save_stored(tmp_path_factory.mktemp(kind), kind))


def save_stored(folder: Path, kind: str) -> Path:
    """Write a model whose matrices are all of one type."""
    gguf = save_gguf(folder / "tiny.gguf", "llama wide", types={LAYER_MATRICES: kind})
    with GgufFile(gguf) as file:
        (folder / "config.json").write_text(json.dumps(architectures.read_config(file)))
    return folder


def stored_model(folder: Path, kind: str, dtype: torch.dtype) -> NativeModel:
    """Open a model whose matrices are all of one type."""
    config = read_config(folder)
    kernel = Kernel(kernel_library(float32=dtype is torch.float32), dtype)
    decoder = CDecoder(kernel, config, read_weights(folder, config), "stored", 2)
    assert decoder.formats == {kind}
    return NativeModel(config, decoder.weights, decoder, ABOUT)


@pytest.mark.parametrize("kind", TYPES)
def test_decoded_tokens_have_the_logits_of_the_stored_numbers(
    folder_of: Callable[[str], Path], kind: str
) -> None:
    folder = folder_of(kind)
    model = stored_model(folder, kind, torch.float32)
    weights = to_linear(read_weights(folder, model.config), model.config, torch.float32)
    ids, rope = random_ids(folder)[:80], model.ropes(512)
    kv_cache, cache = KVCache(model.config, torch.float32), model.new_cache()
    expected = torch.stack(
        [prefill(model.config, weights, kv_cache, [token], rope) for token in ids]
    )
    made = torch.cat([cache.decode([token]) for token in ids])
    assert divergence(expected, made) < 1e-5
    torch.testing.assert_close(made, expected, rtol=0, atol=0.02 * float(expected.std()))


@pytest.mark.parametrize("kind", TYPES)
def test_a_prompt_is_multiplied_with_the_stored_numbers(
    folder_of: Callable[[str], Path], kind: str
) -> None:
    """In float32 nothing is rounded; the number of vectors changes nothing."""
    folder = folder_of(kind)
    model = stored_model(folder, kind, torch.float32)
    stored = read_weights(folder, model.config)
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


@pytest.mark.parametrize("kind", TYPES)
def test_a_prompt_is_multiplied_exactly_by_a_model_in_bfloat16_too(
    folder_of: Callable[[str], Path], kind: str
) -> None:
    """Activations keep at least 15 bits, and weights all or 13."""
    folder = folder_of(kind)
    model = stored_model(folder, kind, torch.bfloat16)
    stored = read_weights(folder, model.config).layers[0].matrices
    packed = model.weights.layers[0].matrices
    names = ["gate_proj", "q_proj", "up_proj"]
    x = torch.randn(75, stored["q_proj"].columns, generator=torch.Generator().manual_seed(3))
    for name, made in zip(names, multiply_all([packed[name] for name in names], x), strict=True):
        expected = x @ dequantize_matrix(stored[name], torch.float32).T
        near = 1e-3 * float(expected.std())
        torch.testing.assert_close(made, expected, rtol=0, atol=near)
        assert torch.equal(packed[name](x[40:41]), made[40:41])


@pytest.mark.skipif(platform.machine() != "x86_64", reason="only there words may be paired")
@pytest.mark.parametrize("kind", [each for each in TYPES if each != "F32"])
def test_a_product_is_the_same_with_half_the_multiplications(
    folder_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Where the processor has no VNNI, both ways are one."""
    compiler, made = os.environ.get("CC", "cc"), []
    for pairs in (0, 1):
        monkeypatch.setenv("CC", f"{compiler} -DPAIRS_WORDS={pairs}")
        own = stored_model(folder_of(kind), kind, torch.bfloat16).weights.layers[0].matrices
        x = torch.randn(75, 256, generator=torch.Generator().manual_seed(3))
        made.append((own["q_proj"](x), own["down_proj"](own["up_proj"](x))))
    for plain, paired in zip(*made, strict=True):
        assert torch.equal(plain, paired)


@pytest.mark.parametrize("is_allowed", [True, False])
def test_tiles_multiply_as_exactly_where_the_system_allows_them(
    folder_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, is_allowed: bool
) -> None:
    """AMX is emulated, since few processors have it; without permission nothing is different."""
    compiler = os.environ.get("CC", "cc")
    macros = subprocess.run(
        [*shlex.split(compiler), "-march=native", "-dM", "-E", "-xc", "/dev/null"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    if "__AVX2__" not in macros:
        pytest.skip("without AVX2 prompts are multiplied as floats")
    status = 0 if is_allowed else -1
    flags = f"-DEMULATED_SYSCALL_RESULT={status} -include {shlex.quote(str(EMULATION))}"
    made = {}
    for name, command in (("without", compiler), ("with", f"{compiler} {flags}")):
        monkeypatch.setenv("CC", command)
        for kind in ("Q4_K", "Q6_K", "F16", "BF16"):
            packed = stored_model(folder_of(kind), kind, torch.bfloat16).weights.layers[0].matrices
            x = torch.randn(75, 256, generator=torch.Generator().manual_seed(3))
            gate, up = (packed[each](x) for each in ("gate_proj", "up_proj"))
            down = multiply_gated(packed["down_proj"], "silu", gate, up)
            assert torch.equal(packed["gate_proj"](x[40:41]), gate[40:41])
            made[name, kind] = torch.cat((gate, up, down), 1)
            if name == "without":
                continue
            assert torch.equal(made["without", kind], made["with", kind]) is not is_allowed
            if not is_allowed:
                continue
            stored = read_weights(folder_of(kind), read_config(folder_of(kind))).layers[0].matrices
            matrix = dequantize_matrix(stored["gate_proj"], torch.float32)
            near = 1e-4 * float(gate.std())
            torch.testing.assert_close(gate, x @ matrix.T, rtol=0, atol=near)


@pytest.mark.parametrize("kind", TYPES)
def test_the_logits_after_a_prompt_are_those_of_the_stored_numbers(
    folder_of: Callable[[str], Path], kind: str
) -> None:
    """What the KV cache holds is rounded to bfloat16; all else costs less than that."""
    model = stored_model(folder_of(kind), kind, torch.bfloat16)
    weights = to_linear(read_weights(folder_of(kind), model.config), model.config, torch.float32)
    made = []
    true: dict[torch.dtype, list[torch.Tensor]] = {torch.float32: [], torch.bfloat16: []}
    for start in (0, 50, 100):
        ids, cache = random_ids(folder_of(kind))[start : start + 60], model.new_cache()
        cache.prefill(ids[:40])
        made.append(cache.prefill(ids[40:]))
        for kv_dtype, logits in true.items():
            kv_cache = KVCache(model.config, kv_dtype)
            logits.append(prefill(model.config, weights, kv_cache, ids, model.ropes(512)))
    exact, same_cache = (torch.stack(logits) for logits in true.values())
    assert divergence(same_cache, torch.stack(made)) < divergence(exact, same_cache) + 1e-6


@pytest.mark.parametrize("token", [-1, 320])
def test_a_token_without_an_embedding_is_refused(
    folder_of: Callable[[str], Path], token: int
) -> None:
    """The kernel would read memory beyond the mapped file."""
    model = stored_model(folder_of("Q8_0"), "Q8_0", torch.float32)
    with pytest.raises(ValueError, match=f"no row {token}"):
        model.weights.embed_tokens(torch.tensor([5, token]))
    with pytest.raises(ValueError, match=f"no row {token}"):
        model.new_cache().prefill([5, token])
