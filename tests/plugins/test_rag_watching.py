"""An index follows its files: on the command line and in the background of a chat."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import Event, Thread

import pytest

from chatlm import Conversation, UsageError
from chatlm_rag import plugin
from chatlm_rag.index import folder, watching
from chatlm_rag.index.chunks import ChunkReader
from chatlm_rag.index.folder import IndexLocked
from tests.plugins.rag_chats import NAME, house
from tests.plugins.ui import RememberingUi
from tests.waiting import wait_until


@pytest.fixture
def documents(tmp_path: Path) -> Iterator[Path]:
    with house(tmp_path / "home") as found:
        yield found


def texts() -> str:
    current = folder.find_index(NAME).current()
    assert current
    return "\n".join(chunk.text for chunk in ChunkReader(current))


def is_locked(stack: ExitStack) -> bool:
    """Lock the index; return whether that was possible."""
    try:
        stack.enter_context(folder.find_index(NAME).lock())
    except IndexLocked:
        return False
    return True


def test_an_index_follows_its_files_until_it_is_stopped(documents: Path) -> None:
    (documents / "tides.txt").unlink()
    stop = Event()
    changed: list[bool] = []

    def follow() -> None:
        changed.extend(result.changed for result in watching.updates(NAME, stop))

    thread = Thread(target=follow)
    thread.start()
    try:
        wait_until(lambda: "spring tide" not in texts())  # a change from before
        (documents / "lease.txt").write_text("The lease ends in June.\n", encoding="utf-8")
        wait_until(lambda: "The lease ends in June." in texts())
        with ExitStack() as stack:
            wait_until(lambda: is_locked(stack))
            (documents / "lease.txt").write_text("The lease ends in July.\n", encoding="utf-8")
        wait_until(lambda: "The lease ends in July." in texts())
    finally:
        stop.set()
        thread.join()
    assert changed.count(True) == 3


def test_a_source_that_is_missing_is_not_watched(documents: Path) -> None:
    documents.rename(documents.with_name("elsewhere"))
    with pytest.raises(UsageError, match="No source of house exists"):
        next(watching.updates(NAME, Event()))


def test_the_index_of_the_open_chat_is_watched_if_set(
    documents: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []
    monkeypatch.setattr(watching.shared_watches, "start", lambda name, tell: started.append(name))
    ui = RememberingUi("rag", Conversation(0, plugin_data={"rag": {"index": NAME}}))
    plugin.chat_shown(ui)
    assert started == []
    monkeypatch.setenv("CHATLM_RAG_WATCH", "true")
    plugin.chat_shown(ui)
    assert started == [NAME]


def test_a_watch_in_the_background_says_why_it_ends(documents: Path) -> None:
    watches = watching.Watches()
    told: list[str] = []
    watches.start("nowhere", told.append)
    wait_until(lambda: told)
    assert told[0].startswith("nowhere is no longer kept up to date.")
    watches.start(NAME, told.append)
    (documents / "lease.txt").write_text("The lease ends in June.\n", encoding="utf-8")
    wait_until(lambda: "The lease ends in June." in texts())
    watches.stop()
    assert len(told) == 1
