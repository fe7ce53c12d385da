"""Saved chats come back as they were given, in order, from any thread."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatlm.errors import StoreError
from chatlm.store.queries import CHAT_LIST_SQL
from chatlm.store.store import Store
from chatlm.types.messages import Annotation, Passage
from chatlm.types.replies import StopReason, Usage

ANY_TEXT = st.text(st.characters(exclude_categories=()))


@pytest.fixture(params=["memory", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    path = tmp_path / "chats.db" if request.param == "file" else None
    with Store(path) as opened:
        yield opened


def finish(store: Store, reply_id: int, text: str = "yes") -> None:
    store.finish_reply(reply_id, text=text, stop_reason=StopReason.END, usage=Usage())


def check_words(path: Path) -> None:
    """The word index holds exactly the words of the messages, and the database is whole."""
    db = sqlite3.connect(path)
    for table in ("turn_words", "reply_words", "reasoning_words", "tool_words", "title_words"):
        db.execute(f"INSERT INTO {table} ({table}, rank) VALUES ('integrity-check', 1)")
    assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert db.execute("PRAGMA foreign_key_check").fetchall() == []
    db.close()


def test_a_conversation_comes_back_with_its_turns_and_replies_in_order(store: Store) -> None:
    chat = store.create_conversation("Title", "Be brief.")
    assert (chat.title, chat.system, chat.turns) == ("Title", "Be brief.", ())
    first = store.add_turn(chat.id, "one?")
    reply = store.start_reply(first.id, model="m", adapter="a", settings='{"seed": 1}')
    assert (reply.version, reply.text, reply.stop_reason) == (1, "", None)
    usage = Usage(10, 4, 3, 0.25, 1.5)
    done = store.finish_reply(
        reply.id,
        text="one.",
        stop_reason=StopReason.LENGTH,
        usage=usage,
        settings='{"seed": 2}',
        error="e",
    )
    assert (done.text, done.stop_reason, done.usage) == ("one.", StopReason.LENGTH, usage)
    assert (done.model, done.adapter, done.settings, done.error) == ("m", "a", '{"seed": 2}', "e")
    second = store.add_turn(chat.id, "two?")
    assert (first.position, second.position) == (0, 1)
    kept = store.conversation(chat.id)
    assert [turn.user.text for turn in kept.turns] == ["one?", "two?"]
    assert kept.turns[0].replies == (done,)
    assert kept.turns[0] == store.turn(first.id)
    assert kept.updated > kept.created


def test_a_new_version_is_chosen_and_an_older_one_can_be_chosen_again(store: Store) -> None:
    turn = store.add_turn(store.create_conversation().id, "?")
    replies = [store.start_reply(turn.id, model="m") for _ in range(3)]
    assert [reply.version for reply in replies] == [1, 2, 3]
    assert store.turn(turn.id).reply == replies[2]
    assert store.choose_reply(turn.id, replies[0].id).reply == replies[0]
    other = store.add_turn(store.create_conversation().id, "?")
    with pytest.raises(StoreError, match=f"turn {other.id} has no reply {replies[0].id}"):
        store.choose_reply(other.id, replies[0].id)


def test_a_journalled_reply_is_unfinished_and_a_finished_one_can_go_on(store: Store) -> None:
    chat = store.create_conversation()
    turn = store.add_turn(chat.id, "?")
    assert store.list_conversations()[0].unfinished
    reply = store.start_reply(turn.id, model="m")
    store.journal_reply(reply.id, "so f")
    assert store.turn(turn.id).replies[0].text == "so f"
    assert store.list_conversations()[0].unfinished
    store.finish_reply(
        reply.id, text="so far", stop_reason=StopReason.ERROR, usage=Usage(), error="broke"
    )
    assert not store.list_conversations()[0].unfinished
    store.journal_reply(reply.id, "so far and")
    again = store.turn(turn.id).replies[0]
    assert (again.stop_reason, again.error, again.can_continue) == (None, None, True)
    assert store.list_conversations()[0].unfinished


def test_the_list_is_newest_first_and_titles_fall_back_to_the_first_message(store: Store) -> None:
    named, long, empty = (store.create_conversation(title) for title in ("Named", "", ""))
    store.add_turn(long.id, "What\n is " + "x" * 100)
    store.add_turn(named.id, "later")
    listed = store.list_conversations()
    assert [chat.id for chat in listed] == [named.id, long.id, empty.id]
    assert [chat.title for chat in listed] == ["Named", "What is " + "x" * 51 + "…", ""]
    assert [chat.turns for chat in listed] == [1, 1, 0]
    assert [chat.id for chat in store.list_conversations(limit=1, offset=1)] == [long.id]
    store.rename(long.id, "Long")
    assert store.list_conversations()[1].title == "Long"
    store.set_system(long.id, "Be long.")
    assert store.conversation(long.id).system == "Be long."


def test_passages_and_annotations(store: Store) -> None:
    turn = store.add_turn(store.create_conversation().id, "?")
    reply = store.start_reply(turn.id, model="m")
    store.save_passages(turn.id, [Passage("old", "s", 1.0)])
    passages = [Passage("b", "b.md", 0.5, {"line": 3}), Passage("a", "a.md", 0.75)]
    store.save_passages(turn.id, passages)
    assert store.passages(turn.id) == passages
    store.save_passages(turn.id, [Passage("n", "s", float("nan"))])
    assert store.passages(turn.id) == [Passage("n", "s", 0.0)]

    joy, sad = (Annotation("emotion", "emotion", value, 0.5) for value in ("joy", "sad"))
    topic = Annotation("topic", "topic", "food")
    store.annotate(turn.id, None, [joy, topic])
    store.annotate(turn.id, reply.id, [sad])
    store.annotate(turn.id, None, [sad])
    assert store.annotations(turn.id) == [(None, topic), (reply.id, sad), (None, sad)]
    with pytest.raises(StoreError, match="no reply"):
        store.annotate(turn.id, reply.id + 1, [joy])


def test_missing_chats_are_named(store: Store) -> None:
    with pytest.raises(StoreError, match="no chat 12") as caught:
        store.conversation(12)
    assert "chatlm chats list" in caught.value.hint
    for number in (0, -1, 2**63, 10**30):
        with pytest.raises(StoreError, match=f"no chat {number}"):
            store.conversation(number)
    for action in (
        lambda: store.rename(12, "x"),
        lambda: store.set_system(12, "x"),
        lambda: store.delete(12),
        lambda: store.add_turn(12, "x"),
    ):
        with pytest.raises(StoreError, match="no chat 12"):
            action()
    with pytest.raises(StoreError, match="no turn 12"):
        store.start_reply(12, model="m")
    with pytest.raises(StoreError, match="no reply 12"):
        store.journal_reply(12, "x")
    with pytest.raises(StoreError, match="no reply 12"):
        finish(store, 12)


def test_delete_removes_a_chat_whole_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "chats.db"
    with Store(path) as store:
        chats = [store.create_conversation("", f"{name} system") for name in ("quince", "medlar")]
        for name, chat in zip(("quince", "medlar"), chats, strict=True):
            turn = store.add_turn(chat.id, f"{name} question")
            reply = store.start_reply(turn.id, model="m")
            store.journal_reply(reply.id, f"{name} half")
            finish(store, reply.id, f"{name} answer")
            store.save_passages(turn.id, [Passage(f"{name} passage", "s", 1.0)])
            store.annotate(turn.id, reply.id, [Annotation("p", "n", f"{name} label")])
        store.delete(chats[0].id)
        assert [chat.id for chat in store.list_conversations()] == [chats[1].id]
        assert store.search("quince") == []
        assert len(store.search("medlar")) == 2
        assert store.create_conversation().id > chats[1].id
        left = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    check_words(path)
    assert b"quince" not in left
    assert left.count(b"medlar") >= 5


@given(st.lists(ANY_TEXT, min_size=6, max_size=6))
def test_any_text_comes_back(texts: list[str]) -> None:
    title, system, content, reply_text, model, settings = texts
    with Store(None) as store:
        chat = store.create_conversation(title, system)
        turn = store.add_turn(chat.id, content)
        reply = store.start_reply(turn.id, model=model, settings=settings)
        store.journal_reply(reply.id, reply_text)
        finish(store, reply.id, reply_text)
        kept = store.conversation(chat.id)
        again = kept.turns[0].replies[0]
    back = [
        kept.title,
        kept.system,
        kept.turns[0].user.text,
        again.text,
        again.model,
        again.settings,
    ]
    for given_text, kept_text in zip(texts, back, strict=True):
        if any("\ud800" <= character <= "\udfff" for character in given_text):
            joined = given_text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            assert kept_text == joined
        else:
            assert kept_text == given_text


@given(st.lists(st.tuples(st.sampled_from(["turn", "start", "journal", "finish"]), ANY_TEXT)))
def test_the_word_index_follows_every_change(steps: list[tuple[str, str]]) -> None:
    with Store(None) as store:
        chat = store.create_conversation()
        turn = store.add_turn(chat.id, "first")
        reply = store.start_reply(turn.id, model="m")
        for step, text in steps:
            match step:
                case "turn":
                    turn = store.add_turn(chat.id, text)
                    reply = store.start_reply(turn.id, model="m")
                case "start":
                    reply = store.start_reply(turn.id, model="m")
                case "journal":
                    store.journal_reply(reply.id, text)
                case _:
                    finish(store, reply.id, text)
        for name in ("turn_words", "reply_words", "reasoning_words", "tool_words", "title_words"):
            with store._database.write_transaction() as db:
                db.execute(f"INSERT INTO {name} ({name}, rank) VALUES ('integrity-check', 1)")
        store.delete(chat.id)
        with store._database.read_transaction() as db:
            for table in ("turn", "reply"):
                assert db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] == 0


def test_threads_read_and_write_at_once(store: Store) -> None:
    chat = store.create_conversation()

    def work(number: int) -> int:
        turn = store.add_turn(chat.id, f"question {number}")
        reply = store.start_reply(turn.id, model="m")
        for step in range(5):
            store.journal_reply(reply.id, f"answer {number} " * step)
            assert store.list_conversations()[0].turns > 0
            assert store.conversation(chat.id).turns[0].position == 0
        finish(store, reply.id, f"answer {number}")
        return turn.id

    with ThreadPoolExecutor(8) as pool:
        turn_ids = list(pool.map(work, range(24)))
    kept = store.conversation(chat.id)
    assert [turn.position for turn in kept.turns] == list(range(24))
    assert {turn.id for turn in kept.turns} == set(turn_ids)
    for turn in kept.turns:
        assert turn.reply is not None
        assert turn.user.text.split()[1] == turn.reply.text.split()[1]


def test_memory_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Store(None) as store:
        turn = store.add_turn(store.create_conversation().id, "secret")
        assert store.turn(turn.id).user.text == "secret"
    assert list(tmp_path.iterdir()) == []


def test_the_file_is_private_and_reopens_with_all_in_it(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "chats.db"
    with Store(path) as store:
        chat = store.create_conversation("kept")
        reply = store.start_reply(store.add_turn(chat.id, "q").id, model="m")
        store.journal_reply(reply.id, "half")
    assert path.stat().st_mode & 0o077 == 0
    with Store(path) as store:
        again = store.conversation(chat.id)
    assert again.title == "kept"
    assert again.turns[0].reply is not None
    assert (again.turns[0].reply.text, again.turns[0].reply.stop_reason) == ("half", None)


def test_listing_ten_thousand_chats_reads_only_what_it_shows(tmp_path: Path) -> None:
    with Store(tmp_path / "chats.db") as store:
        times = [f"2026-01-01T00:{n // 60 % 60:02}:{n % 60:02}.{n:06}+00:00" for n in range(10_000)]
        with store._database.write_transaction() as db:
            db.executemany(
                "INSERT INTO conversation (title, system, created, updated) VALUES ('', '', ?, ?)",
                [(time, time) for time in times],
            )
            db.executemany(
                "INSERT INTO turn (conversation_id, position, content, created)"
                " VALUES (?, ?, ?, '')",
                [(n + 1, place, f"question {n}") for n in range(10_000) for place in range(2)],
            )
        steps = 0

        def count() -> int:
            nonlocal steps
            steps += 1
            return 0

        with store._database.read_transaction() as db:
            plan = [
                row["detail"]
                for row in db.execute("EXPLAIN QUERY PLAN " + CHAT_LIST_SQL, ("ask", 50, 0))
            ]
            db.set_progress_handler(count, 100)
        newest = store.list_conversations(limit=50)
        with store._database.read_transaction() as db:
            db.set_progress_handler(None, 0)
        everything = store.list_conversations()
    assert "SCAN c USING INDEX conversation_listed" in plan
    assert not [line for line in plan if "TEMP B-TREE" in line or line.startswith("SCAN t")]
    assert not [line for line in plan if line.startswith("SCAN r")]
    assert steps < 100
    assert len(newest) == 50
    assert newest == everything[:50]
    assert len(everything) == 10_000
    assert [chat.updated for chat in everything] == sorted(
        (chat.updated for chat in everything), reverse=True
    )
