"""Hooks run in threads: one that does not return is named, abandoned and left behind."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from chatlm.plugin_host import hook_threads
from chatlm.plugin_host.hook_table import sample_arguments
from chatlm.plugin_host.hook_threads import HookCall, hooks_running
from chatlm.plugin_host.hookspecs import hookimpl
from chatlm.plugin_host.host import PluginHost
from chatlm.plugin_host.turn_plugins import TurnPlugins
from chatlm.types.conversations import Conversation
from chatlm.types.messages import Annotation, Message
from chatlm.types.requests import Request
from tests.waiting import PATIENCE, wait_until

CALL: dict[str, Any] = {
    "conversation": Conversation(0),
    "message": Message("user", "Hi"),
    "passages": (),
}
TYPED: dict[str, Any] = {"conversation": Conversation(0), "text": "Hi"}


class Hangs:
    """Returns only when it is told to."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.calls = 0

    @hookimpl
    def annotate_message(self) -> list[Annotation]:
        self.calls += 1
        self.go.wait()
        return [Annotation("test", "label", "at last")]

    @hookimpl
    def describe_text(self) -> dict[str, str]:
        self.go.wait()
        return {"mood": "late"}


class Labels:
    @hookimpl
    def annotate_message(self) -> list[Annotation]:
        return [Annotation("test", "label", "quick")]


@pytest.fixture
def hangs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hangs]:
    monkeypatch.setattr(hook_threads, "HANG_SECONDS", 0.05)
    plugin = Hangs()
    yield plugin
    plugin.go.set()
    wait_until(lambda: not hooks_running())


