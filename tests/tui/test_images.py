"""Images in the transcript: thumbnails, the large view, the clipboard and screenshots."""

from __future__ import annotations

import io
import shlex
import sys
from pathlib import Path

import PIL.Image
import PIL.ImageGrab
import pytest
from textual.pilot import Pilot

from chatlm import Passage, hookimpl
from chatlm.chat.images import read_image
from chatlm.chat.session import ChatSession
from chatlm.engines.scripted import ScriptedEngine
from chatlm.plugin_host.host import PluginHost
from chatlm.store.store import Store
from chatlm.tui.chat.image_block import ImageBlock
from chatlm.tui.screens.image import ImageScreen
from chatlm.types.parts import PreparedImage, Text, ToolCall, ToolResult
from chatlm.types.replies import ReplyStep, StopReason
from tests import image_files
from tests.tui.support import (
    chat_of,
    everything_drawn,
    idle,
    make_app,
    plain,
    say,
    screen_strips,
    toasts,
    until,
)

CAT = read_image(image_files.png(200, 100), "cat.png")


def store_with_image(*images: PreparedImage) -> Store:
    store = Store(None)
    engine = ScriptedEngine("A cat.", images=True)
    list(ChatSession(store, lambda: engine).send("What is this?", images or [CAT]))
    return store


def blocks(pilot: Pilot[None]) -> list[ImageBlock]:
    return list(pilot.app.screen.query(ImageBlock))


async def test_a_plain_terminal_shows_a_line_of_text() -> None:
    app = make_app(store=store_with_image(), conversation_id=1)
    async with app.run_test() as pilot:
        await until(pilot, lambda: blocks(pilot))
        assert plain(blocks(pilot)[0]) == "Image  cat.png · image/png · 200×100  ▸ show"
        assert not pilot.app.screen.query(".picture")


@pytest.mark.parametrize("graphics", ["blocks", "sixel"])
async def test_a_terminal_with_graphics_shows_a_thumbnail(graphics: str) -> None:
    app = make_app(store=store_with_image(), conversation_id=1, graphics=graphics)  # type: ignore[arg-type]
    async with app.run_test() as pilot:
        await until(pilot, lambda: pilot.app.screen.query(".picture"))
        picture = pilot.app.screen.query_one(".picture")
        await until(pilot, lambda: (picture.size.width, picture.size.height) == (20, 5))


async def test_half_blocks_have_the_colours_of_the_image() -> None:
    app = make_app(store=store_with_image(), conversation_id=1, graphics="blocks")
    async with app.run_test() as pilot:
        await until(pilot, lambda: pilot.app.screen.query(".picture"))
        picture = pilot.app.screen.query_one(".picture")
        await until(pilot, lambda: picture.size.height == 5)
        strip = list(picture.render_lines(picture.size.region)[0])
        styles = [segment.style for segment in strip if segment.style and "▀" in segment.text]
        assert styles[0].color is not None
        assert styles[0].color.triplet == pytest.approx(image_files.RED, abs=20)


async def test_a_missing_image_is_named() -> None:
    store = store_with_image()
    store._blobs.remove_all_but([])
    app = make_app(store=store, conversation_id=1, graphics="blocks")
    async with app.run_test() as pilot:
        await until(pilot, lambda: blocks(pilot) and "missing" in plain(blocks(pilot)[0]))


async def test_an_image_of_a_tool_is_drawn_below_its_call() -> None:
    store = Store(None)
    chat = store.create_conversation()
    turn = store.add_turn(chat.id, "Plot it")
    reply = store.start_reply(turn.id, model="m")
    call = ToolCall("c1", "python", "{}")
    parts = (call, ToolResult("c1", "python", "done"), CAT.image, Text("Here it is."))
    store.journal_reply(reply.id, [ReplyStep(parts)], [CAT.content])
    store.finish_reply(reply.id, steps=[ReplyStep(parts, StopReason.END)])
    app = make_app(store=store, conversation_id=1, graphics="blocks")
    async with app.run_test() as pilot:
        await until(pilot, lambda: pilot.app.screen.query("ReplyView .picture"))


