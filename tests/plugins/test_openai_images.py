"""Images go to servers whose models take them, and to no others."""

from __future__ import annotations

import base64
import dataclasses
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from chatlm import (
    ChatSession,
    Message,
    Request,
    Sampling,
    Store,
    Text,
    ToolCall,
    ToolResult,
    UsageError,
    read_image,
)
from chatlm.config import config
from chatlm_openai.engine import ESTIMATED_TOKENS, open_engine
from chatlm_openai.protocol import build_body, parse_models
from tests import shapes
from tests.plugins.openai_server import Script, says, serving

READ = read_image(shapes.picture(1).content, "pic.png")
IMAGES = {READ.image.sha256: READ.content}
ASKED = Message("user", [READ.image, Text("What is it?")])


def test_an_image_is_sent_as_a_data_url() -> None:
    body = build_body("m", Request((ASKED,), images=IMAGES), Sampling())
    image, text = body["messages"][0]["content"]
    assert text == {"type": "text", "text": "What is it?"}
    head, _, data = image["image_url"]["url"].partition(",")
    assert (image["type"], head) == ("image_url", "data:image/png;base64")
    assert base64.b64decode(data) == READ.content


def test_an_image_of_a_tool_follows_its_results_as_the_users() -> None:
    calls = [ToolCall("a", "plot", "{}"), ToolCall("b", "clock", "{}")]
    results = [ToolResult("a", "plot", "Done."), READ.image, ToolResult("b", "clock", "9:00")]
    messages = (Message("user", "Plot it."), Message("assistant", calls), Message("tool", results))
    body = build_body("m", Request(messages, images=IMAGES), Sampling())
    asked, _, plot, clock, image = body["messages"]
    assert (asked["role"], plot["role"], clock["role"]) == ("user", "tool", "tool")
    assert (plot["content"], clock["content"]) == ("Done.", "9:00")
    text, url = image["content"]
    assert (image["role"], text["text"]) == ("user", "Image returned by the tool plot:")
    assert url["image_url"]["url"].startswith("data:image/png;base64,")


def test_an_image_without_bytes_is_not_left_out() -> None:
    with pytest.raises(UsageError, match=r"pic\.png"):
        build_body("m", Request((ASKED,)), Sampling())


@pytest.mark.parametrize(
    "row",
    [
        {"input_modalities": ["text", "image"]},
        {"architecture": {"input_modalities": ["image"]}},
        {"capabilities": ["completion", "multimodal"]},
        {"capabilities": {"vision": True}},
        {"type": "vlm"},
    ],
)
def test_servers_say_in_many_ways_that_a_model_takes_images(row: dict[str, Any]) -> None:
    import json

    models = [{"id": "sees", **row}, {"id": "blind", "capabilities": {"vision": False}}]
    found = parse_models(json.dumps({"data": models}).encode())
    assert [model.reads_images for model in found] == [True, False]


def test_an_image_is_counted_by_its_size() -> None:
    small = ESTIMATED_TOKENS.count_tokens([ASKED])
    large = dataclasses.replace(READ.image, width=640, height=640)
    assert small - ESTIMATED_TOKENS.count_tokens([Message("user", "What is it?")]) == 4
    assert ESTIMATED_TOKENS.count_tokens([Message("user", [large])]) == 402


def ask(server: Script, home: Path) -> None:
    with closing(open_engine(server.model.removeprefix("openai:"))) as engine:
        session = ChatSession(Store(home / "chats.db"), lambda: engine)
        list(session.send("What is it?", [READ]))


def test_one_server_gets_the_image_and_the_other_is_not_even_asked(home: Path) -> None:
    home.mkdir(parents=True)
    with serving(says("Red.")) as sees, serving(says("No.")) as blind:
        sees.models = [{"id": "m", "max_model_len": 4096, "input_modalities": ["text", "image"]}]
        ask(sees, home)
        assert sees.asked[0].body["messages"][0]["content"][0]["type"] == "image_url"

        with pytest.raises(UsageError, match="cannot read images") as refused:
            ask(blind, home)
        assert blind.asked == []
        assert "plugins.openai.images_to" in (refused.value.hint or "")

        config.set_value("plugins.openai.images_to", f'["{blind.url}"]')
        ask(blind, home)
        assert blind.asked[0].body["messages"][0]["content"][0]["type"] == "image_url"
