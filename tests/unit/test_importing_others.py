"""Chats of Open WebUI and LM Studio are imported with versions, branches and thoughts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from chatlm.store.importing.importer import ImportProgress, import_file
from chatlm.store.store import Store
from chatlm.types.conversations import Conversation


def message(
    name: str, parent: str | None, role: str, content: str, **more: Any
) -> dict[str, dict[str, Any]]:
    known: dict[str, Any] = {
        "id": name,
        "parentId": parent,
        "childrenIds": [],
        "role": role,
        "content": content,
    }
    return {name: {**known, "timestamp": 1_760_000_000, **more}}


THOUGHT = """<details type="reasoning" done="true" duration="3">
<summary>Thought for 3 seconds</summary>
> They want
> an egg.
</details>
"""

WEBUI = {
    "id": "one",
    "title": "Eggs",
    "created_at": 1_760_000_000,
    "updated_at": 1_760_000_100,
    "chat": {
        "title": "Eggs",
        "system": "Be brief.",
        "history": {
            "currentId": "a2",
            "messages": {
                **message("q", None, "user", "How do I boil an egg?", files=[{"type": "file"}]),
                **message("a1", "q", "assistant", "In water.", model="qwen3:4b"),
                **message(
                    "a2",
                    "q",
                    "assistant",
                    THOUGHT + "Ten minutes.",
                    model="qwen3:4b",
                ),
                **message("q2", "a1", "user", "Hot water?"),
                **message("a3", "q2", "assistant", "Yes.", model="qwen3:4b"),
            },
        },
    },
}


def text(value: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": value}]


def single(role: str, *values: str, chosen: int = 0) -> dict[str, Any]:
    versions = [{"type": "singleStep", "role": role, "content": text(value)} for value in values]
    return {"versions": versions, "currentlySelected": chosen}


STUDIO = {
    "name": "Wine",
    "createdAt": 1_760_000_000_000,
    "systemPrompt": "You are a cook.",
    "messages": [
        single("user", "Which wine goes with fish?"),
        {
            "currentlySelected": 1,
            "versions": [
                {"type": "singleStep", "role": "assistant", "content": text("Red.")},
                {
                    "type": "multiStep",
                    "role": "assistant",
                    "senderInfo": {"senderName": "qwen3-4b"},
                    "steps": [
                        {
                            "type": "contentBlock",
                            "style": {"type": "thinking"},
                            "content": text("Fish is light."),
                        },
                        {"type": "contentBlock", "content": text("White.")},
                        {"type": "debugInfoBlock", "debugInfo": "x"},
                    ],
                },
            ],
        },
        single("user", "Which?"),
        single("assistant", "Riesling."),
    ],
}


def imported(tmp_path: Path, content: str) -> tuple[list[Conversation], ImportProgress]:
    path = tmp_path / "chats.json"
    path.write_text(content, encoding="utf-8")
    with Store(None) as store:
        *_, state = import_file(store, path)
        assert not state.unreadable, state.unreadable
        *_, again = import_file(store, path)
        assert not again.added, "they are recognised"
        return [store.conversation(number) for number in state.added], state


def test_open_webui(tmp_path: Path) -> None:
    (chat, fork), state = imported(tmp_path, json.dumps([WEBUI]))
    assert (chat.title, chat.system) == ("Eggs", "Be brief.")
    assert chat.created.year == 2025
    (turn,) = chat.turns
    assert turn.display_text == "How do I boil an egg?"
    assert [reply.text for reply in turn.replies] == ["In water.", "Ten minutes."]
    assert turn.reply is not None
    assert (turn.reply.text, turn.reply.model) == ("Ten minutes.", "qwen3:4b")
    assert turn.reply.reasoning == "They want\nan egg."
    assert [turn.display_text for turn in fork.turns] == ["How do I boil an egg?", "Hot water?"]
    assert state.left_out == {"images and files": 1}


def test_lm_studio(tmp_path: Path) -> None:
    (chat,), _ = imported(tmp_path, json.dumps(STUDIO, indent=2))
    assert (chat.title, chat.system) == ("Wine", "You are a cook.")
    first, second = chat.turns
    assert [reply.text for reply in first.replies] == ["Red.", "White."]
    assert first.reply is not None
    assert (first.reply.text, first.reply.model) == ("White.", "qwen3-4b")
    assert first.reply.reasoning == "Fish is light."
    assert second.reply is not None
    assert second.reply.text == "Riesling."


def test_what_is_broken_is_named(tmp_path: Path) -> None:
    path = tmp_path / "chats.json"
    path.write_text(json.dumps([{"chat": {"history": {"messages": {"q": 3}}}}]))
    with Store(None) as store:
        *_, state = import_file(store, path)
    assert "message q: must be an object" in state.unreadable[0].problem
