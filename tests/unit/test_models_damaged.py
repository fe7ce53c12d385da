"""A damaged or hostile model folder is refused with a clear error, in every command."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chatlm.engines.devices import resolve_placement
from chatlm.engines.local_engine import LocalEngine
from chatlm.errors import ChatlmError, ModelError
from chatlm.hub import installed
from chatlm.hub.architecture import check_architecture
from tests.gguf_files import save_gguf
from tests.plugins.lora import tiny_base

Change = Callable[[Path], object]


def setting(file: str, **values: Any) -> Change:
    def change(folder: Path) -> None:
        path = folder / file
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def content(file: str, text: str) -> Change:
    return lambda folder: (folder / file).write_text(text)


def entry(**values: Any) -> Change:
    """Change the first tensor in the header of the safetensors file."""

    def change(folder: Path) -> None:
        path = folder / "model.safetensors"
        data = path.read_bytes()
        (length,) = struct.unpack_from("<Q", data)
        header = json.loads(data[8 : 8 + length])
        name = next(name for name in header if name != "__metadata__")
        header[name] |= values
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])

    return change


DEEP = "[" * 100_000 + "]" * 100_000
INDEX = "model.safetensors.index.json"

REFUSED_BY_ALL: dict[str, tuple[Change, str]] = {
    "architecture 1": (setting("config.json", architectures=[1]), "architectures in its config"),
    "architectures 5": (setting("config.json", architectures=5), "architectures in its config"),
    "model_type 5": (setting("config.json", model_type=5), "model_type in its config"),
    "a billion layers": (
        setting("config.json", num_hidden_layers=10**9), "num_hidden_layers in its config.json is"
    ),
    "layers of a part": (
        setting("config.json", text_config={"num_hidden_layers": -1}), "num_hidden_layers"
    ),
    "config is a number": (content("config.json", "5"), "config.json cannot be read"),
    "config is nested": (content("config.json", DEEP), "config.json cannot be read"),
    "shape of letters": (entry(shape="ab"), "cut short or damaged"),
    "shape of fractions": (entry(shape=[1.5]), "cut short or damaged"),
    "negative shape": (entry(shape=[-1]), "cut short or damaged"),
    "dtype is a number": (entry(dtype=5), "cut short or damaged"),
    "offsets are texts": (entry(data_offsets=["a", "b"]), "cut short or damaged"),
    "index is a list": (content(INDEX, "[]"), f"{INDEX} is damaged"),
    "shard is a number": (content(INDEX, '{"weight_map": {"a": 5}}'), f"{INDEX} is damaged"),
    "shard outside": (content(INDEX, '{"weight_map": {"a": "../b"}}'), f"{INDEX} is damaged"),
}  # fmt: skip


def load(folder: Path) -> LocalEngine:
    location = installed.find_model(str(folder))
    return LocalEngine.from_folder(location.name, location.folder, resolve_placement("cpu"))


@pytest.mark.parametrize(("change", "message"), REFUSED_BY_ALL.values(), ids=REFUSED_BY_ALL)
def test_a_damaged_folder_is_refused_by_all_commands(
    tmp_path: Path, change: Change, message: str
) -> None:
    tiny_base(tmp_path)
    change(tmp_path)
    assert message in installed.verify_model(str(tmp_path)).problems[0]
    for step in (installed.describe_model, installed.find_model):
        with pytest.raises(ModelError, match=message.replace("[", r"\[")) as told:
            step(str(tmp_path))
        assert told.value.hint


@pytest.mark.parametrize(
    "values",
    [
        {"hidden_act": "nonsense"},
        {"num_key_value_heads": 0},
        {"rope_parameters": {"rope_type": "nonsense"}},
        {"hidden_size": "wide"},
        {"dtype": 5},
    ],
    ids=str,
)
def test_a_config_from_which_no_model_can_be_built_is_a_problem(
    tmp_path: Path, values: dict[str, Any]
) -> None:
    tiny_base(tmp_path)
    setting("config.json", **values)(tmp_path)
    (problem,) = installed.verify_model(str(tmp_path)).problems
    assert problem.startswith("transformers cannot build the model that config.json describes")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (setting("generation_config.json", eos_token_id="x"), "eos_token_id"),
        (setting("generation_config.json", eos_token_id=[1, None]), "eos_token_id"),
        (setting("tokenizer_config.json", chat_template=[{}]), "chat_template in"),
        (setting("tokenizer_config.json", chat_template=5), "chat_template in"),
        (
            setting(
                "tokenizer.json",
                normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"},
            ),
            "tokenizer.json is damaged",
        ),
    ],
)
def test_what_is_read_when_a_model_is_loaded_is_checked(
    tmp_path: Path, change: Change, message: str
) -> None:
    tiny_base(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    change(tmp_path)
    with pytest.raises(ChatlmError, match=message) as told:
        load(tmp_path)
    assert told.value.hint


def test_a_number_beyond_every_float_is_no_recommended_sampling(tmp_path: Path) -> None:
    tiny_base(tmp_path)
    setting("generation_config.json", temperature=10**400)(tmp_path)
    assert installed.describe_model(str(tmp_path)).sampling.temperature is None


def test_a_pipe_is_no_file_of_weights(tmp_path: Path) -> None:
    tiny_base(tmp_path)
    os.mkfifo(tmp_path / "x.safetensors")
    assert installed.describe_model(str(tmp_path)).parameters
    assert installed.verify_model(str(tmp_path)).problems == ()


def test_an_architecture_with_a_billion_layers_is_refused_before_the_download() -> None:
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "n_layers": 10**9}
    with pytest.raises(ModelError, match=r"cannot run mine: n_layers in its config.json is 1,000"):
        check_architecture("mine", config)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"block_count": 2**31 - 1}, "block_count"),
        ({"rope.freq_base": float("nan")}, "rope.freq_base"),
        ({"attention.layer_norm_rms_epsilon": float("inf")}, "layer_norm_rms_epsilon"),
        ({"attention.head_count_kv": 0}, "transformers cannot build the model"),
    ],
)
def test_a_gguf_file_with_impossible_settings_is_damaged(
    tmp_path: Path, changes: dict[str, Any], key: str
) -> None:
    gguf = save_gguf(tmp_path / "tiny.gguf", changes=changes)
    (problem,) = installed.verify_model(str(gguf)).problems
    assert problem.startswith("tiny.gguf is damaged: ")
    assert key in problem
