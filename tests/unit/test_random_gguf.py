"""The random models that benchmarks measure, and the processes that measure them."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import transformers
from gguf import GGMLQuantizationType

from benchmarks import sizes_run
from benchmarks.random_blocks import TYPES, random_rows
from benchmarks.random_gguf import SHAPES, Shape, tensor_type, tensors, write_folder, write_model
from chatlm.config.config import Config
from chatlm.engines.open import open_engine
from chatlm.hub.jobs import ignore_progress
from chatlm.plugin_host.host import PluginHost
from chatlm.types.events import Delta
from chatlm.types.messages import Message
from chatlm.types.requests import Request
from chatlm.types.sampling import Sampling
from tests import models
from tests.gguf_files import CONTROL, TEMPLATE, byte_alphabet

TINY = Shape("Tiny", "llama", 256, 256, 2, 4, 2, 64, 320, True, 1e5, 1e-5, 512)
TINIES = {
    "llama": TINY,
    "llama 3": dataclasses.replace(TINY, llama3_factor=8.0, tied=False),
    "qwen3": dataclasses.replace(TINY, architecture="qwen3"),
    "qwen3moe": dataclasses.replace(
        TINY, architecture="qwen3moe", experts=4, experts_per_token=2, expert_size=256
    ),
}


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    """A folder with a byte-level tokenizer and a chat template."""
    tokens = [*CONTROL, *byte_alphabet(), "ĠĠ"]
    document = {
        "added_tokens": [{"id": number, "content": text} for number, text in enumerate(CONTROL)],
        "model": {
            "vocab": {text: number for number, text in enumerate(tokens)},
            "merges": ["Ġ Ġ"],
        },
    }
    end, start, pad = CONTROL
    special = {"bos_token": start, "eos_token": end, "unk_token": end, "pad_token": pad}
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    (folder / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(special), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    return folder


def decoded(rows: np.ndarray, type_name: str) -> np.ndarray:
    plain = {"F16": "<f2", "F32": "<f4"}
    if type_name in plain:
        return rows.view(plain[type_name]).astype(np.float64)
    return gguf.dequantize(rows, GGMLQuantizationType[type_name]).astype(np.float64)


@pytest.mark.parametrize("type_name", TYPES)
def test_random_rows_of_every_type_decode_to_noise_of_the_size_asked_for(type_name: str) -> None:
    sizes = np.repeat([0.03, 0.002], 64)
    values = decoded(random_rows(type_name, 512, sizes, np.random.default_rng(1)), type_name)
    assert values.shape == (128, 512)
    for half, size in ((values[:64], 0.03), (values[64:], 0.002)):
        assert size / 1.6 < np.sqrt(np.mean(half**2)) < size * 1.6
        assert abs(np.mean(half)) < size / 10
        assert len(np.unique(half)) > 4


def test_rows_that_are_not_whole_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="256 weights together, not 960"):
        random_rows("Q4_K", 960, np.ones(1), np.random.default_rng(1))


def test_q4_k_m_has_the_types_that_llama_cpp_reports_for_llama_3_1_8b() -> None:
    shape = SHAPES["8b"]
    types = Counter(tensor_type(tensor, shape, "q4_k_m") for tensor in tensors(shape))
    assert types == {"F32": 66, "Q4_K": 193, "Q6_K": 33}


def test_rows_too_short_for_blocks_of_256_have_llama_cpps_other_types() -> None:
    shape = SHAPES["0.4b-smollm2"]  # 960 wide
    types = {t.name: tensor_type(t, shape, "q4_k_m") for t in tensors(shape)}
    assert types["token_embd"] == "Q8_0"
    assert types["blk.0.attn_q"] == "Q5_0"
    assert types["blk.0.attn_v"] == "Q8_0"
    assert types["blk.0.ffn_down"] == "Q6_K"
    assert types["blk.4.ffn_down"] == "Q4_K"


@pytest.mark.parametrize("kind", TINIES)
def test_a_random_file_has_a_whole_vocabulary_and_is_the_same_each_time(
    tmp_path: Path, tokenizer: Path, kind: str
) -> None:
    for name in ("a", "b"):
        write_model(tmp_path / name, TINIES[kind], "q4_k_m", tokenizer)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    reader = gguf.GGUFReader(tmp_path / "a")
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    assert len(tokens) == len(set(tokens)) == TINY.vocabulary
    assert {t.name for t in reader.tensors} == {f"{t.name}.weight" for t in tensors(TINIES[kind])}


def test_chatlm_writes_words_with_a_random_file(
    tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model(tmp_path / "tiny.gguf", TINY, "q8_0", tokenizer)
    monkeypatch.setenv("CHATLM_HOME", str(tmp_path / "home"))
    models.lend_kernels(tmp_path / "home")
    config = Config(model=str(tmp_path / "tiny.gguf"), safe_mode=True)
    engine = open_engine(config, PluginHost(), ignore_progress)
    sampling = Sampling(temperature=0.0, frequency_penalty=0.0, max_tokens=8)
    events = list(engine.stream(Request((Message("user", "Hello"),), sampling)))
    words = [event.text for event in events if isinstance(event, Delta)]
    assert len(words) == 8
    assert "".join(words).replace(" ", "").isalpha()


@pytest.mark.parametrize("kind", [kind for kind, shape in TINIES.items() if not shape.experts])
def test_transformers_opens_a_random_folder(tmp_path: Path, kind: str) -> None:
    write_folder(tmp_path / "tiny", TINIES[kind])
    opened: Any = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "tiny", output_loading_info=True
    )
    model, problems = opened
    assert not any(problems.values())
    matrices = sum(p.numel() for p in model.parameters() if p.dim() > 1)
    assert matrices == TINIES[kind].parameters


def test_the_bytes_read_for_a_token_leave_out_an_embedding_that_is_only_looked_up(
    tmp_path: Path, tokenizer: Path
) -> None:
    sizes = {}
    for kind in ("llama", "llama 3"):
        write_model(tmp_path / kind, TINIES[kind], "q8_0", tokenizer)
        sizes[kind] = sizes_run.read_sizes(tmp_path / kind)
    factors = 4 * TINY.head_dim // 2  # of RoPE
    assert sizes["llama"].weight_bytes + factors == sizes["llama 3"].weight_bytes
    assert sizes["llama"].cache_bytes(100) == 100 * TINY.cache_bytes


def test_a_window_bounds_the_cache_that_is_read() -> None:
    sizes = sizes_run.Sizes(0, 0, ((8, 512), (8, None)))
    assert sizes.cache_bytes(100) == 2 * 8 * 100
    assert sizes.cache_bytes(2048) == 8 * (512 + 2048)


def run_python(code: str) -> Any:
    return sizes_run.run_child([sys.executable, "-c", code], {"n": 1}, {"MODEL": "x"})


def test_a_process_gets_its_task_and_gives_back_its_measurements() -> None:
    code = (
        "import sys, os, json; task = json.loads(sys.argv[1]);"
        "print('noise'); print(json.dumps([task['n'], os.environ['MODEL']]))"
    )
    assert run_python(code) == [1, "x"]


def test_a_process_that_fails_is_left_out_with_its_last_words() -> None:
    with pytest.raises(sizes_run.LeftOut, match=r"^OSError: cannot open$"):
        run_python("raise OSError('cannot open')")


def test_a_process_is_ended_when_memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes_run, "FREE_BYTES", 1 << 60)
    with pytest.raises(sizes_run.LeftOut, match="more memory than is available"):
        run_python("import time; time.sleep(600)")


def test_disk_space_counts_each_file_once_and_not_the_model_itself(tmp_path: Path) -> None:
    model, folder = tmp_path / "model.gguf", tmp_path / "folder"
    folder.mkdir()
    for path in (model, folder / "config.json"):
        path.write_bytes(b"x" * 10_000)
    (folder / "model.gguf").hardlink_to(model)
    (folder / "again.json").hardlink_to(folder / "config.json")
    assert sizes_run.disk_bytes(folder, model) == 512 * (folder / "config.json").stat().st_blocks
