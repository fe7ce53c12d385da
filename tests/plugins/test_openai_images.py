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
from chatlm.config.config import load
from chatlm.engines.open import make_model_opener
from chatlm.plugin_host.lifecycle import loaded_plugins
from chatlm.tui.app import ChatApp
from chatlm.tui.engine_loader import Ready
from chatlm_openai.engine import ESTIMATED_TOKENS, open_engine
from chatlm_openai.protocol import build_body, parse_models
from tests import image_files, shapes
from tests.plugins.openai_server import Script, says, serving
from tests.program import run_chatlm
from tests.tui.support import chat_of, run, toasts, until

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
    results = (ToolResult("a", "plot", "Done."), READ.image, ToolResult("b", "clock", "9:00"))
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


@pytest.fixture
def folder(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with an image in it."""
    home.mkdir(parents=True)
    (tmp_path / "pic.png").write_bytes(READ.content)
    monkeypatch.chdir(tmp_path)
    return tmp_path


SEES = {"id": "m", "max_model_len": 4096, "input_modalities": ["text", "image"]}


def sent_image(server: Script) -> bytes:
    """The bytes of the only image that a server was sent."""
    (asked,) = server.asked
    (part,) = (part for part in asked.body["messages"][-1]["content"] if "image_url" in part)
    return base64.b64decode(part["image_url"]["url"].partition(",")[2])


def test_ask_sends_an_image_to_the_server_that_takes_it_alone(folder: Path) -> None:
    with serving(says("Red.")) as sees, serving(says("No.")) as blind:
        sees.models = [SEES]
        asked = run_chatlm("ask", "-m", sees.model, "-a", "pic.png", "What is it?")
        assert (asked.returncode, asked.stdout) == (0, "Red.\n")
        assert sent_image(sees) == READ.content

        refused = run_chatlm("ask", "-m", blind.model, "-a", "pic.png", "What is it?")
        assert refused.returncode == 2
        assert refused.stderr.startswith("Error: ")
        assert "cannot read images" in refused.stderr
        assert "Traceback" not in refused.stderr
        assert blind.asked == []


def test_ask_refuses_each_hostile_file_and_sends_nothing(folder: Path) -> None:
    with serving(says("Red.")) as sees:
        sees.models = [SEES]
        for name, (content, piece) in image_files.hostile_files().items():
            (folder / name).write_bytes(content)
            done = run_chatlm("ask", "-m", sees.model, "-a", name, "What is it?")
            assert done.returncode == 2, name
            assert done.stderr.startswith(f"Error: {name}"), done.stderr
            assert piece in done.stderr
            assert len(done.stderr.splitlines()) == 2
        assert sees.asked == []


async def test_the_screen_sends_an_image_to_the_server_that_takes_it_alone(folder: Path) -> None:
    with serving(says("Red.")) as sees, serving(says("No.")) as blind:
        sees.models = [SEES]
        settings = load(model=blind.model)
        with loaded_plugins(settings) as plugins, Store(None) as store:
            opener = make_model_opener(settings, plugins)
            app = ChatApp(store, opener, plugins=plugins, config=settings)
            async with app.run_test(size=(120, 36)) as pilot:
                await until(pilot, lambda: isinstance(app.engine_state, Ready))
                composer = chat_of(pilot).composer
                composer.text = "@pic.png What is it?"
                await until(pilot, lambda: "cannot read images" in (composer.border_subtitle or ""))
                await pilot.press("enter")
                await until(pilot, lambda: any("cannot read" in each for each in toasts(pilot)))
                assert composer.text == "@pic.png What is it?"

                await run(pilot, "model", sees.model)
                await until(
                    pilot,
                    lambda: (
                        isinstance(app.engine_state, Ready)
                        and "image" in app.engine_state.info.accepts
                    ),
                )
                await until(pilot, lambda: composer.border_subtitle == "pic.png · 64×64")
                await pilot.press("enter")
                await until(pilot, lambda: bool(store.list_conversations()))
                await until(pilot, lambda: not chat_of(pilot).busy)
            reply = store.conversation(1).turns[0].reply
        assert reply is not None
        assert reply.text == "Red."
        assert sent_image(sees) == READ.content
        assert blind.asked == []
