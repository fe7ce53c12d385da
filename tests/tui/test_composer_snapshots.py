"""A picture of each state of the composer, at two sizes; look at them when one changes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from textual.pilot import Pilot

from tests.tui.composing import ComposerApp, SlowReader, type_keys
from tests.tui.support import until

SnapCompare = Callable[..., bool]
Steps = Callable[[ComposerApp, Pilot[None]], Awaitable[None]]

SIZES = pytest.mark.parametrize("size", [(80, 24), (160, 48)], ids=["80x24", "160x48"])


async def empty(app: ComposerApp, pilot: Pilot[None]) -> None:
    await pilot.pause()


async def commands(app: ComposerApp, pilot: Pilot[None]) -> None:
    await type_keys(pilot, "/ne")


async def values(app: ComposerApp, pilot: Pilot[None]) -> None:
    await type_keys(pilot, "/theme ")


async def files(app: ComposerApp, pilot: Pilot[None]) -> None:
    await type_keys(pilot, "Compare @")


async def attached(app: ComposerApp, pilot: Pilot[None]) -> None:
    await type_keys(pilot, "Compare @no", "tab")
    app.composer.paste("line\n" * 120)
    await until(pilot, lambda: "tokens" in app.subtitle and "unfold" in app.subtitle)


async def editing(app: ComposerApp, pilot: Pilot[None]) -> None:
    app.composer.begin_edit("What is the capital of France?", "editing message 3", 2)


@SIZES
@pytest.mark.parametrize("steps", [empty, commands, values, files, attached, editing])
def test_the_composer(
    snap_compare: SnapCompare, tmp_path: Path, steps: Steps, size: tuple[int, int]
) -> None:
    for number in range(12):
        (tmp_path / f"chapter-{number:02}.md").write_text("Once upon a time\n")
    (tmp_path / "notes.txt").write_text("one two three\n" * 400)
    app = ComposerApp(tmp_path)

    async def before(pilot: Pilot[None]) -> None:
        await steps(app, pilot)
        await pilot.pause()

    assert snap_compare(app, terminal_size=size, run_before=before)


@SIZES
def test_the_composer_while_a_file_is_read(
    snap_compare: SnapCompare, tmp_path: Path, size: tuple[int, int]
) -> None:
    (tmp_path / "book.pdf").write_bytes(b"%PDF")
    reader = SlowReader()
    app = ComposerApp(tmp_path, read_file=reader)

    async def before(pilot: Pilot[None]) -> None:
        app.composer.attach_file("book.pdf")
        await type_keys(pilot, "What is it about?", "enter")

    assert snap_compare(app, terminal_size=size, run_before=before)
    reader.release()


@SIZES
def test_the_composer_with_a_suggestion(
    snap_compare: SnapCompare, tmp_path: Path, size: tuple[int, int]
) -> None:
    app = ComposerApp(tmp_path, suggest=lambda text: "ards, Ada Lovelace")

    async def before(pilot: Pilot[None]) -> None:
        await type_keys(pilot, "Kind reg")
        await until(pilot, lambda: app.composer.suggestion)

    assert snap_compare(app, terminal_size=size, run_before=before)
