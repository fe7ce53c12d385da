"""Files of chats are read, or their errors located; no file breaks the reader."""

from __future__ import annotations

import dataclasses
import json
import random
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatlm.errors import UsageError
from chatlm.store import export
from chatlm.store.importing import json_stream
from chatlm.store.importing.chatlm_jsonl import parse_chatlm
from chatlm.store.importing.fields import ParsedChat
from chatlm.store.importing.importer import ImportFormat, UnreadableChat, _parse_item, read_chats
from chatlm.types.conversations import ContextPolicy, Conversation, Turn
from chatlm.types.messages import Message
from chatlm.types.parts import File, Image, Reasoning, Text, ToolCall, ToolResult
from chatlm.types.replies import Reply, ReplyStep, StopReason, utc_now
from tests.chats import CHATGPT, conversations

MESSAGES = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
IMAGE = Image("image/png", 3, 2, "a" * 64).to_dict()
TIME = "2026-01-02T03:04:05+00:00"
OWN: dict[str, Any] = {
    "id": 1,
    "title": "T",
    "system": "",
    "created": TIME,
    "updated": TIME,
    "turns": [
        {
            "content": "q",
            "created": TIME,
            "chosen": 7,
            "replies": [
                {"id": 7, "text": "a", "model": "m", "created": TIME, "stop_reason": "end"}
            ],
        }
    ],
}


def write(path: Path, *values: Any) -> Path:
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


def chats_in(path: Path, form: ImportFormat = "auto") -> list[ParsedChat | UnreadableChat]:
    return [item for item, _, _ in read_chats(path, form)]


def one(path: Path, value: Any) -> ParsedChat:
    (item,) = chats_in(write(path, value))
    assert isinstance(item, ParsedChat), item
    return item


def problem(path: Path, value: Any) -> str:
    (item,) = chats_in(write(path, value))
    assert isinstance(item, UnreadableChat)
    return item.problem


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chats.jsonl"


@given(conversations())
def test_an_export_that_is_read_and_exported_again_is_the_same(made: ParsedChat) -> None:
    def exported(chat: ParsedChat) -> str:
        (line,) = export.to_jsonl(
            [chat.conversation],
            lambda turn: chat.passages.get(turn, ()),
            lambda turn: chat.annotations.get(turn, ()),
            chat.provenance.get,
        )
        return line

    first = json.loads(exported(made))
    again = parse_chatlm(first)
    assert without_ids(json.loads(exported(again))) == without_ids(first)
    assert dataclasses.replace(again.conversation, id=made.conversation.id, turns=()) == (
        dataclasses.replace(made.conversation, turns=())
    )


def without_ids(chat: dict[str, Any]) -> dict[str, Any]:
    """Return the chat with each id replaced by the position of its object."""
    chat = json.loads(json.dumps(chat))
    chat["id"] = chat["forked_from"] = None
    for number, turn in enumerate(chat["turns"]):
        places = {reply["id"]: place for place, reply in enumerate(turn["replies"])}
        turn["id"] = number
        turn["chosen"] = None if turn["chosen"] is None else places[turn["chosen"]]
        for reply in turn["replies"]:
            reply["id"] = places[reply["id"]]
        for label in turn["annotations"]:
            label["reply"] = None if label["reply"] is None else places[label["reply"]]
    return chat


