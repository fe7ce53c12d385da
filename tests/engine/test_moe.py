"""Mixtures of experts: exact results, only the chosen experts read, whatever else is computed."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGMLQuantizationType, quants
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from chatlm.engines.devices import Placement
from chatlm.engines.memory_plan import plan_memory
from chatlm.engines.model import Unsupported
from chatlm.engines.native.architectures.registry import read_config
from chatlm.engines.native.c_decoder import CDecoder
from chatlm.engines.native.compiler import kernel_library
from chatlm.engines.native.forward import prefill
from chatlm.engines.native.kernel import Kernel
from chatlm.engines.native.kv_cache import KVCache
from chatlm.engines.native.model import NativeModel
from chatlm.engines.native.moe import LinearExperts, LinearStack, MoeConfig, choose_experts
from chatlm.engines.native.quantization import WeightFormat
from chatlm.engines.native.weight_reader import read_weights, to_linear
from chatlm.engines.native.weights import Linear
from tests.engine import tiny
from tests.engine.test_native import (
    decoded_logits,
    native_model,
    random_ids,
    reference_logits,
    rounded,
)
from tests.gguf_files import make_folder, random_rows, save_gguf

VARIANTS = ("qwen3 moe", "qwen2 moe", "mixtral", "olmoe", "gpt-oss", "lfm2 moe", "granite 4 moe")
"""Mixtures of experts among `tiny.FAMILIES`."""


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def assert_same(made: Tensor, true: Tensor) -> None:
    torch.testing.assert_close(made, true, rtol=1e-3, atol=1e-3 * float(true.std()))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("form", ["int8", "int4"])
def test_quantized_formats_round_only_the_experts_matrices_and_not_the_router(
    tmp_path: Path, variant: str, form: WeightFormat
) -> None:
    folder = tiny.save(tmp_path, variant)
    ids = random_ids(folder)[:80]
    model = native_model(folder, torch.float32, form)
    exact = to_linear(read_weights(folder, model.config), model.config, torch.float32)

    def rounded_stack(stack: LinearStack) -> LinearStack:
        return dataclasses.replace(
            stack,
            weight=torch.stack([rounded(Linear(weight), form).weight for weight in stack.weight]),
        )

    def rounded_layer(layer: Any) -> Any:
        matrices = {name: rounded(matrix, form) for name, matrix in layer.matrices.items()}
        if layer.moe is None:
            return dataclasses.replace(layer, matrices=matrices)
        experts: LinearExperts = layer.moe.experts
        stacks: Any = {
            name: rounded_stack(getattr(experts, name))
            for name in ("gate_proj", "up_proj", "down_proj")
        }
        moe = dataclasses.replace(layer.moe, experts=dataclasses.replace(experts, **stacks))
        return dataclasses.replace(layer, matrices=matrices, moe=moe)

    weights = dataclasses.replace(
        exact,
        lm_head=rounded(exact.lm_head, "int8"),
        layers=tuple(map(rounded_layer, exact.layers)),
    )
    kv_cache, ropes = KVCache(model.config, torch.float32), model.ropes(512)
    expected = torch.stack(
        [prefill(model.config, weights, kv_cache, [token], ropes) for token in ids]
    )
    cache = model.new_cache()
    made = torch.cat([cache.decode([token]) for token in ids])
    assert_mostly_near(made, expected)


def assert_mostly_near(made: Tensor, expected: Tensor) -> None:
    """Compare logits of formats whose products are rounded, so that a router between two experts
    may choose the other one for a few tokens."""
    errors = (made - expected).abs().amax(-1)
    assert float(errors.quantile(0.8)) < 0.02 * float(expected.std())


MIXED = {
    r"attn_q\.": "Q4_K", "attn_v": "Q6_K", "ffn_gate_exps": "Q4_K", "ffn_up_exps": "Q5_K",
    "ffn_down_exps": "Q6_K",
}  # fmt: skip


@pytest.mark.parametrize(
    ("variant", "types"),
    [
        ("qwen3moe wide", MIXED),
        ("qwen3moe wide", {"ffn_.*_exps": "IQ4_XS"}),
        ("mixtral", {"ffn_.*_exps": "Q8_0"}),
        ("gpt-oss", {r"ffn_.*_exps\.weight": "MXFP4"}),
        ("olmoe", {"ffn_.*_exps": "Q5_0", r"attn_(q|k|v|output)\.": "Q4_1"}),
        ("qwen2moe", {}),
    ],
)
def test_a_gguf_file_is_run_with_the_numbers_that_it_stores(
    tmp_path: Path, variant: str, types: dict[str, str]
) -> None:
    folder = make_folder(save_gguf(tmp_path / "tiny.gguf", variant, types=types))
    ids = random_ids(folder)
    true = reference_logits(folder, ids, torch.float32)
    model = native_model(folder, torch.float32, "stored")
    assert isinstance(model.decoder, CDecoder)
    assert set(types.values()) <= model.decoder.formats
    made = decoded_logits(model, ids)
    if types:
        assert_mostly_near(made, true)
    else:
        assert_same(made, true)


def in_mxfp4(folder: Path) -> Path:
    """Store the experts of a gpt-oss as the hub has them, and the same numbers beside it."""
    tensors = load_file(folder / "model.safetensors")
    plain = dict(tensors)
    for name in [name for name in tensors if name.endswith(("gate_up_proj", "experts.down_proj"))]:
        count, columns, rows = tensors.pop(name).shape
        kind = GGMLQuantizationType.MXFP4
        stored = torch.from_numpy(random_rows(kind, count * rows, columns, seed=len(name)))
        stored = stored.view(count, rows, columns // 32, 17)
        low, high = stored[..., 1:] & 15, stored[..., 1:] >> 4
        codes = torch.cat((low, high), -1)  # ggml has the two halves of a group in a byte
        tensors[f"{name}_blocks"] = codes[..., ::2] | codes[..., 1::2] << 4
        tensors[f"{name}_scales"] = stored[..., 0].contiguous()
        plain[name] = convert_moe_packed_tensors(
            tensors[f"{name}_blocks"], tensors[f"{name}_scales"]
        ).contiguous()
        numbers = quants.dequantize(stored.reshape(-1, columns // 32 * 17).numpy(), kind)
        expected = torch.from_numpy(numbers).view(count, rows, columns).transpose(1, 2)
        assert torch.equal(plain[name].float(), expected)
    original = folder / "plain"
    original.mkdir()
    save_file(plain, original / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (original / "config.json").write_text(json.dumps(config))
    config["quantization_config"] = {"quant_method": "mxfp4"}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return original


@pytest.mark.parametrize("form", ["stored", "auto", "steps"])
def test_experts_in_mxfp4_are_read_from_safetensors(tmp_path: Path, form: Any) -> None:
    folder = tiny.save(tmp_path, "gpt-oss", hidden_size=64, intermediate_size=96)
    true = reference_logits(in_mxfp4(folder), random_ids(folder), torch.float32)
    model = native_model(folder, torch.float32, form)
    if isinstance(model.decoder, CDecoder):
        assert "MXFP4" in model.decoder.formats
    made = decoded_logits(model, random_ids(folder))
    if form == "auto":  # attention is rounded to 8 bits
        assert (made.argmax(-1) == true.argmax(-1)).float().mean() > 0.8
    elif form == "stored":
        assert_mostly_near(made, true)
    else:
        assert_same(made, true)


@pytest.mark.parametrize("form", ["bf16", "steps", None], ids=["kernel", "steps", "torch"])
def test_only_the_chosen_experts_are_read(tmp_path: Path, form: Any) -> None:
    """An expert that no token uses may hold anything."""
    folder = tiny.save(tmp_path, "gpt-oss")
    tensors = load_file(folder / "model.safetensors")
    made = []
    for value in (0.0, float("nan")):
        for name in tensors:
            if name.endswith("router.bias"):
                tensors[name][1] = -1e6
            elif ".experts." in name:
                tensors[name][1] = value
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        model = native_model(folder, torch.bfloat16, form)
        made.append(decoded_logits(model, random_ids(folder)))
    assert made[0].isfinite().all()
    assert torch.equal(*made)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("form", ["bf16", "int8"])
def test_results_depend_neither_on_threads_nor_on_other_sequences(
    tmp_path: Path, variant: str, form: WeightFormat
) -> None:
    folder = tiny.save(tmp_path, variant)
    ids = random_ids(folder)
    starts = [3, 17, 40, 41, 64]

    def begun(model: NativeModel) -> list[Any]:
        caches = [model.new_cache() for _ in starts]
        for cache, start in zip(caches, starts, strict=True):
            cache.prefill(ids[start : start + 30])
        return caches

    model = native_model(folder, torch.bfloat16, form, threads=1)
    alone = [
        torch.cat([cache.decode([token]) for token in ids[100 + start : 103 + start]])
        for cache, start in zip(begun(model), starts, strict=True)
    ]
    for threads in (1, 2, 5):
        model = native_model(folder, torch.bfloat16, form, threads)
        new = [ids[100 + start : 103 + start] for start in starts]
        together = model.decode(begun(model), new)
        assert torch.equal(together, torch.cat(alone))


def test_a_prompts_results_do_not_depend_on_its_length(tmp_path: Path) -> None:
    model = native_model(tiny.save(tmp_path, "gpt-oss"), torch.bfloat16, "int8")
    moe = model.weights.layers[0].moe
    assert moe is not None
    x = torch.randn(700, 52, generator=torch.Generator().manual_seed(3)).bfloat16()
    experts, weights = choose_experts(x[:, :5].float(), MoeConfig(5, 2, 76))
    made = moe.experts(x, experts, weights)
    for part in (slice(0, 33), slice(40, 41), slice(650, 700)):
        assert torch.equal(moe.experts(x[part], experts[part], weights[part]), made[part])


def test_equal_logits_choose_as_many_experts_as_any() -> None:
    for normalised, total in ((True, 1.0), (False, 0.5)):
        config = MoeConfig(4, 2, 8, normalised)
        experts, weights = choose_experts(torch.zeros(3, 4), config)
        assert all(len(set(row)) == 2 for row in experts.tolist())
        torch.testing.assert_close(weights.sum(-1), torch.full((3,), total))


@pytest.mark.parametrize(
    "target", ["mlp.experts.0.up_proj", "mlp.gate", "block_sparse_moe.experts.1.w2"]
)
def test_an_adapter_of_experts_is_refused(tmp_path: Path, target: str) -> None:
    model = native_model(tiny.save(tmp_path / "model", "qwen3 moe"), torch.float32, "bf16")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": [target]}
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    name = f"base_model.model.model.layers.0.{target}.lora"
    tensors = {f"{name}_A.weight": torch.ones(2, 52), f"{name}_B.weight": torch.ones(44, 2)}
    save_file(tensors, adapter / "adapter_model.safetensors")
    with pytest.raises(Unsupported, match=r"matrices of experts \(|it changes .*mlp\.gate"):
        model.load_adapter(adapter)


@pytest.mark.parametrize(
    ("variant", "changes", "reason"),
    [
        ("qwen3 moe", {"num_experts_per_tok": 8}, "8 of 7 experts"),
        ("qwen3 moe", {"num_experts_per_tok": 0}, "0 of 7 experts"),
        ("mixtral", {"num_local_experts": 6}, "no tensor .*experts.5"),
        ("mixtral", {"hidden_act": "gelu_pytorch_tanh"}, "activation of its experts"),
        ("olmoe", {"clip_qkv": 8.0}, "clip_qkv"),
        ("gpt-oss", {"intermediate_size": 80}, "not \\(5, 52, 160\\)"),
        ("gpt-oss", {"quantization_config": {"quant_method": "fp8"}}, "quantized"),
        ("gpt-oss", {"layer_types": ["chunked_attention"] * 3}, "chunked_attention"),
    ],
)
def test_what_cannot_be_run_exactly_is_refused(
    tmp_path: Path, variant: str, changes: dict[str, Any], reason: str
) -> None:
    folder = tiny.save(tmp_path, variant)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(Unsupported, match=reason):
        read_weights(folder, read_config(folder))


def test_more_experts_per_token_than_the_kernel_takes_are_refused(tmp_path: Path) -> None:
    folder = tiny.save(tmp_path, "mixtral", num_experts=18, num_experts_per_tok=17)
    config = read_config(folder)
    kernel = Kernel(kernel_library(float32=True), torch.float32)
    with pytest.raises(Unsupported, match="17 experts per token"):
        CDecoder(kernel, config, read_weights(folder, config), "bf16", 1)
    ids = random_ids(folder)
    made = decoded_logits(native_model(folder, torch.float32, "steps"), ids)
    assert_same(made, reference_logits(folder, ids, torch.float32))


@pytest.mark.parametrize(
    ("variant", "form", "setting"),
    [
        ("gpt-oss", "stored", "stored"),
        ("gpt-oss", "auto", "auto"),
        ("gpt-oss", "int8", "int8"),
        ("qwen2 moe", "int4", "int4"),
        ("qwen3 moe", "bf16", "bf16"),
    ],
)
def test_the_planned_memory_is_that_of_the_packed_experts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variant: str, form: Any, setting: str
) -> None:
    sizes = {
        "hidden_size": 128,
        "intermediate_size": 192,
        "moe_intermediate_size": 192,
        "shared_expert_intermediate_size": 192,
    }
    folder = tiny.save(tmp_path, variant, num_experts=8, vocab_size=128, **sizes)
    if variant == "gpt-oss":
        shutil.rmtree(in_mxfp4(folder))
    packed, pack_stack = [], Kernel.pack_stack

    def counted(*arguments: Any) -> Any:
        matrices = pack_stack(*arguments)
        packed.append(sum(matrix.panels.numel() for matrix in matrices))
        return matrices

    monkeypatch.setattr(Kernel, "pack_stack", counted)
    native_model(folder, torch.bfloat16, form)
    plan = plan_memory(folder, Placement({"": "cpu"}, torch.bfloat16), weights=setting)
    assert plan is not None
    assert plan.weights == pytest.approx(sum(packed), rel=0.1)


def test_memory_for_the_experts_of_a_block_is_planned(tmp_path: Path) -> None:
    placement = Placement({"": "cpu"}, torch.bfloat16)
    programs = []
    for used in (2, 4):
        folder = tiny.save(tmp_path / str(used), "qwen3 moe", num_experts_per_tok=used)
        plan = plan_memory(folder, placement)
        assert plan is not None
        programs.append(plan.program)
    slots = 256 * 2  # of the two further experts of each token
    assert programs[1] - programs[0] == 2 * slots * (52 + 44)
