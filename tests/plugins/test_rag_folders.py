"""A folder that is too large to attach is indexed, on the screen and with `chatlm ask`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from textual.pilot import Pilot

import chatlm_rag.plugin
from chatlm import UsageError
from chatlm.chat.attachments import MAX_FOLDER_FILES, FolderTooLarge
from chatlm.cli.ask_files import read_files
from chatlm.cli.main import main
from chatlm.config.config import Config
from chatlm.engines.scripted import ScriptedEngine
from chatlm.plugin_host.host import PluginHost
from chatlm.store.store import Store
from chatlm.tui.app import ChatApp
from chatlm_rag.documents.files import Source
from chatlm_rag.folder_indexer import FolderIndexes
from chatlm_rag.index import builder
from chatlm_rag.index.folder import all_indices, user_index
from chatlm_rag.index.writer import BuildStopped
from tests.plugins.rag_chats import CATS, make_home
from tests.plugins.ui import RememberingWork
from tests.tui.support import chat_of, idle, opens, say, toasts, until


@pytest.fixture
def documents(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with the embedder; the folder of the documents, beside which the program runs."""
    folder = make_home(home)
    monkeypatch.chdir(folder.parent)  # messages do not become longer by the path
    return folder


@pytest.fixture
def store() -> Iterator[Store]:
    with Store(None) as store:
        yield store


def app_with(store: Store, context: int) -> ChatApp:
    engine = ScriptedEngine("From the folder.", "Again.", context=context)
    host = PluginHost([("rag", chatlm_rag.plugin)])
    return ChatApp(store, opens(engine), plugins=host, config=Config(), clock=lambda: 0.0)


def border(pilot: Pilot[None]) -> str:
    return str(chat_of(pilot).composer.border_subtitle)


def indices() -> set[str]:
    return {index.name for index in all_indices() if index.is_user_index}


async def test_a_folder_that_does_not_fit_the_context_is_indexed_when_it_is_sent(
    documents: Path, store: Store
) -> None:
    app = app_with(store, context=60)
    async with app.run_test(size=(140, 40), notifications=True) as pilot:
        composer = chat_of(pilot).composer
        composer.text = f"@{documents.name}/ {CATS}"
        await until(
            pilot, lambda: "documents/ · too large to attach, will be indexed" in border(pilot)
        )
        assert indices() == set(), "nothing is indexed before the message is sent"
        assert not composer.has_class("-problem")
        await pilot.press("enter")
        await until(pilot, lambda: chat_of(pilot).conversation.turns)
        await idle(pilot)
        chat = chat_of(pilot).conversation
        assert chat.plugin_data == {"rag": {"index": "documents"}}
        assert chat.turns[0].user.text == CATS, "without the folder's name"
        assert (
            chat_of(pilot)
            .store.passages(chat.turns[0].id)[0]
            .source.startswith("documents/house.md")
        )
        assert any("now answers from an index of documents" in each for each in toasts(pilot))
        (documents / "boat.txt").write_text("The boat is moored in Hamburg.\n", encoding="utf-8")
        await say(pilot, f"Where is the boat moored? @{documents.name}/")
        await until(pilot, lambda: len(chat_of(pilot).conversation.turns) == 2)
        await idle(pilot)
        assert indices() == {"documents"}, "the index was brought up to date"
        assert "Hamburg" in chat_of(pilot).store.passages(2)[0].text
        assert app.services.plugins.all_faults == []


async def test_a_small_folder_is_attached(documents: Path, store: Store) -> None:
    async with app_with(store, context=4096).run_test(size=(140, 40)) as pilot:
        await say(pilot, f"@{documents.name}/ {CATS}")
        await until(pilot, lambda: chat_of(pilot).conversation.turns)
        await idle(pilot)
        chat = chat_of(pilot).conversation
        assert "Dogs need the owner's consent." in chat.turns[0].user.text
        assert not chat.plugin_data
        assert indices() == set()


