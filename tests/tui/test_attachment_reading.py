"""Attached files that take long to read: the user goes on writing, and nothing is sent unread."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from chatlm.chat.attachments import AttachmentReader
from chatlm.errors import UsageError
from chatlm.plugin_host.host import PluginHost
from chatlm.testing import scripted_screen
from chatlm.tui.screens.xray import XrayScreen
from tests.tui.composing import ComposerApp, SlowReader, burst, type_keys
from tests.tui.support import everything_drawn, toasts, until
from tests.waiting import PATIENCE, wait_until


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "book.pdf").write_bytes(b"%PDF")
    (tmp_path / "notes.pdf").write_bytes(b"%PDF")
    return tmp_path


@pytest.fixture
def reader() -> SlowReader:
    return SlowReader()


@pytest.fixture
def app(folder: Path, reader: SlowReader) -> ComposerApp:
    return ComposerApp(folder, read_file=reader)


READ = "Sum up book.pdf\n\nbook.pdf\n```\nCall me Ishmael.\n```"


async def test_a_file_is_attached_before_it_is_read(app: ComposerApp, reader: SlowReader) -> None:
    async with app.run_test() as pilot:
        app.composer.attach_file("book.pdf")
        assert app.composer.text == "@book.pdf "
        await until(pilot, lambda: reader.threads)
        assert app.subtitle == "reading book.pdf…"
        app.composer.attach_file("notes.pdf")
        assert app.subtitle == "reading 2 files…"
        await type_keys(pilot, "and")
        assert app.composer.text == "@book.pdf @notes.pdf and"
        reader.release()
        await until(pilot, lambda: app.subtitle.count("tokens") == 2)
        assert threading.main_thread() not in reader.threads
        assert all(thread.daemon for thread in reader.threads), "one would prevent quitting"


async def test_a_file_that_is_being_read_is_not_read_again_while_the_user_types(
    app: ComposerApp, reader: SlowReader
) -> None:
    async with app.run_test() as pilot:
        app.composer.attach_file("book.pdf")
        for _ in range(3):
            await type_keys(pilot, "more ")
            app.composer.scan_text()
        await until(pilot, lambda: reader.threads)
        assert len(reader.threads) == 1
        reader.release()


async def test_why_an_attached_file_cannot_be_read_is_reported(folder: Path) -> None:
    reader = SlowReader(UsageError("book.pdf is encrypted", hint="Remove its password."))
    app = ComposerApp(folder, read_file=reader)
    async with app.run_test() as pilot:
        app.composer.attach_file("book.pdf")
        assert toasts(pilot) == []
        reader.release()
        await until(pilot, lambda: toasts(pilot))
        assert toasts(pilot) == ["book.pdf is encrypted\nRemove its password."]
        assert app.subtitle == "book.pdf is encrypted"
        await pilot.press("enter")
        await until(pilot, lambda: len(toasts(pilot)) == 2)
        assert toasts(pilot)[1] == toasts(pilot)[0]
        assert (app.sent, app.composer.text) == ([], "@book.pdf ")


async def test_a_broken_reader_is_reported_too(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(path: Path, name: str) -> str:
        raise RuntimeError("no such page")

    app = ComposerApp(folder, read_file=broken)
    async with app.run_test() as pilot:
        app.composer.attach_file("book.pdf")
        await until(pilot, lambda: toasts(pilot))
        assert "no such page" in toasts(pilot)[0]
        await pilot.press("enter")
        await until(pilot, lambda: len(toasts(pilot)) == 2)
        assert app.sent == []
        assert not app.composer.busy


async def test_a_message_is_sent_only_when_its_files_are_read(
    app: ComposerApp, reader: SlowReader
) -> None:
    async with app.run_test() as pilot:
        await type_keys(pilot, "Sum up @book.pdf")
        burst(pilot, "escape", "enter", *"next")
        await until(pilot, lambda: app.composer.text.endswith("next"))
        assert app.composer.busy
        assert app.sent == []
        assert "sending… · esc cancel" in app.subtitle
        reader.release()
        await until(pilot, lambda: app.sent)
        assert app.sent == [READ]
        app.composer.confirm_submitted(app.last_sent)
        assert (app.composer.text, app.composer.busy) == ("next", False)
        assert threading.main_thread() not in reader.threads


async def test_enter_again_sends_the_message_once(app: ComposerApp, reader: SlowReader) -> None:
    async with app.run_test() as pilot:
        await type_keys(pilot, "Sum up @book.pdf", "escape", "enter", "enter")
        await until(pilot, lambda: toasts(pilot))
        assert toasts(pilot) == [
            "The files of this message are still being read\nWait, or cancel it with esc."
        ]
        reader.release()
        await until(pilot, lambda: app.sent)
        await until(pilot, lambda: not app.composer.busy)
        assert app.sent == [READ]


async def test_a_cancelled_message_is_never_sent(app: ComposerApp, reader: SlowReader) -> None:
    async with app.run_test() as pilot:
        await type_keys(pilot, "Sum up @book.pdf", "escape", "enter")
        await until(pilot, lambda: reader.threads)
        assert app.composer.cancel_sending()
        assert not app.composer.cancel_sending()
        assert "esc cancel" not in app.subtitle
        threads = list(reader.threads)
        reader.release()
        await until(pilot, lambda: not any(thread.is_alive() for thread in threads))
        assert (app.sent, app.composer.text) == ([], "Sum up @book.pdf")
        await pilot.press("enter")
        await until(pilot, lambda: app.sent)
        assert app.sent == [READ]


async def test_a_message_that_was_changed_while_its_files_were_read_is_not_sent(
    app: ComposerApp, reader: SlowReader
) -> None:
    async with app.run_test() as pilot:
        await type_keys(pilot, "Sum up @book.pdf", "escape", "enter", "home", "delete")
        reader.release()
        await until(pilot, lambda: toasts(pilot))
        assert toasts(pilot) == [
            "The message was not sent: it was changed while its files were read\n"
            "Enter sends it as it is now."
        ]
        assert (app.sent, app.composer.text) == ([], "um up @book.pdf")


async def test_a_message_whose_files_are_read_is_not_sent_in_another_chat(
    app: ComposerApp, reader: SlowReader
) -> None:
    async with app.run_test() as pilot:
        await type_keys(pilot, "Sum up @book.pdf", "escape", "enter")
        await until(pilot, lambda: reader.threads)
        threads = list(reader.threads)
        draft = app.composer.dump_draft()
        app.composer.load_draft(draft)  # of a chat that happens to have the same draft
        await until(pilot, lambda: toasts(pilot))
        assert toasts(pilot) == ["The message was not sent: its files were still being read"]
        reader.release()
        await until(pilot, lambda: not any(thread.is_alive() for thread in threads))
        assert app.sent == []


async def test_escape_leaves_the_reading_of_a_file_by_a_plugin(
    folder: Path, reader: SlowReader
) -> None:
    async with scripted_screen(reader, replies=["A whale."]) as screen:
        composer = screen.app.chat_screen.chat.composer
        composer.text = f"Sum up @{folder}/book.pdf"
        await screen.pilot.press("enter")
        await until(screen.pilot, lambda: reader.threads)
        assert "sending…" in screen.text()
        await screen.press("escape")
        assert not composer.busy
        assert composer.text == f"Sum up @{folder}/book.pdf"
        reader.release()
        await screen.press("enter")
        assert [request.messages[-1].text for request in screen.requests] == [
            f"Sum up {folder}/book.pdf\n\n{folder}/book.pdf\n```\nCall me Ishmael.\n```"
        ]
        assert len(reader.threads) == 1, "the first reading went on and was used"
        assert screen.faults == []


async def test_a_preview_reads_files_behind_its_card(folder: Path, reader: SlowReader) -> None:
    async with scripted_screen(reader) as screen:
        screen.app.chat_screen.chat.composer.text = f"Sum up @{folder}/book.pdf"
        await screen.app.chat_screen.action_command("preview")
        await until(screen.pilot, lambda: isinstance(screen.app.screen, XrayScreen))
        await until(screen.pilot, lambda: reader.threads)
        assert "Ishmael" not in everything_drawn(screen.pilot)
        reader.release()
        await until(screen.pilot, lambda: "Ishmael" in everything_drawn(screen.pilot))
        assert threading.main_thread() not in reader.threads


def test_two_threads_read_a_file_once(folder: Path, reader: SlowReader) -> None:
    host = PluginHost([("slow", reader)])
    read, texts = AttachmentReader(host), []
    threads = [
        threading.Thread(target=lambda: texts.append(read(folder / "book.pdf", "book.pdf")))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: reader.threads)
    reader.release()
    for thread in threads:
        thread.join(PATIENCE)
    assert texts == ["Call me Ishmael."] * 3
    assert len(reader.threads) == 1


def test_a_failed_reading_is_tried_again(folder: Path) -> None:
    reader = SlowReader(UsageError("it is encrypted"))
    reader.release()
    read = AttachmentReader(PluginHost([("slow", reader)]))
    for _ in range(2):
        with pytest.raises(UsageError, match=r"book\.pdf: it is encrypted"):
            read(folder / "book.pdf", "book.pdf")
    reader.result = "Call me Ishmael."
    assert read(folder / "book.pdf", "book.pdf") == "Call me Ishmael."
