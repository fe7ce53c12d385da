"""The hooks by which chatlm knows the arena."""

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


@hookimpl
def register_slash_commands(register: Callable[[SlashCommand], None]) -> None:
    """Add `/arena`."""
    actions.register(register)


@hookimpl
def register_screens(register: Callable[[PluginScreen], None]) -> None:
    """Add the arena and the ratings."""
    register(PluginScreen(actions.SCREEN, _arena))
    register(PluginScreen(actions.BOARD, _board))


@hookimpl
def screen_opened(ui: Ui) -> None:
    """Open the arena where `chatlm arena` asked for it."""
    if actions.take_wish():
        ui.open_screen(actions.SCREEN)


def _arena(ui: Ui, argument: str) -> Any:
    from chatlm_arena.screens.match import ArenaScreen

    return ArenaScreen(ui)


def _board(ui: Ui, argument: str) -> Any:
    from chatlm_arena.screens.leaderboard import BoardScreen

    return BoardScreen()
