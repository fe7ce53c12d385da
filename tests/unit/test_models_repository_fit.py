"""How a repository's safetensors fit is said before they are fetched."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from chatlm.chat.model_list import FileChoice, look_up_model
from chatlm.cli.main import cli
from chatlm.config.config import Config
from chatlm.engines import fit, memory_plan
from chatlm.errors import OutOfMemoryError
from chatlm.hub import catalogue, repository
from chatlm.hub.repository import read_repository
from chatlm.plugin_host.host import PluginHost
from tests.fake_hub import FakeHub, serve

SHAPE = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 8192,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "intermediate_size": 28672,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "dtype": "bfloat16",
}
"""Of a model of 70 billion parameters."""

GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True}


@pytest.fixture
def hub(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    hub = FakeHub({"org/big": files(SHAPE)}, sizes={"model.safetensors": 141_000_000_000})
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    for name in ("HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(fit, "_free_disk", lambda folder: 10**12)
    with serve(hub):
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


def files(config: dict[str, object], **more: bytes) -> dict[str, bytes]:
    copies = {"original/consolidated.safetensors": b"x"}
    text = json.dumps(config).encode()
    return {
        "config.json": text,
        "model.safetensors": b"",
        "tokenizer.json": b"{}",
        **copies,
        **more,
    }


def test_what_does_not_fit_is_refused_before_a_byte_of_it_is_fetched(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_plan, "available_memory", lambda device: 16_000_000_000)
    with pytest.raises(
        OutOfMemoryError, match=r"org/big needs about 7\d\.\d GB of memory"
    ) as error:
        CliRunner().invoke(cli, ["pull", "org/big"], catch_exceptions=False)
    assert "Nothing was downloaded." in error.value.message
    assert "This fits: chatlm pull " in str(error.value.hint)
    fetched = [each for each in hub.requests if "resolve" in each]
    assert fetched
    assert all(each.endswith("/config.json") for each in fetched)


def test_the_model_list_offers_it_with_its_size_and_fit(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_plan, "available_memory", lambda device: 200_000_000_000)
    [choice] = look_up("org/big")
    assert (choice.name, choice.bytes) == ("org/big", 141_000_000_000)
    assert choice.fit.verdict == "fits"
    quantized = {**SHAPE, "quantization_config": GPTQ}
    hub.repositories["org/four"] = files(quantized)
    hub.sizes["model.safetensors"] = 40_000_000_000
    monkeypatch.setattr(memory_plan, "available_memory", lambda device: 60_000_000_000)
    assert look_up("org/four")[0].fit.verdict == "fits", "its 4 bits are kept"


def look_up(name: str) -> tuple[FileChoice, ...]:
    found = look_up_model(name, Config(device="cpu"), PluginHost([]))
    assert isinstance(found, tuple)
    return found


@pytest.mark.parametrize(
    "content",
    [
        files({**SHAPE, "architectures": ["LlamaForSequenceClassification"]}),
        files({"model_type": "bert", "architectures": ["BertModel"]}),
        files(SHAPE, **{"modules.json": b"[]"}),
        {"model.safetensors": b"", "README.md": b"#"},
    ],
)
def test_of_what_is_no_chat_model_nothing_is_said(hub: FakeHub, content: dict[str, bytes]) -> None:
    hub.repositories["org/other"] = content
    assert repository.read_hub_config(read_repository("org/other")) is None
    assert look_up_model("org/other", Config(device="cpu"), PluginHost([])) is False
    assert catalogue.find_entry("org/other") is None
