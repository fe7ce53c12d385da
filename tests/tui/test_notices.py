"""Notices stay few, however long a chat becomes."""

from __future__ import annotations

from textual.pilot import Pilot
from textual.widget import Widget

from chatlm import hookimpl
from chatlm.engines.scripted import ScriptedEngine
from chatlm.plugin_host.host import PluginHost
from chatlm.store.store import Store
from chatlm.types.replies import StopReason
from tests.tui.support import chat_of, idle, make_app, notices, say, toasts, until


def long_chat(store: Store, turns: int) -> int:
    """A stored chat of so many turns; its id."""
    chat = store.create_conversation()
    for number in range(turns):
        turn = store.add_turn(chat.id, f"Question {number}")
        reply = store.start_reply(turn.id, model="m")
        store.finish_reply(reply.id, text="Because of the sea.", stop_reason=StopReason.END)
    return chat.id


def widgets(pilot: Pilot[None]) -> int:
    return len(list(pilot.app.screen.walk_children(Widget)))


async def test_past_a_full_context_one_line_says_so_and_the_number_of_widgets_stays_flat() -> None:
    store = Store(None)
    chat = long_chat(store, 40)
    engine = ScriptedEngine(*["It is so."] * 30, context=120)
    async with make_app(engine, store, conversation_id=chat).run_test() as pilot:
        await until(pilot, lambda: chat_of(pilot).conversation_id == chat)
        counts, told = [], []
        for number in range(24):
            await say(pilot, f"More {number}")
            await idle(pilot)
            (notice,) = notices(pilot)
            told.append(notice)
            counts.append(widgets(pilot))
        assert all("did not fit" in notice for notice in told)
        assert len(set(told)) > 1, "it says how many do not fit"
        assert max(counts[12:]) <= max(counts[:12]), "it stays flat"
        assert len([toast for toast in toasts(pilot) if "Context full" in toast]) <= 1


class Failing:
    """Fails in every turn, but not three times in a row."""

    def __init__(self) -> None:
        self.calls = 0

    @hookimpl
    def annotate_message(self) -> None:
        self.calls += 1
        if self.calls % 3:
            raise ValueError(f"failure {self.calls}")


async def test_notices_are_unmounted_with_the_turns_they_are_about() -> None:
    engine = ScriptedEngine(*["A long reply.\n\n" * 20] * 20)
    host = PluginHost([("failing", Failing())])
    async with make_app(engine, plugins=host).run_test(size=(80, 20)) as pilot:
        counts = []
        for number in range(14):
            await say(pilot, f"More {number}")
            await idle(pilot)
            counts.append(len(notices(pilot)))
        assert counts[0] > 0
        assert max(counts[7:]) <= max(counts[:7]) < sum(counts)
