"""LoRA adapters in GGUF files compute what the folder does that peft saved."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from chatlm.engines.native.architectures.registry import read_config
from chatlm.engines.native.c_decoder import CDecoder
from chatlm.engines.native.compiler import kernel_library
from chatlm.engines.native.kernel import Kernel
from chatlm.engines.native.model import NativeModel
from chatlm.engines.native.weight_reader import read_weights
from chatlm.errors import ModelError
from chatlm.hub.gguf import architectures
from chatlm.hub.gguf.file import GgufFile
from chatlm.hub.gguf.lora import _MODEL_TYPES, convert_gguf_lora
from chatlm.hub.installed import ModelLocation
from tests.engine import adapter_files
from tests.engine.test_native import ABOUT, native_model
from tests.gguf_files import save_gguf, save_gguf_lora
from tests.gguf_originals import ORIGINALS, save_original

IDS = list(range(5, 45))
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"

DENSE = (
    "llama", "llama wide heads", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "phi3", "granite",
    "olmo2", "smollm3", "stablelm", "glm4", "exaone4",
)  # fmt: skip


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture
def llama(tmp_path: Path) -> ModelLocation:
    folder = save_original(tmp_path / "llama", "llama")
    return ModelLocation("llama", folder, "chat")


def converted(file: Path, base: ModelLocation) -> Path:
    folder = file.parent / "converted"
    folder.mkdir()
    convert_gguf_lora(file, base.folder, folder)
    return folder


def settings_of(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / CONFIG).read_text())
    return values


@pytest.mark.parametrize("variant", DENSE)
def test_matrices_get_their_names_and_their_order_of_rows_back(
    tmp_path: Path, variant: str
) -> None:
    original = ORIGINALS[variant]
    model = save_original(tmp_path / "model", variant)
    adapter = adapter_files.save(tmp_path / "adapter", model, target_modules="all-linear")
    file = save_gguf_lora(
        tmp_path / "lora.gguf",
        adapter,
        model,
        architecture=original.architecture,
        interleaved=original.interleaved,
    )
    made = converted(file, ModelLocation("model", model, "chat"))
    expected, found = load_file(adapter / WEIGHTS), load_file(made / WEIGHTS)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert all("layers" not in target for target in settings_of(made)["target_modules"])


def logits_of(model: NativeModel, adapter: Path) -> torch.Tensor:
    cache = model.load_adapter(adapter).new_cache()
    return torch.cat([cache.prefill(IDS[:20])[None], cache.decode(IDS[20:36])])


@pytest.mark.parametrize(
    "settings",
    [
        {"r": 5},
        {"r": 3, "rank_pattern": {"v_proj": 20, "layers.1.self_attn.q_proj": 1}},
        {"r": 8, "layers_to_transform": [1], "target_modules": ["q_proj", "down_proj"]},
    ],
    ids=["one rank", "several ranks", "one layer"],
)
def test_a_native_model_and_peft_compute_the_same_from_both(
    tmp_path: Path, llama: ModelLocation, settings: dict[str, Any]
) -> None:
    adapter = adapter_files.save(tmp_path / "adapter", llama.folder, strength=0.5, **settings)
    made = converted(save_gguf_lora(tmp_path / "lora.gguf", adapter, llama.folder), llama)
    model = native_model(llama.folder, torch.float32, "bf16")
    assert torch.equal(logits_of(model, made), logits_of(model, adapter))
    plain = torch.cat([model.new_cache().prefill(IDS)[None]])
    true, same, base = (
        adapter_files.reference(llama.folder, each)(torch.tensor([IDS])).logits
        for each in (adapter, made, None)
    )
    assert torch.equal(true, same)
    assert not torch.allclose(true, base)
    torch.testing.assert_close(plain[0], base[0, -1], rtol=1e-3, atol=1e-3)


def test_a_model_and_its_adapter_may_both_be_gguf_files(tmp_path: Path) -> None:
    """Rows of queries and keys are in the file's order in one, and in that of transformers in the
    other."""
    folder = tmp_path / "model"
    folder.mkdir()
    gguf = save_gguf(folder / "tiny.gguf", "llama wide")
    with GgufFile(gguf) as file:
        (folder / "config.json").write_text(json.dumps(architectures.read_config(file)))
    original = folder / "original"
    adapter = adapter_files.save(tmp_path / "adapter", original, strength=0.3)
    made = converted(
        save_gguf_lora(tmp_path / "lora.gguf", adapter, original),
        ModelLocation("model", folder, "chat"),
    )
    config = read_config(folder)
    kernel = Kernel(kernel_library(float32=True), torch.float32)
    decoder = CDecoder(kernel, config, read_weights(folder, config), "stored", 2)
    found = logits_of(NativeModel(config, decoder.weights, decoder, ABOUT), made)
    true = adapter_files.reference(original, adapter)(torch.tensor([IDS[:36]])).logits[0, 19:]
    torch.testing.assert_close(found, true, rtol=1e-3, atol=1e-3 * float(true.std()))


def test_an_adapter_without_alpha_is_not_scaled(tmp_path: Path, llama: ModelLocation) -> None:
    settings: dict[str, Any] = {"r": 4, "rank_pattern": {"v_proj": 12}}
    adapter = adapter_files.save(tmp_path / "adapter", llama.folder, **settings)
    made = converted(save_gguf_lora(tmp_path / "lora.gguf", adapter, llama.folder, alpha=0), llama)
    model = native_model(llama.folder, torch.float32, "bf16")
    plain = adapter_files.save(
        tmp_path / "plain", llama.folder, lora_alpha=4, alpha_pattern={"v_proj": 12}, **settings
    )
    assert torch.equal(logits_of(model, made), logits_of(model, plain))


def test_the_output_matrix_may_be_adapted(tmp_path: Path, llama: ModelLocation) -> None:
    adapter = adapter_files.save(tmp_path / "adapter", llama.folder, target_modules=["lm_head"])
    made = converted(save_gguf_lora(tmp_path / "lora.gguf", adapter, llama.folder), llama)
    assert settings_of(made)["target_modules"] == ["lm_head"]
    true, same = (
        adapter_files.reference(llama.folder, each)(torch.tensor([IDS])).logits
        for each in (adapter, made)
    )
    assert torch.equal(true, same)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("F16", torch.float16), ("BF16", torch.bfloat16), ("Q8_0", torch.float32)],
)
def test_matrices_in_fewer_bits_keep_their_values(
    tmp_path: Path, llama: ModelLocation, kind: str, dtype: torch.dtype
) -> None:
    adapter = adapter_files.save(tmp_path / "adapter", llama.folder, target_modules=["k_proj"])
    file = save_gguf_lora(tmp_path / "lora.gguf", adapter, llama.folder, types={"lora_a": kind})
    found, expected = load_file(converted(file, llama) / WEIGHTS), load_file(adapter / WEIGHTS)
    for name, values in expected.items():
        is_a = ".lora_A." in name
        assert found[name].dtype == (dtype if is_a else torch.float32)
        near = 0.01 * float(values.abs().max()) if is_a else 0.0
        torch.testing.assert_close(found[name].float(), values, rtol=0, atol=near)


@pytest.mark.parametrize("variant", ORIGINALS)
def test_every_architecture_names_its_models(variant: str) -> None:
    original = ORIGINALS[variant]
    text = hasattr(transformers, f"{original.kind}TextConfig")
    config = getattr(transformers, f"{original.kind}{'TextConfig' if text else 'Config'}")
    known = _MODEL_TYPES.get(original.architecture, (original.architecture,))
    assert config.model_type in known


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"metadata": {"general.type": "controlvector"}}, "is a control vector, not a LoRA"),
        ({"metadata": {"adapter.type": "ia3"}}, "of the type 'ia3', not a LoRA"),
        ({"metadata": {"general.type": "model"}}, "of the type 'model', not a LoRA"),
        ({"metadata": {"adapter.alora.invocation_tokens": [1, 2]}}, "activated LoRA"),
        ({"metadata": {"adapter.lora.alpha": float("nan")}}, "the alpha nan"),
        ({"metadata": {"adapter.lora.alpha": "8"}}, "the alpha '8'"),
        ({"architecture": "qwen2"}, "for the architecture qwen2, but the model is llama"),
        ({"architecture": "starcoder2"}, "does not read the architecture 'starcoder2'"),
        ({"more": {"blk.0.attn_norm.weight": (64,)}}, "'blk.0.attn_norm.weight', which is not"),
        ({"more": {"blk.0.ffn_up.weight.lora_a": (4, 64)}}, "only one of the matrices of blk.0"),
        (
            {"more": {f"blk.0.ffn_up_exps.weight.lora_{each}": (2, 8, 8) for each in "ab"}},
            "changes blk.0.ffn_up_exps.weight",
        ),
        (
            {"more": {f"token_embd.weight.lora_{each}": (8, 8) for each in "ab"}},
            "changes token_embd.weight",
        ),
        (
            {"more": {f"blk.0.strange.weight.lora_{each}": (8, 8) for each in "ab"}},
            "changes blk.0.strange.weight",
        ),
        (
            {
                "more": {
                    "blk.0.ffn_up.weight.lora_a": (4, 64),
                    "blk.0.ffn_up.weight.lora_b": (96, 5),
                }
            },
            "the ranks 4 and 5",
        ),
        (
            {
                "more": {
                    "blk.0.ffn_up.weight.lora_a": (1025, 4),
                    "blk.0.ffn_up.weight.lora_b": (4, 1025),
                }
            },
            "the ranks 1025",
        ),
        (
            {
                "more": {
                    "blk.0.attn_k.weight.lora_a": (4, 64),
                    "blk.0.attn_k.weight.lora_b": (33, 4),
                }
            },
            "33 rows, which the 2 heads",
        ),
    ],
)
def test_what_is_no_lora_of_the_model_is_refused(
    tmp_path: Path, llama: ModelLocation, change: dict[str, Any], reason: str
) -> None:
    adapter = adapter_files.save(tmp_path / "adapter", llama.folder, target_modules=["q_proj"])
    file = save_gguf_lora(tmp_path / "lora.gguf", adapter, llama.folder, **change)
    with pytest.raises(ModelError, match=reason):
        converted(file, llama)
    assert not list((tmp_path / "converted").iterdir())


def test_a_truncated_file_is_refused(tmp_path: Path, llama: ModelLocation) -> None:
    adapter = adapter_files.save(tmp_path / "adapter", llama.folder, target_modules=["q_proj"])
    file = save_gguf_lora(tmp_path / "lora.gguf", adapter, llama.folder)
    data = file.read_bytes()
    for length in (0, 3, 100, len(data) // 2, len(data) - 200):
        file.write_bytes(data[:length])
        with pytest.raises(ModelError, match="truncated"):
            converted(file, llama)
        shutil.rmtree(tmp_path / "converted")