def in_background(work: Callable[[], Any]) -> Callable[[], Any]:
    """Start `work` in a thread; the function returned waits for its result."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(work()), daemon=True)
    thread.start()

    def wait() -> Any:
        thread.join(PATIENCE)
        return results[0]

    return wait


def labels(host: PluginHost | TurnPlugins) -> list[str]:
    return [label.value for label in host.call_hook("annotate_message", **CALL)]


def test_a_hook_that_hangs_is_named_and_abandoned_with_its_plugin(hangs: Hangs) -> None:
    host = PluginHost([("quick", Labels()), ("slow", hangs)])
    told: list[HookCall] = []
    host.on_hang = told.append
    wait = in_background(lambda: labels(host))
    wait_until(lambda: host.hanging_call)
    call = host.hanging_call
    assert call is not None
    assert (call.plugin, call.hook) == ("slow", "annotate_message")
    wait_until(lambda: told == [call])
    assert host.abandon_hanging_call()
    assert wait() == ["quick"]
    assert host.hanging_call is None
    assert not host.abandon_hanging_call()
    (fault,) = host.take_faults()
    assert (fault.kind, fault.dropped) == ("abandoned", True)
    assert "The plugin slow did not return in annotate_message" in str(fault)
    assert "left out until chatlm restarts" in str(fault)
    assert (labels(host), hangs.calls) == (["quick"], 1)


def test_what_an_abandoned_hook_returns_later_changes_nothing(hangs: Hangs) -> None:
    host = PluginHost([("slow", hangs)])
    wait = in_background(lambda: labels(host))
    wait_until(lambda: host.hanging_call)
    host.abandon_hanging_call()
    assert wait() == []
    hangs.go.set()
    wait_until(lambda: not hooks_running())
    assert [fault.kind for fault in host.all_faults] == ["abandoned"]
    assert host.succeeded_calls == set()


class Asks:
    """Waits for the facts of other plugins."""

    @hookimpl
    def write_message(self, text: str, facts: Callable[[], dict[str, str]]) -> str:
        return f"{text}: {facts()}"


def test_the_plugin_that_another_one_waits_for_is_the_one_that_hangs(hangs: Hangs) -> None:
    host = PluginHost([("slow", hangs), ("asks", Asks())], slow_after=0.04)

    def facts() -> Any:
        return host.call_hook("describe_text", **TYPED)

    wait = in_background(lambda: host.call_hook("write_message", "Hi", **TYPED, facts=facts))
    wait_until(lambda: host.hanging_call)
    call = host.hanging_call
    assert call is not None
    assert (call.plugin, call.hook) == ("slow", "describe_text")
    host.abandon_hanging_call()
    assert wait() == "Hi: {}"
    assert [fault.plugin for fault in host.all_faults] == ["slow"]


def test_after_finish_within_nobody_waits_for_hooks(hangs: Hangs) -> None:
    host = PluginHost([("quick", Labels()), ("slow", hangs)])
    wait = in_background(lambda: labels(host))
    wait_until(lambda: hangs.calls)
    host.finish_within(0.0)
    assert wait() == ["quick"]
    assert not host.is_dropped("slow")


def test_labels_that_are_not_waited_for_are_no_fault(
    hangs: Hangs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hook_threads, "HANG_SECONDS", PATIENCE)
    host = PluginHost([("quick", Labels()), ("slow", hangs)])
    turn = TurnPlugins(host)
    with turn.limited(0.0):
        assert labels(turn) == ["quick"]
    assert {call.plugin: (call.result_summary, call.error) for call in turn.take_calls()} == {
        "slow": ("not waited for", ""),
        "quick": ("label quick", ""),
    }


class Stops:
    @hookimpl
    def shutdown(self) -> None:
        self.stopped = True


def test_every_plugin_is_shut_down_though_one_hangs() -> None:
    go = threading.Event()

    class HangsAtTheEnd:
        @hookimpl
        def shutdown(self) -> None:
            go.wait()

    stops = Stops()
    host = PluginHost([("stops", stops), ("hangs", HangsAtTheEnd())])
    host.finish_within(0.0)
    host.shut_down(0.0)
    assert stops.stopped
    go.set()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_a_plugin_raises_is_its_fault_in_the_main_thread_too(
    error: type[BaseException],
) -> None:
    class Raises:
        @hookimpl
        def annotate_message(self) -> None:
            raise error

    host = PluginHost([("quick", Labels()), ("raises", Raises())])
    assert labels(host) == ["quick"]
    assert host.take_faults()[0].error == error.__name__


def test_ctrl_c_ends_the_wait_for_a_hook(hangs: Hangs) -> None:
    host = PluginHost([("slow", hangs)])

    def press() -> None:
        wait_until(lambda: host.hanging_call)
        os.kill(os.getpid(), signal.SIGINT)

    pressing = threading.Thread(target=press)
    pressing.start()
    with pytest.raises(KeyboardInterrupt):
        labels(host)
    pressing.join()
    assert labels(host) == []  # nobody waits any longer


async def test_a_hook_called_in_the_screens_thread_cannot_hold_it(
    hangs: Hangs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatlm.plugin_host.host.UI_THREAD_SECONDS", 0.1)
    host = PluginHost([("quick", Labels()), ("slow", hangs)])
    assert labels(host) == ["quick"]
    assert host.is_dropped("slow")


def test_hooks_are_called_after_a_fork() -> None:
    host = PluginHost([("quick", Labels())])
    labels(host)
    child = os.fork()
    if not child:
        os._exit(0 if labels(host) == ["quick"] else 1)
    deadline = time.monotonic() + PATIENCE
    ended, status = 0, 0
    while not ended and time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        time.sleep(0.01)
    if not ended:
        os.kill(child, signal.SIGKILL)
    assert (ended, status) == (child, 0)


def test_one_thread_serves_many_calls() -> None:
    class Names:
        @hookimpl
        def annotate_message(self) -> list[Annotation]:
            return [Annotation("test", "thread", str(threading.get_ident()))]

    host = PluginHost([(f"p{number}", Names()) for number in range(20)])
    assert len(set(labels(host))) == 1


def test_the_hook_table_is_called_as_it_says_among_hanging_plugins(hangs: Hangs) -> None:
    host = PluginHost([("slow", hangs)])
    host.finish_within(0.0)
    assert host.call_hook("annotate_message", **CALL) == []
    assert host.call_hook("describe_text", **TYPED) == {}


def test_environment_variables_that_a_hook_removes_are_set_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Clears:
        @hookimpl
        def annotate_message(self) -> None:
            os.environ.clear()

    monkeypatch.setenv("CHATLM_TEST_VARIABLE", "here")
    before = dict(os.environ)
    host = PluginHost([("quick", Labels()), ("clears", Clears())])
    assert labels(host) == ["quick"]
    assert dict(os.environ) == before
    assert "it removed environment variables: " in host.take_faults()[0].error


def test_a_request_that_a_hook_changes_by_force_stays_as_it_was() -> None:
    class Mutates:
        @hookimpl
        def adjust_request(self, request: Request) -> Request | None:
            object.__setattr__(request, "messages", ())
            return request if self.returns else None

        returns = False

    plugin = Mutates()
    host = PluginHost([("mutates", plugin)])
    arguments = sample_arguments("adjust_request", engine=None)
    for plugin.returns in (False, True):
        request = host.call_hook("adjust_request", **arguments)
        assert request == arguments["request"]
        assert request.messages
    assert "returned no message of the user" in host.take_faults()[0].error
