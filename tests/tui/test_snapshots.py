"""A picture of each visible state at two sizes; look at them when one changes."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import pytest
from textual.pilot import Pilot

from chatlm.engines.scripted import ScriptedEngine
from chatlm.errors import ModelError
from chatlm.store.store import Store
from chatlm.tui.app import ChatApp
from chatlm.tui.engine_loader import Failed, Ready
from chatlm.tui.widgets.context_gauge import ContextGauge
from chatlm.types.replies import StopReason, Usage
from tests.tui.support import (
    StillEngine,
    app_of,
    chat_of,
    chats_of,
    idle,
    line,
    make_app,
    newest,
    plain,
    say,
    until,
)

SnapCompare = Callable[..., bool]
Steps = Callable[[Pilot[None]], Awaitable[None]]

both_sizes = pytest.mark.parametrize("size", [(80, 24), (160, 48)], ids=["80x24", "160x48"])

REPLY = """The capital of France is **Paris**. A few facts:

- It stands on the *Seine*.
- The `city` has 20 districts.

```python
print("Bonjour")
```
"""


@pytest.fixture
def compare(snap_compare: SnapCompare, size: tuple[int, int]) -> Callable[[ChatApp, Steps], bool]:
    """Take the picture once `steps` are done and the engine's state is on the screen."""

    def take(app: ChatApp, steps: Steps) -> bool:
        async def before(pilot: Pilot[None]) -> None:
            chat_of(pilot).composer.cursor_blink = False
            await steps(pilot)
            await until(pilot, lambda: chats_of(pilot).up_to_date)

        return snap_compare(app, terminal_size=size, run_before=before)

    return take


async def ready(pilot: Pilot[None]) -> None:
    await until(pilot, lambda: isinstance(app_of(pilot).engine_state, Ready))


def stored_chat(stop_reason: StopReason | None = StopReason.END) -> Store:
    store = Store(None)
    for title in ("Plans for the garden", "A very long title that does not fit into the list"):
        turn = store.add_turn(store.create_conversation(title).id, title)
        reply = store.start_reply(turn.id, model="m")
        store.finish_reply(reply.id, text="Yes.", stop_reason=StopReason.END, usage=Usage())
    chat = store.create_conversation()
    turn = store.add_turn(chat.id, "What is the capital of France?\nAnd what is it like?")
    reply = store.start_reply(turn.id, model="m")
    store.journal_reply(reply.id, REPLY)
    if stop_reason is not None:
        usage = Usage(21, 0, 48, 0.25, 2.35)
        store.finish_reply(reply.id, text=REPLY, stop_reason=stop_reason, usage=usage)
    return store


@both_sizes
def test_empty(compare: Callable[[ChatApp, Steps], bool]) -> None:
    """A title, three suggestions, the keys; the composer has the focus."""
    assert compare(make_app(StillEngine()), ready)


@both_sizes
@pytest.mark.parametrize("theme", ["textual-light", "nord"])
def test_finished_in_other_themes(compare: Callable[[ChatApp, Steps], bool], theme: str) -> None:
    """As readable as in the dark theme."""
    app = make_app(StillEngine(), stored_chat(), conversation_id=3, theme=theme)
    assert compare(app, ready)


@both_sizes
def test_loading(compare: Callable[[ChatApp, Steps], bool]) -> None:
    """A quiet line above the composer and in the status bar; typed text is visible."""

    def endless(model: str, report: Callable[[str], None]) -> ScriptedEngine:
        while True:
            report("downloading 42 %")
            time.sleep(0.02)

    async def steps(pilot: Pilot[None]) -> None:
        await pilot.press(*"I can type")
        await until(pilot, lambda: "42 %" in str(app_of(pilot).engine_state))

    app = make_app(open_engine=endless)
    assert compare(app, steps)


@both_sizes
def test_streaming(compare: Callable[[ChatApp, Steps], bool]) -> None:
    """Half a reply, below it the progress and the key that stops it."""
    engine = StillEngine("Once ", "upon ", "a ", "time there ", "was", stand_after=4)

    async def steps(pilot: Pilot[None]) -> None:
        await ready(pilot)
        await say(pilot, "Tell me a story")
        await until(pilot, lambda: chat_of(pilot).view.newest_view is not None)
        await until(pilot, lambda: line(pilot).startswith("writing · 4"))
        await until(pilot, lambda: "Once upon a time there" in plain(newest(pilot)))
        await until(
            pilot, lambda: chat_of(pilot).view.header.query_one(ContextGauge).fill is not None
        )

    assert compare(make_app(engine), steps)


@both_sizes
def test_finished(compare: Callable[[ChatApp, Steps], bool]) -> None:
    """Message, reply, tokens and speed; nothing offered, since it is complete."""
    assert compare(make_app(StillEngine(), stored_chat(), conversation_id=3), ready)


@both_sizes
def test_stopped(compare: Callable[[ChatApp, Steps], bool]) -> None:
    """The line below says that it was stopped and how to continue."""
    store = stored_chat(StopReason.CANCELLED)
    assert compare(make_app(StillEngine(), store, conversation_id=3), ready)


@both_sizes
def test_unfinished_chat_with_the_list(compare: Callable[[ChatApp, Steps], bool]) -> None:
    """The open list marks the chat that was cut off; its reply can go on."""

    async def steps(pilot: Pilot[None]) -> None:
        await ready(pilot)
        await pilot.press("ctrl+l")

    assert compare(make_app(StillEngine(), stored_chat(None), conversation_id=3), steps)


@both_sizes
def test_failed_reply(compare: Callable[[ChatApp, Steps], bool]) -> None:
    """The error is shown below the message and as a toast."""
    broken = ModelError("Out of memory on cuda:0", hint="Start a new chat with ctrl+n.")

    async def steps(pilot: Pilot[None]) -> None:
        await ready(pilot)
        await say(pilot, "Hello")
        await idle(pilot)

    assert compare(make_app(ScriptedEngine(broken)), steps)


@both_sizes
def test_model_missing(compare: Callable[[ChatApp, Steps], bool]) -> None:
    """The error, the command that helps, and the key that tries again."""

    def missing(model: str, report: Callable[[str], None]) -> ScriptedEngine:
        raise ModelError(
            "There is no model smollm2-135m-instruct on this machine",
            hint="`chatlm models pull smollm2-135m-instruct` fetches it.",
        )

    async def steps(pilot: Pilot[None]) -> None:
        await until(pilot, lambda: isinstance(app_of(pilot).engine_state, Failed))

    assert compare(make_app(open_engine=missing), steps)


@both_sizes
def test_incognito(compare: Callable[[ChatApp, Steps], bool]) -> None:
    """The title and the composer's colour say that nothing is saved."""
    assert compare(make_app(StillEngine(), incognito=True), ready)


@both_sizes
def test_help(compare: Callable[[ChatApp, Steps], bool]) -> None:
    """Every key on one card."""

    async def steps(pilot: Pilot[None]) -> None:
        await ready(pilot)
        await pilot.press("f1")

    assert compare(make_app(StillEngine()), steps)
