"""Every family with a native decoder computes the logits of transformers, in C and in torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from chatlm.engines.devices import Placement
from chatlm.engines.load import load
from chatlm.engines.native.architectures.registry import FAMILIES
from chatlm.engines.native.c_decoder import CDecoder
from chatlm.engines.native.model import NativeModel
from chatlm.engines.native.moe import MoeConfig
from chatlm.engines.prompt_cache import CachedPrompt, decode_batch
from chatlm.engines.transformers_model import TransformersModel
from chatlm.errors import ModelError
from tests.engine import adapter_files, tiny
from tests.engine.test_native import native_model, random_ids

EXACT = Placement({"": "cpu"}, torch.float32)

ONLY_ATTENTION = (
    "qwen3 moe",
    "mixtral",
    "mixtral with a window",
    "olmoe",
    "gpt-oss",
    "granite moe",
)
"""Variants whose other matrices are those of experts, which adapters cannot change."""

Form = Literal["bf16", "steps"] | None


@dataclass(frozen=True)
class Family:
    """A tiny model, some tokens, and the logits of transformers after each of them."""

    folder: Path
    variant: str
    ids: list[int]
    logits: torch.Tensor

    def model(self, form: Form) -> NativeModel:
        """Return it with a decoder, see `native_model`."""
        return native_model(self.folder, torch.float32, form)


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module", params=tiny.FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    folder = tiny.save(tmp_path_factory.mktemp("family"), request.param)
    ids = random_ids(folder)
    with torch.inference_mode():
        logits = tiny.reference(folder, torch.float32)(torch.tensor([ids])).logits[0]
    return Family(folder, request.param, ids, logits)


def assert_equal(logits: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4 * float(expected.std()))


FORMS = pytest.mark.parametrize("form", ["bf16", "steps", None], ids=["C", "steps", "torch"])


@FORMS
def test_a_short_prompt_and_its_reply_give_the_logits_of_transformers(
    family: Family, form: Form
) -> None:
    cache, ids = family.model(form).new_cache(), family.ids
    made = torch.cat([cache.prefill(ids[:7])[None], *(cache.decode([each]) for each in ids[7:12])])
    assert_equal(made, family.logits[6:12])


@FORMS
def test_a_prompt_across_blocks_gives_the_logits_of_transformers(
    family: Family, form: Form
) -> None:
    cache, ids = family.model(form).new_cache(), family.ids
    made = [cache.prefill(ids[:64])[None], cache.prefill(ids[64:100])[None]]
    step = cache._model.max_step_tokens
    made += [cache.decode(ids[at : at + step]) for at in range(100, len(ids), step)]
    expected = torch.cat([family.logits[63:64], family.logits[99:]])
    assert_equal(torch.cat(made), expected)


@FORMS
def test_a_warm_second_turn_gives_the_logits_of_transformers(family: Family, form: Form) -> None:
    cache, ids = family.model(form).new_cache(), family.ids
    cache.prefill(ids[:64])
    for token in (3, 5, 7):  # a reply that the second turn writes differently
        cache.decode([token])
    assert cache.truncate(64) == 64
    cache.prefill(ids[64:128])
    made = [cache.prefill(ids[128:150])[None], *(cache.decode([each]) for each in ids[150:160])]
    assert_equal(torch.cat(made), family.logits[149:160])


def test_a_prompt_gives_the_same_bits_however_it_is_divided(family: Family) -> None:
    """Except where torch computes: recurrent layers in blocks, and routers."""
    models = [native_model(family.folder, torch.float32, "bf16", threads) for threads in (1, 3)]
    config = models[0].config
    if config.state_shapes or any(isinstance(each.mlp, MoeConfig) for each in config.layers):
        pytest.skip("torch computes parts of it")
    rows = []
    for model, lengths in zip(
        (*models, *models), ((150,), (64, 86), (5, 70, 75), (149, 1)), strict=True
    ):
        cache, start = model.new_cache(), 0
        for length in lengths:
            logits = cache.prefill(family.ids[start : start + length])
            start += length
        rows.append(torch.stack([logits, cache.decode([9])[0]]))
    for other in rows[1:]:
        assert torch.equal(other, rows[0])


def test_several_tokens_in_a_step_give_the_bits_of_one_at_a_time(family: Family) -> None:
    model, ids = family.model("bf16"), family.ids[:100]
    alone, other = model.new_cache(), model.new_cache()
    other.decode([9])
    expected = torch.cat([alone.decode([token]) for token in ids])
    cache, made = model.new_cache(), []
    for at in range(0, len(ids), 5):
        made.append(model.decode([other, cache], [[at], ids[at : at + 5]])[1:])
    assert torch.equal(torch.cat(made), expected)


def test_a_cache_of_8_bits_rounds_only_keys_and_values(family: Family) -> None:
    exact, rounded = family.model("bf16"), family.model("bf16")
    rounded.kv_format = "int8"
    rows = []
    for model in (exact, rounded):
        cache = model.new_cache()
        cache.prefill(family.ids[:100])
        rows.append(torch.cat([cache.decode([token]) for token in family.ids[100:140]]))
    assert not torch.equal(*rows)
    errors = (rows[0] - rows[1]).norm(dim=-1) / rows[0].norm(dim=-1)
    assert float(errors.median()) < 0.1  # a router may choose another expert for some tokens


def test_an_adapter_gives_the_logits_of_peft(family: Family, tmp_path: Path) -> None:
    modules = [*adapter_files.ALL[:4], "qkv_proj"]
    if family.variant not in ONLY_ATTENTION:
        modules += [*adapter_files.ALL[4:], "gate_up_proj"]
    saved = adapter_files.save(tmp_path, family.folder, strength=0.5, target_modules=modules)
    made, ids = [], family.ids[:20]
    for model in (family.model("bf16"), family.model(None), transformers_model(family.folder)):
        cache = model.load_adapter(saved).new_cache()
        rows = [cache.prefill(ids[:7])[None], *(cache.decode([each]) for each in ids[7:])]
        made.append(torch.cat(rows))
    assert_equal(made[0], made[2])
    assert_equal(made[1], made[2])
    assert not torch.allclose(made[2], family.logits[6:20])


def transformers_model(folder: Path) -> Any:
    return load("tiny", folder, EXACT, "transformers")


def test_the_c_kernel_decodes_every_family(family: Family) -> None:
    model: Any = load("tiny", family.folder, EXACT, weights="bf16")
    assert isinstance(model.decoder, CDecoder)


def test_every_family_is_tested() -> None:
    kinds = {tiny.config_of(variant).model_type for variant in {**tiny.CONFIGS, **tiny.FAMILIES}}
    assert kinds | {"gemma3", "gemma4", "qwen3_5", "qwen3_5_moe"} == set(FAMILIES)


def test_a_model_that_also_reads_images_reads_text(tmp_path: Path) -> None:
    text = tiny.config_of("qwen3.5").to_dict()
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2}
    config = transformers.Qwen3_5Config(
        text_config=text, vision_config=vision | {"out_hidden_size": text["hidden_size"]}
    )
    torch.manual_seed(1)
    whole = transformers.Qwen3_5ForConditionalGeneration(config).eval()
    whole.save_pretrained(tmp_path)
    cache = native_model(tmp_path, torch.float32, None).new_cache()
    ids = list(range(1, 20))
    assert_equal(cache.prefill(ids), whole(torch.tensor([ids])).logits[0, -1])


def test_gemma_3_with_images_reads_text(tmp_path: Path) -> None:
    text = tiny.config_of("gemma 3").to_dict()
    vision = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "image_size": 28, "patch_size": 14,
    }  # fmt: skip
    config = transformers.Gemma3Config(text_config=text, vision_config=vision)
    torch.manual_seed(1)
    kind: Any = transformers.Gemma3ForConditionalGeneration
    kind(config).to(torch.bfloat16).save_pretrained(tmp_path)
    whole = kind.from_pretrained(tmp_path, dtype=torch.float32).eval()
    ids = [(7 * number) % 200 for number in range(1, 90)]
    expected = whole(torch.tensor([ids])).logits[0]
    for form in ("bf16", None):
        cache = native_model(tmp_path, torch.float32, form).new_cache()
        assert_equal(cache.prefill(ids[:70]), expected[69])
        assert_equal(decoded(cache, ids[70:]), expected[70:])


def test_gemma_4_with_images_reads_text_and_ignores_what_its_file_has_in_vain(
    tmp_path: Path,
) -> None:
    text = tiny.config_of("gemma 4").to_dict()
    vision = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8, "patch_size": 14,
    }  # fmt: skip
    config = transformers.Gemma4Config(text_config=text, vision_config=vision, audio_config=None)
    torch.manual_seed(1)
    kind: Any = transformers.Gemma4ForConditionalGeneration
    kind(config).to(torch.bfloat16).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    name = "model.language_model.layers.5.self_attn.k_proj.weight"  # whose keys are shared
    save_file(
        tensors | {name: torch.ones(20, 51)}, tmp_path / "model.safetensors", {"format": "pt"}
    )
    whole = kind.from_pretrained(tmp_path, dtype=torch.float32).eval()
    ids = [(7 * number) % 200 for number in range(1, 90)]
    expected = whole(torch.tensor([ids])).logits[0]
    for form in ("bf16", None):
        cache = native_model(tmp_path, torch.float32, form).new_cache()
        assert_equal(cache.prefill(ids[:70]), expected[69])
        assert_equal(decoded(cache, ids[70:]), expected[70:])


def test_gemma_3_with_images_may_leave_out_usual_sizes() -> None:
    """As the config.json of Gemma 3 4B does."""
    text: dict[str, Any] = {
        "model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240,
        "num_hidden_layers": 34, "sliding_window": 1024,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
    }  # fmt: skip
    config = FAMILIES["gemma3"]({"model_type": "gemma3", "text_config": text})
    expected = transformers.Gemma3TextConfig(**text)
    assert config.vocab_size == expected.vocab_size
    assert config.max_position_embeddings == expected.max_position_embeddings
    attention = config.attention_layers
    windows = [each.window for each in attention]
    assert windows == [
        1024 if kind == "sliding_attention" else None for kind in expected.layer_types or []
    ]
    first = attention[0]
    assert (first.num_attention_heads, first.num_key_value_heads, first.head_dim) == (
        expected.num_attention_heads,
        expected.num_key_value_heads,
        expected.head_dim,
    )


@FORMS
def test_positions_change_past_the_original_length_of_longrope(tmp_path: Path, form: Form) -> None:
    """As in transformers, they do for the whole text; a draft across the limit can be dropped."""
    rope = dict(tiny.config_of("phi 4").rope_parameters) | {"original_max_position_embeddings": 100}
    folder = tiny.save(
        tmp_path, "phi 4", rope_parameters=rope, original_max_position_embeddings=100
    )
    ids, model = random_ids(folder), native_model(folder, torch.float32, form)
    module = tiny.reference(folder, torch.float32)

    def expected(*lengths: int) -> torch.Tensor:
        return torch.stack([module(torch.tensor([ids[:n]])).logits[0, -1] for n in lengths])

    assert not torch.allclose(module(torch.tensor([ids[:110]])).logits[0, 98], expected(99)[0])
    cache = model.new_cache()
    made = [cache.prefill(ids[:64])[None], cache.prefill(ids[64:97])[None]]
    made.append(cache.decode(ids[97:103]) if form == "bf16" else decoded(cache, ids[97:103]))
    assert_equal(torch.cat(made), expected(64, 97, *range(98, 104)))
    assert cache.truncate(99) == 99
    made = [decoded(cache, ids[99:105]), cache.prefill(ids[105:140])[None]]
    assert_equal(torch.cat(made), expected(*range(100, 106), 140))
    assert cache.truncate(120) == 120
    assert_equal(decoded(cache, ids[120:122]), expected(121, 122))
    other = model.new_cache()
    assert_equal(other.prefill(ids[:130])[None], expected(130))
    assert other.truncate(90) == 0


def decoded(cache: Any, ids: list[int]) -> torch.Tensor:
    return torch.cat([cache.decode([token]) for token in ids])


def test_gemma_4_with_experts_is_run_by_transformers(tmp_path: Path) -> None:
    config = tiny.config_of(
        "gemma 4", hidden_size=52, enable_moe_block=True, num_experts=5, top_k_experts=2,
        moe_intermediate_size=44,
    )  # fmt: skip
    torch.manual_seed(1)
    kind: Any = transformers.Gemma4ForCausalLM
    kind(config).to(torch.bfloat16).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="its layers have experts beside their MLP"):
        load("tiny", tmp_path, EXACT, "native")
    model = load("tiny", tmp_path, EXACT)
    assert isinstance(model, TransformersModel)
    ids = [(7 * number) % 200 for number in range(1, 361)]
    expected = tiny.reference(tmp_path, torch.float32)(torch.tensor([ids])).logits[0]
    cached = CachedPrompt(model)
    for length, reused in ((300, 0), (340, 256)):  # a second turn is warm
        assert cached.reuse_prefix(ids[:length]) == reused
        list(cached.prefill(ids[:length]))
        assert_equal(cached.logits, expected[length - 1])
        assert_equal(decode_batch(model, [cached], [[ids[length]]])[0][0], expected[length])
