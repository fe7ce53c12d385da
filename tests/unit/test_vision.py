"""Images reach engines that read them; others refuse them before anything is sent."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

import chatlm
from chatlm.chat.session import ChatSession
from chatlm.chat.vision import check_images
from chatlm.engines.scripted import ScriptedEngine
from chatlm.errors import UsageError
from chatlm.hub.vision import reads_images
from chatlm.store.store import Store
from chatlm.types.engine import count_image_tokens
from chatlm.types.parts import Image, Text
from chatlm.types.requests import Request

CONTENT = b"the bytes of a picture"
PICTURE = Image("image/png", 64, 32, hashlib.sha256(CONTENT).hexdigest(), "pic.png")


def test_a_request_has_the_bytes_of_the_images_in_the_store() -> None:
    store, engine = Store(None), ScriptedEngine("Red.", images=True)
    chat = store.create_conversation()
    store.add_turn(chat.id, [Text("What is it?"), PICTURE], blobs=[CONTENT])

    list(ChatSession(store, lambda: engine, conversation_id=chat.id).regenerate())

    (request,) = engine.requests
    assert request.image_bytes(PICTURE) == CONTENT
    assert list(request.images) == [PICTURE.sha256]


def test_an_image_without_bytes_is_an_error_that_names_it() -> None:
    with pytest.raises(UsageError, match=r"pic\.png"):
        Request((chatlm.Message("user", [PICTURE]),)).image_bytes(PICTURE)


def test_a_model_without_vision_is_refused_and_those_that_have_it_are_named(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, engine = Store(None), ScriptedEngine("Red.")
    chat = store.create_conversation()
    store.add_turn(chat.id, [Text("What is it?"), PICTURE], blobs=[CONTENT])

    with pytest.raises(UsageError, match="scripted cannot read images") as refused:
        list(ChatSession(store, lambda: engine, conversation_id=chat.id).regenerate())
    assert "No model here can" in (refused.value.hint or "")
    assert engine.requests == []

    seeing = chatlm.hub.installed.ModelDetails.from_listing(
        chatlm.ModelListing("seer", abilities=("images",))
    )
    monkeypatch.setattr("chatlm.chat.vision.list_installed_models", lambda: [seeing])
    with pytest.raises(UsageError) as refused:
        check_images([PICTURE], engine.info)
    assert refused.value.hint == "Models here that can: seer. Choose one, or send text only."


def test_tokens_of_an_image_are_counted_by_engines_that_read_images() -> None:
    assert count_image_tokens(ScriptedEngine(images=True), 64, 33) == 4
    assert count_image_tokens(ScriptedEngine(), 64, 33) is None


def test_a_folder_reads_images_with_a_vision_config_and_a_processor(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"vision_config": {}}))
    assert not reads_images(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("{}")
    assert reads_images(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert not reads_images(tmp_path)
