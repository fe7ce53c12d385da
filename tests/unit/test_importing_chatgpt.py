"""ChatGPT's trees of messages become chats with versions and forks."""

from __future__ import annotations

import copy
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from chatlm.store.importing.chatgpt import MAX_FORKS, parse_chatgpt
from chatlm.store.importing.fields import InvalidChat
from chatlm.types.conversations import Conversation
from chatlm.types.replies import StopReason
from tests.chats import CHATGPT, node

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def texts_of(chat: Conversation) -> list[tuple[str, list[str], str | None]]:
    """Return each turn's message, the versions of its reply, and the active one."""
    return [
        (
            turn.user.text,
            [reply.text for reply in turn.replies],
            turn.reply.text if turn.reply else None,
        )
        for turn in chat.turns
    ]


def with_nodes(*nodes: tuple[str, dict[str, Any]], current: str | None = None) -> dict[str, Any]:
    return {"title": None, "mapping": dict(nodes), "current_node": current}


def test_the_current_branch_with_its_versions_and_the_other_as_a_fork() -> None:
    read = parse_chatgpt(CHATGPT, NOW)
    chat = read.conversation
    assert (chat.title, chat.system) == ("Cities", "")
    assert chat.created == datetime.fromtimestamp(1700000000.5, UTC)
    assert chat.updated == datetime.fromtimestamp(1700000900.5, UTC)
    first = ("Capital of France?", ["Paris.", "It is Paris."], "Paris.")
    assert texts_of(chat) == [first, ("And how many people?", ["Two million."], "Two million.")]
    assert {reply.model for turn in chat.turns for reply in turn.replies} == {"gpt-4"}
    (fork,) = read.forks
    assert fork.title == "Cities (fork)"
    assert texts_of(fork) == [first, ("And of Spain?", ["Madrid."], "Madrid.")]
    assert fork.created == datetime.fromtimestamp(1700000003.25, UTC)
    assert read.left_out == {"calls of tools": 1, "tool messages": 1, "thoughts": 1}
    assert read.created_known
    ids = [turn.id for turn in chat.turns] + [r.id for t in chat.turns for r in t.replies]
    assert len(ids) == len(set(ids))


def test_the_current_message_decides_which_branch_is_the_chat() -> None:
    other = CHATGPT | {"current_node": "a2b"}
    read = parse_chatgpt(other, NOW)
    assert texts_of(read.conversation)[1][0] == "And of Spain?"
    assert [texts_of(fork)[1][0] for fork in read.forks] == ["And how many people?"]
    version = parse_chatgpt(CHATGPT | {"current_node": "a1b"}, NOW)
    assert texts_of(version.conversation) == [
        ("Capital of France?", ["Paris.", "It is Paris."], "It is Paris.")
    ]
    assert len(version.forks) == 2
    lost = parse_chatgpt(CHATGPT | {"current_node": "gone"}, NOW)
    assert texts_of(lost.conversation)[1][0] == "And of Spain?"


def test_neighbouring_answers_are_joined_and_hidden_messages_left_out() -> None:
    read = parse_chatgpt(
        with_nodes(
            node("hi", None, ["u"], "assistant", "Hello!"),
            node(
                *("u", "hi", ["h"], "user"),
                content={
                    "content_type": "multimodal_text",
                    "parts": [
                        {"content_type": "image_asset_pointer"},
                        "Look",
                        {"content_type": "audio_transcription", "text": "here"},
                    ],
                },
            ),
            node(
                *("h", "u", ["a"], "user", "secret"),
                metadata={"is_visually_hidden_from_conversation": True},
            ),
            node("a", "h", ["b"], "assistant", "One"),
            node("b", "a", ["c"], "assistant", "two"),
            node("c", "b", [], "assistant", ""),
            current="c",
        ),
        NOW,
    )
    assert texts_of(read.conversation) == [("Look\n\nhere", ["One\n\ntwo"], "One\n\ntwo")]
    assert read.left_out == {
        "assistant messages before the first question": 1,
        "images and files": 1,
        "hidden messages": 1,
    }
    assert (read.conversation.title, read.conversation.created, read.created_known) == (
        "",
        NOW,
        False,
    )


def test_forks_of_an_untitled_chat_have_names_and_there_is_a_limit() -> None:
    nodes = [node("r", None, [f"u{n:02}" for n in range(30)])]
    nodes += [node(f"u{n:02}", "r", [], "user", f"Question {n}") for n in range(30)]
    read = parse_chatgpt(with_nodes(*nodes, current="u05"), NOW)
    assert texts_of(read.conversation) == [("Question 5", [], None)]
    names = [fork.title for fork in read.forks]
    assert names[:2] == ["Question 5 (fork)", "Question 5 (fork 2)"]
    assert len(names) == MAX_FORKS == len(set(names))
    assert read.left_out == {"branches": 9}


def test_a_cyclic_tree_is_not_followed() -> None:
    nodes = [
        node("u", None, ["a"], "user", "q"),
        node("a", "b", ["b"], "assistant", "x"),
        node("b", "a", ["a"], "assistant", "y"),
    ]
    read = parse_chatgpt(with_nodes(*nodes, current="a"), NOW)
    assert texts_of(read.conversation) == [("q", [], None)]


def test_a_very_long_chat() -> None:
    nodes = []
    for number in range(5000):
        role = "assistant" if number % 2 else "user"
        parent = f"n{number - 1}" if number else None
        nodes.append(node(f"n{number}", parent, [f"n{number + 1}"], role, str(number)))
    read = parse_chatgpt(with_nodes(*nodes, current="n4999"), NOW)
    assert len(read.conversation.turns) == 2500
    assert read.forks == ()


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        (("mapping",), [], "mapping: must be an object, not a list"),
        (("mapping",), {}, "the chat: no user message"),
        (("create_time",), 1e300, "the chat: create_time is not a time"),
        (("create_time",), 253402300000, "the chat: create_time is not a time"),
        (("mapping", "u1", "children"), [5], "message u1: children must be a list of texts"),
        (("mapping", "u1", "message", "author"), {}, "message u1, message, author: role is miss"),
        (("mapping", "u1", "message", "content"), None, "message u1, message, content: must be"),
    ],
)
def test_what_is_wrong_is_named(place: tuple[str, ...], value: Any, says: str) -> None:
    chat = json.loads(json.dumps(copy.deepcopy(CHATGPT)))
    part = chat
    for name in place[:-1]:
        part = part[name]
    part[place[-1]] = value
    with pytest.raises(InvalidChat) as caught:
        parse_chatgpt(chat, NOW)
    assert str(caught.value).startswith(says)


@pytest.mark.parametrize(
    ("details", "reason"),
    [
        ({"type": "max_tokens"}, StopReason.LENGTH),
        ({"type": "interrupted"}, StopReason.CANCELLED),
        ({"type": "stop", "stop_tokens": [1]}, StopReason.END),
        ({"type": "new"}, StopReason.END),
        (None, StopReason.END),
        ("odd", StopReason.END),
    ],
)
def test_why_a_reply_ended_is_kept(details: Any, reason: StopReason) -> None:
    chat = with_nodes(
        node("root", None, ["q"]),
        node("q", "root", ["a"], "user", "Why?"),
        node("a", "q", [], "assistant", "Because", metadata={"finish_details": details}),
        current="a",
    )
    reply = parse_chatgpt(chat, NOW).conversation.turns[0].reply
    assert reply is not None
    assert reply.stop_reason is reason
