"""Images in the composer: named, dropped, counted, refused and sent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from textual import events
from textual.pilot import Pilot

from chatlm.engines.scripted import ScriptedEngine
from chatlm.tui.composer.attachments import find_attachments, pasted_paths
from chatlm.tui.vision import Vision
from tests import image_files
from tests.tui.composing import ComposerApp, type_keys
from tests.tui.support import toasts, until


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "cat.png").write_bytes(image_files.png(64, 32))
    (tmp_path / "my dog.png").write_bytes(image_files.png(65, 32))
    (tmp_path / "notes.txt").write_text("one two")
    return tmp_path


def sees(folder: Path) -> ComposerApp:
    engine = ScriptedEngine(images=True)
    return ComposerApp(folder, vision=Vision(lambda: engine))


async def test_an_image_is_shown_with_size_and_tokens_and_sent(folder: Path) -> None:
    app = sees(folder)
    async with app.run_test() as pilot:
        await type_keys(pilot, "What is @cat.png", "escape")
        await until(pilot, lambda: "tokens" in app.subtitle)
        assert app.subtitle == "cat.png · 64×32 · 2 tokens"
        await pilot.press("enter")
        await until(pilot, lambda: app.sent)
        assert app.sent == ["What is cat.png"]
        (image,) = app.last_sent.images
        assert (image.image.name, image.image.width) == ("cat.png", 64)


async def test_several_images_and_a_text_are_summed_up(folder: Path) -> None:
    app = sees(folder)
    async with app.run_test() as pilot:
        app.composer.paste('@cat.png @"my dog.png" @notes.txt ')
        await until(pilot, lambda: "3 files" in app.subtitle)
        assert app.subtitle == "3 files · 2 images · 10 tokens"
        await pilot.press("enter")
        await until(pilot, lambda: app.sent)
        assert [each.image.name for each in app.last_sent.images] == ["cat.png", "my dog.png"]
        assert app.sent == ["cat.png my dog.png notes.txt\n\nnotes.txt\n```\none two\n```"]


async def test_a_model_without_vision_is_told_before_sending_and_the_message_stays(
    folder: Path, home: Path
) -> None:
    engine = ScriptedEngine()
    app = ComposerApp(folder, vision=Vision(lambda: engine))
    async with app.run_test() as pilot:
        await type_keys(pilot, "What is @cat.png", "escape")
        await until(pilot, lambda: "cannot read images" in app.subtitle)
        await pilot.press("enter")
        await until(pilot, lambda: toasts(pilot))
        assert "cannot read images" in toasts(pilot)[0]
        assert "No model here can" in toasts(pilot)[0]
        assert (app.sent, app.composer.text) == ([], "What is @cat.png")


def told(pilot: Pilot[None], *texts: str) -> Callable[[], bool]:
    """Whether a toast has all these texts."""
    return lambda: any(all(text in each for text in texts) for each in toasts(pilot))


async def test_each_hostile_file_is_refused_and_the_message_stays(tmp_path: Path) -> None:
    app = sees(tmp_path)
    async with app.run_test() as pilot:
        for name, (content, piece) in image_files.hostile_files().items():
            (tmp_path / name).write_bytes(content)
            app.composer.text = f"What is @{name}"
            await pilot.press("enter")
            await until(pilot, told(pilot, name, piece))
            assert app.composer.text == f"What is @{name}"
    assert app.sent == []


async def test_without_a_model_the_size_is_shown(folder: Path) -> None:
    app = ComposerApp(folder)
    async with app.run_test() as pilot:
        app.composer.attach_file("cat.png")
        await until(pilot, lambda: "64×32" in app.subtitle)
        assert app.subtitle == "cat.png · 64×32"


async def test_dropped_files_become_mentions(folder: Path) -> None:
    app = sees(folder)
    cat, dog = folder / "cat.png", folder / "my dog.png"
    async with app.run_test() as pilot:
        app.composer.post_message(events.Paste(f"'{cat}' '{dog}'"))
        await until(pilot, lambda: app.composer.text)
        assert app.composer.text == f'@{cat} @"{dog}" '
        await until(pilot, lambda: "tokens" in app.subtitle)
        app.composer.insert("Who?")
        await pilot.press("enter")
        await until(pilot, lambda: app.sent)
        assert len(app.last_sent.images) == 2
        assert app.sent == ["cat.png my dog.png Who?"]  # no model needs to know the folders


def test_pasted_paths_are_understood_as_terminals_write_them() -> None:
    def read(text: str) -> list[list[str]]:
        return list(pasted_paths(text))

    assert ["/a/b.png"] in read("/a/b.png ")
    assert ["/a/b.png", "/c d.png"] in read("/a/b.png\n/c d.png\n")
    assert ["/a/b.png", "/c d.png"] in read("/a/b.png /c\\ d.png")
    assert ["/a b.png", "/c d.png"] in read("file:///a%20b.png\nfile:///c%20d.png")
    assert ["/a b.png", "/c.png"] in read("'/a b.png' '/c.png'")
    assert read("see /a/b.png and 'c") == []
    assert read("") == []


def test_pages_and_addresses_are_mentioned_too(folder: Path) -> None:
    (folder / "paper.pdf").write_bytes(b"%PDF-1.7")
    text = "@paper.pdf#pages=1-3, @cat.png#text @notes.txt#nothing @https://x.example/a.png."
    found = find_attachments(text, folder)
    assert [(each.raw_path, each.fragment) for each in found] == [
        ("paper.pdf#pages=1-3", "pages=1-3"),
        ("cat.png#text", "text"),
        ("https://x.example/a.png", ""),
    ]
    assert [each.is_on_the_web for each in found] == [False, False, True]


async def test_an_address_is_not_asked_for_while_it_is_typed(folder: Path) -> None:
    app = sees(folder)
    async with app.run_test() as pilot:
        await type_keys(pilot, "@http://127.0.0.1:9/a.png", "escape")
        await until(pilot, lambda: app.subtitle)
        assert app.subtitle == "read from the web when it is sent"
        await pilot.press("enter")
        await until(pilot, lambda: toasts(pilot))
        assert "127.0.0.1:9 is not a public address" in toasts(pilot)[0]
        assert (app.sent, app.composer.text) == ([], "@http://127.0.0.1:9/a.png")
