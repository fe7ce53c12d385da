"""Native decoders compute the logits of transformers: all architectures, formats and sizes."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from gguf import GGMLQuantizationType, quants
from safetensors.torch import load_file, save_file

from chatlm.engines.model import ModelInfo, Unsupported
from chatlm.engines.native.architectures.registry import read_config
from chatlm.engines.native.c_decoder import CDecoder
from chatlm.engines.native.compiler import kernel_library
from chatlm.engines.native.cuda_graph import CudaGraphDecoder
from chatlm.engines.native.forward import prefill
from chatlm.engines.native.kernel import Kernel
from chatlm.engines.native.kv_cache import KVCache, SequenceInput
from chatlm.engines.native.model import NativeCache, NativeModel
from chatlm.engines.native.quantization import (
    Int4Linear,
    Int8Linear,
    WeightFormat,
    choose_format,
    pack_int4,
    pack_int8,
)
from chatlm.engines.native.rope import RopeTables
from chatlm.engines.native.stored_matrix import StoredMatrix, stored_tensor
from chatlm.engines.native.torch_decoder import TorchDecoder
from chatlm.engines.native.weight_reader import read_weights, to_linear
from chatlm.engines.native.weights import Linear, map_layer
from chatlm.types.sampling import Sampling
from tests.engine import tiny

PROMPT, REPLY = 100, 70
"""Tokens; together they cross the boundaries of the kernel's chunks."""

ABOUT = ModelInfo(
    device="cpu", weights="", context_length=512, eos_token_ids=(), recommended_sampling=Sampling()
)


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def native_model(
    folder: Path,
    dtype: torch.dtype,
    form: WeightFormat | Literal["auto", "steps"] | None,
    threads: int = 2,
) -> NativeModel:
    """Return a model with the C decoder; with torch's for None, and CUDA's for "steps"."""
    config = read_config(folder)
    weights = read_weights(folder, config)
    linear = to_linear(weights, config, dtype)
    if form == "steps":
        return NativeModel(config, linear, CudaGraphDecoder(config, linear), ABOUT)
    if form is None:
        return NativeModel(config, linear, TorchDecoder(config, linear, None), ABOUT)
    if shutil.which(shlex.split(os.environ.get("CC", "cc"))[0]) is None:
        pytest.skip("there is no C compiler to make the kernel with")
    kernel = Kernel(kernel_library(float32=dtype is torch.float32), dtype)
    chosen = None if form == "auto" else form
    decoder = CDecoder(kernel, config, weights, chosen, threads)
    return NativeModel(config, decoder.weights, decoder, ABOUT)


def random_ids(folder: Path) -> list[int]:
    generator = torch.Generator().manual_seed(2)
    words = read_config(folder).vocab_size
    return torch.randint(words, (PROMPT + REPLY,), generator=generator).tolist()


def decoded_logits(model: NativeModel, ids: list[int]) -> torch.Tensor:
    """Return the logits after each token after the prompt: (REPLY, vocab_size)."""
    cache = model.new_cache()
    cache.prefill(ids[:64])
    cache.prefill(ids[64:PROMPT])
    return torch.cat([cache.decode([token]) for token in ids[PROMPT:]])


def reference_logits(folder: Path, ids: list[int], dtype: torch.dtype) -> torch.Tensor:
    logits: torch.Tensor = tiny.reference(folder, dtype)(torch.tensor([ids])).logits
    return logits[0, PROMPT:].float()


def divergence(true: torch.Tensor, other: torch.Tensor) -> float:
    """Return the mean KL divergence over the rows."""
    left, right = true.log_softmax(-1), other.log_softmax(-1)
    return float((left.exp() * (left - right)).sum(-1).mean())


