"""A picture of each state of the panel of saved chats, at two sizes; look at them on a change."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from textual.pilot import Pilot
from textual.widgets import Input

from chatlm.store.store import Store
from chatlm.tui.chat_list.panel import HitList
from chatlm.tui.screens.dialogs import PromptScreen
from tests.tui.support import until
from tests.tui.test_chat_list import PanelApp, chat, moved

SnapCompare = Callable[..., bool]
Steps = Callable[[Pilot[None]], Awaitable[None]]

both_sizes = pytest.mark.parametrize("size", [(80, 24), (160, 48)], ids=["80x24", "160x48"])


@pytest.fixture
def compare(snap_compare: SnapCompare, size: tuple[int, int]) -> Callable[[PanelApp, Steps], bool]:
    """Take the picture once `steps` are done."""

    def take(app: PanelApp, steps: Steps) -> bool:
        async def before(pilot: Pilot[None]) -> None:
            app.query_one(Input).cursor_blink = False
            await steps(pilot)
            await pilot.pause()

        return snap_compare(app, terminal_size=size, run_before=before)

    return take


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    made = Store(None)
    for title, said, reply in (
        ("Old things", "Where did I put the keys?", "On the shelf."),
        ("Watering tomatoes", "How much water do they need?", "A litre of water each, daily."),
        ("Half of a poem", "Write a poem", ""),
        ("", "Explain how a bicycle stays upright, and why it falls when it stands", "It leans."),
        ("Tax questions", "Is water tax-free?", "Not everywhere. Ask someone who knows."),
        ("Plans for the garden", "What grows in the shade?", "Ferns, with enough water."),
    ):
        chat(made, title, said, reply)
    made.set_pinned(5, True)
    moved(monkeypatch, made, days=[0, 1, 2, 7, 40])
    return made


@both_sizes
@pytest.mark.parametrize("theme", ["textual-dark", "textual-light"])
def test_list(compare: Callable[[PanelApp, Steps], bool], store: Store, theme: str) -> None:
    """Groups, all marks, the chat on the screen in bold, the highlight, the keys."""

    async def steps(pilot: Pilot[None]) -> None:
        app.theme = theme
        await app.reload(4, 6)
        await pilot.press("down")

    app = PanelApp(store)
    assert compare(app, steps)


@both_sizes
@pytest.mark.parametrize("theme", ["textual-dark", "textual-light"])
def test_hits(compare: Callable[[PanelApp, Steps], bool], store: Store, theme: str) -> None:
    """A title first, then messages with their role; the words are marked."""

    async def steps(pilot: Pilot[None]) -> None:
        app.theme = theme
        app.panel.search("water")
        await until(pilot, lambda: app.focused is app.query_one(HitList))
        await pilot.press("down")

    app = PanelApp(store)
    assert compare(app, steps)


@both_sizes
def test_nothing_found(compare: Callable[[PanelApp, Steps], bool], store: Store) -> None:
    """It names the words, and says what a search needs."""

    async def steps(pilot: Pilot[None]) -> None:
        app.panel.search("xylophone")
        await until(pilot, lambda: app.query_one(HitList).display)
        app.query_one(Input)._pause_blink(visible=True)

    app = PanelApp(store)
    assert compare(app, steps)


@both_sizes
def test_no_chats(compare: Callable[[PanelApp, Steps], bool]) -> None:
    """It says what will be listed here."""

    async def steps(pilot: Pilot[None]) -> None:
        await pilot.pause()

    assert compare(PanelApp(Store(None)), steps)


@both_sizes
def test_rename(compare: Callable[[PanelApp, Steps], bool], store: Store) -> None:
    """A card with the title that is, and how to get one suggested."""

    async def steps(pilot: Pilot[None]) -> None:
        await pilot.press("r")
        await until(pilot, lambda: isinstance(app.screen, PromptScreen))
        line = app.screen.query_one(Input)
        await until(pilot, lambda: line.has_focus)
        line.cursor_blink = False

    app = PanelApp(store)
    assert compare(app, steps)
