"""Reasoning, tool calls, images and files are saved, found and exported like text."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from chatlm.errors import StoreError, UsageError
from chatlm.store import export
from chatlm.store.migrations import MIGRATIONS
from chatlm.store.rows import dump_steps
from chatlm.store.store import Store
from chatlm.types.conversations import Conversation
from chatlm.types.parts import File, Image, Reasoning, Text, ToolCall, ToolResult
from chatlm.types.replies import Reply, ReplyStep, StopReason, Usage
from tests.unit.test_store import check_words

CAT = Image("image/png", 3, 2, "a" * 64, "cat.png")
QUESTION = (Text("Which animal?"), CAT, File("notes.txt", "```\nfurry"))
STEPS = (
    ReplyStep(
        (
            Reasoning("Whiskers\ud800 suggest a feline."),
            ToolCall("c1", "classify", '{"image": 1}'),
            ToolResult("c1", "classify", "cat", is_error=True),
        ),
        StopReason.TOOL_CALLS,
        Usage(10, 2, 5, 0.5, 1.0),
    ),
    ReplyStep((Text("It is a cat."),), StopReason.END, Usage(20, 4, 3, 0.25, 0.5)),
)
SAFE_REASONING = "Whiskers\ufffd suggest a feline."


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chats.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with Store(path) as opened:
        yield opened


def add_chat(store: Store) -> Reply:
    turn = store.add_turn(store.create_conversation().id, QUESTION)
    started = store.start_reply(turn.id, model="m")
    store.journal_reply(started.id, STEPS)
    journalled = store.reply(started.id)
    assert [step.stop_reason for step in journalled.steps] == [StopReason.TOOL_CALLS, None]
    return store.finish_reply(started.id, steps=STEPS)


def loaded(store: Store) -> Conversation:
    return store.conversation(1)


def test_parts_come_back_as_they_were_saved(store: Store) -> None:
    reply = add_chat(store)
    assert reply.reasoning == SAFE_REASONING
    assert reply.steps[0].parts[1:] == STEPS[0].parts[1:]
    assert reply.steps[1] == STEPS[1]
    (turn,) = loaded(store).turns
    assert turn.user.parts == QUESTION
    assert turn.replies == (reply,)
    copy = store.fork(1)
    assert copy.turns[0].user == turn.user
    assert copy.turns[0].replies[0].steps == reply.steps


def test_a_row_of_text_alone_has_no_parts(store: Store, path: Path) -> None:
    turn = store.add_turn(store.create_conversation().id, "q")
    store.finish_reply(
        store.start_reply(turn.id, model="m").id,
        text="a",
        stop_reason=StopReason.END,
        usage=Usage(1, 0, 2),
    )
    add_chat(store)
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT parts IS NULL, content FROM turn ORDER BY id").fetchall() == [
            (1, "q"),
            (0, "Which animal?"),
        ]
        rows = db.execute(
            "SELECT steps IS NULL, text, reasoning, completion_tokens FROM reply ORDER BY id"
        ).fetchall()
    db.close()
    assert rows == [(1, "a", "", 2), (0, "It is a cat.", SAFE_REASONING, 8)]


def test_reasoning_is_searched_by_itself(store: Store, path: Path) -> None:
    reply = add_chat(store)
    assert store.search("whisk") == []
    (hit,) = store.search("whisk", part="reasoning")
    assert (hit.reply_id, hit.role, hit.snippet) == (reply.id, "assistant", SAFE_REASONING)
    assert hit.spans == [(0, 8)]
    assert [hit.reply_id for hit in store.search("cat")] == [reply.id]
    assert store.search("cat", part="reasoning") == []
    store.journal_reply(reply.id, [ReplyStep((Reasoning("猫のひげ"),))])
    assert store.search("whiskers", part="reasoning") == []
    assert [hit.reply_id for hit in store.search("ひげ", part="reasoning")] == [reply.id]
    check_words(path)
    store.delete(1)
    assert store.search("ひげ", part="reasoning") == []
    check_words(path)


def test_calls_and_results_are_searched_by_themselves(store: Store, path: Path) -> None:
    reply = add_chat(store)
    assert store.search("classify") == []
    (hit,) = store.search("classify", part="tools")
    assert (hit.reply_id, hit.role, hit.part) == (reply.id, "assistant", "tools")
    assert hit.snippet[slice(*hit.spans[0])] == "classify"
    call = ToolCall("c9", "look_up", '{"place": "Caf\\u00e9 M\\u00fcller"}')
    result = ToolResult("c9", "look_up", "open until nine", source="a.example")
    store.journal_reply(reply.id, [ReplyStep((call, result))])
    for words in ("cafe muller", "open nine", "a.example", "look_up"):
        assert [hit.reply_id for hit in store.search(words, part="tools")] == [reply.id]
    assert store.search("classify", part="tools") == []
    store.journal_reply(reply.id, [ReplyStep((ToolCall("c9", "find", '{"what": "猫"}'),))])
    assert [hit.reply_id for hit in store.search("猫", part="tools")] == [reply.id]
    check_words(path)
    store.delete(1)
    assert store.search("find", part="tools") == []
    check_words(path)


def test_calls_of_an_older_version_are_found_after_the_migration(path: Path) -> None:
    before = next(n for n, one in enumerate(MIGRATIONS) if any("tool_text" in sql for sql in one))
    db = sqlite3.connect(path)
    for statements in MIGRATIONS[:before]:
        for statement in statements:
            db.execute(statement)
    db.execute(f"PRAGMA user_version = {before}")
    time = "2026-01-02T03:04:05.000006+00:00"
    db.execute(
        "INSERT INTO conversation (id, title, system, created, updated) VALUES (1, '', '', ?, ?)",
        (time, time),
    )
    db.execute(
        "INSERT INTO turn (id, conversation_id, position, content, created)"
        " VALUES (5, 1, 0, 'q', ?)",
        (time,),
    )
    for version, steps in enumerate((dump_steps(STEPS), "{damaged", None), 1):
        db.execute(
            "INSERT INTO reply (turn_id, version, text, steps, model, settings, created)"
            " VALUES (5, ?, '', ?, 'm', '{}', ?)",
            (version, steps, time),
        )
    db.commit()
    db.close()
    with Store(path) as store:
        for word in ("classify", "image", "cat"):
            assert [hit.reply_id for hit in store.search(word, part="tools")] == [1]
    check_words(path)


def test_a_database_without_parts_gets_them(path: Path) -> None:
    db = sqlite3.connect(path)
    for statements in MIGRATIONS[:6]:
        for statement in statements:
            db.execute(statement)
    db.execute("PRAGMA user_version = 6")
    time = "2026-01-02T03:04:05.000006+00:00"
    db.execute(
        "INSERT INTO conversation (id, title, system, created, updated) VALUES (1, '', '', ?, ?)",
        (time, time),
    )
    db.execute(
        "INSERT INTO turn (id, conversation_id, position, content, created)"
        " VALUES (5, 1, 0, 'q', ?)",
        (time,),
    )
    db.execute(
        "INSERT INTO reply (id, turn_id, version, text, model, settings, created)"
        " VALUES (7, 5, 1, 'a', 'm', '{}', ?)",
        (time,),
    )
    db.commit()
    db.close()
    with Store(path) as store:
        (turn,) = loaded(store).turns
        assert turn.user.is_plain
        assert turn.replies[0].is_plain
        assert turn.replies[0].text == "a"
        store.finish_reply(7, steps=STEPS)
        assert [hit.reply_id for hit in store.search("feline", part="reasoning")] == [7]
    check_words(path)


@pytest.mark.parametrize(
    ("update", "problem"),
    [
        ("UPDATE turn SET parts = '[{}]'", "The parts of turn 1 are damaged"),
        ("UPDATE reply SET steps = '{'", "The parts of reply 1 are damaged"),
        ("UPDATE reply SET steps = '[{\"parts\": 5}]'", "The parts of reply 1 are damaged"),
    ],
)
def test_damaged_parts_are_named(store: Store, path: Path, update: str, problem: str) -> None:
    add_chat(store)
    with sqlite3.connect(path) as db:
        db.execute(update)
    db.close()
    with pytest.raises(StoreError, match=problem):
        loaded(store)


def test_markdown_shows_every_part(store: Store) -> None:
    add_chat(store)
    text = export.to_markdown(loaded(store))
    places = [
        text.index(shown)
        for shown in (
            "Which animal?\n",
            "[Image: cat.png, 3×2]\n",
            "[File: notes.txt]\n\n````\n```\nfurry\n````\n",
            "## Assistant\n\n> *Thought*\n>\n> Whiskers",
            'Tool call: classify\n\n```\n{"image": 1}\n```\n',
            "Tool error: classify\n\n```\ncat\n```\n",
            "It is a cat.\n\n*m",
        )
    ]
    assert places == sorted(places)


def test_messages_name_parts_as_openai_does(store: Store) -> None:
    add_chat(store)
    (line,) = export.to_messages([loaded(store)])
    user, assistant, tool, answer = json.loads(line)["messages"]
    assert [part["type"] for part in user["content"]] == ["text", "image_url", "file"]
    assert user["content"][1]["image_url"] == {"url": f"sha256:{'a' * 64}"}
    assert user["content"][2]["file"] == {
        "filename": "notes.txt",
        "file_data": "data:text/plain;base64,YGBgCmZ1cnJ5",
    }
    assert assistant == {
        "role": "assistant",
        "content": "",
        "reasoning_content": SAFE_REASONING,
        "tool_calls": [
            {
                "id": "c1",
                "type": "function",
                "function": {"name": "classify", "arguments": '{"image": 1}'},
            }
        ],
    }
    assert tool == {"role": "tool", "tool_call_id": "c1", "content": "cat"}
    assert answer == {"role": "assistant", "content": "It is a cat."}


def test_chatml_leaves_reasoning_out_and_refuses_what_it_cannot_represent(store: Store) -> None:
    add_chat(store)
    with pytest.raises(UsageError, match=r"Message 1 \(user\) of chat 1 has a part of type image"):
        list(export.to_chatml([loaded(store)]))
    turn = store.add_turn(store.create_conversation().id, "q")
    thought = ReplyStep((Reasoning("hm"), Text("a")), StopReason.END)
    store.finish_reply(store.start_reply(turn.id, model="m").id, steps=[thought])
    (text,) = export.to_chatml([store.conversation(2)])
    assert text == "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n"
