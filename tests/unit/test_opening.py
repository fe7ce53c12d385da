"""Which engine a model's name opens, and whether it would have to be fetched first."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatlm.config import Config
from chatlm.engines.opening import is_here, open_engine
from chatlm.engines.scripted import ScriptedEngine
from chatlm.errors import ModelError, UsageError
from chatlm.generation import Engine
from chatlm.hookspecs import hookimpl
from chatlm.models.progress import silent
from chatlm.plugins import PluginHost


class Far:
    """A plugin with an engine of its own."""

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
    assert isinstance(open_engine(Config(model="far:a:b"), plugins, silent), ScriptedEngine)
    assert far.opened == ["a:b"]
    with pytest.raises(ModelError, match=r"far:broken .*RuntimeError: no answer"):
        open_engine(Config(model="far:broken"), plugins, silent)
    with pytest.raises(UsageError, match="no such model"):
        open_engine(Config(model="far:unknown"), plugins, silent)


@pytest.mark.parametrize("name", ["smollm2-135m-instruct", "local:smollm2-135m-instruct"])
def test_a_local_model_that_is_not_here(home: Path, name: str) -> None:
    assert not is_here(name, PluginHost())


def test_a_plugins_model_is_here_and_an_unknown_scheme_is_none(home: Path) -> None:
    far = Far()
    assert is_here("far:a", PluginHost([("far", far)]))
    assert far.opened == []
    with pytest.raises(ModelError):
        is_here("far:a", PluginHost())
