"""The import card shows its progress, its result and the key for each."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Generator
from pathlib import Path

import pytest
from textual.widgets import ProgressBar

from chatlm.store.importing.importer import ImportProgress
from chatlm.store.store import Store
from chatlm.tui.screens import transfer
from chatlm.tui.screens.transfer import ImportScreen
from tests.tui.cards import CardApp, everything_visible, hint
from tests.tui.support import letters, until
from tests.waiting import PATIENCE

GOOD = json.dumps({"messages": [{"role": "user", "content": "q"}]})


def importing(path: Path) -> CardApp:
    store = Store(None)
    return CardApp(ImportScreen(lambda: transfer.import_chats(store, path)))


async def test_the_key_stops_while_it_goes_on_and_closes_after() -> None:
    go = threading.Event()

    def read() -> Generator[ImportProgress, None, None]:
        yield ImportProgress(5, 10, checking=True)
        while not go.wait(0.02):
            yield ImportProgress(5, 10, checking=True)
        yield ImportProgress(10, 10, added=[1, 2])

    app = CardApp(ImportScreen(read))
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: hint(pilot) == "esc stop")
        await pilot.press("enter")
        go.set()
        await until(pilot, lambda: hint(pilot) == "esc close")
        assert "2 chats imported" in everything_visible(pilot)
        await pilot.press("escape")
        await until(pilot, lambda: app.given == [None])


async def test_escape_stops_and_closes() -> None:
    ended = threading.Event()

    def read() -> Generator[ImportProgress, None, None]:
        try:
            while True:
                time.sleep(0.01)
                yield ImportProgress(5, 10, added=[1])
        finally:
            ended.set()

    app = CardApp(ImportScreen(read))
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: hint(pilot) == "esc stop")
        await pilot.press("escape")
        await until(pilot, lambda: app.given == [None])
        assert ended.wait(PATIENCE)


@pytest.mark.parametrize(
    "name, text, reason, never",
    [
        ("diary.txt", "Dear diary\n", "line 1: this is not JSON", "--skip-bad"),
        ("chats.jsonl", f"{GOOD}\n{{\n", "--skip-bad", "Chats are read from"),
        ("chat.md", "# Cities\n", "for reading only", "line 1"),
        ("chat.chatml", "<|im_start|>user\n", "for reading only", "line 1"),
        ("empty.jsonl", "", "contains no chats", "line 1"),
    ],
)
async def test_a_file_that_cannot_be_read_leaves_the_reason_alone(
    tmp_path: Path, name: str, text: str, reason: str, never: str
) -> None:
    (tmp_path / name).write_text(text)
    app = importing(tmp_path / name)
    async with app.run_test(size=(120, 24)) as pilot:
        await until(pilot, lambda: letters(reason) in letters(everything_visible(pilot)))
        drawn = everything_visible(pilot)
        assert letters(never) not in letters(drawn) and "Looking through" not in drawn
        assert not app.screen.query_one(ProgressBar).display
        assert hint(pilot) == "esc close"
