"""Memory: what is available, what a model needs, and what is refused before it is loaded."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import types
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors import SafetensorError

from chatlm.chat.vision import check_images
from chatlm.config.config import Config
from chatlm.engines import devices, machine_memory, memory_plan
from chatlm.engines import load as load_module
from chatlm.engines.devices import Placement, is_out_of_memory
from chatlm.engines.fit import FitChecker
from chatlm.engines.kv_layout import KEPT_BEHIND_WINDOW, read_kv_layout
from chatlm.engines.load import load
from chatlm.engines.machine_memory import available_main_memory, available_memory
from chatlm.engines.memory_plan import MIN_CONTEXT, MemoryPlan, budget_memory, plan_memory
from chatlm.engines.model import Unsupported
from chatlm.engines.open import open_engine
from chatlm.engines.prompt_cache import CachedPrompt, PromptCache
from chatlm.errors import ChatlmError, OutOfMemoryError, UsageError
from chatlm.hub import gguf_folder
from chatlm.hub.installed import ModelDetails, ModelLocation
from chatlm.hub.jobs import ignore_progress
from chatlm.hub.weights import count_parameters
from chatlm.plugin_host.host import PluginHost
from chatlm.types.engine import EngineInfo
from chatlm.types.memory import MemoryBudget
from chatlm.types.parts import Image
from tests import vision_models
from tests.engine.byte_model import UniformModel
from tests.gguf_files import save_gguf

CPU = Placement({"": "cpu"}, torch.bfloat16)

GB = 1_000_000_000

# --- what is available ----------------------------------------------------------------------


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 16 GB available and without control groups; its folder of control groups."""
    root = tmp_path / "cgroup"
    root.mkdir()
    monkeypatch.setattr(machine_memory, "CGROUP_ROOT", root)
    monkeypatch.setattr(machine_memory, "CGROUP_OF_PROCESS", tmp_path / "self")
    virtual = types.SimpleNamespace(available=16 * GB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: virtual)
    return root


