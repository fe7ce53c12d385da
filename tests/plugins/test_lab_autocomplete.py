"""Autocompletion: what is suggested, from what, and what is forgotten."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from chatlm import Store
from chatlm.testing import scripted_screen
from chatlm_lab import actions, autocomplete, plugin
from chatlm_lab.autocomplete import Autocomplete, WordCompleter, read_own_texts
from tests.waiting import PATIENCE

MESSAGES = [
    "Please summarise the following text in three sentences.",
    "Please summarise the following text in three sentences.\nThank you!",
    "Please translate the following text into French.",
    "What is the capital of Peru?",
    "What is the capital of Chile?",
]


def saved_chat(home: Path, *messages: str) -> int:
    """Save a chat with messages of the user; return its id."""
    home.mkdir(exist_ok=True)
    with Store(home / "chats.db") as store:
        chat = store.create_conversation()
        for message in messages:
            store.add_turn(chat.id, message)
        return chat.id


@pytest.mark.parametrize(
    ("text", "suggested"),
    [
        ("Please sum", "marise the following text in"),
        ("Please", " summarise the following text in"),  # two of three times
        ("Please ", "summarise the following text in"),
        ("What", " is the capital of"),
        ("What is the capital of", ""),
        ("Hello.\nWhat i", "s the capital of"),
        ("xyzzy the follow", "ing text in three sentences"),
        ("xyzzy", ""),
        ("Thank you", ""),  # written once
        ("", ""),
        ("Please summarise\n", ""),
    ],
)
def test_words_that_mostly_followed_are_suggested(text: str, suggested: str) -> None:
    assert WordCompleter(MESSAGES).complete(text) == suggested


def test_few_texts_are_enough_to_begin_with() -> None:
    assert WordCompleter(["a"]).complete("a") == ""
    assert WordCompleter(["say it", "say it"]).complete("s") == "ay it"


def test_messages_of_saved_chats_and_own_texts_are_learned_from(home: Path, tmp_path: Path) -> None:
    saved_chat(home, "First message", "/count", "Second message")
    trashed = saved_chat(home, "Thrown away")
    with Store(home / "chats.db") as store:
        store.trash(trashed)
    notes = tmp_path / "notes.txt"
    notes.write_text("My own notes")
    found = read_own_texts(home / "chats.db", [str(notes)])
    assert found == ["Second message", "First message", "My own notes"]
    assert read_own_texts(tmp_path / "none.db", []) == []
    assert not (tmp_path / "none.db").exists()


def test_only_the_newest_text_is_learned_from(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved_chat(home, "old", "newer", "newest")
    monkeypatch.setattr(autocomplete, "MAX_CHARACTERS", 8)
    assert read_own_texts(home / "chats.db", []) == ["newest", "ne"]


def test_learning_is_off_the_calling_thread_and_forgetting_is_at_once() -> None:
    texts = ["say it again"] * 3
    threads: list[threading.Thread] = []

    def read() -> list[str]:
        threads.append(threading.current_thread())
        return list(texts)

    running = Autocomplete(read)
    running.refresh().result(PATIENCE)
    assert threading.current_thread() not in threads
    assert (running.complete("say"), running.words) == (" it again", 13)
    running.forget()
    assert (running.words, running._learned) == (0, None)
    texts.clear()
    running.refresh().result(PATIENCE)
    assert running.complete("say") == ""
    running.close()


def test_what_is_forgotten_while_it_is_learned_stays_forgotten() -> None:
    reading, go_on = threading.Event(), threading.Event()

    def read() -> list[str]:
        reading.set()
        assert go_on.wait(PATIENCE)
        return ["secret words"] * 3

    running = Autocomplete(read)
    done = running.refresh()
    assert reading.wait(PATIENCE)
    running.forget()
    go_on.set()
    done.result(PATIENCE)
    assert running.words == 0
    running.close()


def test_texts_that_cannot_be_read_suggest_nothing(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    running = Autocomplete(lambda: read_own_texts(home / "chats.db", [str(home / "missing")]))
    running.refresh().result(PATIENCE)
    assert running.complete("say") == ""
    assert "missing" in caplog.text
    running.close()


def test_it_is_off_by_default_and_reads_nothing(home: Path) -> None:
    saved_chat(home, *MESSAGES)
    assert plugin.suggest_text("Please sum") is None
    actions.refresh()
    assert actions._running == []


async def test_the_screen_suggests_and_a_deleted_chat_is_forgotten(home: Path) -> None:
    chat = saved_chat(home, *MESSAGES)
    async with scripted_screen(plugin, replies=["Fine."]) as shown:
        await shown.submit("/autocomplete on")
        assert shown.notifications[-1].startswith("Autocompletion is on, from ")
        await shown.press(*"What")
        assert shown.app.chat_screen.chat.composer.suggestion == " is the capital of"
        await shown.press("right", "right")
        assert shown.app.chat_screen.chat.composer.text == "What is the"
        assert plugin.suggest_text("/What") is None
        # chats of this screen are in memory, as incognito ones are: nothing is learned from them
        await shown.submit("Unheard of words, unheard of words")
        actions.refresh()
        actions._running[0].refresh().result(PATIENCE)
        assert plugin.suggest_text("Unheard") is None
        with Store(home / "chats.db") as store:
            store.delete(chat)
        plugin.chat_deleted(chat)
        actions._running[0].refresh().result(PATIENCE)
        assert plugin.suggest_text("What") is None
        await shown.submit("/autocomplete maybe")
        assert "takes on or off" in shown.notifications[-1]
        await shown.submit("/autocomplete off")
        assert actions._running == []
        assert shown.faults == []
