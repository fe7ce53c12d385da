"""Images of the user are stored with the message, sent, edited, forked and deleted with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from chatlm import hookimpl
from chatlm.chat.deletion import delete_chats, open_memory_store
from chatlm.chat.images import read_image
from chatlm.chat.session import ChatSession
from chatlm.engines.scripted import ScriptedEngine
from chatlm.errors import UsageError
from chatlm.plugin_host.host import PluginHost
from chatlm.store.store import Store
from chatlm.types.events import TurnStarted
from chatlm.types.parts import Image, PreparedImage, Text
from tests import image_files


def prepared(name: str = "cat.png", width: int = 40) -> PreparedImage:
    return read_image(image_files.png(width), name)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "chats.db") as opened:
        yield opened


def session(store: Store, engine: ScriptedEngine | None = None, **options: object) -> ChatSession:
    engine = engine or ScriptedEngine(*["A cat."] * 5, images=True)
    return ChatSession(store, lambda: engine, **options)  # type: ignore[arg-type]


def images_of(store: Store, chat: int) -> list[str]:
    return [image.name for image in store.conversation(chat).images()]


def test_a_message_has_its_images_before_its_text_and_the_engine_gets_their_bytes(
    store: Store,
) -> None:
    engine, cat, dog = ScriptedEngine("A cat.", images=True), prepared(), prepared("dog.png", 44)
    list(session(store, engine).send("What is cat.png?", [cat, dog]))
    user = store.conversation(1).turns[0].user
    assert user.parts == (cat.image, dog.image, Text("What is cat.png?"))
    request = engine.requests[0]
    assert request.messages[-1].parts == user.parts
    assert request.images[cat.image.sha256] == cat.content


def test_images_are_on_disk_before_the_model_is_waited_for(store: Store) -> None:
    def never() -> ScriptedEngine:
        raise AssertionError("the model was asked for")

    events = ChatSession(store, never).send("Look", [cat := prepared()])
    assert isinstance(next(events), TurnStarted)
    events.close()
    assert store.blob(cat.image.sha256) == cat.content


def test_an_image_sent_twice_is_stored_once(store: Store, tmp_path: Path) -> None:
    chat = session(store)
    for _ in range(2):
        list(chat.send("Look", [prepared(), prepared()]))
    (folder,) = [each for each in tmp_path.iterdir() if each.is_dir()]
    assert len(list(folder.iterdir())) == 1
    assert images_of(store, 1) == ["cat.png"] * 2


def test_a_model_without_vision_refuses_and_nothing_is_lost(store: Store) -> None:
    with pytest.raises(UsageError, match="cannot read images"):
        list(session(store, ScriptedEngine("Hm.")).send("Look", [prepared()]))
    assert images_of(store, 1) == ["cat.png"]
    list(session(store, conversation_id=1).regenerate())
    reply = store.conversation(1).turns[0].reply
    assert reply is not None
    assert reply.text == "A cat."


def test_a_chat_with_an_image_goes_on_without_vision(store: Store) -> None:
    list(session(store).send("Look", [prepared()]))
    engine = ScriptedEngine("Yes.")
    list(session(store, engine, conversation_id=1).send("Sure?"))
    assert "[Image: cat.png, 40×20 pixels; not shown]" in engine.requests[0].messages[0].text


def test_a_plugin_that_rewrites_the_message_keeps_its_images(store: Store) -> None:
    class Shout:
        @hookimpl
        def write_message(self, text: str) -> str:
            return text.upper()

    plugins = PluginHost()
    plugins.register("shout", Shout())
    list(session(store, plugins=plugins).send("look", [cat := prepared()]))
    turn = store.conversation(1).turns[0]
    assert turn.user.parts == (cat.image, Text("LOOK"))
    assert turn.raw_input == "look"


def test_an_edited_message_keeps_the_images_that_it_still_names(store: Store) -> None:
    chat = session(store)
    list(chat.send("Compare cat.png with dog.png", [prepared(), prepared("dog.png", 44)]))
    list(chat.edit(0, "Describe dog.png", [prepared("bird.png", 48)]))
    assert images_of(store, chat.conversation_id or 0) == ["dog.png", "bird.png"]
    assert images_of(store, 1) == ["cat.png", "dog.png"]


def test_images_that_the_text_never_named_stay_in_an_edited_message(store: Store) -> None:
    chat = session(store)
    list(chat.send("What is this?", [prepared()]))
    list(chat.edit(0, "What colour is this?"))
    assert images_of(store, chat.conversation_id or 0) == ["cat.png"]


def test_an_image_goes_with_the_last_chat_that_has_it(store: Store) -> None:
    chat, cat = session(store), prepared()
    list(chat.send("Look", [cat]))
    fork = store.fork(1, 1)
    delete_chats(store, [1], PluginHost())
    assert store.has_blob(cat.image.sha256)
    delete_chats(store, [fork.id], PluginHost())
    assert not store.has_blob(cat.image.sha256)


def test_images_of_an_incognito_chat_stay_in_memory(tmp_path: Path) -> None:
    with open_memory_store() as store:
        list(session(store).send("Look", [cat := prepared()]))
        assert store.blob(cat.image.sha256) == cat.content
    assert not list(tmp_path.iterdir())


def test_a_preview_shows_images_that_are_not_stored(store: Store) -> None:
    chat, cat = session(store), prepared()
    for request in (chat.draft("Look", [cat]), chat.preview("Look", images=[cat]).request):
        assert request.images[cat.image.sha256] == cat.content
        assert [part for part in request.messages[-1].parts if isinstance(part, Image)]
    assert not store.has_blob(cat.image.sha256)


def test_two_images_of_one_content_and_other_names_both_stay(store: Store) -> None:
    cat = prepared()
    copy = dataclasses.replace(cat, image=dataclasses.replace(cat.image, name="copy.png"))
    list(session(store).send("Same?", [cat, copy]))
    assert images_of(store, 1) == ["cat.png", "copy.png"]
