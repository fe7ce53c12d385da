"""Ways to write a message: an editor, earlier messages, dropped files, folders, and Ctrl-C."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import pytest
from textual.app import App
from textual.widgets import OptionList

from chatlm.chat.attachments import (
    MAX_FOLDER_FILES,
    FolderTooLarge,
    read_blocks,
    read_text_file,
)
from chatlm.config.config import Config
from chatlm.engines.scripted import ScriptedEngine
from chatlm.errors import UsageError
from chatlm.store.store import Store
from chatlm.tui.app import ChatApp
from chatlm.tui.composer import completion
from chatlm.tui.composer.attachments import pasted_path
from chatlm.tui.composer.completion import complete
from chatlm.tui.composer.editor import edit_text, find_editor
from chatlm.tui.screens.history import HistoryScreen, find_messages
from tests.tui.support import (
    StillEngine,
    app_of,
    chat_of,
    idle,
    make_app,
    newest,
    opens,
    plain,
    say,
    toasts,
    until,
)
from tests.waiting import PATIENCE

APPENDS = "import sys; path = sys.argv[1]; open(path, 'a').write(' and more\\n')"


@pytest.fixture
def editor(monkeypatch: pytest.MonkeyPatch) -> None:
    """An editor that appends two words, and a terminal that can be lent."""
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", f'{sys.executable} -c "{APPENDS}"')
    monkeypatch.setattr(App, "suspend", lambda self: contextlib.nullcontext())


@pytest.mark.usefixtures("editor")
async def test_ctrl_x_ctrl_e_opens_the_editor_with_what_is_written() -> None:
    async with make_app().run_test() as pilot:
        await pilot.press(*"Hello", "ctrl+x", "ctrl+e")
        await until(pilot, lambda: chat_of(pilot).composer.text == "Hello and more")
        await pilot.press("home", "ctrl+e", *"!")
        assert chat_of(pilot).composer.text == "Hello and more!", "alone it is the end of the line"


@pytest.mark.usefixtures("editor")
async def test_the_command_opens_it_too() -> None:
    async with make_app().run_test() as pilot:
        await say(pilot, "/editor")
        await until(pilot, lambda: chat_of(pilot).composer.text == " and more")


async def test_ctrl_x_alone_still_cuts() -> None:
    async with make_app().run_test() as pilot:
        await pilot.press(*"Hello", "ctrl+x", "a")
        assert chat_of(pilot).composer.text == "a"


async def test_no_editor_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISUAL", sys.executable)
    async with make_app().run_test() as pilot:
        chat_of(pilot).composer.text = "Hello"
        await app_of(pilot).chat_screen.action_command("editor")
        await until(
            pilot, lambda: toasts(pilot) == ["No editor can be opened here\nWrite it here."]
        )
        assert chat_of(pilot).composer.text == "Hello"


def test_an_editor_that_fails_or_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="ended with status 3"):
        edit_text([sys.executable, "-c", "raise SystemExit(3)"], "text")
    monkeypatch.setenv("VISUAL", "no-such-editor -w")
    with pytest.raises(UsageError, match="VISUAL is no-such-editor"):
        find_editor()
    for name in ("VISUAL", "EDITOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UsageError, match="no editor"):
        find_editor()


async def test_an_earlier_message_is_found_and_written_again() -> None:
    async with make_app(ScriptedEngine("A.", "B.")).run_test() as pilot:
        for text in ("How do I boil an egg?", "Which wine goes with fish?"):
            await say(pilot, text)
            await idle(pilot)
        await say(pilot, "/history egg")
        await until(pilot, lambda: isinstance(pilot.app.screen, HistoryScreen))
        await until(pilot, lambda: pilot.app.screen.query_one(OptionList).option_count == 1)
        await pilot.press("enter")
        await until(pilot, lambda: chat_of(pilot).composer.text == "How do I boil an egg?")


def test_all_words_must_be_in_a_message() -> None:
    messages = ["Boil an egg", "Boil water", "Egg"]
    assert find_messages(messages, "egg BOIL") == [0]
    assert find_messages(messages, "") == [0, 1, 2]


async def test_ctrl_c_quits_when_pressed_twice_and_says_so() -> None:
    app = make_app()
    async with app.run_test() as pilot:
        await pilot.press("ctrl+c")
        await until(pilot, lambda: toasts(pilot) == ["ctrl+c again quits."])
        assert app.is_running
        await pilot.press("ctrl+c")
        await until(pilot, lambda: app._exit)


async def test_ctrl_c_copies_a_selection() -> None:
    app = make_app()
    async with app.run_test() as pilot:
        await pilot.press(*"Hello", "f7", "ctrl+c")
        assert app.clipboard == "Hello"
        assert "ctrl+c again quits." not in toasts(pilot)


@pytest.mark.parametrize("form", ["{}", "'{}'", '"{}"', "file://{}", "{}\n"])
async def test_the_path_of_a_dropped_file_attaches_it(folder: Path, form: str) -> None:
    app = make_app()
    async with app.run_test() as pilot:
        chat_of(pilot).composer.paste(form.format(folder / "notes.txt"))
        assert chat_of(pilot).composer.text == f"@{folder / 'notes.txt'} "


def test_forms_of_a_dropped_path() -> None:
    assert pasted_path("/a/my\\ notes.txt") == "/a/my notes.txt"
    assert pasted_path("file:///a/my%20notes.txt") == "/a/my notes.txt"
    assert pasted_path("notes.txt") is None
    assert pasted_path("/a/b\nmore") is None


async def test_other_texts_are_pasted_as_they_are(folder: Path) -> None:
    async with make_app().run_test() as pilot:
        chat_of(pilot).composer.paste(f"{folder}/missing.txt")
        assert chat_of(pilot).composer.text == f"{folder}/missing.txt"


def test_a_folder_is_read_file_by_file(folder: Path) -> None:
    (folder / "picture.png").write_bytes(b"\x89PNG\xff")
    names = [block.split("\n")[0] for block in read_blocks(folder, "docs/", read_text_file)]
    assert names == [
        "docs/my notes.txt",
        "docs/notes.txt",
        "docs/src/main.py",
        "Files of docs/ without text, left out: docs/picture.png",
    ]


def test_a_folder_that_cannot_be_attached_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no files with text"):
        read_blocks(tmp_path, "empty/", read_text_file)
    for number in range(MAX_FOLDER_FILES + 1):
        (tmp_path / f"{number}.txt").write_text("text")
    with pytest.raises(UsageError, match="more than 100 files"):
        read_blocks(tmp_path, "many/", read_text_file)
    for file in tmp_path.iterdir():
        file.unlink()
    for number in range(2):
        (tmp_path / f"{number}.txt").write_text("x" * 600_000)
    with pytest.raises(UsageError, match="more than 1 MB of text"):
        read_blocks(tmp_path, "big/", read_text_file)


def test_one_large_file_makes_a_folder_too_large_unless_it_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("text")
    (tmp_path / "disk.img").write_bytes(bytes(1_000_001))
    (tmp_path / "photo.raw").write_bytes(b"\xff" * 1_000_001)
    assert read_blocks(tmp_path, "mixed/", read_text_file)[-1] == (
        "Files of mixed/ without text, left out: mixed/disk.img, mixed/photo.raw"
    )
    (tmp_path / "log.txt").write_bytes(b"x" + "é".encode() * 500_001)  # cut within a character
    with pytest.raises(FolderTooLarge, match="mixed/ has more than 1 MB of text"):
        read_blocks(tmp_path, "mixed/", read_text_file)


async def test_a_mentioned_folder_is_sent_with_its_files(folder: Path) -> None:
    engine = ScriptedEngine("Fine.")
    async with make_app(engine).run_test() as pilot:
        await say(pilot, f"Look at @{folder}/")
        await idle(pilot)
        sent = chat_of(pilot).conversation.turns[0].user.text
        assert "notes.txt\n```\none two\n```" in sent
        assert "src/main.py" in sent
        assert ".hidden" not in sent


def vim_app() -> ChatApp:
    engine = StillEngine("One ", "two", stand_after=1)
    return ChatApp(Store(None), opens(engine), config=Config(vim=True), clock=lambda: 0.0)


async def test_the_keys_of_vi_edit_the_message() -> None:
    async with vim_app().run_test() as pilot:
        composer = chat_of(pilot).composer
        await pilot.press(*"one two three", "escape", "b", "d", "w")
        assert composer.text == "one two "
        assert composer.border_subtitle == "NORMAL"
        await pilot.press("0", "x", "i", *"O", "escape", "A", *"four")
        assert composer.text == "One two four"
        await pilot.press("escape", "o", *"last", "escape", "g", "g", "d", "d")
        assert composer.text == "last"
        await pilot.press("u", "j", "C", "escape", "q", "Q")
        assert composer.text == "One two four\n", "other letters type nothing"


async def test_escape_leaves_the_insert_mode_first_and_stops_second() -> None:
    async with vim_app().run_test() as pilot:
        await say(pilot, "Hello")
        await until(pilot, lambda: "One" in plain(newest(pilot)))
        await pilot.press("escape")
        assert chat_of(pilot).busy
        await pilot.press("escape")
        await idle(pilot)
        assert "stopped" in plain(newest(pilot))


def test_letters_of_a_name_find_files_in_folders_below(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(completion, "DEEP_SECONDS", PATIENCE)
    (folder / "src" / "deep").mkdir()
    (folder / "src" / "deep" / "domain.py").write_text("")
    (folder / ".git").mkdir()
    (folder / ".git" / "main").write_text("")
    matches = complete("see @main", (), {}, folder, is_whole_message=False)
    assert matches is not None
    assert [each.insert for each in matches.candidates] == ["@src/main.py ", "@src/deep/domain.py "]
    assert complete("see @m", (), {}, folder, is_whole_message=False) is not None
    assert complete("see @zz", (), {}, folder, is_whole_message=False) is None
