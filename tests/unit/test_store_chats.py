"""Forks, the trash, drafts, pins, settings and provenance of saved chats."""

from __future__ import annotations

import dataclasses
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from chatlm.errors import StoreError
from chatlm.store.queries import RECENT_INPUTS_SQL
from chatlm.store.rows import short_title
from chatlm.store.store import Store
from chatlm.types.conversations import ContextPolicy, Conversation, Turn
from chatlm.types.messages import Annotation, Message, Passage
from chatlm.types.provenance import Provenance
from chatlm.types.replies import Reply, StopReason, Usage
from chatlm.types.sampling import Sampling
from tests.unit.test_store import check_words

PROVENANCE = Provenance(
    messages=(Message("system", "s"), Message("user", "lone \ud800", pinned=True)),
    sampling=Sampling(temperature=0.5, seed=3, stop=("x",)),
    model="m",
    adapter="a",
    prompt_format="chatml",
    context_length=512,
    prompt_hash="00ff",
    versions={"torch": "2"},
    plugin_processors=("no-lists",),
)


@pytest.fixture(params=["memory", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "chats.db" if request.param == "file" else None) as opened:
        yield opened


def add_chat(store: Store, title: str = "", turns: int = 2) -> Conversation:
    """A chat whose every part holds something."""
    chat = store.create_conversation(title, "Be brief.")
    store.set_sampling(chat.id, Sampling(temperature=0.5, stop=("x",)))
    for number in range(turns):
        turn = store.add_turn(chat.id, f"question {number}")
        replies = [store.start_reply(turn.id, model="m") for _ in range(2)]
        for reply in replies:
            store.finish_reply(
                reply.id,
                text=f"answer {number}.{reply.version}",
                stop_reason=StopReason.LENGTH,
                usage=Usage(10, 4, 3, 0.25, 1.5),
                settings='{"seed": 2}',
            )
        store.choose_reply(turn.id, replies[0].id)
        store.save_provenance(replies[0].id, dataclasses.replace(PROVENANCE, model=f"m{number}"))
        passages = [Passage("b", "b.md", 0.5, {"n": [1]}), Passage("a", "a.md", 0.75)]
        store.save_passages(turn.id, passages)
        store.annotate(turn.id, None, [Annotation("p", "mood", "joy")])
        store.annotate(turn.id, replies[1].id, [Annotation("p", "mood", "sad", 0.5)])
        store.set_context_policy(turn.id, ContextPolicy.SUMMARISED, f"summary {number}")
    return store.conversation(chat.id)


def without_ids(store: Store, chat: Conversation) -> list[object]:
    """A chat's turns and all that belongs to them, comparable with those of a copy."""
    return [
        (
            dataclasses.replace(turn, id=0, active_reply_id=None, replies=(), annotations=()),
            turn.reply and turn.reply.version,
            [(dataclasses.replace(r, id=0), store.provenance(r.id)) for r in turn.replies],
            store.passages(turn.id),
            [
                (next((r.version for r in turn.replies if r.id == reply), None), label)
                for reply, label in store.annotations(turn.id)
            ],
        )
        for turn in chat.turns
    ]


def test_a_fork_has_everything_of_its_first_turns_and_changes_nothing(store: Store) -> None:
    original = add_chat(store, "Cities", turns=3)
    store.set_pinned(original.id, True)
    store.save_draft(original.id, "half a thought")
    before = store.conversation(original.id)
    fork = store.fork(original.id, 2)
    assert store.conversation(original.id) == before
    assert without_ids(store, fork) == without_ids(store, original)[:2]
    assert (fork.system, fork.sampling) == (original.system, original.sampling)
    assert (fork.pinned, fork.forked_from, store.draft(fork.id)) == (False, original.id, "")
    assert fork.updated > before.updated
    assert {t.id for t in fork.turns}.isdisjoint({t.id for t in original.turns})
    whole = store.fork(original.id)
    assert without_ids(store, whole) == without_ids(store, original)
    assert store.fork(original.id, 0).turns == ()
    store.delete(original.id)
    assert store.conversation(fork.id).forked_from is None
    assert len(without_ids(store, store.conversation(whole.id))) == 3


def test_forks_have_titles_that_tell_them_apart(store: Store) -> None:
    chat = store.create_conversation("Cities")
    first = store.fork(chat.id)
    assert [first.title, store.fork(chat.id).title] == ["Cities (fork)", "Cities (fork 2)"]
    assert store.fork(first.id).title == "Cities (fork 3)"
    store.rename(first.id, "Towns")
    assert store.fork(chat.id).title == "Cities (fork)"
    untitled = store.create_conversation()
    assert store.fork(untitled.id).title == ""
    store.add_turn(untitled.id, "What is\nthis?")
    assert store.fork(untitled.id, 1).title == "What is this? (fork)"
    assert store.fork(untitled.id, 0).title == "", "to be named after its own first message"
    assert store.fork(chat.id, 0).title == "Cities (fork 4)"


def test_an_imported_chat_is_stored_unchanged(store: Store) -> None:
    with Store(None) as other:
        chat = add_chat(other, "Cities")
        other.set_pinned(chat.id, True)
        chat = other.conversation(chat.id)
        store.create_conversation("so that ids differ")
        store.fork(store.create_conversation().id)
        added = store.add_conversation(chat, other.passages, other.annotations, other.provenance)
        assert without_ids(store, added) == without_ids(other, chat)
    assert dataclasses.replace(added, id=chat.id, turns=chat.turns) == chat
    again = store.add_conversation(added, store.passages, store.annotations, store.provenance)
    assert without_ids(store, again) == without_ids(store, added)
    assert not store.list_conversations(limit=1)[0].unfinished


def test_a_failed_import_leaves_nothing(store: Store) -> None:
    replies = (Reply(1, 1, usage=Usage(prompt_tokens=2**63)),)
    turns = (Turn(1, 0, Message("user", "q")), Turn(2, 1, Message("user", "r"), replies))
    with pytest.raises(StoreError):
        store.add_conversation(Conversation(id=1, turns=turns))
    assert (store.list_conversations(), store.recent_inputs(), store.search("q")) == ([], [], [])


def test_a_chat_in_the_trash_is_out_of_sight_and_comes_back_whole(store: Store) -> None:
    kept, gone = add_chat(store, "Kept"), add_chat(store, "Gone")
    store.trash(gone.id)
    assert [chat.id for chat in store.list_conversations()] == [kept.id]
    assert {hit.conversation_id for hit in store.search("question")} == {kept.id}
    assert {hit.conversation_id for hit in store.search("answer")} == {kept.id}
    assert store.search("gone") == []
    for action in (
        lambda: store.conversation(gone.id),
        lambda: store.rename(gone.id, "x"),
        lambda: store.set_pinned(gone.id, True),
        lambda: store.add_turn(gone.id, "x"),
        lambda: store.fork(gone.id),
        lambda: store.trash(gone.id),
    ):
        with pytest.raises(StoreError, match=f"chat {gone.id} was deleted") as caught:
            action()
        assert f"chatlm chats restore {gone.id}" in caught.value.hint
    store.restore(gone.id)
    store.restore(gone.id)
    assert store.conversation(gone.id) == gone
    assert len(store.search("gone")) == 1
    with pytest.raises(StoreError, match="no chat 99"):
        store.restore(99)


def test_emptying_the_trash_takes_what_was_there_before_a_time(store: Store) -> None:
    old, new, kept = (add_chat(store, title) for title in ("Old", "New", "Kept"))
    store.trash(old.id)
    between = datetime.now(UTC)
    store.trash(new.id)
    assert store.empty_trash(between - timedelta(days=1)) == 0
    assert store.empty_trash(between) == 1
    with pytest.raises(StoreError, match=f"no chat {old.id}"):
        store.restore(old.id)
    store.restore(new.id)
    store.trash(new.id)
    assert (store.empty_trash(), store.empty_trash()) == (1, 0)
    assert [chat.id for chat in store.list_conversations()] == [kept.id]
    store.trash(kept.id)
    store.delete(kept.id)
    with pytest.raises(StoreError, match=f"no chat {kept.id}"):
        store.restore(kept.id)


def test_nothing_of_a_chat_is_left_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "chats.db"
    with Store(path) as store:
        ids = [add_words(store, word) for word in ("quince", "medlar", "sorb")]
        with store._database.read_transaction() as db:
            made = [bytes(row["content"]) for row in db.execute("SELECT content FROM provenance")]
        store.trash(ids[0])
        assert store.empty_trash() == 1
        store.delete(ids[1])
        left = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    check_words(path)
    assert [word in left for word in (b"quince", b"medlar", b"sorb")] == [False, False, True]
    assert [content in left for content in made] == [False, False, True]
    assert left.count(b"sorb") >= 6


def add_words(store: Store, word: str) -> int:
    chat = store.create_conversation(f"{word} title", f"{word} system")
    store.set_sampling(chat.id, Sampling(stop=(f"{word} stop",)))
    turn = store.add_turn(chat.id, f"{word} question")
    store.set_context_policy(turn.id, ContextPolicy.SUMMARISED, f"{word} summary")
    reply = store.start_reply(turn.id, model="m")
    store.save_provenance(reply.id, dataclasses.replace(PROVENANCE, prompt_hash=word))
    store.save_draft(chat.id, f"{word} draft")
    return chat.id


def test_provenance_and_drafts_go_with_their_chat(store: Store) -> None:
    chat = add_chat(store)
    store.save_draft(chat.id, "half")
    store.save_draft(None, "new")
    store.delete(chat.id)
    with store._database.read_transaction() as db:
        assert db.execute("SELECT count(*) FROM provenance").fetchone()[0] == 0
        assert [row["text"] for row in db.execute("SELECT text FROM draft")] == ["new"]


def test_drafts_are_kept_for_each_chat_and_for_the_new_one(store: Store) -> None:
    chats = [store.create_conversation() for _ in range(2)]
    assert store.draft(None) == store.draft(chats[0].id) == ""
    store.save_draft(None, "new")
    store.save_draft(None, "newer")
    store.save_draft(chats[0].id, "first\n\x1b[31m")
    assert (store.draft(None), store.draft(chats[0].id)) == ("newer", "first\n\x1b[31m")
    assert store.draft(chats[1].id) == ""
    store.save_draft(chats[0].id, "")
    assert (store.draft(None), store.draft(chats[0].id)) == ("newer", "")
    assert store.conversation(chats[0].id).updated == chats[0].updated
    store.trash(chats[1].id)
    store.save_draft(chats[1].id, "typed while it went")
    store.restore(chats[1].id)
    assert store.draft(chats[1].id) == "typed while it went"
    with pytest.raises(StoreError, match="no chat 99"):
        store.save_draft(99, "x")


def test_pinned_chats_come_first(store: Store) -> None:
    ids = [store.create_conversation(f"T{number}").id for number in range(4)]
    store.set_pinned(ids[1], True)
    listed = store.list_conversations()
    assert [chat.id for chat in listed] == [ids[1], ids[3], ids[2], ids[0]]
    assert [chat.pinned for chat in listed] == [True, False, False, False]
    assert [chat.id for chat in store.list_conversations(limit=2, offset=1)] == [ids[3], ids[2]]
    assert store.conversation(ids[1]).pinned
    store.set_pinned(ids[1], False)
    assert [chat.id for chat in store.list_conversations()] == ids[::-1]


def test_a_chats_own_sampling(store: Store) -> None:
    chat = store.create_conversation()
    assert chat.sampling == Sampling()
    store.set_sampling(chat.id, Sampling(temperature=0.0, seed=2**63 - 1, stop=("\n\n",)))
    kept = store.conversation(chat.id)
    assert kept.sampling == Sampling(temperature=0.0, seed=2**63 - 1, stop=("\n\n",))
    assert kept.updated == chat.updated
    with store._database.write_transaction() as db:
        db.execute("UPDATE conversation SET sampling = '{\"temperature\": 99}'")
    with pytest.raises(StoreError, match=f"settings of chat {chat.id} are damaged"):
        store.conversation(chat.id)


def test_context_policy_and_summary_are_stored(store: Store) -> None:
    turn = store.add_turn(store.create_conversation().id, "?")
    assert (turn.context_policy, turn.summary) == (ContextPolicy.AUTO, "")
    turn = store.set_context_policy(turn.id, ContextPolicy.SUMMARISED, "short")
    assert (turn.context_policy, turn.summary) == (ContextPolicy.SUMMARISED, "short")
    turn = store.set_context_policy(turn.id, ContextPolicy.DROPPED)
    assert (turn.context_policy, turn.summary) == (ContextPolicy.DROPPED, "short")
    assert store.set_context_policy(turn.id, ContextPolicy.AUTO, "") == store.turn(turn.id)
    assert store.turn(turn.id).summary == ""
    with pytest.raises(StoreError, match="no turn 99"):
        store.set_context_policy(99, ContextPolicy.PINNED)


def test_provenance_comes_back_and_the_newest_counts(store: Store) -> None:
    reply = store.start_reply(store.add_turn(store.create_conversation().id, "?").id, model="m")
    assert store.provenance(reply.id) is None
    store.save_provenance(reply.id, dataclasses.replace(PROVENANCE, model="old"))
    store.save_provenance(reply.id, PROVENANCE)
    assert store.provenance(reply.id) == PROVENANCE
    with pytest.raises(StoreError, match="no reply 99"):
        store.save_provenance(99, PROVENANCE)
    with pytest.raises(StoreError, match="no reply 99"):
        store.provenance(99)


@pytest.mark.parametrize("content", [b"", b"junk", b"x\x9c\xabV*"])
def test_damaged_provenance_is_reported_and_the_chat_still_opens(content: bytes) -> None:
    with Store(None) as store:
        chat = add_chat(store, turns=1)
        (turn,) = chat.turns
        with store._database.write_transaction() as db:
            db.execute("UPDATE provenance SET content = ?", (content,))
        with pytest.raises(StoreError, match="is damaged"):
            store.provenance(turn.replies[0].id)
        assert store.conversation(chat.id) == chat
        assert store.fork(chat.id).turns[0].replies[0].text == turn.replies[0].text


def test_sent_messages_newest_first_each_once(store: Store) -> None:
    first, second = store.create_conversation(), store.create_conversation()
    for text in ("one", "two", "one", "three"):
        store.add_turn(first.id, text)
    store.add_turn(second.id, "secret")
    assert store.recent_inputs() == ["secret", "three", "one", "two"]
    assert store.recent_inputs(2) == ["secret", "three"]
    store.fork(first.id)
    assert store.recent_inputs() == ["secret", "three", "one", "two"]
    store.trash(second.id)
    assert store.recent_inputs() == ["three", "one", "two"]
    with store._database.read_transaction() as db:
        plan = [row["detail"] for row in db.execute("EXPLAIN QUERY PLAN " + RECENT_INPUTS_SQL)]
    assert not [line for line in plan if "TEMP B-TREE" in line]


def test_titles_are_found_first(store: Store) -> None:
    named = store.create_conversation("Élan vital")
    store.add_turn(store.create_conversation().id, "What is elan?")
    title, text = store.search("elan")
    assert (title.conversation_id, title.turn_id, title.role) == (named.id, None, None)
    assert (title.snippet, title.spans, title.title) == ("Élan vital", [(0, 4)], "Élan vital")
    assert text.role == "user"
    store.rename(named.id, "東京 trip")
    assert [hit.role for hit in store.search("elan")] == ["user"]
    assert [hit.snippet for hit in store.search("東京 tri")] == ["東京 trip"]
    assert [hit.snippet for hit in store.search("東京")] == ["東京 trip"]
    store.delete(named.id)
    assert store.search("trip") == []


def test_forks_the_trash_and_imports_leave_the_database_whole(tmp_path: Path) -> None:
    path = tmp_path / "chats.db"
    with Store(path) as store:
        chat = add_chat(store, "Cities")
        fork = store.fork(chat.id)
        store.trash(chat.id)
        store.rename(fork.id, "Towns")
        store.restore(chat.id)
        store.add_conversation(fork, store.passages, store.annotations, store.provenance)
        store.delete(chat.id)
    check_words(path)
    db = sqlite3.connect(path)
    assert db.execute("SELECT count(*) FROM provenance").fetchone() == (4,)
    db.close()


def test_plugin_data_is_stored_and_copied_with_its_chat(store: Store) -> None:
    chat = store.create_conversation(
        plugin_data={"rag": {"index": "manual"}}, disabled_plugins=["mood"]
    )
    store.add_turn(chat.id, "Translate: Hello", "Hello")
    store.set_plugin_data(chat.id, "lora", {"adapter": "instruct", "weight": 0.5})
    store.set_plugin_data(chat.id, "rag", {})
    store.set_disabled_plugins(chat.id, ["arena", "mood"])
    for stored in (store.conversation(chat.id), store.fork(chat.id)):
        assert stored.plugin_data == {"lora": {"adapter": "instruct", "weight": 0.5}}
        assert stored.disabled_plugins == {"arena", "mood"}
        assert stored.turns[0].user.text == "Translate: Hello"
        assert stored.turns[0].raw_input == "Hello"


def test_a_value_that_json_lacks_is_refused_and_nothing_changes(store: Store) -> None:
    chat = store.create_conversation(plugin_data={"rag": {"index": "manual"}})
    for value in (float("nan"), {1, 2}):
        with pytest.raises((TypeError, ValueError)):
            store.set_plugin_data(chat.id, "rag", {"index": value})
    assert store.conversation(chat.id).plugin_data == {"rag": {"index": "manual"}}


def test_saved_caches_go_with_their_chats(tmp_path: Path) -> None:
    with Store(tmp_path / "chats.db") as store:
        chats = [add_chat(store) for _ in range(3)]
        for chat in chats:
            folder = store.cache_folder(chat.id)
            assert folder == tmp_path / "caches" / str(chat.id)
            folder.mkdir(parents=True)
            (folder / "0-256.safetensors").write_bytes(b"12345")
        assert store.saved_caches() == (tmp_path / "caches", 3, 15)
        store.trash(chats[0].id)
        assert store.saved_caches()[1:] == (2, 10)
        store.delete(chats[1].id)
        assert [path.name for path in (tmp_path / "caches").iterdir()] == [str(chats[2].id)]
        (tmp_path / "caches" / "99").mkdir()  # written while its chat was deleted
        store.empty_trash()
        assert store.saved_caches()[1] == 1
        store.remove_caches()
        assert store.saved_caches() == (tmp_path / "caches", 0, 0)


def test_nothing_is_saved_of_chats_in_memory() -> None:
    with Store(None) as store:
        assert store.cache_folder(add_chat(store).id) is None
        assert store.saved_caches() == (None, 0, 0)


@pytest.mark.parametrize(
    ("message", "title"),
    [
        ("What is in notes.md\n\nnotes.md\n````\n# Notes\n````", "What is in notes.md"),
        ("```\nx = 1\n```\nExplain this.", "``` x = 1 ``` Explain this."),
        ("Hello,\n\nwhat is this?", "Hello, what is this?"),
    ],
)
def test_the_text_of_attached_files_is_no_title(message: str, title: str) -> None:
    assert short_title("", message) == title