def test_an_export_of_an_earlier_chatlm_lacks_what_was_not_kept_then(path: Path) -> None:
    chat = one(path, OWN)
    (turn,) = chat.conversation.turns
    assert (turn.context_policy, turn.summary) == (ContextPolicy.AUTO, "")
    assert turn.reply is not None
    assert (turn.reply.text, turn.reply.stop_reason, turn.reply.settings) == (
        *("a", StopReason.END),
        "{}",
    )
    assert chat.provenance == {}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"title": 5}, "the chat: title must be text, not 5"),
        ({"created": "yesterday"}, "the chat: created must be a time such as"),
        ({"created": "0001-01-01T00:00:00+14:00"}, "the chat: created must be a time such as"),
        ({"updated": "0001-01-01T00:00:00+00:00"}, "the chat: updated must be a time such as"),
        ({"updated": "9999-12-31T23:00:00+00:00"}, "the chat: updated must be a time such as"),
        ({"turns": {}}, "the chat: turns must be a list, not an object"),
        ({"turns": [7]}, "turn 1: must be an object, not 7"),
        ({"sampling": {"temperature": 99}}, "sampling: temperature must be a number from 0 to 5"),
        ({"sampling": {"top_k": "x"}}, "sampling: top_k must be a whole number"),
        ({"pinned": 1}, "the chat: pinned must be true or false, not 1"),
    ],
)
def test_what_is_wrong_with_a_chat_is_named(path: Path, change: dict[str, Any], says: str) -> None:
    assert problem(path, OWN | change).startswith(says)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"content": None}, "turn 1: content must be text, not null"),
        ({"chosen": 8}, "turn 1: chosen is none of the turn's replies"),
        ({"chosen": []}, "turn 1: chosen must be a whole number from 0, not a list"),
        ({"standing": "lost"}, "turn 1: standing must be one of auto, pinned"),
        ({"replies": [{}]}, "turn 1, reply 1: text is missing"),
        ({"annotations": [{"reply": 9}]}, "turn 1, annotation 1: reply is none of the turn's"),
        (
            {"passages": [{"text": "t", "source": "s", "score": 10**400}]},
            "turn 1, passage 1: score",
        ),
    ],
)
def test_what_is_wrong_with_a_turn_is_named(path: Path, change: dict[str, Any], says: str) -> None:
    assert problem(path, OWN | {"turns": [OWN["turns"][0] | change]}).startswith(says)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"id": 2**63}, "turn 1, reply 1: id must be a whole number from 0, not such a number"),
        ({"stop_reason": 5}, "turn 1, reply 1: stop_reason must be text"),
        ({"usage": {"prompt_tokens": -1}}, "turn 1, reply 1, usage: prompt_tokens must be"),
        ({"usage": {"first_token_seconds": float("nan")}}, "turn 1, reply 1, usage: first_token"),
        ({"settings": 5}, "turn 1, reply 1, settings: must be an object, not 5"),
        ({"provenance": {"model": 5}}, "turn 1, reply 1, provenance: model must be text"),
        (
            {"steps": [{"usage": {"prompt_tokens": 2**62}}] * 2},
            "turn 1, reply 1: the usage of its steps is too large",
        ),
        (
            {"steps": [{"parts": [{"type": "song"}]}]},
            "turn 1, reply 1, step 1, part 1: type 'song' is unknown",
        ),
        (
            {"steps": [{"parts": [{"type": "reasoning"}]}]},
            "turn 1, reply 1, step 1, part 1: text is missing",
        ),
        (
            {"steps": [{"parts": [IMAGE | {"width": 0}]}]},
            "turn 1, reply 1, step 1, part 1: invalid image",
        ),
        (
            {"provenance": {"model": "m", "messages": [{"role": "robot"}]}},
            "turn 1, reply 1, provenance, message 1: role must be one of system, user, assistant",
        ),
    ],
)
def test_what_is_wrong_with_a_reply_is_named(path: Path, change: dict[str, Any], says: str) -> None:
    turn = OWN["turns"][0]
    bad = turn | {"replies": [turn["replies"][0] | change]}
    assert problem(path, OWN | {"turns": [bad]}).startswith(says)


def test_two_replies_with_one_id(path: Path) -> None:
    turn = OWN["turns"][0]
    twice = turn | {"replies": turn["replies"] * 2}
    assert problem(path, OWN | {"turns": [twice]}) == "turn 1: two replies have one id"


def test_messages_become_turns_with_one_reply_each(path: Path) -> None:
    said = [
        ("developer", "Be"),
        ("system", "brief."),
        ("user", "one"),
        ("assistant", "1"),
        ("tool", "42"),
        ("assistant", "and more"),
        ("user", "two"),
        ("system", "later"),
        ("user", "three"),
        ("assistant", None),
    ]
    chat = one(path, {"messages": [{"role": role, "content": text} for role, text in said]})
    conversation = chat.conversation
    assert conversation.system == "Be\n\nbrief."
    assert [turn.user.text for turn in conversation.turns] == ["one", "two", "three"]
    assert [turn.reply and turn.reply.text for turn in conversation.turns] == [
        *("1\n\nand more", None, None)
    ]
    assert chat.left_out == {
        "tool messages": 1,
        "later system messages": 1,
        "assistant messages without text": 1,
    }
    assert not chat.created_known
    assert len({turn.id for turn in conversation.turns}) == 3


CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}


def test_a_stop_reason_of_a_newer_chatlm_is_read_plainly(path: Path) -> None:
    reply = OWN["turns"][0]["replies"][0]
    steps = [{"parts": [{"type": "text", "text": "a"}], "stop_reason": "tired", "usage": {}}]
    for change in ({"stop_reason": "tired"}, {"steps": steps}):
        turn = OWN["turns"][0] | {"replies": [reply | change]}
        read = one(path, OWN | {"turns": [turn]}).conversation.turns[0].reply
        assert read is not None
        assert (read.text, read.stop_reason) == ("a", StopReason.ERROR)
        assert "The stop reason 'tired' is unknown" in (read.error or "")


def test_a_refusal_is_read_as_one(path: Path) -> None:
    refused = {"role": "assistant", "content": None, "refusal": "No."}
    asked = {"role": "user", "content": "Why?"}
    chat = one(path, {"messages": [asked, refused, asked, {"role": "assistant", "content": "So."}]})
    replies = [turn.reply for turn in chat.conversation.turns]
    assert [(reply.text, reply.stop_reason) for reply in replies if reply] == [
        ("No.", StopReason.REFUSAL),
        ("So.", StopReason.END),
    ]


def test_reasoning_tool_calls_and_results_are_steps_of_one_reply(path: Path) -> None:
    other = {"id": "c2", "type": "function", "function": {"name": "now", "arguments": {"zone": 1}}}
    chat = one(
        path,
        {
            "messages": [
                {"role": "user", "content": "How many?"},
                {
                    "role": "assistant",
                    "content": None,
                    "reasoning_content": "Hm.",
                    "tool_calls": [CALL, other, {"id": "c3", "type": "custom"}],
                },
                {"role": "tool", "tool_call_id": "c1", "content": "2"},
                {"role": "tool", "tool_call_id": "c9", "content": "?"},
                {"role": "assistant", "content": "It is 2."},
            ]
        },
    )
    (turn,) = chat.conversation.turns
    assert turn.reply is not None
    assert [(step.parts, step.stop_reason) for step in turn.reply.steps] == [
        (
            (
                Reasoning("Hm."),
                ToolCall("c1", "add", '{"a": 1}'),
                ToolCall("c2", "now", '{"zone": 1}'),
                ToolResult("c1", "add", "2"),
            ),
            StopReason.TOOL_CALLS,
        ),
        ((Text("It is 2."),), StopReason.END),
    ]
    assert chat.left_out == {"tool messages": 1, "tool calls of type custom": 1}


def test_messages_that_chatlm_exports_are_read_again_with_all_their_parts(path: Path) -> None:
    image = Image("image/png", 3, 2, "a" * 64, "cat.png")
    user = Message("user", (Text("What is this?"), image, File("a.txt", "été")))
    steps = (
        ReplyStep(
            (Reasoning("Hm."), ToolCall("c1", "see", "{}"), ToolResult("c1", "see", "fur")),
            StopReason.TOOL_CALLS,
        ),
        ReplyStep((Text("A cat."),), StopReason.END),
    )
    turn = Turn(0, 0, user, (Reply(0, 1, steps=steps),))
    (line,) = export.to_messages([Conversation(1, turns=(turn,))])
    chat = one(path, json.loads(line))
    (again,) = chat.conversation.turns
    assert again.user == user
    assert again.reply is not None
    assert again.reply.steps == steps
    assert chat.left_out == {}


