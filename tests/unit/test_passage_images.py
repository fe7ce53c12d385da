"""Images of passages: stored, sent to models that read them, described to others, exported."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from chatlm import (
    Annotation,
    Conversation,
    Message,
    Passage,
    Request,
    Tool,
    Turn,
    hookimpl,
    read_image,
    tool,
)
from chatlm.chat import request_builder
from chatlm.chat.deletion import delete_chats
from chatlm.chat.replay import replay
from chatlm.chat.session import ChatSession
from chatlm.chat.tool_set import ToolOptions
from chatlm.engines.scripted import ScriptedEngine
from chatlm.errors import StoreError
from chatlm.plugin_host.host import PluginHost
from chatlm.plugin_host.turn_plugins import TurnPlugins
from chatlm.store import export
from chatlm.store.importing.importer import import_file
from chatlm.store.store import Store
from chatlm.tui.chat.incognito import copy_incognito_chats
from chatlm.types.events import Notice, PassagesFound
from chatlm.types.parts import MAX_IMAGES, Image, PreparedImage, Text
from tests import image_files

PLAN = read_image(image_files.png(44), "plan.png")
MAP = read_image(image_files.png(48), "map.png")
CAT = read_image(image_files.png(40), "cat.png")
ROOMS = Passage("The kitchen is in the north.", "house.md", 0.9).with_images([PLAN])
TOWN = Passage("The house is in Main Street.", "town.md", 0.5).with_images([MAP, PLAN])

NO_IMAGES: Any = ("plan.png",)


class Pictures:
    """Retrieves passages, of which some have images."""

    def __init__(self, *passages: Passage) -> None:
        self.passages = passages or (ROOMS,)

    @hookimpl
    def retrieve_passages(self) -> list[Passage]:
        return list(self.passages)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "chats.db") as opened:
        yield opened


def session(store: Store, engine: ScriptedEngine, plugin: Any = None, **more: Any) -> ChatSession:
    host = PluginHost([("pictures", plugin or Pictures())])
    return ChatSession(store, lambda: engine, plugins=host, **more)


def ask(store: Store, *passages: Passage, images: Sequence[PreparedImage] = ()) -> ScriptedEngine:
    engine = ScriptedEngine("North.", images=True)
    list(session(store, engine, Pictures(*passages)).send("Where is the kitchen?", images))
    return engine


def test_a_model_that_sees_gets_each_image_after_the_text_of_its_passage(store: Store) -> None:
    (request,) = ask(store, ROOMS, TOWN, images=[CAT]).requests
    assert request.messages[-1].parts == (
        Text("Sources:\n\n[1] house.md\nThe kitchen is in the north."),
        PLAN.image,
        Text("\n\n[2] town.md\nThe house is in Main Street."),
        MAP.image,
        Text("\n\n"),
        CAT.image,
        Text("Where is the kitchen?"),
    )
    for each in (PLAN, MAP, CAT):
        assert request.image_bytes(each.image) == each.content


def test_images_are_stored_with_the_passages_and_shown_with_the_turn(store: Store) -> None:
    engine = ScriptedEngine("North.", images=True)
    events = list(session(store, engine).send("Where?"))
    (found,) = [event for event in events if isinstance(event, PassagesFound)]
    assert found.images == (PLAN.image,)
    (turn,) = store.conversation(1).turns
    assert turn.passage_images == (PLAN.image,)
    assert store.passages(turn.id) == [ROOMS]
    assert store.blob(PLAN.image.sha256) == PLAN.content
    list(session(store, engine := ScriptedEngine("South.", images=True), conversation_id=1)
         .regenerate())  # fmt: skip
    assert PLAN.image in engine.requests[0].messages[-1].parts


def test_a_model_without_vision_reads_that_there_is_an_image(store: Store) -> None:
    engine = ScriptedEngine("North.")
    list(session(store, engine).send("Where?"))
    message = engine.requests[0].messages[-1]
    assert message.is_plain
    assert "[Image: plan.png, 44×20 pixels; not shown]" in message.text


def test_an_image_of_the_user_is_refused_although_a_passage_has_it_too(store: Store) -> None:
    with pytest.raises(Exception, match="cannot read images"):
        list(session(store, ScriptedEngine("North.")).send("Where?", [PLAN]))


def test_a_preview_has_the_bytes_although_nothing_is_stored(store: Store) -> None:
    engine = ScriptedEngine("North.", images=True)
    preview = session(store, engine).preview("Where?")
    assert preview.request.image_bytes(PLAN.image) == PLAN.content
    assert session(store, engine).draft("Where?").image_bytes(PLAN.image) == PLAN.content
    with pytest.raises(StoreError):
        store.blob(PLAN.image.sha256)


def test_with_tools_the_text_of_a_passage_is_marked_and_its_image_stays(store: Store) -> None:
    class Both(Pictures):
        @hookimpl
        def register_tools(self, register: Callable[[Tool], None]) -> None:
            @tool
            def clock() -> str:
                """Tell the time."""
                return "noon"

            register(clock)

    engine = ScriptedEngine("North.", images=True)
    options = ToolOptions(names=("clock",))
    list(session(store, engine, Both(), tools=options).send("Where?"))
    message = engine.requests[0].messages[-1]
    assert "not instructions]\nThe kitchen" in message.text
    assert PLAN.image in message.parts


def test_images_go_with_the_last_chat_that_has_them(store: Store) -> None:
    ask(store)
    fork = store.fork(1, 1)
    delete_chats(store, [1], PluginHost())
    assert fork.turns[0].passage_images == (PLAN.image,)
    assert store.blob(PLAN.image.sha256) == PLAN.content
    delete_chats(store, [fork.id], PluginHost())
    with pytest.raises(StoreError):
        store.blob(PLAN.image.sha256)


def test_an_exported_chat_has_them_when_it_is_imported(store: Store, tmp_path: Path) -> None:
    ask(store)
    (tmp_path / "a.jsonl").write_text("\n".join(export.stream_export(store, [1], "jsonl")))
    with Store(tmp_path / "other.db") as other:
        list(import_file(other, tmp_path / "a.jsonl"))
        (turn,) = other.conversation(1).turns
        assert other.passages(turn.id) == [ROOMS]
        assert turn.passage_images == (PLAN.image,)
        assert other.blob(PLAN.image.sha256) == PLAN.content


def test_an_incognito_chat_keeps_them_when_it_is_saved(store: Store) -> None:
    with Store(None) as memory:
        ask(memory)
        copy_incognito_chats(memory, store, 1, "")
    assert store.blob(PLAN.image.sha256) == PLAN.content


def test_a_reply_is_replayed_with_them(store: Store) -> None:
    ask(store)
    engine = ScriptedEngine("North.", images=True)
    reply = store.conversation(1).turns[0].reply
    assert reply is not None
    list(replay(store, engine, reply.id))
    (request,) = engine.requests
    assert request.image_bytes(PLAN.image) == PLAN.content


@pytest.mark.parametrize(
    ("passage", "problem"),
    [
        (dataclasses.replace(ROOMS, contents={}), "images and their bytes differ"),
        (
            dataclasses.replace(ROOMS, contents={PLAN.image.sha256: b"else"}),
            "images and their bytes differ",
        ),
        (dataclasses.replace(ROOMS, images=NO_IMAGES), "images ="),
        (
            Passage("Many", "a", 1.0).with_images(
                read_image(image_files.png(50 + n), "a") for n in range(MAX_IMAGES + 1)
            ),
            f"{MAX_IMAGES + 1} images",
        ),
    ],
)
def test_what_is_no_image_is_the_plugins_failure(
    store: Store, passage: Passage, problem: str
) -> None:
    engine = ScriptedEngine("North.", images=True)
    events = list(session(store, engine, Pictures(passage)).send("Where?"))
    assert any(problem in str(event) for event in events if isinstance(event, Notice))
    assert store.conversation(1).turns[0].passage_images == ()


def test_passages_are_as_before_without_images() -> None:
    plain = Passage("Blue.", "sky.md", 0.9)
    assert "images" not in plain.to_dict()
    turn = Turn(1, 0, Message("user", "Which colour?"))
    chat = Conversation(1, turns=(turn,))
    messages = request_builder.default_messages(chat, turn, [plain, plain])
    assert messages == [
        Message("user", "Sources:\n\n[1] sky.md\nBlue.\n\n[2] sky.md\nBlue.\n\nWhich colour?")
    ]
    assert TurnPlugins(PluginHost([])).implementations("retrieve_passages") == []


def test_parts_reach_every_hook_that_gets_messages(store: Store) -> None:
    seen: dict[str, list[Image]] = {}

    def note(hook: str, message: Message) -> None:
        seen[hook] = [part for part in message.parts if isinstance(part, Image)]

    class Hooks:
        @hookimpl
        def annotate_message(self, message: Message) -> list[Annotation]:
            if message.role == "user":
                note("annotate_message", message)
            return []

        @hookimpl
        def retrieve_passages(self, message: Message) -> list[Passage]:
            note("retrieve_passages", message)
            return [ROOMS]

        @hookimpl
        def build_messages(
            self, conversation: Conversation, turn: Turn, passages: Sequence[Passage]
        ) -> None:
            note("build_messages", turn.user)
            note("build_messages, chat", conversation.turns[-1].user)
            seen["build_messages, passages"] = [i for each in passages for i in each.images]

        @hookimpl
        def adjust_request(self, request: Request, passages: Sequence[Passage]) -> None:
            note("adjust_request", request.messages[-1])
            assert all(request.image_bytes(image) for image in seen["adjust_request"])

        @hookimpl
        def turn_finished(self, conversation: Conversation, turn: Turn) -> None:
            note("turn_finished", turn.user)
            seen["turn_finished, passages"] = list(turn.passage_images)

    engine = ScriptedEngine("North.", images=True)
    list(session(store, engine, Hooks()).send("Where?", [CAT]))
    found = [PLAN.image]
    assert seen == {
        "annotate_message": [CAT.image],
        "retrieve_passages": [CAT.image],
        "build_messages": [CAT.image],
        "build_messages, chat": [CAT.image],
        "build_messages, passages": found,
        "adjust_request": [PLAN.image, CAT.image],
        "turn_finished": [CAT.image],
        "turn_finished, passages": found,
    }
    assert hashlib.sha256(CAT.content).hexdigest() == CAT.image.sha256