class PlanFinder:
    """Retrieves a passage with a picture."""

    @hookimpl
    def retrieve_passages(self) -> list[Passage]:
        plan = read_image(image_files.png(300, 150), "plan.png")
        return [Passage("The kitchen is in the north.", "house.md", 0.9).with_images([plan])]


async def test_images_of_passages_are_drawn_as_soon_as_they_are_found_and_in_a_saved_chat() -> None:
    store = Store(None)
    engine = ScriptedEngine("North.", images=True)
    app = make_app(engine, store=store, plugins=PluginHost([("plans", PlanFinder())]))
    async with app.run_test() as pilot:
        await say(pilot, "Where is the kitchen?")
        await until(pilot, lambda: [each.image.name for each in blocks(pilot)] == ["plan.png"])
        await until(pilot, lambda: chat_of(pilot).conversation.turns[-1].reply is not None)
        await pilot.press("shift+tab", "v")
        await until(pilot, lambda: isinstance(pilot.app.screen, ImageScreen))
    again = make_app(store=store, conversation_id=1)
    async with again.run_test() as pilot:
        await until(pilot, lambda: [each.image.name for each in blocks(pilot)] == ["plan.png"])


async def test_the_images_of_a_turn_are_enlarged_with_a_key() -> None:
    dog = read_image(image_files.png(400, 200), "dog.png")
    app = make_app(store=store_with_image(CAT, dog), conversation_id=1, graphics="blocks")
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: len(blocks(pilot)) == 2)
        await pilot.press("shift+tab", "v")
        await until(pilot, lambda: isinstance(pilot.app.screen, ImageScreen))
        screen = pilot.app.screen
        await until(pilot, lambda: screen.query(".picture"))
        assert "1 of 2 · cat.png" in plain(screen.query_one("#facts"))
        await pilot.press("right")
        await until(pilot, lambda: "2 of 2 · dog.png" in plain(screen.query_one("#facts")))
        await until(pilot, lambda: screen.query_one(".picture").size.width == 40)
        drawn = screen.query_one(".picture").region
        card = screen.query_one("#picture").region
        assert abs((drawn.x - card.x) - (card.right - drawn.right)) <= 1  # in the middle
        assert "← previous · → next" in everything_drawn(pilot)
        await pilot.press("escape")
        await until(pilot, lambda: not isinstance(pilot.app.screen, ImageScreen))


async def test_a_click_on_a_line_shows_its_image() -> None:
    app = make_app(store=store_with_image(), conversation_id=1)
    async with app.run_test() as pilot:
        await until(pilot, lambda: any("▸ show" in row.text for row in screen_strips(pilot)))
        await pilot.click(blocks(pilot)[0], offset=(41, 0))
        await until(pilot, lambda: isinstance(pilot.app.screen, ImageScreen))
        assert "o opens it in another program" in everything_drawn(pilot)


async def test_an_incognito_image_is_not_given_to_another_program() -> None:
    app = make_app(ScriptedEngine("A cat.", images=True), incognito=True)
    async with app.run_test() as pilot:
        await idle(pilot)
        chat_of(pilot).turns.send_message("Look", [CAT])
        await until(pilot, lambda: blocks(pilot))
        await idle(pilot)
        await pilot.press("shift+tab", "v")
        await until(pilot, lambda: isinstance(pilot.app.screen, ImageScreen))
        await pilot.press("o")
        assert "not written to disk" in everything_drawn(pilot)


async def test_a_turn_without_images_says_so() -> None:
    app = make_app(ScriptedEngine("Hello."))
    async with app.run_test() as pilot:
        await say(pilot, "Hi")
        await idle(pilot)
        await say(pilot, "/images")
        assert toasts(pilot) == ["This turn has no images\nAttach one with @ and its path."]