def test_content_in_parts(path: Path) -> None:
    binary = {"file_data": "data:application/pdf;base64,/w=="}
    parts = [
        {"type": "text", "text": "look"},
        {"type": "image_url"},
        {"type": "file", "file": binary},
        {"type": "file", "file": {"file_id": "f1"}},
        "here",
    ]
    chat = one(path, {"messages": [{"role": "user", "content": parts}]})
    assert chat.conversation.turns[0].user.text == "look\n\nhere"
    assert chat.left_out == {"parts of type image_url": 1, "parts of type file": 2}


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ([], "the chat: no user message"),
        ([{"role": "assistant", "content": "a"}], "the chat: no user message"),
        ([{"content": "a"}], "message 1: role is missing"),
        ([{"role": "robot", "content": "a"}], "message 1: role must be system, user"),
        ([{"role": "user", "content": 5}], "message 1: content must be a list, not 5"),
        ([{"role": "user", "content": [{"type": "text"}]}], "message 1, part: text is missing"),
        ("hello", "the chat: messages must be a list, not 'hello'"),
    ],
)
def test_what_is_wrong_with_messages_is_named(path: Path, messages: Any, says: str) -> None:
    assert problem(path, {"messages": messages}).startswith(says)


def test_bad_lines_are_named_and_the_others_read(path: Path) -> None:
    deep = "[" * 100_000
    lines = [
        json.dumps(MESSAGES),
        '{"messages": [}',
        "",
        '{"a": ' + deep,
        '{"x": 1}',
        "5",
        json.dumps(OWN),
        '{"a": ' + "9" * 5000 + "}",
    ]
    path.write_bytes("\n".join(lines).encode() + b'\n{"messages": "\xff"}\n' + b"\r\n")
    items = chats_in(path)
    assert [type(item) for item in items] == [
        ParsedChat,
        UnreadableChat,
        UnreadableChat,
        UnreadableChat,
        UnreadableChat,
        ParsedChat,
        UnreadableChat,
        UnreadableChat,
    ]
    bad = {item.location: item.problem for item in items if isinstance(item, UnreadableChat)}
    assert bad["line 2"] == "this is not JSON: Expecting value at character 15"
    assert bad["line 4"].startswith("this JSON is nested too deeply")
    assert (
        bad["line 5"]
        == bad["line 6"]
        == ("it is not a chat: it has neither turns nor messages nor a mapping")
    )
    assert bad["line 8"].startswith("this JSON is nested too deeply or holds too long a number")
    assert bad["line 9"] == "this is not UTF-8 text"


def test_a_format_that_is_named_holds_for_every_chat(path: Path) -> None:
    write(path, MESSAGES, OWN)
    good, bad = chats_in(path, "messages")
    assert isinstance(good, ParsedChat)
    assert bad == UnreadableChat("line 2", "the chat: no user message")


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_list_and_objects_over_several_lines(path: Path, mark: str) -> None:
    path.write_text(mark + json.dumps([MESSAGES, OWN], indent=2))
    assert [type(item) for item in chats_in(path)] == [ParsedChat, ParsedChat]
    path.write_text(mark + json.dumps(OWN, indent=2) + "\n" + json.dumps(MESSAGES, indent=2))
    assert [type(item) for item in chats_in(path)] == [ParsedChat, ParsedChat]
    path.write_text(mark + json.dumps(MESSAGES) + "\n")
    assert [type(item) for item in chats_in(path)] == [ParsedChat]


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("[]", []),
        ("", []),
        ("\n\n", []),
        ('[{"messages": [', [UnreadableChat]),
        ("[1 2]", [UnreadableChat, UnreadableChat]),
        ("[1", [UnreadableChat, UnreadableChat]),
        ("[1,", [UnreadableChat, UnreadableChat]),
        ("[1] 2", [UnreadableChat, UnreadableChat]),
        ("[" * 100_000, [UnreadableChat]),
        ('["' + "x" * 200_000, [UnreadableChat]),
    ],
)
def test_broken_lists(path: Path, text: str, kinds: list[type]) -> None:
    path.write_text(text)
    assert [type(item) for item in chats_in(path)] == kinds


def test_a_list_is_read_in_pieces_and_says_how_far_it_is(path: Path) -> None:
    long = {"messages": [{"role": "user", "content": "é" * 100_000}]}
    path.write_text(json.dumps([long] * 20, ensure_ascii=False))
    done = [(now, total) for item, now, total in read_chats(path) if isinstance(item, ParsedChat)]
    assert len(done) == 20
    assert {total for _, total in done} == {path.stat().st_size}
    assert done[0][0] < done[-1][0] == path.stat().st_size
    assert done[0][0] < path.stat().st_size / 5


