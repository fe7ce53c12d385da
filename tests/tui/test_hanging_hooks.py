"""A hook that hangs is named in the status bar; Esc continues without its plugin."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from chatlm.plugin_host import hook_threads
from chatlm.plugin_host.hookspecs import hookimpl
from chatlm.testing import ScriptedScreen, scripted_screen
from chatlm.tui.chat.status import StatusBar
from tests.waiting import PATIENCE

TURN_HOOKS = (
    "write_message",
    "annotate_message",
    "retrieve_passages",
    "build_messages",
    "adjust_request",
    "turn_finished",
)


@pytest.fixture
def go(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Lets all hanging hooks return."""
    monkeypatch.setattr(hook_threads, "HANG_SECONDS", 0.2)
    event = threading.Event()
    yield event
    event.set()


def hanging(go: threading.Event, *hooks: str) -> Any:
    """A plugin whose hooks do not return before `go` is set."""

    class Hangs:
        calls = 0

    def hang() -> None:
        Hangs.calls += 1
        go.wait()

    for hook in hooks:
        setattr(Hangs, hook, staticmethod(hookimpl(specname=hook)(hang)))
    return Hangs()


async def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "this state never came"
        await asyncio.sleep(0.01)


def status_of(shown: ScriptedScreen) -> str:
    return str(shown.app.chat_screen.query_one(StatusBar).render())


async def send(shown: ScriptedScreen, text: str) -> None:
    """Send a message without waiting for what comes of it."""
    shown.app.chat_screen.chat.composer.text = text
    await shown.pilot.press("enter")


@pytest.mark.parametrize("hook", TURN_HOOKS)
async def test_a_turn_goes_on_without_a_hook_that_hangs(hook: str, go: threading.Event) -> None:
    plugin = hanging(go, hook)
    async with scripted_screen(plugin, replies=["Here I am.", "And again."]) as shown:
        await send(shown, "Hello")
        await until(lambda: f"waiting for the plugin plugin in {hook} · " in status_of(shown))
        assert "esc continue without it" in status_of(shown)
        await shown.press("escape")
        assert "Here I am." in shown.text()
        assert "waiting" not in status_of(shown)
        (fault,) = shown.faults
        assert (fault.hook, fault.kind, fault.dropped) == (hook, "abandoned", True)
        assert "left out until chatlm restarts" in shown.notifications[-1]
        turn = shown.app.chat_screen.chat.conversation.turns[0]
        assert turn.reply is not None
        assert turn.reply.stop_reason == "end"
        await shown.submit("Again")
        assert "And again." in shown.text()
        assert plugin.calls == 1


async def test_the_screen_works_while_a_hook_of_it_hangs(go: threading.Event) -> None:
    class Hangs:
        hung = False

        @hookimpl
        def chat_shown(self) -> None:
            if self.hung:
                go.wait()

    plugin = Hangs()
    async with scripted_screen(plugin, replies=["Here I am."]) as shown:
        plugin.hung = True
        await send(shown, "/new")
        await until(lambda: "waiting for the plugin plugin in chat_shown" in status_of(shown))
        await send(shown, "Hello")
        await until(lambda: "Here I am." in shown.text())
        await shown.press("escape")
        (fault,) = shown.faults
        assert (fault.hook, fault.dropped) == ("chat_shown", True)


async def test_quitting_waits_for_no_hook_and_keeps_the_message(go: threading.Event) -> None:
    async with scripted_screen(hanging(go, "write_message"), replies=["Never."]) as shown:
        store = shown.app.services.store
        await send(shown, "Keep this")
        await until(lambda: "write_message" in status_of(shown))
        await shown.pilot.press("ctrl+q")
        await until(lambda: shown.app._exit)
        (chat,) = store.list_conversations()
        assert [turn.user.text for turn in store.conversation(chat.id).turns] == ["Keep this"]
