"""Isolate plugin widgets: a failure closes only the plugin's region.

Textual ends the whole program for an exception in any widget. Here the region that a plugin draws
in is ended instead, and the pumps of messages go on.

Overriding `App._handle_exception` alone does not suffice, so dispatching messages is guarded too.
Textual calls it when a pump has stopped already, and never for `SystemExit` or `KeyboardInterrupt`.
A plugin's error stops the pump of the app where it is raised there (actions of keys, watchers of
the app's attributes), that of a plugin's screen when it is measured or drawn, and that of a widget
that fails while it is unmounted; the app, or what waits for the screen, then waits for ever.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from textual.app import App
from textual.css.errors import StylesheetError
from textual.css.stylesheet import Stylesheet, StylesheetParseError
from textual.css.tokenizer import TokenError
from textual.dom import DOMNode
from textual.message import Message
from textual.message_pump import MessagePump
from textual.screen import Screen
from textual.widget import Widget
from textual.worker import NoActiveWorker, WorkerFailed, get_current_worker

from chatlm.errors import ChatlmError

log = logging.getLogger(__name__)


RELEASE_SECONDS = 1.0
"""Seconds a removed widget may spend on one message before it is cancelled."""


MAX_CANCELLATIONS = 10
"""Number of cancelled messages after which a widget is abandoned."""


@dataclass(eq=False)
class PluginRegion:
    """A part of the screen that belongs to a plugin."""

    plugin: str
    description: str
    """Its kind and name, such as `panel notes`."""
    on_failure: Callable[[PluginRegion, BaseException], object]
    """Called with the first error in it."""
    broken: bool = False


class GuardedApp(App[None]):
    """An app that survives failing plugin widgets."""

    def __init__(self) -> None:
        super().__init__()
        self._regions: WeakKeyDictionary[MessagePump, PluginRegion] = WeakKeyDictionary()
        self._releasing: set[asyncio.Task[None]] = set()
        self._released: WeakSet[MessagePump] = WeakSet()
        """Widgets that are being removed."""

    def register_region(self, widget: Widget, region: PluginRegion) -> None:
        """Assign errors in a widget and its descendants to a region."""
        if MessagePump._dispatch_message is not _guarded_dispatch:
            MessagePump._dispatch_message = _guarded_dispatch  # type: ignore[method-assign]
        self._regions[widget] = region

    def region_of(self, pump: MessagePump | None) -> PluginRegion | None:
        """Return a widget's region; a screen opened by a plugin's widget belongs to it too."""
        while pump is not None and pump not in self._regions:
            opened = isinstance(pump, Screen) and pump._result_callbacks
            pump = opened[-1].requester if opened else getattr(pump, "parent", None)
        return None if pump is None else self._regions[pump]

    def catch_plugin_error(self, error: BaseException, pump: MessagePump | None = None) -> bool:
        """Handle an error raised in a plugin's widget; return False for other errors.

        Args:
            error: what was raised.
            pump: whose message was handled, if that is known.
        """
        region = self._region_of_error(error, pump)
        if region is None:
            return False
        if isinstance(error, WorkerFailed):
            error = error.error
        if region.broken:
            log.info("once more in the %s of %s: %r", region.description, region.plugin, error)
            return True
        region.broken = True
        if isinstance(error, STYLESHEET_ERRORS):
            drop_invalid_css(self)
            error = describe_style_error(error)
        region.on_failure(region, error)
        return True

    def release_widget(self, widget: Widget) -> None:
        """Cancel a removed widget and its descendants if they do not end in time."""
        nodes = list(widget.walk_children(Widget, with_self=True))
        if region := self.region_of(widget):
            self._regions.update(dict.fromkeys(nodes, region))  # they will have no parents
        self._released.update(nodes)
        release = asyncio.create_task(_cancel_widgets(nodes))
        self._releasing.add(release)
        release.add_done_callback(self._releasing.discard)

    def is_widget_released(self, pump: MessagePump) -> bool:
        """Whether a widget is being removed."""
        return pump in self._released

    def release_plugin_widgets(self) -> None:
        """Release all plugin widgets."""
        for screen in self.screen_stack:
            if self.region_of(screen):
                self.release_widget(screen)
        for widget in list(self._regions):
            if isinstance(widget, Widget):
                self.release_widget(widget)

    def _handle_exception(self, error: Exception) -> None:
        if not self.catch_plugin_error(error):
            super()._handle_exception(error)

    def _region_of_error(
        self, error: BaseException, pump: MessagePump | None
    ) -> PluginRegion | None:
        """Return the region of an error: of its worker, its pump, or a frame of its traceback."""
        if not self._regions:
            return None
        if isinstance(error, WorkerFailed):
            try:
                return self.region_of(get_current_worker().node)
            except NoActiveWorker:
                return None
        region = self.region_of(pump)
        step = error.__traceback__
        while region is None and step is not None:
            node = step.tb_frame.f_locals.get("self")
            region = self.region_of(node) if isinstance(node, DOMNode) else None
            step = step.tb_next
        return region


_original_dispatch = MessagePump._dispatch_message


async def _guarded_dispatch(self: MessagePump, message: Message) -> None:
    """Dispatch a message; errors of plugin widgets do not stop the message pump."""
    app = self.app
    try:
        await _original_dispatch(self, message)
    except asyncio.CancelledError:
        if not (isinstance(app, GuardedApp) and app.is_widget_released(self)):
            raise
    except BaseException as error:
        if not (isinstance(app, GuardedApp) and app.catch_plugin_error(error, self)):
            raise


async def _cancel_widgets(widgets: list[Widget]) -> None:
    """Wait for widgets to end, and cancel the messages of those that do not."""
    for _ in range(MAX_CANCELLATIONS):
        tasks = {widget._task: widget for widget in widgets if widget._task is not None}
        if not tasks:
            return
        _, going_on = await asyncio.wait(tasks, timeout=RELEASE_SECONDS)
        for task in going_on:
            if tasks[task]._running:  # the others wait for those in them
                task.cancel()
        widgets = [tasks[task] for task in going_on]


STYLESHEET_ERRORS = (StylesheetError, TokenError)
"""Errors Textual raises for invalid styles."""


def check_styles(app: App[Any], widget: Widget) -> None:
    """Check the styles of a widget before it is mounted.

    Raises:
        ChatlmError: they are invalid; the message names the line.
    """
    sheet = Stylesheet(variables=app.get_css_variables())
    for place, css, rank, scope in widget._get_default_css():
        sheet.add_source(css, place, is_default_css=True, tie_breaker=rank, scope=scope)
    try:
        if isinstance(widget, Screen):
            sheet.read_all(widget.css_path)
            sheet.add_source(widget.CSS, ("", f"{type(widget).__name__}.CSS"))
        sheet.parse()
    except STYLESHEET_ERRORS as error:
        raise describe_style_error(error) from None


def load_scoped_css(app: App[Any], screen: Screen[Any]) -> None:
    """Load a screen's style files for that screen only; Textual would apply them to all."""
    for path in map(Path, screen.css_path):
        css = path.read_text(encoding="utf-8")
        app.stylesheet.add_source(css, (str(path), ""), scope=type(screen).__name__)


def drop_invalid_css(app: App[Any]) -> None:
    """Remove invalid styles, at which Textual would fail again with the next theme."""
    sheet = app.stylesheet
    for place, source in list(sheet.source.items()):
        if source.content in sheet._invalid_css:
            del sheet.source[place]
    sheet._invalid_css.clear()


def describe_style_error(error: Exception) -> ChatlmError:
    """Describe a style error with its line."""
    if isinstance(error, StylesheetParseError):
        token, message = next(chain.from_iterable(rule.errors for rule in error.errors.rules))
        start, place = token.start, token.read_from
        message = getattr(message, "summary", message)  # of Textual's help texts
    elif isinstance(error, TokenError):
        start, place, message = error.start, error.read_from, str(error)
    else:
        return ChatlmError(str(error))
    return ChatlmError(f"{place[1] or place[0]}, line {start[0]}: {message}")