@pytest.mark.parametrize("variant", tiny.CONFIGS)
@pytest.mark.parametrize("form", ["bf16", "steps"], ids=["kernel", "steps"])
def test_decoded_tokens_give_the_logits_of_transformers(
    tmp_path: Path, variant: str, form: Any
) -> None:
    folder = tiny.save(tmp_path, variant)
    ids = random_ids(folder)
    true = reference_logits(folder, ids, torch.float32)
    exact = decoded_logits(native_model(folder, torch.float32, form), ids)
    torch.testing.assert_close(exact, true, rtol=1e-3, atol=1e-3 * float(true.std()))


@pytest.mark.parametrize("variant", tiny.CONFIGS)
def test_bfloat16_is_at_least_as_accurate_as_transformers(tmp_path: Path, variant: str) -> None:
    folder = tiny.save(tmp_path, variant)
    ids = random_ids(folder)
    true = reference_logits(folder, ids, torch.float32)
    theirs = divergence(true, reference_logits(folder, ids, torch.bfloat16))
    assert (
        divergence(true, decoded_logits(native_model(folder, torch.bfloat16, "bf16"), ids))
        <= theirs
    )


def rounded(matrix: Linear, form: str) -> Linear:
    """Return the matrix rounded to a format, computed by torch."""
    weight = matrix.weight.float()
    rows, columns = weight.shape
    padded = torch.nn.functional.pad(weight, (0, -columns % 64))
    groups = padded.view(rows, -1, 32)
    if form == "int8":
        step = (groups.abs().amax(-1, keepdim=True) / 127).half().float()
        low, level = torch.zeros(()), (groups / step.clamp(min=1e-30)).round().clamp(-127, 127)
    else:
        low = groups.amin(-1, keepdim=True).half().float()
        span = groups.amax(-1, keepdim=True) - low
        least = torch.full_like(low, torch.inf)
        for parts in range(15, 7, -1):
            its_step = (span / parts).half().float()
            its_level = ((groups - low) / its_step.clamp(min=1e-30)).round().clamp(0, 15)
            error = (groups - low - its_step * its_level).square().sum(-1, keepdim=True)
            better = (8 * error < least) & (least > 1e-4 * span**2)
            if parts == 15:
                step, level = its_step, its_level
            step, level = torch.where(better, its_step, step), torch.where(better, its_level, level)
            least = torch.where(better, error, least)
    return Linear((low + step * level).view(rows, -1)[:, :columns], matrix.bias)


@pytest.mark.parametrize("variant", tiny.CONFIGS)
@pytest.mark.parametrize("form", ["int8", "int4"])
def test_quantized_formats_round_only_the_weights(
    tmp_path: Path, variant: str, form: WeightFormat
) -> None:
    folder = tiny.save(tmp_path, variant)
    ids = random_ids(folder)
    model = native_model(folder, torch.float32, form)
    exact = to_linear(read_weights(folder, model.config), model.config, torch.float32)

    weights = dataclasses.replace(
        exact,
        lm_head=rounded(exact.lm_head, "int8"),
        layers=tuple(map_layer(layer, lambda each: rounded(each, form)) for layer in exact.layers),
    )
    kv_cache, rope = KVCache(model.config, torch.float32), model.ropes(512)
    expected = [prefill(model.config, weights, kv_cache, [token], rope) for token in ids[:80]]
    cache = model.new_cache()
    made = [cache.decode([token]) for token in ids[:80]]
    spread = float(torch.stack(expected).std())
    torch.testing.assert_close(torch.cat(made), torch.stack(expected), rtol=0, atol=0.02 * spread)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_int4_is_chosen_for_weights_that_had_four_bits(dtype: torch.dtype) -> None:
    plain = torch.randn(48, 192, generator=torch.Generator().manual_seed(1))

    def stored(kind: GGMLQuantizationType) -> StoredMatrix:
        data = quants.dequantize(quants.quantize(plain.numpy(), kind), kind)
        return stored_tensor(torch.from_numpy(data).to(dtype))

    kinds = GGMLQuantizationType
    fours = [stored(kind) for kind in (kinds.Q4_0, kinds.Q4_1)]
    others = [stored_tensor(plain.to(dtype)), stored(kinds.Q8_0), stored(kinds.Q5_1)]
    assert [choose_format([matrix]) for matrix in fours] == ["int4"] * 2
    assert [choose_format([matrix]) for matrix in others] == ["int8"] * 3
    assert choose_format(fours) == "int4"
    assert choose_format([fours[0], others[0]]) == "int8"


