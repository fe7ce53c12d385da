"""Compare models blindly, and rate them by your votes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from chatlm import PluginScreen, hookimpl
from chatlm_arena import actions
from chatlm_arena.settings import Settings

if TYPE_CHECKING:
    from chatlm import Commands, SlashCommand, Ui

__all__ = ["Settings"]


@hookimpl
def register_commands(cli: Commands) -> None:
    """Add `chatlm arena`."""
    cli.add_lazy(
        "arena",
        "chatlm_arena.commands.ratings:arena",
        "Compare models, adapters and prompts blind, and rate them.",
    )


class ArenaRatings:
    """The service `ratings`: the leaderboard of all votes."""

    def leaderboard(self) -> list[dict[str, Any]]:
        """Return the rows of the leaderboard, strongest first."""
        from chatlm_arena.leaderboard import build_leaderboard
        from chatlm_arena.store import store as store_module

        with store_module.open_arena_store() as store:
            board = build_leaderboard(store.votes())
        return [row.to_dict() for row in board.rows]


class ArenaPreferences:
    """The service `preferences`: the votes as pairs of replies."""

    def pairs(self, judge: str) -> list[dict[str, Any]]:
        """Return a row for each vote that prefers a reply, oldest first."""
        from chatlm_arena import vote_files
        from chatlm_arena.store import store as store_module

        with store_module.open_arena_store() as store:
            return list(vote_files.dpo_examples(store.voted_matches(judge), store.image))


@hookimpl
def register_services(register: Callable[[str, Any], None]) -> None:
    """Offer the judge, the ratings and the votes to other plugins."""
    from chatlm_arena.judging import PairwiseJudge

    register("judge", PairwiseJudge())
    register("ratings", ArenaRatings())
    register("preferences", ArenaPreferences())


@hookimpl
def register_slash_commands(register: Callable[[SlashCommand], None]) -> None:
    """Add `/arena`."""
    actions.register(register)


@hookimpl
def register_screens(register: Callable[[PluginScreen], None]) -> None:
    """Add the screens of the arena, the ratings and the ranking."""
    register(PluginScreen(actions.ARENA_SCREEN, _arena_screen))
    register(PluginScreen(actions.LEADERBOARD_SCREEN, _leaderboard_screen))
    register(PluginScreen(actions.RANKING_SCREEN, _ranking_screen))


@hookimpl
def screen_opened(ui: Ui) -> None:
    """Open the arena if chatlm was started by `chatlm arena`."""
    if actions.consume_open_request():
        ui.open_screen(actions.ARENA_SCREEN)


def _arena_screen(ui: Ui, argument: str) -> Any:
    from chatlm_arena.screens.match import ArenaScreen

    return ArenaScreen(ui)


def _leaderboard_screen(ui: Ui, argument: str) -> Any:
    from chatlm_arena.screens.leaderboard import LeaderboardScreen

    return LeaderboardScreen()


def _ranking_screen(ui: Ui, argument: str) -> Any:
    from chatlm_arena.screens.ranking import RankingScreen

    return RankingScreen(ui)
