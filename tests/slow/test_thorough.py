"""Checks that take minutes; `make check-slow` runs them."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from chatlm.engines.local_engine import LocalEngine
from chatlm.store.store import Store
from chatlm.types.events import Delta
from chatlm.types.messages import Message
from chatlm.types.requests import Request
from chatlm.types.sampling import Sampling
from tests.endless import text_on_disk
from tests.waiting import wait_until

pytestmark = pytest.mark.slow


def is_on_disk(database: Path, chat: int, said: str) -> bool:
    return text_on_disk(database, chat).startswith(said)


def test_killed_at_any_moment_the_chats_are_whole(endless_home: Path) -> None:
    database = endless_home / "chats.db"
    moments = random.Random(5)
    for number in range(1, 13):
        process = subprocess.Popen(
            [sys.executable, "-m", "chatlm", "ask", f"Story {number}, long."],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert process.stdout is not None
        said = process.stdout.read(moments.randint(1, 120))
        wait_until(partial(is_on_disk, database, number, said))
        process.kill()
        process.communicate()
        with Store(database) as store:
            assert len(store.list_conversations()) == number
            reply = store.conversation(number).turns[0].reply
        assert reply is not None
        assert reply.stop_reason is None
        assert reply.text.startswith(said)
    with sqlite3.connect(database) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_nine_turns_are_the_same_with_and_without_reuse(engine: LocalEngine) -> None:
    sampling = Sampling(temperature=0.8, seed=3, max_tokens=80)

    def reply(messages: tuple[Message, ...]) -> str:
        events = engine.stream(Request(messages, sampling))
        return "".join(event.text for event in events if isinstance(event, Delta))

    messages: tuple[Message, ...] = ()
    for number in range(9):
        messages = (*messages, Message("user", f"Tell me fact {number} about the sea."))
        warm = reply(messages)
        engine._prompt_cache.clear()
        assert reply(messages) == warm
        messages = (*messages, Message("assistant", warm))
        list(engine.read_ahead(Request(messages)))