@pytest.mark.parametrize("quantized", ["up_proj", "down_proj"])
def test_each_matrix_has_the_format_that_fits_it(tmp_path: Path, quantized: str) -> None:
    folder = tiny.save(tmp_path, "llama", hidden_size=192, intermediate_size=128)
    tensors = load_file(folder / "model.safetensors")
    kind = GGMLQuantizationType.Q4_1
    for name, tensor in tensors.items():
        if quantized in name:
            data = quants.quantize(tensor.float().numpy(), kind)
            tensors[name] = torch.from_numpy(quants.dequantize(data, kind)).to(tensor.dtype)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    model, eight, plain = (
        native_model(folder, torch.bfloat16, form) for form in ("auto", "int8", "bf16")
    )
    assert isinstance(model.decoder, CDecoder)
    assert model.decoder.formats == {"Q4_1", "Q8_0"}
    ids = random_ids(folder)
    true = decoded_logits(plain, ids)
    assert divergence(true, decoded_logits(model, ids)) < 1.5 * divergence(
        true, decoded_logits(eight, ids)
    )


def accepts(compiler: str, flag: str) -> bool:
    """Tell whether the compiler knows the flag; one that does not never emits such code."""
    command = [*shlex.split(compiler), flag, "-x", "c", "-E", os.devnull]
    return subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the flags are of x86")
@pytest.mark.parametrize("form", ["bf16", "int8", "int4"])
def test_older_processors_compute_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: WeightFormat
) -> None:
    folder = tiny.save(tmp_path, "llama grouped", vocab_size=5000)
    ids = random_ids(folder)
    made = []
    compiler = os.environ.get("CC", "cc")
    no_vnni = "-mno-avxvnni" if accepts(compiler, "-mno-avxvnni") else ""
    for flags in ("", "-mno-avx512f", f"-mno-avx512vnni {no_vnni}", f"-mno-avx512f {no_vnni}"):
        monkeypatch.setenv("CC", f"{compiler} {flags}")
        made.append(decoded_logits(native_model(folder, torch.bfloat16, form), ids))
    first, *others = made
    assert max(divergence(first, other) for other in others) < 2e-4


@pytest.mark.parametrize("form", ["bf16", "int8", "int4"])
def test_nan_and_infinity_are_not_hidden(tmp_path: Path, form: WeightFormat) -> None:
    """A token with one NaN yields only NaN."""
    folder = tiny.save(tmp_path, "llama")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.embed_tokens.weight"][7, 3] = float("nan")
    tensors["model.embed_tokens.weight"][8, 3] = float("inf")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    model = native_model(folder, torch.bfloat16, form)
    for token in (7, 8):
        assert model.new_cache().decode([token]).isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("variant", tiny.CONFIGS)
def test_prefilled_blocks_give_the_logits_of_transformers(
    tmp_path: Path, variant: str, dtype: torch.dtype
) -> None:
    folder = tiny.save(tmp_path, variant)
    ids = random_ids(folder)
    exact, rounded = (
        tiny.reference(folder, each)(torch.tensor([ids])).logits[0, -1].float()
        for each in (torch.float32, dtype)
    )
    cache = native_model(folder, dtype, "bf16").new_cache()
    for start in range(0, len(ids), 64):
        logits = cache.prefill(ids[start : start + 64])
    spread = float(exact.abs().max())
    # in 16 bits both round, not in the same places, and such small models multiply the errors
    limit = max(2 * float((rounded - exact).abs().max()), 0.05 * spread)
    near = 1e-4 * spread if dtype is torch.float32 else limit
    assert float((logits - exact).abs().max()) < near


