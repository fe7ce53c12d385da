"""An adapter that cannot be used is refused, with the reason, before anything loads it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from chatlm import ChatlmError, ModelLocation, UsageError
from chatlm_lora import card, library
from chatlm_lora.adapter_files import CONFIG_FILE, WEIGHTS_FILE
from chatlm_lora.library import ADAPTERS
from chatlm_lora.validation import AdapterRefused, same_base, validate_adapter
from tests.gguf_files import save_gguf_lora
from tests.plugins.lora import HIDDEN, MODULES, RANK, adapter, config, matrices

FIRST = f"base_model.model.{MODULES[0]}.lora_A.weight"


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return adapter(tmp_path / "good")


def why(folder: Path, base: ModelLocation | None) -> str:
    with pytest.raises(AdapterRefused) as refused:
        validate_adapter(folder, base)
    return str(refused.value)


def test_a_good_adapter_is_taken(good: Path, base: ModelLocation) -> None:
    found = validate_adapter(good, base)
    assert found.modules == tuple(sorted(MODULES))
    assert found.parameters == len(MODULES) * 2 * RANK * HIDDEN
    assert found.warnings == ()


def test_pickle_weights(good: Path, base: ModelLocation) -> None:
    (good / WEIGHTS_FILE).rename(good / "adapter_model.bin")
    assert "pickle" in why(good, base)
    assert "adapter_model.bin" in why(good, base)


def test_no_weights_and_no_folder(good: Path, tmp_path: Path) -> None:
    (good / WEIGHTS_FILE).unlink()
    assert f"it has no {WEIGHTS_FILE}" in why(good, None)
    assert "it is not a folder" in why(tmp_path / "nowhere", None)


def test_no_config(good: Path, base: ModelLocation) -> None:
    (good / CONFIG_FILE).unlink()
    assert f"it has no {CONFIG_FILE}" in why(good, base)


@pytest.mark.parametrize("text", ["{", "[]", '"LORA"', "[" * 100_000, " " * 2_000_000])
def test_an_invalid_config_is_refused(text: str, good: Path, base: ModelLocation) -> None:
    (good / CONFIG_FILE).write_text(text)
    assert CONFIG_FILE in why(good, base)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"peft_type": "IA3"}, "not LORA"),
        ({"r": 0}, "rank 0"),
        ({"r": True}, "rank True"),
        ({"r": 10**9}, "rank 1000000000"),
        ({"r": "8"}, "rank '8'"),
        ({"lora_alpha": float("nan")}, "lora_alpha nan"),
        ({"lora_alpha": "16"}, "lora_alpha '16'"),
        ({"rank_pattern": {"q_proj": -1}}, "rank_pattern"),
        ({"target_modules": None}, "names no target modules"),
        ({"target_modules": [1]}, "names no target modules"),
        ({"use_dora": True}, "use_dora"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, "biases"),
        ({"init_lora_weights": "pissa"}, "modifies the base"),
    ],
)
def test_an_unsupported_config_is_refused(
    change: dict[str, Any], reason: str, good: Path, base: ModelLocation
) -> None:
    (good / CONFIG_FILE).write_text(json.dumps(config(**change)))
    assert reason in why(good, base)


def test_unknown_target_modules(good: Path, base: ModelLocation) -> None:
    (good / CONFIG_FILE).write_text(json.dumps(config(target_modules=["q_proj", "query"])))
    reason = why(good, base)
    assert "target modules query are not in" in reason
    assert "q_proj" in reason.splitlines()[1]  # the existing modules


def test_another_architecture_by_name(good: Path, base: ModelLocation) -> None:
    mapping = {"base_model_class": "GPT2LMHeadModel", "parent_library": "os"}
    (good / CONFIG_FILE).write_text(json.dumps(config(auto_mapping=mapping)))
    assert "made for GPT2LMHeadModel" in why(good, base)


def test_another_architecture_by_its_modules(tmp_path: Path, base: ModelLocation) -> None:
    weights = {
        name.replace("model.layers.0.self_attn.q_proj", "transformer.h.0.attn.q_proj"): numbers
        for name, numbers in matrices().items()
    }
    reason = why(adapter(tmp_path / "other", weights), base)
    assert "has no module transformer.h.0.attn.q_proj" in reason


@pytest.mark.parametrize(("letter", "axis"), [("A", 1), ("B", 0)])
def test_wrong_shapes(letter: str, axis: int, tmp_path: Path, base: ModelLocation) -> None:
    weights = matrices()
    name = FIRST.replace("lora_A", f"lora_{letter}")
    weights[name] = np.concatenate([weights[name]] * 2, axis)
    reason = why(adapter(tmp_path / "wide", weights), base)
    assert "model.layers.0.self_attn.q_proj has" in reason
    assert str(2 * HIDDEN) in reason


def test_rank_unlike_the_config(tmp_path: Path, base: ModelLocation) -> None:
    folder = adapter(tmp_path / "rank", settings=config(r=RANK * 2))
    assert f"rank {RANK} and {RANK}, but {CONFIG_FILE} says {RANK * 2}" in why(folder, base)


def test_rank_pattern_is_known(tmp_path: Path, base: ModelLocation) -> None:
    pattern = {"q_proj": RANK, r"model\.layers\.\d+\.self_attn\.o_proj": RANK}
    settings = config(r=RANK * 2, rank_pattern=pattern)
    assert validate_adapter(adapter(tmp_path / "pattern", settings=settings), base).modules


def test_half_a_pair(tmp_path: Path, base: ModelLocation) -> None:
    weights = matrices()
    del weights[FIRST]
    assert "only one of its matrices" in why(adapter(tmp_path / "half", weights), base)


def test_other_tensors(tmp_path: Path, base: ModelLocation) -> None:
    extra = {"base_model.model.lm_head.weight": np.zeros((4, 4), np.float32)}
    reason = why(adapter(tmp_path / "more", matrices() | extra), base)
    assert "lm_head.weight" in reason
    assert "no matrix of plain LoRA" in reason


def test_unsupported_number_formats_are_refused(tmp_path: Path, base: ModelLocation) -> None:
    weights = {name: numbers.astype(np.int8) for name, numbers in matrices().items()}
    assert "number format I8" in why(adapter(tmp_path / "int", weights), base)


@pytest.mark.parametrize("kind", [np.float32, np.float16])
@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_infinite_and_nan_values_are_refused(
    number: float, kind: type, tmp_path: Path, base: ModelLocation
) -> None:
    weights: dict[str, np.ndarray[Any, Any]] = {
        name: numbers.astype(kind) for name, numbers in matrices().items()
    }
    weights[FIRST][1, 2] = number
    assert "NaN or infinite values" in why(adapter(tmp_path / "nan", weights), base)


def test_infinite_and_nan_values_in_bfloat16_are_refused(
    tmp_path: Path, base: ModelLocation
) -> None:
    import torch
    from safetensors.torch import save_file as save_torch

    folder = adapter(tmp_path / "nan")
    weights = {name: torch.tensor(n).bfloat16() for name, n in matrices().items()}
    save_torch(weights, folder / WEIGHTS_FILE)
    assert validate_adapter(folder, base).warnings == ()
    weights[FIRST][0, 0] = float("nan")
    save_torch(weights, folder / WEIGHTS_FILE)
    assert "NaN or infinite values" in why(folder, base)


@pytest.mark.parametrize("kept", [0, 4, 9, 100, -1, -1000])
def test_cut_short(kept: int, good: Path, base: ModelLocation) -> None:
    whole = (good / WEIGHTS_FILE).read_bytes()
    (good / WEIGHTS_FILE).write_bytes(whole[:kept])
    assert "is truncated" in why(good, base)


def _longer(whole: bytes) -> bytes:
    return whole + b"more"


def _huge_table(whole: bytes) -> bytes:
    return (1 << 62).to_bytes(8, "little") + whole[8:]


def _no_table(whole: bytes) -> bytes:
    length = int.from_bytes(whole[:8], "little")
    return whole[:8] + b"?" * length + whole[8 + length :]


def _other_table(change: Callable[[dict[str, Any]], None]) -> Callable[[bytes], bytes]:
    def spoil(whole: bytes) -> bytes:
        length = int.from_bytes(whole[:8], "little")
        table = json.loads(whole[8 : 8 + length])
        change(table[FIRST])
        header = json.dumps(table).encode()
        return len(header).to_bytes(8, "little") + header + whole[8 + length :]

    return spoil


@pytest.mark.parametrize(
    "spoil",
    [
        _longer,
        _huge_table,
        _no_table,
        _other_table(lambda entry: entry.update(shape=[1 << 40, 1 << 40])),
        _other_table(lambda entry: entry.update(shape=[-4, -32])),
        _other_table(lambda entry: entry.update(shape="none")),
        _other_table(lambda entry: entry.update(data_offsets=[0, 1 << 60])),
        _other_table(lambda entry: entry.update(data_offsets=[-64, 448])),
        _other_table(lambda entry: entry.pop("dtype")),
    ],
)
def test_damaged(spoil: Callable[[bytes], bytes], good: Path, base: ModelLocation) -> None:
    path = good / WEIGHTS_FILE
    path.write_bytes(spoil(path.read_bytes()))
    assert WEIGHTS_FILE in why(good, base)


def test_larger_than_the_model(tmp_path: Path, base: ModelLocation) -> None:
    whole = sum(path.stat().st_size for path in base.folder.glob("*.safetensors"))
    weights: dict[str, np.ndarray[Any, Any]] = {
        FIRST: np.zeros((RANK, whole // 8), np.float32),
        FIRST.replace("_A", "_B"): np.zeros((HIDDEN, RANK), np.float32),
    }
    reason = why(adapter(tmp_path / "large", weights), base)
    assert "more than the whole model" in reason


@pytest.mark.parametrize("name", [CONFIG_FILE, WEIGHTS_FILE])
def test_links_out_of_the_folder(
    name: str, good: Path, tmp_path: Path, base: ModelLocation
) -> None:
    (good / name).rename(tmp_path / "elsewhere")
    (good / name).symlink_to(tmp_path / "elsewhere")
    assert "is a link to a file outside" in why(good, base)


@pytest.mark.parametrize("name", ["../out", "a/b", "", ".", "UPPER", "x" * 65, "off", "a\n", "-m"])
def test_names_that_could_lead_elsewhere(name: str, home: Path) -> None:
    with pytest.raises(UsageError, match="cannot be called"):
        ADAPTERS.new(name)


def test_zero_b_matrices_are_warned_about(tmp_path: Path, base: ModelLocation) -> None:
    folder = adapter(tmp_path / "zero", matrices(strength=0.0))
    assert "no effect" in " ".join(validate_adapter(folder, base).warnings)


def test_another_base_of_the_same_shapes_is_warned_about(
    tmp_path: Path, base: ModelLocation
) -> None:
    folder = adapter(tmp_path / "other", settings=config(base_model_name_or_path="org/other-7b"))
    assert "It was trained on org/other-7b" in validate_adapter(folder, base).warnings[0]


def test_names_of_one_base() -> None:
    assert same_base("HuggingFaceTB/SmolLM2-135M-Instruct", "smollm2-135m-instruct")
    assert same_base("org/model@main", "model")
    assert not same_base("HuggingFaceTB/SmolLM-135M-Instruct", "smollm2-135m-instruct")


def test_the_real_adapter_of_another_base(shared_data: Path, default_model: Path) -> None:
    base = ModelLocation("smollm2-135m-instruct", default_model, "chat")
    found = validate_adapter(shared_data / "adapters" / "smollm1_135m_medical", base)
    assert found.config.rank == 16
    assert len(found.modules) == 60
    assert "SmolLM-135M-Instruct" in found.warnings[0]


def test_only_known_files_are_copied(good: Path, home: Path, base: ModelLocation) -> None:
    (good / "evil.py").write_text("raise SystemExit")
    (good / "training_args.bin").write_bytes(b"pickle")
    library.add_adapter("mine", good, base)
    kept = {path.name for path in (home / "adapters" / "mine").iterdir()}
    assert kept == {CONFIG_FILE, WEIGHTS_FILE, "card.json", "checksums.json", "README.md"}
    assert [entry.name for entry in ADAPTERS.all() if entry.user_owned] == ["mine"]
    with pytest.raises(UsageError, match="already"):
        library.add_adapter("mine", good, base)


def test_what_is_refused_leaves_nothing(good: Path, home: Path, base: ModelLocation) -> None:
    (good / WEIGHTS_FILE).write_bytes(b"")
    with pytest.raises(AdapterRefused):
        library.add_adapter("bad", good, base)
    assert not (home / "adapters" / "bad").exists()


def test_a_gguf_file_becomes_what_peft_saves(
    good: Path, tmp_path: Path, home: Path, base: ModelLocation
) -> None:
    file = save_gguf_lora(tmp_path / "Mine.GGUF", good, base.folder)
    found = library.add_adapter("mine", file, base)
    assert found.modules == library.add_adapter("same", good, base).modules
    mine, same = (home / "adapters" / name for name in ("mine", "same"))
    weights = load_file(same / WEIGHTS_FILE)
    made = load_file(mine / WEIGHTS_FILE)
    assert made.keys() == weights.keys()
    assert all(np.array_equal(made[name], weights[name]) for name in weights)
    known = card.read_card(mine)
    assert known is not None
    assert known.source == {"file": str(file)}


def test_a_gguf_file_for_another_model_is_refused_by_its_name(
    good: Path, tmp_path: Path, home: Path, base: ModelLocation
) -> None:
    odd = {"blk.1.attn_v.weight.lora_a": (4, 33), "blk.1.attn_v.weight.lora_b": (16, 4)}
    file = save_gguf_lora(tmp_path / "wide.gguf", good, base.folder, more=odd)
    with pytest.raises(AdapterRefused, match=r"wide\.gguf cannot be used.*has 33 inputs"):
        library.add_adapter("wide", file, base)
    file = save_gguf_lora(tmp_path / "q.gguf", good, base.folder, architecture="qwen2")
    with pytest.raises(ChatlmError, match=r"q\.gguf is for the architecture qwen2"):
        library.add_adapter("wide", file, base)
    assert not ADAPTERS.user_root.exists() or not list(ADAPTERS.user_root.iterdir())


def test_checking_needs_no_torch() -> None:
    code = (
        "import sys, chatlm_lora.plugin, chatlm_lora.commands, chatlm_lora.validation;"
        "print(sorted({'torch', 'peft', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_save_file_of_the_tests_is_what_peft_reads(good: Path, base: ModelLocation) -> None:
    from peft import PeftModel

    from chatlm import load_pretrained

    model = PeftModel.from_pretrained(
        load_pretrained(base, device="cpu", dtype="float32"), str(good)
    )
    names = {name for name, _ in model.named_parameters() if ".lora_" in name}
    assert len(names) == len(matrices())
