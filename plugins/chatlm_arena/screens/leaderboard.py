"""The screen with the ratings and what is known about them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from textual import work
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Static

from chatlm import ChatlmError, PluginCard, escape_controls, load_plugin_settings
from chatlm_arena import PLUGIN
from chatlm_arena.ratings import EloRules
from chatlm_arena.settings import Settings
from chatlm_arena.store import store as store_module
from chatlm_arena.views import VIEWS, view_text


class LeaderboardScreen(PluginCard):
    """The ratings and further views, computed in a thread, since many votes take seconds."""

    DEFAULT_CSS = """
    LeaderboardScreen {
        & > .card { width: 120; }
        & VerticalScroll { height: 1fr; }
    }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        *(Binding(str(number), f"show('{name}')", name) for number, name in enumerate(VIEWS, 1)),
        Binding("escape", "dismiss", "close"),
    ]

    class Computed(Message):
        """A view has been computed."""

        def __init__(self, view: str, text: str, error: ChatlmError | None = None) -> None:
            super().__init__()
            self.view = view
            self.text = text
            self.error = error

    def __init__(self) -> None:
        super().__init__(VIEWS["ratings"][0])
        self.shown_view = "ratings"
        """The view that is shown or being computed."""

    def body(self) -> Iterable[Widget]:
        """Yield one scrolling text."""
        with VerticalScroll():
            yield Static(id="ratings")

    def on_mount(self) -> None:
        """Show the ratings."""
        self.action_show("ratings")

    def action_show(self, view: str) -> None:
        """Compute and show a view."""
        self.shown_view = view
        self.query_one(".card").border_title = Content(VIEWS[view][0])
        self.query_one("#ratings", Static).update("Counting votes …")
        self.query_one(VerticalScroll).scroll_home(animate=False)
        self._compute(view, min(self.app.size.width, 120) - 6)

    @work(thread=True, exclusive=True, exit_on_error=False)
    def _compute(self, view: str, width: int) -> None:
        try:
            rules = EloRules(k=load_plugin_settings(PLUGIN, Settings).k)
            with store_module.open_arena_store() as store:
                text = view_text(view, store, width, rules)
            self.post_message(self.Computed(view, text))
        except ChatlmError as error:
            self.post_message(self.Computed(view, "", error))

    def on_leaderboard_screen_computed(self, event: Computed) -> None:
        """Show the view, unless another one was asked for meanwhile."""
        event.stop()
        if event.view == self.shown_view:
            self.query_one("#ratings", Static).update(Content(escape_controls(event.text)))
            self.show_error(event.error)