async def test_the_image_on_the_clipboard_is_attached(
    monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    monkeypatch.setattr(PIL.ImageGrab, "grabclipboard", lambda: image_files.picture(64, 32))
    app = make_app(ScriptedEngine("A cat.", images=True))
    async with app.run_test() as pilot:
        await idle(pilot)
        await say(pilot, "/paste")
        composer = chat_of(pilot).composer
        await until(pilot, lambda: composer.text.startswith("@pasted:"))
        await until(pilot, lambda: "64×32 · 2 tokens" in (composer.border_subtitle or ""))
        assert len(list((home / "pasted").iterdir())) == 1
        await pilot.press("enter")
        await idle(pilot)
        assert blocks(pilot)
        assert chat_of(pilot).conversation.turns[0].user.text.startswith("pasted:")
        assert not list((home / "pasted").iterdir()), "the stored message has its own copy"


async def test_an_image_pasted_in_an_incognito_chat_stays_in_memory(
    monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    monkeypatch.setattr(PIL.ImageGrab, "grabclipboard", image_files.picture)
    app = make_app(ScriptedEngine("A cat.", images=True), incognito=True)
    async with app.run_test() as pilot:
        await idle(pilot)
        await say(pilot, "/paste")
        await until(pilot, lambda: "40×20" in (chat_of(pilot).composer.border_subtitle or ""))
        await pilot.press("enter")
        await until(pilot, lambda: blocks(pilot))
        assert not (home / "pasted").exists()


@pytest.mark.parametrize(
    ("found", "message"), [(None, "no image on the clipboard"), (OSError("x"), "no image")]
)
async def test_a_clipboard_without_an_image_is_told(
    monkeypatch: pytest.MonkeyPatch, found: OSError | None, message: str
) -> None:
    def grab() -> None:
        if found:
            raise found

    monkeypatch.setattr(PIL.ImageGrab, "grabclipboard", grab)
    app = make_app()
    async with app.run_test() as pilot:
        await idle(pilot)
        await say(pilot, "/paste")
        await until(pilot, lambda: toasts(pilot))
        assert message in toasts(pilot)[0]


async def test_a_screenshot_is_taken_by_the_users_command(tmp_path: Path) -> None:
    shot = tmp_path / "shot.png"
    shot.write_bytes(image_files.png(64, 32))
    copies = f"import shutil,sys; shutil.copy({str(shot)!r}, sys.argv[1])"
    command = shlex.join([sys.executable, "-c", copies, "{file}"])
    app = make_app(ScriptedEngine(images=True), screenshot=command)
    async with app.run_test() as pilot:
        await idle(pilot)
        await say(pilot, "/screenshot")
        await until(pilot, lambda: chat_of(pilot).composer.text.startswith("@pasted:"))


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("", "No command takes screenshots yet"),
        ("no-such-program-here", "The screenshot failed"),
        ("{python} -c pass", "gave no image"),
        ("{python} -c 'raise SystemExit(3)'", "status 3"),
        ("{python} -c 'print(1)' {file}", "wrote no file"),
        ("'unfinished", "The screenshot failed"),
    ],
)
async def test_a_screenshot_that_fails_says_why_and_how_to_set_it(
    command: str, message: str
) -> None:
    app = make_app(screenshot=command.replace("{python}", sys.executable))
    async with app.run_test() as pilot:
        await idle(pilot)
        await say(pilot, "/screenshot")
        await until(pilot, lambda: toasts(pilot))
        assert message in toasts(pilot)[0]
        assert "chatlm config set screenshot" in toasts(pilot)[0]


def test_a_thumbnail_is_decoded_small() -> None:
    from chatlm.tui.widgets.picture import decode, fit_cells

    content = image_files.save(PIL.Image.new("RGB", (4000, 3000), "red"), "JPEG")
    assert decode(content, 36, 10).size <= (360, 200)
    assert fit_cells(4000, 3000, 36, 10) == (27, 10)
    assert fit_cells(5, 5, 36, 10) == (1, 1)
    assert fit_cells(100_000, 10, 36, 10) == (36, 1)
    with pytest.raises((OSError, ValueError)):
        decode(io.BytesIO(content[:100]).getvalue(), 36, 10)