def write_group(folder: Path, **files: object) -> None:
    """Write the files of a control group; two underscores stand for a dot."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")


def test_without_control_groups_the_systems_memory_counts(machine: Path) -> None:
    assert available_main_memory() == 16 * GB


def test_a_control_group_of_version_2_and_those_above_it_limit_the_memory(machine: Path) -> None:
    machine.with_name("self").write_text("0::/user/chat\n")
    write_group(machine / "user" / "chat", memory__max="max", memory__current=3 * GB)
    assert available_main_memory() == 16 * GB
    write_group(machine / "user", memory__max=8 * GB, memory__current=3 * GB)
    assert available_main_memory() == 5 * GB
    stat = f"anon 1\ninactive_file {GB}\nactive_file {GB}\nfile {9 * GB}"
    write_group(machine / "user", memory__stat=stat)
    assert available_main_memory() == 7 * GB  # cached pages of files can be dropped
    write_group(machine / "user" / "chat", memory__max=2 * GB)
    assert available_main_memory() == 0  # more is used than the new limit allows


def test_a_control_group_of_version_1_limits_the_memory(machine: Path) -> None:
    machine.with_name("self").write_text("3:cpuset:/\n4:memory:/app\n0::/\n")
    unlimited = 9223372036854771712
    own = machine / "memory" / "app"
    write_group(machine / "memory", memory__limit_in_bytes=unlimited, memory__usage_in_bytes=9 * GB)
    write_group(own, memory__limit_in_bytes=4 * GB, memory__usage_in_bytes=3 * GB)
    assert available_main_memory() == GB
    write_group(own, memory__stat=f"inactive_file 7\ntotal_inactive_file {GB}\nbroken")
    assert available_main_memory() == 2 * GB


def test_in_a_container_the_limit_at_the_mount_counts(machine: Path) -> None:
    machine.with_name("self").write_text("0::/../../host/path\n")
    write_group(machine, memory__max=3 * GB, memory__current=GB)
    assert available_main_memory() == 2 * GB
    machine.with_name("self").write_text("0::/docker/0123\n")  # a path of the host
    assert available_main_memory() == 2 * GB


@pytest.mark.parametrize("damaged", ["", "x", "0:", "\x00", "0::/a/b"])
def test_damaged_control_groups_limit_nothing(machine: Path, damaged: str) -> None:
    machine.with_name("self").write_text(damaged)
    write_group(machine, memory__max="many", memory__current="few")
    assert available_main_memory() == 16 * GB


def test_the_memory_of_a_gpu_is_that_of_its_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    free = {"cuda:1": 5 * GB, 0: 2 * GB, 1: 3 * GB}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free[device], 24 * GB))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert available_memory("cuda:1") == 5 * GB
    assert available_memory("auto") == 5 * GB


# --- the KV cache ---------------------------------------------------------------------------

LLAMA_8B: Mapping[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
}


@pytest.mark.parametrize(
    ("config", "numbers"),
    [
        (LLAMA_8B, {1: 65536, 1000: 65536 * 1000}),  # 32 layers, 8 KV heads of 128, K and V
        ({"text_config": LLAMA_8B}, {10: 655360}),
        ({**LLAMA_8B, "num_key_value_heads": None}, {1: 4 * 65536}),
        ({**LLAMA_8B, "head_dim": 100}, {1: 32 * 2 * 8 * 112}),  # padded to 16
        ({**LLAMA_8B, "sliding_window": 512}, {100: 6553600, 1000: 65536 * 512}),
        ({**LLAMA_8B, "sliding_window": 512, "use_sliding_window": False}, {1000: 65536000}),
        (  # each fourth layer sees everything
            {**LLAMA_8B, "sliding_window": 512, "sliding_window_pattern": 4},
            {1000: 2048 * (24 * 512 + 8 * 1000)},
        ),
        (
            {
                **LLAMA_8B,
                "num_hidden_layers": 3,
                "layer_types": ["sliding_attention", "full_attention", "linear_attention"],
                "sliding_window": 16,
            },
            {1000: 2048 * (16 + 1000)},
        ),
        ({**LLAMA_8B, "num_kv_shared_layers": 20}, {1: 12 * 2048}),
        (
            {
                **LLAMA_8B,
                "kv_lora_rank": 512,
                "qk_nope_head_dim": 128,
                "qk_rope_head_dim": 64,
                "v_head_dim": 128,
            },
            {1: 32 * 32 * (192 + 128)},
        ),
        ({"n_layer": 2, "n_head": 4, "n_embd": 64, "multi_query": True}, {1: 2 * 2 * 16}),
    ],
)
def test_the_kv_cache_follows_from_the_architecture(
    config: dict[str, Any], numbers: dict[int, int]
) -> None:
    layout = read_kv_layout(config, row_multiple=16)
    assert {tokens: layout.numbers(tokens) for tokens in numbers} == numbers


@pytest.mark.parametrize(
    ("changes", "numbers"),
    [
        (
            {
                "linear_num_value_heads": 8, "linear_num_key_heads": 4, "linear_key_head_dim": 16,
                "linear_value_head_dim": 32, "linear_conv_kernel_dim": 4,
            },
            8 * 16 * 32 + (2 * 4 * 16 + 8 * 32) * 4,
        ),
        (
            {"mamba_d_state": 64, "mamba_expand": 2, "mamba_n_groups": 1, "mamba_d_conv": 4},
            8192 * 64 + (8192 + 128) * 4,
        ),
        ({"conv_L_cache": 3}, 4096 * 3),
        ({}, 0),
    ],
)  # fmt: skip
def test_the_states_of_recurrent_layers_are_counted(changes: dict[str, int], numbers: int) -> None:
    types = ["linear_attention", "full_attention"]
    config = {**LLAMA_8B, "num_hidden_layers": 2, "layer_types": types, **changes}
    assert read_kv_layout(config).state_size == numbers


# --- what a model needs ---------------------------------------------------------------------


def save(folder: Path, config: Mapping[str, Any] = LLAMA_8B, dtype: str = "BF16") -> Path:
    """Write the folder of a model whose tensors are holes in the file."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    layers, kv = config["num_hidden_layers"], config["num_key_value_heads"] * 128
    shapes = {"model.embed_tokens.weight": [config["vocab_size"], hidden]}
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = [config["vocab_size"], hidden]
    for number in range(layers):
        for name, rows, columns in (
            ("q", hidden, hidden), ("k", kv, hidden), ("v", kv, hidden), ("o", hidden, hidden),
            ("gate", inner, hidden), ("up", inner, hidden), ("down", hidden, inner),
        ):  # fmt: skip
            shapes[f"model.layers.{number}.{name}.weight"] = [rows, columns]
    header, end, width = {}, 0, {"BF16": 2, "F32": 4}[dtype]
    for name, shape in shapes.items():
        start, end = end, end + width * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return folder