def test_results_do_not_depend_on_the_number_of_threads(tmp_path: Path) -> None:
    folder = tiny.save(tmp_path, "llama grouped", vocab_size=5000)
    ids = random_ids(folder)
    first, *others = (
        decoded_logits(native_model(folder, torch.bfloat16, "int8", threads), ids)
        for threads in (1, 2, 5)
    )
    assert all(torch.equal(first, other) for other in others)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("form", ["int8", "int4"])
def test_packed_matrices_of_torch_are_within_half_a_step(form: str, dtype: torch.dtype) -> None:
    weight, bias = torch.randn(48, 96).to(dtype), torch.randn(48).to(dtype)
    packed = (pack_int8 if form == "int8" else pack_int4)(Linear(weight, bias))
    made = dataclasses.replace(packed, bias=None)(torch.eye(96, dtype=dtype)).float().T
    if form == "int8":
        steps = weight.float().abs().amax(-1, keepdim=True) / 127
    else:
        groups = weight.float().view(48, 3, 32)
        spans = groups.amax(-1, keepdim=True) - groups.amin(-1, keepdim=True)
        steps = (spans / 15).expand(-1, -1, 32).reshape(48, 96)
    slack = 1.1 if dtype is torch.float32 else 2.0  # products are rounded too
    assert ((made - weight.float()).abs() <= slack * steps / 2).all()
    x = torch.randn(1, 96).to(dtype)
    torch.testing.assert_close(packed(x), dataclasses.replace(packed, bias=None)(x) + bias)


@pytest.mark.parametrize("kind", [GGMLQuantizationType.Q4_0, GGMLQuantizationType.Q4_1])
def test_weights_that_had_four_bits_keep_their_values(kind: GGMLQuantizationType) -> None:
    data = quants.quantize(torch.randn(64, 128).numpy(), kind)
    weight = torch.from_numpy(quants.dequantize(data, kind)).bfloat16()
    made = pack_int4(Linear(weight))(torch.eye(128).bfloat16()).float().T
    spread = float(weight.float().std())
    assert float((made - weight.float()).square().mean().sqrt()) < 0.01 * spread


@pytest.mark.parametrize("form", [None, "bf16", "int8", "int4"])
def test_without_a_compiler_the_same_formats_are_used(
    default_model: Path, form: WeightFormat | None
) -> None:
    config = read_config(default_model)
    weights = to_linear(read_weights(default_model, config), config, torch.bfloat16)
    decoder = TorchDecoder(config, weights, form)
    assert decoder.formats == {form or "int4"}
    kind = {"bf16": Linear, "int8": Int8Linear, "int4": Int4Linear}[form or "int4"]
    assert isinstance(decoder._weights.layers[0].matrices["up_proj"], kind)
    assert isinstance(decoder._weights.lm_head, Linear if form == "bf16" else Int8Linear)


@pytest.mark.parametrize("variant", tiny.CONFIGS)
def test_without_a_compiler_odd_sizes_are_computed_as_they_are(
    tmp_path: Path, variant: str
) -> None:
    folder = tiny.save(tmp_path, variant, vocab_size=205, intermediate_size=81)
    if read_config(folder).hidden_size % 32 == 0:
        pytest.skip("its sizes suit the packed form")
    ids = random_ids(folder)
    made = decoded_logits(native_model(folder, torch.float32, None), ids)
    true = reference_logits(folder, ids, torch.float32)
    torch.testing.assert_close(made, true, rtol=1e-3, atol=1e-3 * float(true.std()))


def test_a_truncated_cache_continues_as_if_never_longer(tmp_path: Path) -> None:
    folder = tiny.save(tmp_path, "qwen3")
    ids = random_ids(folder)
    model = native_model(folder, torch.bfloat16, "int8")
    cache = model.new_cache()
    cache.prefill(ids[:64])
    first = cache.decode(ids[64:80])
    cache.decode([7, 8, 9])
    assert cache.truncate(64) == 64
    assert torch.equal(cache.decode(ids[64:80]), first)


