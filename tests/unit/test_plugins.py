"""Plugins are called alone: what one does wrong is named, and nothing else notices."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from chatlm.config import Config
from chatlm.hookspecs import Context, hookimpl
from chatlm.messages import Annotation, Message
from chatlm.plugins import MOST_FAILURES, PluginHost, loaded

CALL: dict[str, Any] = {"conversation": None, "message": Message("user", "Hi")}


class Labels:
    def __init__(self, value: str) -> None:
        self.value = value

    @hookimpl
    def annotate_message(self) -> list[Annotation]:
        return [Annotation("test", "label", self.value)]


class Raises:
    calls = 0

    @hookimpl
    def annotate_message(self) -> None:
        self.calls += 1
        raise ValueError("bad day")


class Misspelt:
    @hookimpl
    def anotate_message(self) -> None: ...


class WrongArgument:
    @hookimpl
    def annotate_message(self, mesage: Message) -> None: ...


class Wrapper:
    @hookimpl(wrapper=True)
    def annotate_message(self) -> Any:
        return (yield)


def labels(host: PluginHost) -> list[str]:
    return [a.value for a in host.gather("annotate_message", Annotation, **CALL)]


def test_the_last_registered_is_called_first() -> None:
    host = PluginHost([("a", Labels("a")), ("b", Labels("b"))])
    assert labels(host) == ["b", "a"]


def test_a_failure_is_named_and_the_others_go_on() -> None:
    host = PluginHost([("a", Labels("a")), ("bad", Raises()), ("c", Labels("c"))])
    assert labels(host) == ["c", "a"]
    (fault,) = host.take_faults()
    assert str(fault) == "The plugin bad failed in annotate_message: ValueError: bad day."
    assert host.take_faults() == []


def test_three_failures_in_a_row_leave_it_out() -> None:
    bad = Raises()
    host = PluginHost([("bad", bad)])
    for _ in range(5):
        labels(host)
    assert bad.calls == MOST_FAILURES
    assert "left out until chatlm restarts" in str(host.take_faults()[-1])


@pytest.mark.parametrize("plugin", [Misspelt(), WrongArgument(), Wrapper()])
def test_a_plugin_that_cannot_be_called_is_refused_alone(plugin: object) -> None:
    host = PluginHost([("good", Labels("good")), ("bad", plugin)])
    (fault,) = host.take_faults()
    assert fault.plugin == "bad"
    assert fault.left_out
    assert labels(host) == ["good"]


class Lifetime:
    def __init__(self) -> None:
        self.seen: list[str] = []

    @hookimpl
    def startup(self, context: Context) -> None:
        self.seen.append(f"startup {context.config.model} {context.data_dir.name}")

    @hookimpl
    def shutdown(self) -> None:
        self.seen.append("shutdown")


def test_startup_and_shutdown(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    life = Lifetime()

    def load(host: PluginHost, disabled: tuple[str, ...]) -> None:
        host.register("life", life)

    monkeypatch.setattr(PluginHost, "load_entry_points", load)
    with loaded(Config(model="m")):
        assert life.seen == ["startup m home"]
    assert life.seen == ["startup m home", "shutdown"]


def test_entry_points_are_loaded_and_a_broken_import_is_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "demo-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: demo\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[chatlm]\ngood = good_plugin\nbroken = broken_plugin\noff = never_imported\n"
    )
    (tmp_path / "broken_plugin.py").write_text("raise ImportError('no such thing')\n")
    module = ModuleType("good_plugin")
    vars(module)["annotate_message"] = Labels("good").annotate_message
    monkeypatch.setitem(sys.modules, "good_plugin", module)
    monkeypatch.syspath_prepend(tmp_path)
    host = PluginHost()
    host.load_entry_points(disabled=["off"])
    assert [fault.plugin for fault in host.take_faults()] == ["broken"]
    assert labels(host) == ["good"]
