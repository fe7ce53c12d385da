"""Plugins run GGUF files: by the setting `engine`, or where chatlm's own decoders cannot."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chatlm import GgufModel, Message, ModelError, Request, Sampling, Unsupported, hookimpl
from chatlm.config.config import Config
from chatlm.engines.devices import resolve_placement
from chatlm.engines.load import load
from chatlm.engines.open import open_engine
from chatlm.errors import OutOfMemoryError
from chatlm.hub import gguf_folder, installed
from chatlm.hub.jobs import ignore_progress
from chatlm.plugin_host.host import PluginHost
from tests.engine.byte_model import UniformModel
from tests.gguf_files import save_gguf

NATIVE, OTHER = "llama tied", "nemotron"
"""An architecture that chatlm's own decoders run, and one that they do not."""

UNKNOWN = "internlm2"
"""One that chatlm does not read at all."""


class Runtime:
    """A runtime that computes nothing; as a plugin it is called llamacpp."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.loaded: list[GgufModel] = []

    def __call__(self, model: GgufModel) -> UniformModel:
        self.loaded.append(model)
        if self.error is not None:
            raise self.error
        return UniformModel(320)

    @hookimpl
    def register_gguf_runtimes(self, register: Callable[[str, Any], None]) -> None:
        register("llamacpp", self)


def folder_of(folder: Path, variant: str, **more: Any) -> Path:
    gguf = save_gguf(folder / "tiny.gguf", variant, **more)
    made = folder / "made"
    gguf_folder.prepare_in_process(gguf, made)
    os.link(gguf, made / gguf.name)
    return made


def load_with(runtime: Runtime, folder: Path, engine: str = "auto", **more: Any) -> Any:
    runtimes = {"llamacpp": runtime}
    return load("tiny", folder, resolve_placement("cpu"), engine, runtimes=runtimes, **more)


def test_a_runtime_runs_what_the_own_decoders_cannot(tmp_path: Path) -> None:
    runtime = Runtime()
    folder = folder_of(tmp_path, OTHER)
    assert isinstance(load_with(runtime, folder), UniformModel)
    assert [model.path for model in runtime.loaded] == [folder / "tiny.gguf"]
    assert not isinstance(load_with(runtime, folder, "transformers"), UniformModel)
    assert len(runtime.loaded) == 1


def test_the_own_decoders_come_first_unless_the_setting_says_otherwise(tmp_path: Path) -> None:
    runtime = Runtime()
    folder = folder_of(tmp_path, NATIVE)
    assert not isinstance(load_with(runtime, folder), UniformModel)
    assert runtime.loaded == []
    assert isinstance(load_with(runtime, folder, "llamacpp", context=100), UniformModel)
    (model,) = runtime.loaded
    assert (model.name, model.context, model.eos_token_ids) == ("tiny", 100, (2, 0))
    assert model.tensors["blk.0.attn_q.weight"] > model.tensors["blk.0.attn_norm.weight"] > 0


def test_a_runtime_is_told_where_linear_layers_are(tmp_path: Path) -> None:
    runtime = Runtime()
    load_with(runtime, folder_of(tmp_path, NATIVE), "llamacpp")
    find = runtime.loaded[0].find_linear
    queries, up = find("model.layers.1.self_attn.q_proj"), find("model.layers.0.mlp.up_proj")
    assert queries is not None and (queries.tensor, queries.heads) == ("blk.1.attn_q.weight", 4)
    assert up is not None and (up.tensor, up.heads) == ("blk.0.ffn_up.weight", 0)
    assert find("model.layers.9.mlp.up_proj") is None


def test_a_runtime_that_cannot_leaves_the_model_to_transformers(tmp_path: Path) -> None:
    runtime = Runtime(Unsupported("it is too odd"))
    folder = folder_of(tmp_path, OTHER)
    model = load_with(runtime, folder)
    assert any("it is too odd" in note for note in model.info.notes)
    with pytest.raises(ModelError, match="engine = llamacpp: it is too odd") as caught:
        load_with(runtime, folder, "llamacpp")
    assert "engine auto" in (caught.value.hint or "")


def test_a_runtime_that_fails_is_named(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, OTHER)
    for engine in ("auto", "llamacpp"):
        with pytest.raises(ModelError, match=r"The runtime llamacpp failed to load tiny: .*odd"):
            load_with(Runtime(AttributeError("odd")), folder, engine)
        with pytest.raises(OutOfMemoryError, match="Not enough memory to load tiny"):
            load_with(Runtime(MemoryError()), folder, engine)


def test_a_runtime_gets_no_safetensors(tmp_path: Path) -> None:
    from tests.engine import tiny

    with pytest.raises(ModelError, match="its weights are not in a GGUF file"):
        load_with(Runtime(), tiny.save(tmp_path, "llama"), "llamacpp")


def test_a_missing_runtime_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="needs the plugin llamacpp") as caught:
        load("tiny", folder_of(tmp_path, NATIVE), resolve_placement("cpu"), "llamacpp")
    assert "pip install 'chatlm[llamacpp]'" in (caught.value.hint or "")
    assert "chatlm config set engine auto" in (caught.value.hint or "")


def test_the_runtime_of_a_plugin_is_found(home: Path, tmp_path: Path) -> None:
    first, second = Runtime(), Runtime()
    plugins = PluginHost([("first", first), ("second", second)])
    config = Config(model=str(save_gguf(tmp_path / "tiny.gguf", NATIVE)), engine="llamacpp")
    engine = open_engine(config, plugins, ignore_progress)
    request = Request((Message("user", "Hi"),), Sampling(max_tokens=2))
    assert list(engine.stream(request))
    engine.close()
    assert len(first.loaded) + len(second.loaded) == 1


def test_an_architecture_that_only_a_runtime_knows(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, UNKNOWN)
    for engine in ("auto", "llamacpp"):
        runtime = Runtime()
        assert isinstance(load_with(runtime, folder, engine), UniformModel)
        (model,) = runtime.loaded
        assert (model.eos_token_ids, len(model.tensors)) == ((2, 0), 21)
        assert model.find_linear("model.layers.0.mlp.up_proj") is None
    with pytest.raises(ModelError, match="does not read the architecture 'internlm2'") as caught:
        load("tiny", folder, resolve_placement("cpu"))
    assert "pip install 'chatlm[llamacpp]'" in (caught.value.hint or "")
    with pytest.raises(ModelError, match="does not read the architecture") as caught:
        load_with(Runtime(Unsupported("it is too odd")), folder)
    assert "it is too odd" in (caught.value.hint or "")
    with pytest.raises(ModelError, match="does not read the architecture"):
        load_with(Runtime(), folder, "transformers")


def test_an_unknown_architecture_is_installed_and_verified(home: Path, tmp_path: Path) -> None:
    path = str(save_gguf(tmp_path / "tiny.gguf", UNKNOWN))
    before = installed.verify_model(path)
    assert before.problems == ()
    assert any("llama.cpp may run it" in note for note in before.notes)
    runtime = Runtime()
    plugins = PluginHost([("llamacpp", runtime)])
    engine = open_engine(Config(model=path), plugins, ignore_progress)
    assert (engine.info.context_length, len(runtime.loaded)) == (1024, 1)
    engine.close()
    details = installed.describe_model(path)
    assert (details.kind, details.context_length) == ("chat", 512)
    after = installed.verify_model(details.name)
    assert after.problems == ()
    assert any("not compared" in note for note in after.notes)


def test_unknown_architectures_that_write_nothing_are_refused(tmp_path: Path) -> None:
    changes = {"attention.causal": False}
    with pytest.raises(ModelError, match="turns texts into vectors"):
        folder_of(tmp_path, UNKNOWN, changes=changes)
