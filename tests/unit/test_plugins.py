"""Plugins are called in isolation: a fault is reported and affects nothing else."""

from __future__ import annotations

import logging
import re
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from chatlm.config.config import Config
from chatlm.plugin_host import hook_threads
from chatlm.plugin_host.discovery import find_plugins
from chatlm.plugin_host.hookspecs import PluginContext, hookimpl
from chatlm.plugin_host.host import MAX_FAILURES, PluginHost
from chatlm.plugin_host.lifecycle import load_plugins, loaded_plugins
from chatlm.types.conversations import Conversation
from chatlm.types.messages import Annotation, Message

CALL: dict[str, Any] = {
    "conversation": Conversation(0),
    "message": Message("user", "Hi"),
    "passages": (),
}


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
    return [a.value for a in host.call_hook("annotate_message", **CALL)]


def test_the_last_registered_is_called_first() -> None:
    host = PluginHost([("a", Labels("a")), ("b", Labels("b"))])
    assert labels(host) == ["b", "a"]


def test_a_failure_is_named_and_the_others_go_on() -> None:
    host = PluginHost([("a", Labels("a")), ("bad", Raises()), ("c", Labels("c"))])
    assert labels(host) == ["c", "a"]
    (fault,) = host.take_faults()
    assert str(fault) == (
        "The plugin bad failed in annotate_message: ValueError: bad day. "
        "More: chatlm logs. Without it: chatlm plugins disable bad"
    )
    assert host.take_faults() == []


def test_three_failures_in_a_row_leave_it_out() -> None:
    bad = Raises()
    host = PluginHost([("bad", bad)])
    for _ in range(5):
        labels(host)
    assert bad.calls == MAX_FAILURES
    assert "left out until chatlm restarts" in str(host.take_faults()[-1])


@pytest.mark.parametrize("plugin", [Misspelt(), WrongArgument(), Wrapper()])
def test_a_plugin_that_cannot_be_called_is_refused_alone(plugin: object) -> None:
    host = PluginHost([("good", Labels("good")), ("bad", plugin)])
    (fault,) = host.take_faults()
    assert fault.plugin == "bad"
    assert fault.dropped
    assert labels(host) == ["good"]


class Lifetime:
    def __init__(self) -> None:
        self.seen: list[str] = []

    @hookimpl
    def startup(self, context: PluginContext) -> None:
        self.seen.append(f"startup {context.config.model} {context.data_dir.name}")

    @hookimpl
    def shutdown(self) -> None:
        self.seen.append("shutdown")


def loose(home: Path, name: str, text: str) -> None:
    folder = home / "plugins"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.py").write_text(text)


