"""Which engine opens a model's name, and whether the model would have to be downloaded."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chatlm.config.config import Config
from chatlm.engines.open import is_available, open_engine
from chatlm.engines.scripted import ScriptedEngine
from chatlm.errors import EngineError, ModelError, UsageError
from chatlm.hub.jobs import ignore_progress
from chatlm.plugin_host.hookspecs import hookimpl
from chatlm.plugin_host.host import PluginHost
from chatlm.types.engine import Engine
from chatlm.types.messages import Message
from chatlm.types.requests import Request


class Far:
    """A plugin with its own engine."""

    def __init__(self) -> None:
        self.opened: list[str] = []

    @hookimpl
    def register_engines(self, register: object) -> None:
        assert callable(register)
        register("far", self.open)

    def open(self, name: str) -> Engine:
        self.opened.append(name)
        if name == "broken":
            raise RuntimeError("no answer")
        if name == "unknown":
            raise UsageError("There is no such model")
        return ScriptedEngine()


def test_a_scheme_opens_the_plugins_engine() -> None:
    far = Far()
    plugins = PluginHost([("far", far)])
    assert isinstance(
        open_engine(Config(model="far:a:b"), plugins, ignore_progress), ScriptedEngine
    )
    assert far.opened == ["a:b"]
    with pytest.raises(ModelError, match=r"plugin far .*far:broken: RuntimeError: no answer"):
        open_engine(Config(model="far:broken"), plugins, ignore_progress)
    with pytest.raises(UsageError, match="no such model"):
        open_engine(Config(model="far:unknown"), plugins, ignore_progress)


class Greedy:
    """A plugin that claims the schemes of others."""

    def __init__(self, *schemes: Any) -> None:
        self.schemes = schemes

    @hookimpl
    def register_engines(self, register: Callable[[Any, Any], None]) -> None:
        for scheme in self.schemes:
            register(scheme, lambda name: ScriptedEngine())


@pytest.mark.parametrize(
    ("scheme", "said"),
    [
        ("local", "local: is the scheme of chatlm's own models"),
        ("far", "the scheme far: is taken by the plugin far"),
        ("a:b", "register takes a scheme, a text without a colon, and a function"),
        (7, "register takes a scheme"),
    ],
)
def test_an_invalid_scheme_is_reported_as_the_plugins_fault(
    home: Path, scheme: Any, said: str
) -> None:
    far = Far()
    plugins = PluginHost([("greedy", Greedy("mine", scheme)), ("far", far)])
    open_engine(Config(model="far:a"), plugins, ignore_progress)
    assert far.opened == ["a"]
    (fault,) = plugins.take_faults()
    assert (fault.plugin, fault.hook) == ("greedy", "register_engines")
    assert said in fault.error
    assert not is_available("local:smollm2-135m-instruct", plugins)
    assert isinstance(open_engine(Config(model="mine:x"), plugins, ignore_progress), ScriptedEngine)


class Odd:
    """A plugin whose opener returns no engine."""

    @hookimpl
    def register_engines(self, register: Callable[[str, Any], None]) -> None:
        register("none", lambda name: None)
        register("exits", sys.exit)


@pytest.mark.parametrize("model", ["none:x", "exits:x"])
def test_an_opener_without_an_engine_is_an_error_that_names_the_plugin(model: str) -> None:
    plugins = PluginHost([("odd", Odd())])
    with pytest.raises(ModelError, match=f"The plugin odd failed to open {model}: "):
        open_engine(Config(model=model), plugins, ignore_progress)
    assert not plugins.is_dropped("odd")


class Finder:
    """A plugin with scripted answers to find_adapter."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.asked: list[tuple[str, str]] = []

    @hookimpl
    def find_adapter(self, name: str, model: str) -> Any:
        self.asked.append((name, model))
        return self.answers.get(name)


def test_find_adapter_is_asked_until_a_plugin_knows_it(chat_home: Path) -> None:
    first, second = Finder(mine=chat_home), Finder(mine=Path("never"), other=chat_home / "models")
    plugins = PluginHost([("second", second), ("first", first)])
    engine: Any = open_engine(Config(model="smollm2-135m-instruct"), plugins, ignore_progress)
    find = engine._adapters._find
    assert (find("mine"), find("other")) == (chat_home, chat_home / "models")
    assert second.asked == [("other", "smollm2-135m-instruct")]
    with pytest.raises(EngineError, match="There is no adapter poet") as error:
        find("poet")
    assert "plugins list" in error.value.hint
    engine.close()


def test_find_adapter_may_refuse_and_may_fail(chat_home: Path) -> None:
    finder = Finder(odd=UsageError("It is for another model"), text="a text", gone=Path("nowhere"))
    plugins = PluginHost([("finder", finder)])
    engine: Any = open_engine(Config(model="smollm2-135m-instruct"), plugins, ignore_progress)
    request = Request((Message("user", "Hello"),), adapter="odd")
    with pytest.raises(UsageError, match="for another model"):
        list(engine.stream(request))
    for name, said in (("text", "returned str, not a path"), ("gone", "which is not a folder")):
        with pytest.raises(EngineError, match=f"There is no adapter {name}"):
            list(engine.stream(dataclasses.replace(request, adapter=name)))
        (fault,) = plugins.take_faults()
        assert (fault.plugin, fault.hook, said in fault.error) == ("finder", "find_adapter", True)
    engine.close()


@pytest.mark.parametrize("name", ["smollm2-135m-instruct", "local:smollm2-135m-instruct"])
def test_a_local_model_that_is_not_installed(home: Path, name: str) -> None:
    assert not is_available(name, PluginHost())


def test_a_plugins_model_is_available_and_an_unknown_scheme_is_not(home: Path) -> None:
    far = Far()
    assert is_available("far:a", PluginHost([("far", far)]))
    assert far.opened == []
    with pytest.raises(ModelError):
        is_available("far:a", PluginHost())