PARAMETERS = 8_029_995_008
"""Of LLAMA_8B, without norms."""

EMBEDDING = 128256 * 4096


@pytest.fixture
def available(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """The memory of the machine; `bytes` changes it."""
    memory = types.SimpleNamespace(bytes=1000 * GB)
    monkeypatch.setattr(memory_plan, "available_memory", lambda device: memory.bytes)
    monkeypatch.setattr(memory_plan, "own_memory", lambda: 0)
    return memory


def planned(folder: Path, engine: str = "auto", weights: str = "auto") -> MemoryPlan:
    plan = plan_memory(folder, CPU, engine, weights)
    assert plan is not None
    return plan


@pytest.mark.parametrize(
    ("engine", "weights", "needed"),
    [
        ("auto", "auto", (PARAMETERS - EMBEDDING) * 8.5 / 8),  # the embedding stays in the file
        ("auto", "int8", (PARAMETERS - EMBEDDING) * 8.5 / 8),
        ("native", "int4", (PARAMETERS - 2 * EMBEDDING) * 5 / 8 + EMBEDDING * 8.5 / 8),
        ("torch", "bf16", (PARAMETERS - EMBEDDING) * 2),
        ("native", "stored", (PARAMETERS - EMBEDDING) * 2),
        ("auto", "float32", PARAMETERS * 4),
        ("transformers", "auto", PARAMETERS * 2),
        ("transformers", "int8", (PARAMETERS - 2 * EMBEDDING) + 2 * EMBEDDING * 2),
    ],
)
def test_weights_are_counted_in_the_format_of_the_engine(
    tmp_path: Path, available: Any, engine: str, weights: str, needed: float
) -> None:
    plan = planned(save(tmp_path / "m"), engine, weights)
    assert plan.weights == pytest.approx(needed, rel=1e-3)
    assert plan.kv_bytes(1000) == 65536 * 1000 * (4 if weights == "float32" else 2)


def test_a_tied_embedding_is_packed_as_the_output_matrix(tmp_path: Path, available: Any) -> None:
    plan = planned(save(tmp_path / "m", {**LLAMA_8B, "tie_word_embeddings": True}))
    assert plan.weights == pytest.approx((PARAMETERS - EMBEDDING) * 8.5 / 8, rel=1e-3)


def test_a_gguf_file_needs_little_more_than_its_size(tmp_path: Path, available: Any) -> None:
    folder = save(tmp_path / "m")
    (folder / "model.safetensors").unlink()
    with (folder / "m-Q4_K_M.gguf").open("wb") as file:
        file.truncate(5 * GB)
    assert planned(folder).weights == pytest.approx(1.03 * 5 * GB)


def test_an_architecture_that_says_too_little_is_not_planned(tmp_path: Path) -> None:
    folder = save(tmp_path / "m")
    (folder / "config.json").write_text('{"model_type": "odd"}')
    assert plan_memory(folder, CPU) is None
    assert budget_memory("m", folder, CPU) is None


def test_what_the_program_has_taken_already_counts_as_available(
    tmp_path: Path, available: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save(tmp_path / "m")
    monkeypatch.setattr(memory_plan, "own_memory", lambda: 100)
    assert planned(folder).available == available.bytes + 100
    monkeypatch.setattr(memory_plan, "own_memory", lambda: 50 * GB)  # by another model
    assert GB > (planned(folder).available or 0) - available.bytes > 100


# --- the context and the prompt cache -------------------------------------------------------


def test_the_default_context_is_what_fits(tmp_path: Path, available: Any) -> None:
    folder = save(tmp_path / "m")
    found = {}
    for size in (1000, 24, 16, 12, 11):
        available.bytes = size * GB
        budget = planned(folder).budget(None)
        assert budget.fits
        assert budget.total <= 0.9 * available.bytes
        found[size] = budget.context_length
    assert found == {1000: 131072, 24: 98304, 16: 32768, 12: 16384, 11: 8192}


def test_a_little_less_memory_leaves_the_context_as_it_is(tmp_path: Path, available: Any) -> None:
    folder = save(tmp_path / "m")
    lengths = set()
    for size in range(15_000, 15_300, 50):
        available.bytes = size * 1_000_000
        lengths.add(planned(folder).budget(None).context_length)
    assert len(lengths) <= 2


def test_the_prompt_cache_takes_what_is_left_up_to_a_whole_context(
    tmp_path: Path, available: Any
) -> None:
    folder = save(tmp_path / "m")
    whole = planned(folder).budget(4096)
    assert whole.prompt_cache == whole.kv_cache
    assert whole.cached_tokens == 8192
    available.bytes = int((whole.total - whole.prompt_cache / 2) / 0.9)
    part = planned(folder).budget(4096)
    assert part.prompt_cache == pytest.approx(whole.kv_cache / 2, rel=1e-3)
    assert part.cached_tokens == pytest.approx(4096 * 1.5, rel=1e-2)
    available.bytes = whole.total - whole.prompt_cache
    none = planned(folder).budget(4096)
    assert (none.prompt_cache, none.cached_tokens, none.fits) == (0, 4096, True)


def test_what_windows_keep_to_go_back_is_counted_for_each_prompt(
    tmp_path: Path, available: Any
) -> None:
    config = {**LLAMA_8B, "model_type": "gemma2", "sliding_window": 1024}
    plan = planned(save(tmp_path / "m", config), "transformers")
    kept = 65536 * (1024 + KEPT_BEHIND_WINDOW) * 2
    assert plan.kv_bytes(50_000) == 65536 * 1024 * 2 + kept
    budget = plan.budget(50_000)
    assert budget.per_prompt == kept
    assert budget.tokens_per_prompt == pytest.approx(50_000 * 2 / 3, rel=1e-3)
    prompts = PromptCache(100_000, tokens_per_prompt=40_000)
    model = UniformModel(9)
    for number in range(4):
        cached = CachedPrompt(model)
        cached.ids = [number] * 5_000
        prompts.release(None, cached)
    assert [cached.ids[0] for _, cached in prompts._entries] == [2, 3]


def test_without_a_known_limit_everything_fits(tmp_path: Path, available: Any) -> None:
    available.bytes = None
    budget = planned(save(tmp_path / "m")).budget(None)
    assert (budget.context_length, budget.fits, budget.cached_tokens) == (131072, True, 262144)
    assert "available" not in dict(budget.rows())


# --- what is refused ------------------------------------------------------------------------


def refusal(folder: Path, name: str = "big", **options: Any) -> OutOfMemoryError:
    with pytest.raises(OutOfMemoryError) as error:
        budget_memory(name, folder, CPU, **options)
    return error.value


def test_a_model_that_does_not_fit_is_refused_with_what_would(
    home: Path, tmp_path: Path, available: Any
) -> None:
    folder = save(tmp_path / "m")
    available.bytes = 7 * GB
    error = refusal(folder)
    assert error.message.startswith("big needs 8.")
    assert "weights 8.0 GB, KV cache at 2,048 tokens 268.4 MB" in error.message
    assert error.message.endswith("7.0 GB are available")
    assert "`chatlm config set weights int4` (" in error.hint
    assert "chatlm config set check_memory false" in error.hint
    available.bytes = 3 * GB
    error = refusal(folder)
    assert "weights int4" not in error.hint
    assert error.hint.startswith("Close other programs, choose a smaller model")


def test_a_model_that_fits_without_its_images_alone_is_run_natively_and_says_so(
    chat_home: Path, tmp_path: Path, available: Any
) -> None:
    folder = vision_models.save("gemma3", tmp_path / "m")
    native, whole = planned(folder, engine="native"), planned(folder)
    assert native.budget(None).total < whole.budget(None).total
    config = Config(model=str(folder), device="cpu")

    def opened(config: Config) -> EngineInfo:
        with closing(open_engine(config, PluginHost([]), lambda *_: None)) as engine:
            return engine.info

    available.bytes = int(1.2 * whole.budget(None).total)
    assert "image" in opened(config).accepts
    location = ModelLocation("m", folder, "chat")
    assert "transformers" not in FitChecker(config).describe_load(location)

    available.bytes = (native.budget(2048).total + whole.budget(2048).total) // 2
    info = opened(config)
    assert "image" not in info.accepts
    (note,) = (note for note in info.notes if "images" in note)
    assert note.startswith("It cannot read images here: for that it needs ")
    assert note.endswith(" are available. It runs natively, for text only.")
    assert info.part_hints["image"] == note
    image = Image("image/png", 4, 4, "0" * 64)
    with pytest.raises(UsageError) as refused:
        check_images([image], info)
    assert note in refused.value.hint
    with pytest.raises(OutOfMemoryError):
        opened(dataclasses.replace(config, engine="transformers"))
    assert "image" in opened(dataclasses.replace(config, check_memory=False)).accepts


def test_a_context_that_does_not_fit_is_refused_with_one_that_does(
    home: Path, tmp_path: Path, available: Any
) -> None:
    folder = save(tmp_path / "m")
    available.bytes = 12 * GB
    error = refusal(folder, context=100_000)
    fits = planned(folder).budget(None).context_length
    assert MIN_CONTEXT <= fits < 100_000
    assert f"`chatlm config set context {fits}`" in error.hint
    budget = budget_memory("big", folder, CPU, context=fits)
    assert budget is not None
    assert budget.context_length == fits


def test_a_kv_cache_of_8_bits_takes_53_percent_and_is_suggested_where_that_fits(
    home: Path, tmp_path: Path, available: Any
) -> None:
    folder = save(tmp_path / "m")
    whole, half = (plan_memory(folder, CPU, kv_cache=form) for form in ("auto", "int8"))
    assert whole is not None
    assert half is not None
    assert half.kv_bytes(1000) / whole.kv_bytes(1000) == pytest.approx(17 / 32)
    other = plan_memory(folder, CPU, engine="transformers", kv_cache="int8")
    assert other is not None
    assert other.kv_bytes(1000) == whole.kv_bytes(1000)
    available.bytes = 12 * GB
    assert "`chatlm config set kv_cache int8` (" in refusal(folder, context=32_768).hint
    assert "kv_cache" not in refusal(folder, context=131_072).hint
    assert "kv_cache" not in refusal(folder, context=131_072, kv_cache="int8").hint


def test_a_smaller_quantization_of_the_same_model_is_suggested(
    tmp_path: Path, available: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = [
        dataclasses.replace(DETAILS, name=name, folder=tmp_path / name, bytes=size)
        for name, size in {
            "llama-8b-q3_k_m": 4 * GB, "llama-8b-Q4_K_M": 5 * GB, "llama-8b-Q8_0": 8 * GB,
            "qwen-8b-q4_k_m": 5 * GB,
        }.items()
    ]  # fmt: skip
    monkeypatch.setattr(memory_plan, "list_installed_models", lambda: listed)
    folder = save(tmp_path / "m")
    available.bytes = 7 * GB
    assert "the model llama-8b-Q4_K_M (" in refusal(folder, "llama-8b-bf16").hint
    assert "the model" not in refusal(folder, "other-8b-bf16").hint


DETAILS = ModelDetails(
    name="", kind="chat", description="", licence="", context_length=None, installed=True,
    folder=None, bytes=0, source="", pulled_at=None, parameters=None, dtypes=(),
)  # fmt: skip


def test_nothing_is_refused_if_the_user_says_so(tmp_path: Path, available: Any) -> None:
    available.bytes = GB
    budget = budget_memory("big", save(tmp_path / "m"), CPU, refuse=False)
    assert budget is not None
    assert not budget.fits


def test_a_model_is_refused_before_anything_is_loaded(
    chat_home: Path, available: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load_module, "_load_native", pytest.fail)
    available.bytes = 300_000_000
    config = Config(model="smollm2-135m-instruct", device="cpu")
    with pytest.raises(OutOfMemoryError, match="smollm2-135m-instruct needs"):
        open_engine(config, PluginHost([]), ignore_progress)


def test_the_context_and_the_cache_of_an_opened_model_keep_to_the_budget(
    chat_home: Path, available: Any
) -> None:
    available.bytes = 650_000_000
    config = Config(model="smollm2-135m-instruct", device="cpu")
    engine: Any = open_engine(config, PluginHost([]), ignore_progress)
    budget = engine.info.memory
    assert isinstance(budget, MemoryBudget)
    assert budget.fits
    assert engine.info.context_length == budget.context_length < 8192
    assert engine._prompt_cache._max_tokens == budget.cached_tokens
    engine.close()


# --- errors of libraries --------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        OSError(12, "Cannot allocate memory"),
        RuntimeError("unable to mmap 16060522496 bytes from file: Cannot allocate memory (12)"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"
        ),
        RuntimeError("std::bad_alloc"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"),
        SafetensorError("Error while deserializing header: Cannot allocate memory (os error 12)"),
    ],
    ids=repr,
)
def test_errors_of_libraries_that_mean_too_little_memory_are_recognised(error: Exception) -> None:
    assert is_out_of_memory(error)
    outer = Unsupported("its weights cannot be read")
    outer.__cause__ = error
    assert is_out_of_memory(outer)


@pytest.mark.parametrize(
    "error", [OSError(2, "No such file"), RuntimeError("shape mismatch"), ChatlmError("No memory")]
)
def test_other_errors_do_not_mean_too_little_memory(error: Exception) -> None:
    assert not devices.is_out_of_memory(error)


def test_weights_that_cannot_be_mapped_are_no_reason_to_try_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*arguments: object) -> None:
        cause = RuntimeError("unable to mmap 9 bytes from file: Cannot allocate memory (12)")
        raise Unsupported("its weights cannot be read") from cause

    monkeypatch.setattr(load_module, "_load_native", read)
    with pytest.raises(OutOfMemoryError, match="Not enough memory to load big"):
        load("big", tmp_path, CPU)


def test_a_runtime_needs_what_the_file_has(tmp_path: Path) -> None:
    made = tmp_path / "made"
    file = save_gguf(tmp_path / "tiny.gguf", "nemotron")
    gguf_folder.prepare_in_process(file, made)
    os.link(file, made / file.name)
    cuda = Placement({"": "cuda:0"}, torch.bfloat16)
    for engine, placement in (("auto", CPU), ("llamacpp", CPU), ("llamacpp", cuda)):
        plan = plan_memory(made, placement, engine, runtimes=["llamacpp"])
        assert plan is not None
        assert (plan.weights, plan.device) == (file.stat().st_size, "cpu")
    for engine, weights in (("transformers", "auto"), ("auto", "float32")):
        plan = plan_memory(made, CPU, engine, weights, runtimes=["llamacpp"])
        assert plan is not None
        assert plan.weights == count_parameters(made) * (4 if weights == "float32" else 2)
