"""Saved chats on a read-only disk: they are read, new chats stay in memory, and it is said once."""

from __future__ import annotations

from pathlib import Path

from chatlm import tui
from chatlm.engines.scripted import ScriptedEngine
from chatlm.store.store import Store
from chatlm.types.replies import StopReason
from tests.permissions import read_only
from tests.tui.support import (
    chat_of,
    everything_drawn,
    idle,
    make_app,
    newest,
    plain,
    rows,
    say,
    toasts,
    until,
)
from tests.tui.test_chats import WIDE


def save_chat(path: Path) -> None:
    path.parent.mkdir()
    with Store(path) as store:
        turn = store.add_turn(store.create_conversation("Harbours").id, "Where?")
        reply = store.start_reply(turn.id, model="m")
        store.finish_reply(reply.id, text="By the pier.", stop_reason=StopReason.END)


async def test_chats_open_and_new_ones_stay_in_memory(home: Path) -> None:
    save_chat(home / "chats.db")
    with read_only(home), Store(home / "chats.db") as store:
        async with make_app(ScriptedEngine("Not saved."), store).run_test(size=WIDE) as pilot:
            await until(pilot, lambda: rows(pilot)[1:] == ["Harbours"])
            await say(pilot, "Psst")
            await idle(pilot)
            assert "Not saved." in plain(newest(pilot))
            assert "incognito, not saved" in plain(chat_of(pilot).view.header.query_one("#title"))
            assert await chat_of(pilot).switch.open_chat(1)
            await until(pilot, lambda: "By the pier." in everything_drawn(pilot))
            await say(pilot, "And then?")
            await until(pilot, lambda: "read-only" in " ".join(toasts(pilot)))
            await pilot.press("ctrl+n")
            assert chat_of(pilot).incognito
        assert len(store.conversation(1).turns) == 1


def test_it_is_said_once_at_the_start(home: Path) -> None:
    save_chat(home / "chats.db")
    with read_only(home):
        store, notices = tui._open_store(incognito=False)
        store.close()
    assert len(notices) == 1
    assert notices[0].startswith("Saved chats can be read, but nothing is saved.")
    store, notices = tui._open_store(incognito=False)
    store.close()
    assert notices == ()