def test_startup_and_shutdown(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    life = Lifetime()
    module = ModuleType("life_module")
    vars(module)["plugin"] = life
    monkeypatch.setitem(sys.modules, "life_module", module)
    loose(home, "life", "from life_module import plugin\nstartup = plugin.startup\n"
          "shutdown = plugin.shutdown\n")  # fmt: skip
    with loaded_plugins(Config(model="m")):
        assert life.seen == ["startup m home"]
    assert life.seen == ["startup m home", "shutdown"]


@pytest.fixture
def installed(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package with one good plugin, one that cannot be imported, one to switch off."""
    info = tmp_path / "site" / "demo-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: demo\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[chatlm]\ngood = good_plugin\nbroken = broken_plugin\noff = never_imported\n"
        "a.b = good_plugin\n"
    )
    (info.parent / "broken_plugin.py").write_text("raise ImportError('no such thing')\n")
    module = ModuleType("good_plugin")
    vars(module)["annotate_message"] = Labels("good").annotate_message
    monkeypatch.setitem(sys.modules, "good_plugin", module)
    monkeypatch.syspath_prepend(info.parent)


@pytest.mark.usefixtures("installed")
def test_plugins_are_listed_without_importing_any() -> None:
    found = {one.name: one for one in find_plugins() if one.source == "demo"}
    assert set(found) == {"good", "broken", "off", "a.b"}
    assert found["good"].version == "1.0"
    assert "begins with a letter" in found["a.b"].problem
    assert "broken_plugin" not in sys.modules


@pytest.mark.usefixtures("installed")
def test_packages_and_files_are_loaded_and_a_broken_import_is_a_fault(home: Path) -> None:
    text = "import chatlm\n@chatlm.hookimpl\ndef annotate_message():\n    return [chatlm."
    loose(home, "mine", text + "Annotation('mine', 'label', 'mine')]\n")
    loose(home, "good", "raise RuntimeError('never imported')\n")
    loose(home, "_part", "raise RuntimeError('never imported')\n")
    host = PluginHost()
    load_plugins(host, Config(disabled_plugins=("off", "templates")))
    faults = {fault.plugin: fault for fault in host.take_faults()}
    assert set(faults) == {"broken", "good", "a.b"}
    assert faults["broken"].error == "ImportError: no such thing"
    assert "taken by the plugin of demo" in faults["good"].error
    assert labels(host) == ["mine", "good"]


def test_safe_mode_loads_nothing(home: Path) -> None:
    loose(home, "bad", "raise RuntimeError\n")
    with loaded_plugins(Config(safe_mode=True)) as host:
        assert host.names == []
        assert host.take_faults() == []


class Moody:
    """Fails in one hook, never in the other."""

    @hookimpl
    def annotate_message(self) -> None:
        raise ValueError("again")

    @hookimpl
    def retrieve_passages(self) -> None: ...


def test_failures_are_counted_for_each_hook() -> None:
    host = PluginHost([("moody", Moody())])
    for _ in range(MAX_FAILURES):
        labels(host)
        host.call_hook("retrieve_passages", **CALL)
    assert host.is_dropped("moody")


class Returns:
    def __init__(self, value: Any) -> None:
        self.value = value

    @hookimpl
    def annotate_message(self) -> Any:
        return self.value


class EvilList(list[Annotation]):
    def __iter__(self) -> Any:
        raise OSError("gone")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("text", "returned str, not a list of Annotation"),
        ([1], "returned int, not Annotation"),
        ([Annotation("p", "n", 3)], "value = int 3, not a text"),  # type: ignore[arg-type]
        ([Annotation("p", "n", "v", "high")], "not a number or nothing"),  # type: ignore[arg-type]
        (EvilList([Annotation("p", "n", "v")]), "OSError: gone"),
        (iter([]), "returned list_iterator, not a list of Annotation"),
    ],
)
def test_garbage_is_refused_and_counted(value: Any, said: str) -> None:
    host = PluginHost([("good", Labels("good")), ("bad", Returns(value))])
    assert labels(host) == ["good"]
    assert said in host.take_faults()[0].error
    labels(host), labels(host)
    assert host.is_dropped("bad")


class Sleeps:
    @hookimpl
    def annotate_message(self) -> list[Annotation]:
        time.sleep(0.05)
        return [Annotation("sleeps", "label", "late")]


def test_a_slow_hook_is_called_slow_with_its_time_and_its_result_is_used(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("chatlm"), "propagate", True)
    host = PluginHost([("sleeps", Sleeps())], slow_after=0.01)
    assert [labels(host) for _ in range(MAX_FAILURES + 1)] == [["late"]] * (MAX_FAILURES + 1)
    fault = host.take_faults()[-1]
    assert re.fullmatch(
        r"The plugin sleeps was slow in annotate_message: it took \d+\.\d s\. "
        r"Without it: chatlm plugins disable sleeps",
        str(fault),
    )
    assert not fault.dropped
    assert max(record.levelno for record in caplog.records) < logging.ERROR


def test_a_busy_machine_is_not_the_plugins_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    waited = iter((0.0, 1e6))
    monkeypatch.setattr(hook_threads, "run_queue_seconds", lambda: next(waited))
    host = PluginHost([("sleeps", Sleeps())], slow_after=0.01)
    assert labels(host) == ["late"]
    assert host.all_faults == []


def test_a_failure_is_remembered_rather_than_a_slow_call() -> None:
    host = PluginHost([("bad", Raises())])
    labels(host)
    host.record_success("bad", "retrieve_passages", 60.0)
    assert [fault.kind for fault in host.all_faults] == ["failed", "slow"]
    assert host.last_faults["bad"].kind == "failed"


class Nothing:
    """Forgot the marks."""


@pytest.mark.parametrize(
    ("plugin", "said"),
    [
        (Misspelt(), "there is no hook anotate_message; did you mean annotate_message?"),
        (WrongArgument(), "annotate_message has no argument mesage; it has conversation, message"),
        (Nothing(), "implements no hook"),
        (Labels, "it is a class"),
        (None, "implements no hook"),
    ],
)
def test_a_refusal_says_what_to_do(plugin: Any, said: str) -> None:
    host = PluginHost([("bad", plugin)])
    (fault,) = host.take_faults()
    assert said in fault.error
    assert "chatlm plugins disable bad" in str(fault)


class Early:
    @hookimpl(tryfirst=True)
    def annotate_message(self) -> list[Annotation]:
        return [Annotation("early", "label", "early")]


def test_declared_order_overrides_the_order_of_loading() -> None:
    host = PluginHost([("early", Early()), ("a", Labels("a")), ("b", Labels("b"))])
    assert labels(host) == ["early", "b", "a"]
