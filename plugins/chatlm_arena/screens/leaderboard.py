"""The screen with the ratings."""

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
from chatlm_arena import PLUGIN, charts
from chatlm_arena import leaderboard as leaderboard_module
from chatlm_arena.leaderboard import build_leaderboard
from chatlm_arena.ratings import EloRules
from chatlm_arena.settings import Settings
from chatlm_arena.store import store as store_module


class LeaderboardScreen(PluginCard):
    """The ratings, computed in a thread, since many votes take seconds."""

    DEFAULT_CSS = """
    LeaderboardScreen {
        & > .card { width: 120; }
        & VerticalScroll { height: 1fr; }
    }
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss", "close")]

    class Rated(Message):
        """The ratings have been computed."""

        def __init__(self, text: str, error: ChatlmError | None = None) -> None:
            super().__init__()
            self.text = text
            self.error = error

    def __init__(self) -> None:
        super().__init__("Ratings")

    def body(self) -> Iterable[Widget]:
        """Yield one scrolling text."""
        with VerticalScroll():
            yield Static("Counting votes …", id="ratings")

    def on_mount(self) -> None:
        """Start computing."""
        self._compute_ratings(min(self.app.size.width, 120) - 6)

    @work(thread=True, exclusive=True, exit_on_error=False)
    def _compute_ratings(self, width: int) -> None:
        try:
            self.post_message(self.Rated(_ratings_text(width)))
        except ChatlmError as error:
            self.post_message(self.Rated("", error))

    def on_leaderboard_screen_rated(self, event: Rated) -> None:
        """Show the ratings."""
        event.stop()
        self.query_one("#ratings", Static).update(Content(escape_controls(event.text)))
        self.show_error(event.error)


def _ratings_text(width: int) -> str:
    rules = EloRules(k=load_plugin_settings(PLUGIN, Settings).k)
    with store_module.open_arena_store() as store:
        votes, lengths = store.votes(), store.reply_lengths()
    if not len(votes):
        return "No votes yet. /arena lets two set-ups answer your messages; your votes rank them."
    board = build_leaderboard(votes, rules)
    findings = leaderboard_module.describe_findings(
        board,
        leaderboard_module.measure_side_bias(votes.score),
        leaderboard_module.measure_length_bias(*lengths),
    )
    lines = [
        *charts.leaderboard_table(board.rows, width),
        "",
        *charts.matrix_table(board),
        "",
        *charts.elo_sparklines(board, width),
        "",
        *findings,
    ]
    return "\n".join(lines)