def test_mismatched_inputs_are_refused_before_the_kernel_is_called(tmp_path: Path) -> None:
    model = native_model(tiny.save(tmp_path / "a", "llama"), torch.bfloat16, "int8")
    decoder = model.decoder
    kv_cache, rope = KVCache(model.config, torch.bfloat16), model.ropes(600)
    other = KVCache(read_config(tiny.save(tmp_path / "b", "qwen3")), torch.bfloat16)
    for sequences, reason in (
        ([SequenceInput(kv_cache, [-1])], "no token"),
        ([SequenceInput(kv_cache, [1, 203])], "no token"),
        ([SequenceInput(KVCache(model.config, torch.float32), [1])], "another model"),
        ([SequenceInput(kv_cache, [1]), SequenceInput(other, [1])], "another model"),
        ([SequenceInput(kv_cache, [1]), SequenceInput(kv_cache, [2])], "occurs twice"),
        ([SequenceInput(kv_cache, [1] * 17)], "17 tokens"),
        (
            [
                SequenceInput(kv_cache, [1]),
                SequenceInput(KVCache(model.config, torch.bfloat16), []),
            ],
            "at once",
        ),
        ([], "0 tokens"),
    ):
        with pytest.raises(ValueError, match=reason):
            decoder.decode(sequences, rope)
    with pytest.raises(ValueError, match="RoPE table"):
        decoder.decode([SequenceInput(kv_cache, [1, 2])], RopeTables(model.config.ropes, 1))
    assert kv_cache.length == 0


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_type": "gpt2"}, "architecture gpt2"),
        ({"hidden_act": "gelu"}, "activation is gelu"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantized"),
        ({"model_type": "mistral", "sliding_window": 0}, "sliding window has 0"),
        ({"model_type": "qwen2", "layer_types": ["chunked_attention"] * 3}, "chunked_attention"),
        ({"model_type": "qwen2", "layer_types": ["full_attention"]}, "layer_types"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "dynamic"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "original_max_position"),
        ({"rope_parameters": {"rope_type": "linear"}}, "factor"),
        ({"partial_rotary_factor": 0.1}, "rotates 1 of 14"),
        ({"head_dim": 7}, "do not fit"),
        ({"head_dim": 10**9}, "size"),
        ({"num_attention_heads": 0}, "do not fit"),
        ({"num_key_value_heads": 2}, "do not fit"),
        ({"hidden_size": -51}, "do not fit"),
        ({"num_hidden_layers": "many"}, "ValueError"),
        ({"num_hidden_layers": 4}, "no tensor"),
        ({"vocab_size": 202}, "not \\(202"),
        ({"tie_word_embeddings": None, "vocab_size": None}, "TypeError"),
    ],
)
def test_unsupported_models_are_left_to_transformers(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    folder = tiny.save(tmp_path, "llama")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(Unsupported, match=reason):
        read_weights(folder, read_config(folder))


def test_prefill_gives_the_same_token_by_token(tmp_path: Path) -> None:
    folder = tiny.save(tmp_path, "qwen2")
    config = read_config(folder)
    weights = to_linear(read_weights(folder, config), config, torch.float32)
    ids, rope = random_ids(folder), RopeTables(config.ropes, 512)
    block, single = KVCache(config, torch.float32), KVCache(config, torch.float32)
    logits = prefill(config, weights, block, ids, rope)
    for token in ids:
        last = prefill(config, weights, single, [token], rope)
    torch.testing.assert_close(last, logits, rtol=1e-3, atol=1e-3)


def test_a_cache_is_the_models_own(tmp_path: Path) -> None:
    model = native_model(tiny.save(tmp_path, "llama"), torch.bfloat16, "int8")
    first, second = model.new_cache(), model.new_cache()
    assert isinstance(first, NativeCache)
    one = first.prefill([1, 2, 3])
    second.prefill([4, 5, 6])
    again = model.new_cache()
    assert torch.equal(again.prefill([1, 2, 3]), one)
    assert torch.equal(first.decode([9]), again.decode([9]))
