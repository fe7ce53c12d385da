"""Widgets of plugins that do everything wrong: the chat goes on, and each fault is named."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable
from functools import partial
from typing import Any

import pytest
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.message import Message
from textual.screen import ModalScreen, Screen
from textual.widget import Widget
from textual.widgets import Input, Static

from chatlm import Panel, PluginScreen, Ui, hookimpl
from chatlm.testing import ScriptedScreen, scripted_screen


class Oops(RuntimeError):
    """Raised by all of them."""


class Composes(Static):
    def compose(self) -> ComposeResult:
        yield Static("before")
        raise Oops("in compose")


class ComposesGarbage(Static):
    def compose(self) -> ComposeResult:
        yield 3  # type: ignore[misc]


class Mounts(Vertical):
    def compose(self) -> ComposeResult:
        yield Static("a child that lives")

    def on_mount(self) -> None:
        raise Oops("in on_mount")


class MountsLater(Static):
    async def on_mount(self) -> None:
        await asyncio.sleep(0.02)
        raise Oops("in an async on_mount")


class Exits(Static):
    def on_mount(self) -> None:
        sys.exit(3)


class Renders(Static):
    def render(self) -> str:
        raise Oops("in render")


class RendersLater(Static):
    worse = False

    def on_mount(self) -> None:
        self.set_timer(0.02, self.spoil)

    def spoil(self) -> None:
        self.worse = True
        self.refresh()

    def render(self) -> str:
        if self.worse:
            raise Oops("in a later render")
        return "good so far"


class RendersLine(Widget):
    def render_line(self, y: int) -> Any:
        raise Oops("in render_line")


class Measures(Static):
    def get_content_height(self, *arguments: Any) -> int:
        raise Oops("in get_content_height")


class Ticks(Static):
    def on_mount(self) -> None:
        self.set_interval(0.01, self.tick)

    def tick(self) -> None:
        raise Oops("in a timer")


class CallsLater(Static):
    def on_mount(self) -> None:
        self.call_later(self.fail)
        self.call_after_refresh(self.fail)

    def fail(self) -> None:
        raise Oops("in a callback")


class CallsNext(Static):
    def on_mount(self) -> None:
        self.call_next(self.fail)

    def fail(self) -> None:
        raise Oops("in a callback")


class Idles(Static):
    def on_idle(self) -> None:
        raise Oops("in on_idle")


class Works(Static):
    def on_mount(self) -> None:
        self.run_worker(self.work())

    async def work(self) -> None:
        await asyncio.sleep(0.01)
        raise Oops("in a worker")


class WorksInThread(Static):
    def on_mount(self) -> None:
        self.run_worker(self.work, thread=True)

    def work(self) -> None:
        raise Oops("in a thread")


class Resizes(Static):
    def on_resize(self) -> None:
        raise Oops("in on_resize")


class Nested(Vertical):
    class Wanted(Message):
        pass

    class Child(Static):
        def on_mount(self) -> None:
            self.post_message(Nested.Wanted())

    def compose(self) -> ComposeResult:
        with Vertical():
            yield self.Child("child")

    def on_nested_wanted(self) -> None:
        raise Oops("in a handler")


class WrongStyles(Static):
    DEFAULT_CSS = """
    WrongStyles {
        color: no-such-colour;
    }
    """


class WrongSyntax(Static):
    DEFAULT_CSS = "WrongSyntax { color: red; } }{ ]"


class NestedStyles(Vertical):
    def compose(self) -> ComposeResult:
        yield Static("fine")
        yield WrongStyles("not")


class SetsStyles(Static):
    def on_mount(self) -> None:
        self.styles.width = "a few"


class Watches(Static):
    def on_mount(self) -> None:
        self.watch(self.app, "theme", self.changed, init=False)
        self.call_later(self.change)

    def change(self) -> None:
        self.app.theme = "textual-light"

    def changed(self) -> None:
        raise Oops("in a watcher of chatlm's own")


class Focuses(Input):
    def on_mount(self) -> None:
        self.focus()

    def on_focus(self) -> None:
        raise Oops("in on_focus")


WIDGETS: list[type[Widget]] = [
    Resizes, Composes, ComposesGarbage, Mounts, MountsLater, Exits, Renders, RendersLater,
    RendersLine, Measures, Ticks, CallsLater, CallsNext, Idles, Works, WorksInThread, Nested,
    WrongStyles, WrongSyntax, NestedStyles, SetsStyles, Watches, Focuses,
]  # fmt: skip


class Plugin:
    """Shows each widget as a panel, and on a screen."""

    def __init__(self, kinds: Iterable[type[Widget]]) -> None:
        self.kinds = kinds

    @hookimpl
    def register_panels(self, register: Any) -> None:
        for kind in self.kinds:
            register(Panel(kind.__name__.lower(), kind.__name__, partial(open_widget, kind)))

    @hookimpl
    def register_screens(self, register: Any) -> None:
        for kind in self.kinds:
            register(PluginScreen(kind.__name__.lower(), partial(Shown, kind)))


def open_widget(kind: type[Widget], ui: Ui) -> Widget:
    return kind()


class Shown(Screen[None]):
    def __init__(self, kind: type[Widget], ui: Ui, argument: str) -> None:
        super().__init__()
        self.kind = kind

    def compose(self) -> ComposeResult:
        yield self.kind()


async def open_it(shown: ScriptedScreen, where: str, name: str) -> None:
    regions = shown.app.chat_screen.plugin_actions.regions
    (regions.toggle_panel if where == "panel" else regions.open_screen)(name)
    for _ in range(500):
        if shown.faults and shown.faults[-1].hook == f"{where} {name}":
            break
        await asyncio.sleep(0.01)
    await shown.settle()


@pytest.mark.parametrize("where", ["panel", "screen"])
async def test_what_breaks_is_closed_and_the_chat_goes_on(where: str) -> None:
    async with scripted_screen(Plugin(WIDGETS), replies=["Here I am."]) as shown:
        app = shown.app
        for at, kind in enumerate(WIDGETS):
            name = kind.__name__.lower()
            await open_it(shown, where, name)
            assert [fault.hook for fault in shown.faults[at:]] == [f"{where} {name}"]
            assert app.screen is app.chat_screen, name
            assert app.chat_screen.plugin_actions.regions.panel is None, name
            assert f"failed in {where} {name}" in shown.notifications[-1]
            app.clear_notifications()
        app.call_later(setattr, app, "theme", "nord")  # which reads all styles again
        await shown.press("tab", "shift+tab")
        await shown.submit("Are you there?")
        assert "Here I am." in shown.text()
        assert not app.return_code


class OneOf:
    """Offers the given extensions."""

    def __init__(self, *panels: Panel, screens: Iterable[PluginScreen] = ()) -> None:
        self.panels, self.screens = panels, screens

    @hookimpl
    def register_panels(self, register: Any) -> None:
        for panel in self.panels:
            register(panel)

    @hookimpl
    def register_screens(self, register: Any) -> None:
        for one in self.screens:
            register(one)


def fails(*arguments: Any) -> Any:
    raise Oops("when opened")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (fails, "Oops: when opened"),
        (lambda *_: 3, "open returned int, not a Textual"),
        (lambda *_: sys.exit(), "SystemExit"),
    ],
)
async def test_what_cannot_be_opened_is_a_fault_and_three_leave_the_plugin_out(
    make: Any, said: str
) -> None:
    plugin = OneOf(Panel("bad", "Bad", make), screens=[PluginScreen("bad", make)])
    async with scripted_screen(plugin, replies=["Here I am."]) as shown:
        await open_it(shown, "screen", "bad")
        for _ in range(3):
            await shown.submit("/bad")
        assert [(fault.hook, fault.dropped) for fault in shown.faults] == [
            ("screen bad", False), ("panel bad", False), ("panel bad", False), ("panel bad", True),
        ]  # fmt: skip
        assert all(said in fault.error for fault in shown.faults)
        await shown.submit("/bad")
        assert "failed too often" in shown.notifications[-1]
        await shown.submit("Are you there?")
        assert "Here I am." in shown.text()


async def test_a_panel_that_fails_when_it_is_shown_the_next_chat() -> None:
    class Shows(Static):
        def show(self, ui: Ui) -> None:
            if ui.conversation.id:
                raise Oops("in show")

    async with scripted_screen(
        OneOf(Panel("bad", "Bad", lambda ui: Shows("good so far")))
    ) as shown:
        await shown.submit("/bad")
        assert "good so far" in shown.text()
        await shown.submit("Hello")
        (fault,) = shown.faults
        assert (fault.hook, fault.error) == ("panel bad", "Oops: in show")
        assert "good so far" not in shown.text()


async def test_a_panel_that_fails_when_it_is_closed() -> None:
    class Unmounts(Static):
        def on_unmount(self) -> None:
            raise Oops("in on_unmount")

    below_toasts = "\n" * 12 + "All is well."
    panels = (
        Panel("bad", "Bad", lambda ui: Unmounts()),
        Panel("good", "Good", lambda ui: Static(below_toasts)),
    )
    async with scripted_screen(OneOf(*panels), replies=["Here I am."]) as shown:
        await shown.submit("/bad")
        await shown.submit("/good")
        (fault,) = shown.faults
        assert fault.error == "Oops: in on_unmount"
        assert "All is well." in shown.text()
        await shown.submit("Are you there?")
        assert "Here I am." in shown.text()


async def test_a_key_of_a_widget_that_fails() -> None:
    class Presses(Input):
        BINDINGS = [("f8", "fail", "")]  # noqa: RUF012

        def action_fail(self) -> None:
            raise Oops("in an action")

        def key_f9(self) -> None:
            raise Oops("in a key method")

    async with scripted_screen(
        OneOf(Panel("bad", "Bad", lambda ui: Presses())), replies=["Yes."]
    ) as shown:
        for at, key in enumerate(("f8", "f9"), start=1):
            await shown.submit("/bad")
            await shown.press("shift+tab", "shift+tab")
            assert isinstance(shown.app.chat_screen.focused, Presses)
            await shown.press(key)
            assert len(shown.faults) == at
            assert "Bad" not in shown.text()
        await shown.submit("Are you there?")
        assert "Yes." in shown.text()


async def test_a_screen_that_a_plugins_screen_opens_is_the_plugins_too() -> None:
    class Outer(Screen[None]):
        def on_mount(self) -> None:
            self.app.push_screen(Inner())

    class Inner(ModalScreen[None]):
        def compose(self) -> ComposeResult:
            yield MountsLater()

    bad = PluginScreen("bad", lambda ui, argument: Outer())
    async with scripted_screen(OneOf(screens=[bad]), replies=["Here I am."]) as shown:
        await open_it(shown, "screen", "bad")
        (fault,) = shown.faults
        assert fault.error == "Oops: in an async on_mount"
        assert shown.app.screen is shown.app.chat_screen
        await shown.submit("Are you there?")
        assert "Here I am." in shown.text()


async def test_a_failure_of_chatlms_own_still_ends_the_program() -> None:
    """The guard must not hide failures outside plugins."""
    plugin = OneOf(Panel("good", "Good", lambda ui: Static()))
    with pytest.raises(Oops):
        async with scripted_screen(plugin) as shown:
            await shown.submit("/good")
            shown.app.chat_screen.call_later(fails)
            for _ in range(200):
                await asyncio.sleep(0.01)
                if shown.app._exception:
                    break
