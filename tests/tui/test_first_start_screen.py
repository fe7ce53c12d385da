"""The first screen: what the small model is, three choices, and what follows from each."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from textual import events
from textual.pilot import Pilot
from textual.widgets import OptionList

from chatlm.chat import first_start
from chatlm.chat.first_start import FirstChoice, FirstOffer
from chatlm.config.config import Config
from chatlm.engines.fit import Fit
from chatlm.engines.machine_speed import MachineSpeed
from chatlm.errors import ModelError
from chatlm.hub.catalogue import catalogue
from chatlm.hub.jobs import PullCancelled
from chatlm.plugin_host.host import PluginHost
from chatlm.store.store import Store
from chatlm.tui.app import ChatApp
from chatlm.tui.screens.first_start import FirstStart
from chatlm.tui.widgets import download_line
from chatlm.tui.widgets.download_line import DownloadLine
from tests.models import DEFAULT, EMBEDDER
from tests.tui.cards import CardApp, SnapCompare, both_sizes, hint, still
from tests.tui.support import StillEngine, opens, plain, until
from tests.unit.test_models_find import put


def fit(speed: float) -> Fit:
    return Fit("fits", None, 10**9, 0, speed, 0.3, "native")


OFFER = FirstOffer(
    tuple(
        FirstChoice(kind, catalogue()[name], fit(speed))
        for kind, name, speed in (
            ("quick", "qwen3:0.6b", 51.0),
            ("balanced", "qwen3:4b", 9.2),
            ("best", "qwen3:8b", 4.6),
        )
    ),
    hub_reachable=True,
)


def shown(offer: FirstOffer) -> CardApp:
    return CardApp(FirstStart(lambda: offer, lambda text: None))


async def listed(pilot: Pilot[None]) -> None:
    await until(pilot, lambda: pilot.app.screen.query_one(OptionList).display)


@pytest.mark.parametrize(
    ("keys", "name"),
    [
        (["enter"], "qwen3:4b"),
        (["up", "enter"], "qwen3:0.6b"),
        (["down", "enter"], "qwen3:8b"),
        (["escape"], ""),
    ],
)
async def test_the_choice(keys: list[str], name: str) -> None:
    app = shown(OFFER)
    async with app.run_test() as pilot:
        await listed(pilot)
        assert hint(pilot) == "enter download in the background · esc keep the toy"
        await pilot.press(*keys)
        await until(pilot, lambda: app.given == [name])


async def test_without_a_hub_it_shows_how_to_use_a_server() -> None:
    app = shown(FirstOffer(OFFER.choices, hub_reachable=False))
    async with app.run_test() as pilot:
        await until(pilot, lambda: "The model hub does not answer" in plain(app.screen))
        assert "openai:MODEL@http://HOST:PORT/v1" in plain(app.screen).replace("\n", " ")
        await pilot.press("enter")
        assert app.given == []
        await pilot.press("escape")
        await until(pilot, lambda: app.given == [""])


@both_sizes
def test_picture(snap_compare: SnapCompare, size: tuple[int, int]) -> None:
    """What the toy is, and three choices with size, speed and fit."""
    assert snap_compare(shown(OFFER), terminal_size=size, run_before=still(listed))


class Pull:
    """Poses as `pull_model`: reports half, then waits to be let go or cancelled."""

    def __init__(self, error: ModelError | None = None) -> None:
        self.go = threading.Event()
        self.names: list[str] = []
        self.error = error

    def __call__(self, name: str, progress: Any, cancelled: Any) -> None:
        self.names.append(name)
        progress("download", 500_000_000, 1_000_000_000)
        while not self.go.wait(0.01):
            if cancelled():
                raise PullCancelled("stopped")
        if self.error:
            raise self.error


def newcomer() -> ChatApp:
    return ChatApp(
        Store(None),
        opens(StillEngine("Hi")),
        config=Config(),
        offer_models=lambda: OFFER,
        resumes_downloads=True,
        clock=lambda: 0.0,
    )


async def test_a_download_runs_while_chatting_and_offers_the_switch(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pull = Pull()
    monkeypatch.setattr(download_line, "pull_model", pull)
    app = newcomer()
    async with app.run_test() as pilot:
        await until(pilot, lambda: isinstance(app.screen, FirstStart))
        await listed(pilot)
        await pilot.press("enter")
        line = app.chat_screen.query_one(DownloadLine)
        half = "qwen3:4b · downloading 50 %, 500.0 MB of 1.0 GB"
        await until(pilot, lambda: half in plain(line))
        await pilot.press(*"Hi", "enter")
        await until(pilot, lambda: "Hi" in plain(app.chat_screen.chat.view))
        pull.go.set()
        await until(pilot, lambda: line.ready == "qwen3:4b")
        assert "/model qwen3:4b switches to it" in plain(line)
    assert pull.names == ["qwen3:4b"]
    assert not first_start.is_first_start(Config()), "nobody is asked again"
    assert first_start.unfinished_choice() == "qwen3:4b"


def _type(app: ChatApp) -> None:
    """Type faster than the card closes."""
    for character in "Hi you":
        app.post_message(events.Key("space" if character == " " else character, character))


def _paste(app: ChatApp) -> None:
    app.screen.post_message(events.Paste("Hi you"))


@pytest.mark.parametrize("write", [_type, _paste])
async def test_what_is_written_goes_to_the_composer(
    home: Path, write: Callable[[ChatApp], None]
) -> None:
    app = newcomer()
    async with app.run_test() as pilot:
        await until(pilot, lambda: isinstance(app.screen, FirstStart))
        await listed(pilot)
        write(app)
        await until(pilot, lambda: app.chat_screen.chat.composer.text == "Hi you")
        await until(pilot, lambda: app.screen is app.chat_screen)
        await pilot.press("enter")
        await until(pilot, lambda: "Hi you" in plain(app.chat_screen.chat.view.transcript))
    assert first_start.is_first_start(Config()), "nothing was chosen"


async def test_a_download_that_fails_says_why_and_how_to_go_on(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pull = Pull(ModelError("The hub sends no bytes.", "Try again."))
    pull.go.set()
    monkeypatch.setattr(download_line, "pull_model", pull)
    first_start.remember_choice("qwen3:4b")
    app = newcomer()
    app._offer_models = None
    async with app.run_test() as pilot:
        line = app.chat_screen.query_one(DownloadLine)
        await until(pilot, lambda: "The hub sends no bytes." in plain(line))
        assert "/model resumes it" in plain(line)
    assert pull.names == ["qwen3:4b"], "a download that was left is resumed"


async def test_quitting_stops_the_download(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pull = Pull()
    monkeypatch.setattr(download_line, "pull_model", pull)
    first_start.remember_choice("qwen3:4b")
    app = newcomer()
    app._offer_models = None
    async with app.run_test() as pilot:
        await until(pilot, lambda: pull.names)
    assert not any(thread.name == "download" and thread.is_alive() for thread in
                   _after_a_moment())  # fmt: skip


def _after_a_moment() -> list[threading.Thread]:
    threads = threading.enumerate()
    for thread in threads:
        if thread.name == "download":
            thread.join(20)
    return threads


def test_who_is_a_newcomer(home: Path) -> None:
    assert first_start.is_first_start(Config())
    put(home, DEFAULT, DEFAULT)
    put(home, EMBEDDER, EMBEDDER)
    assert not first_start.is_first_start(Config(model="org/other"))
    put(home, "org--name", "org/name")
    assert not first_start.is_first_start(Config()), "has another model"


def test_the_offer_rises_in_size_and_fits(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from chatlm.engines import memory_plan, token_cost

    monkeypatch.setattr(first_start, "is_hub_reachable", lambda source: True)
    monkeypatch.setattr(token_cost, "machine_speed", lambda device: MachineSpeed(40e9))
    monkeypatch.setattr(memory_plan, "available_memory", lambda device: 12_000_000_000)
    offer = first_start.make_offer(Config(), PluginHost())
    kinds = [choice.kind for choice in offer.choices]
    sizes = [choice.entry.bytes for choice in offer.choices]
    assert kinds == ["quick", "balanced", "best"]
    assert sizes == sorted(set(sizes))
    assert all(choice.fit.runs for choice in offer.choices)
    monkeypatch.setattr(memory_plan, "available_memory", lambda device: 100_000_000)
    assert first_start.make_offer(Config(), PluginHost()).choices == ()