def test_a_chat_that_is_too_large_is_skipped(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "MAX_CHAT_BYTES", 1000)
    large = {"messages": [{"role": "user", "content": "x" * 3000}]}
    write(path, MESSAGES, large, MESSAGES)
    assert [type(item) for item in chats_in(path)] == [ParsedChat, UnreadableChat, ParsedChat]
    monkeypatch.setattr(json_stream, "CHUNK_BYTES", 100)
    path.write_text(json.dumps([MESSAGES, large]))
    good, bad = chats_in(path)
    assert isinstance(good, ParsedChat)
    assert isinstance(bad, UnreadableChat)
    assert bad.problem.startswith("this chat is larger than")


def test_a_zip_file_with_its_parts_in_order(tmp_path: Path) -> None:
    path = tmp_path / "export.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("user.json", "{}")
        for number in (1, 0):
            chats = [{"messages": [{"role": "user", "content": f"{number}.{n}"}]} for n in (0, 1)]
            archive.writestr(f"conversations-00{number}.json", json.dumps([*chats, 5]))
    items = chats_in(path)
    said = [i.conversation.turns[0].user.text for i in items if isinstance(i, ParsedChat)]
    assert said == ["0.0", "0.1", "1.0", "1.1"]
    assert [i.location for i in items if isinstance(i, UnreadableChat)] == [
        "conversations-000.json, chat 3",
        "conversations-001.json, chat 3",
    ]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_a_zip_file_that_is_damaged(tmp_path: Path, method: int) -> None:
    path = tmp_path / "broken.zip"
    chats = [[{"role": "user", "content": str(random.Random(n).random())}] for n in range(500)]
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("conversations.json", json.dumps([{"messages": chat} for chat in chats]))
    content = bytearray(path.read_bytes())
    content[2000:2050] = b"x" * 50
    path.write_bytes(content)
    with pytest.raises(UsageError, match="cannot be read") as caught:
        chats_in(path)
    assert "Unpack it" in caught.value.hint


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        chats_in(tmp_path / "none")
    with pytest.raises(UsageError, match="Is a directory"):
        chats_in(tmp_path)
    empty = tmp_path / "empty.zip"
    with zipfile.ZipFile(empty, "w") as archive:
        archive.writestr("other.json", "[]")
    with pytest.raises(UsageError, match="without chats"):
        chats_in(empty)


def test_a_zip_file_that_unpacks_to_far_more_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("conversations.json", "[" + "[]," * 10_000_000 + "[]]")
    with pytest.raises(UsageError, match="unpack to 28 MiB, more than 100 times"):
        next(read_chats(path))


def test_a_file_of_other_things_is_given_up(path: Path) -> None:
    path.write_text("[" + "[]," * 100_000 + "[]]")
    read = 0
    with pytest.raises(UsageError, match="more than 10,000 of its entries are no chats"):
        for item, _, _ in read_chats(path):
            assert isinstance(item, UnreadableChat)
            read += 1
    assert read == 10_000


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(st.sampled_from(["turns", "messages", "mapping"]), JSON, st.data())
def test_no_json_breaks_the_reader(key: str, value: Any, data: st.DataObject) -> None:
    """A chat in which any one part was replaced is read or called bad."""
    whole: Any = {"turns": OWN, "messages": MESSAGES, "mapping": CHATGPT}[key]
    chat = json.loads(json.dumps(whole))
    part = chat
    while True:
        places = list(part) if isinstance(part, dict) else list(range(len(part)))
        place = data.draw(st.sampled_from(places))
        if not isinstance(part[place], dict | list) or not part[place] or data.draw(st.booleans()):
            part[place] = value
            break
        part = part[place]
    piece = json_stream.JsonItem(json_stream.ParsedJson(chat), "line 1", 0, 0)
    assert isinstance(_parse_item(piece, "auto", utc_now()), ParsedChat | UnreadableChat)