async def test_a_folder_is_refused_where_the_plugin_is_off(documents: Path, store: Store) -> None:
    async with app_with(store, context=60).run_test(size=(140, 40), notifications=True) as pilot:
        chat_of(pilot).edits.set_disabled_plugins(["rag"])
        chat_of(pilot).composer.text = f"@{documents.name}/ {CATS}"
        await until(pilot, lambda: "does not fit" in border(pilot))  # the context is known
        await pilot.press("enter")
        await until(pilot, lambda: any("does not fit the model" in each for each in toasts(pilot)))
        assert not chat_of(pilot).conversation.turns
        assert indices() == set()


async def test_escape_stops_the_indexing_and_nothing_is_sent(
    documents: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = []

    def index_folder(self: FolderIndexes, folder: Path, progress: RememberingWork) -> None:
        while not progress.cancelled:
            pass
        stopped.append(folder)
        raise UsageError("Stopped.")

    monkeypatch.setattr(FolderIndexes, "index_folder", index_folder)
    async with app_with(store, context=60).run_test(size=(140, 40)) as pilot:
        text = f"@{documents.name}/ {CATS}"
        chat_of(pilot).composer.text = text
        await until(pilot, lambda: "too large to attach" in border(pilot))  # the context is known
        await pilot.press("enter")
        await until(pilot, lambda: pilot.app.screen.query("ProgressLine"))
        await pilot.press("escape")
        await until(pilot, lambda: stopped)
        assert not chat_of(pilot).conversation.turns
        assert chat_of(pilot).composer.text == text


def test_each_folder_has_its_own_index(documents: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "documents"
    other.mkdir(parents=True)
    (other / "note.txt").write_text("The boat is moored in Hamburg.\n", encoding="utf-8")
    found = [
        FolderIndexes().index_folder(folder, RememberingWork(cancelled=False)).plugin_data["rag"]
        for folder in (documents, other, documents, other)
    ]
    assert [each["index"] for each in found] == [
        "documents",
        "documents-2",
        "documents",
        "documents-2",
    ]


def test_a_stopped_indexing_is_continued(documents: Path) -> None:
    with pytest.raises(BuildStopped, match="Stopped"):
        FolderIndexes().index_folder(documents, RememberingWork(cancelled=True))
    FolderIndexes().index_folder(documents, RememberingWork(cancelled=False))
    assert indices() == {"documents"}
    assert user_index("documents").current()


def test_ask_with_another_index_refuses_a_folder_that_is_too_large(
    documents: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", None)  # no pipe
    builder.build("house", (Source(str(documents)),), RememberingWork(cancelled=False))
    for number in range(MAX_FOLDER_FILES):
        (documents / f"{number}.txt").write_text(f"Note {number}.\n", encoding="utf-8")
    command = ["ask", "--no-save", "--index", "house", "-a", f"{documents}/", CATS]
    assert main(command) != 0
    assert f"has more than {MAX_FOLDER_FILES} files" in capsys.readouterr().err
    assert indices() == {"house"}


def test_ask_indexes_a_folder_that_is_too_large(
    documents: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    host = PluginHost([("rag", chatlm_rag.plugin)])
    attached, data = read_files([f"{documents}/"], host, (), may_index=True)
    assert (len(attached.blocks), data) == (3, {}), "a small one is attached"
    for number in range(MAX_FOLDER_FILES):
        (documents / f"{number}.txt").write_text(f"Note {number}.\n", encoding="utf-8")
    monkeypatch.chdir(documents)
    attached, data = read_files(["."], host, (), may_index=True)
    assert (attached.blocks, data) == ((), {"rag": {"index": "documents"}})
    assert "documents is too large to attach; indexing it" in capsys.readouterr().err
    with pytest.raises(FolderTooLarge, match="more than 100 files"):
        read_files([f"{documents}/"], host, ())
    with pytest.raises(UsageError, match="only one index") as refused:
        read_files([f"{documents}/"], host, (), may_index=True, chosen={"rag": {"index": "manual"}})
    assert "--index" in (refused.value.hint or "")
    with pytest.raises(FolderTooLarge, match="/rag build"):
        read_files([f"{documents}/"], PluginHost([]), (), may_index=True)
