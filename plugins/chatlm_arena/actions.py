"""The `/arena` command, and `chatlm arena`, which starts chatlm with the arena open."""

from __future__ import annotations

import sys
from collections.abc import Callable

from chatlm import Conversation, Setup, SlashCommand, Ui, UsageError, load_config, run_ui
from chatlm.plugin_kit.chat_state import plugin_state, text_value
from chatlm_arena import PLUGIN
from chatlm_arena.contestants import ADAPTER_KEY

ARENA_SCREEN, LEADERBOARD_SCREEN, RANKING_SCREEN = "arena", "leaderboard", "ranking"
"""The names of the plugin's screens."""

ADD, RATINGS, RANK, GOLDEN = "add", "ratings", "rank", "golden"
"""The subcommands of `/arena`."""

SCREENS = {"": ARENA_SCREEN, RATINGS: LEADERBOARD_SCREEN, RANK: RANKING_SCREEN}
"""The screens that subcommands open."""


def arena(ui: Ui, argument: str) -> None:
    """Open the arena, a ranking or the ratings, add the chat's set-up, or save a golden chat.

    Raises:
        ChatlmError: the action failed or is unknown.
    """
    from chatlm_arena.store import store as store_module

    word, _, rest = argument.strip().partition(" ")
    if word in SCREENS:
        store_module.check_arena_store()
        ui.open_screen(SCREENS[word])
    elif word == ADD:
        _add_contestant(ui, rest)
    elif word == GOLDEN:
        _add_golden(ui, rest)
    else:
        raise UsageError(
            f"Unknown action: /arena {word}",
            hint=f"Use /arena, /arena {ADD} NAME, /arena {RANK}, /arena {RATINGS} or "
            f"/arena {GOLDEN} NAME.",
        )


def current_setup(ui: Ui) -> Setup:
    """Return the set-up of the current chat.

    Raises:
        UsageError: no model is loaded.
    """
    if ui.engine is None:
        raise UsageError("The model is not loaded yet.", hint="Wait until it is loaded.")
    chat = ui.conversation
    return Setup(
        model=ui.engine.info.model,
        adapter=current_adapter(chat),
        system=chat.system,
        sampling=chat.sampling,
        plugin_data={name: values for name, values in chat.plugin_data.items() if name != PLUGIN},
    )


def current_adapter(chat: Conversation) -> str:
    """Return the adapter of a chat: the one selected in it, else that of its newest reply."""
    plugin, key = ADAPTER_KEY
    selected = text_value(plugin_state(chat, plugin), key, None)
    if selected is not None:
        return selected
    newest = chat.turns[-1].reply if chat.turns else None
    return (newest.adapter if newest else None) or ""


def register(add: Callable[[SlashCommand], None]) -> None:
    """Register `/arena`."""
    usage = f"[{ADD} NAME|{RANK}|{RATINGS}|{GOLDEN} NAME]"
    add(SlashCommand("arena", "compare two set-ups blind", arena, usage, key="f9"))


def _add_contestant(ui: Ui, name: str) -> None:
    from chatlm_arena.store import store as store_module

    with store_module.open_arena_store() as store:
        added = store.add_contestant(name, current_setup(ui))
        count = sum(contestant.setup is not None for contestant in store.contestants())
    next_step = "Start a match: /arena" if count > 1 else "Add one more to start a match."
    ui.notify(f"Added {added.name} to the arena: {added.description}. {next_step}")


def _add_golden(ui: Ui, name: str) -> None:
    """Save the selected turn as a golden chat."""
    from chatlm_arena.golden import golden_from_turn
    from chatlm_arena.store import store as store_module

    if ui.turn is None:
        raise UsageError(
            "There is no reply yet.", hint="Send a message first, or select a turn with Tab."
        )
    golden = golden_from_turn(name, ui.conversation, ui.turn)
    with store_module.open_arena_store() as store:
        store.add_golden(golden)
    ui.notify(f"Saved golden chat {golden.name}. Check a contestant: chatlm arena check CONTESTANT")


_open_requested: list[bool] = []
"""Not empty if the arena is to open as soon as the chat screen is ready."""


def run_arena() -> None:
    """Run the terminal UI with the arena open; return when the user quits.

    Raises:
        UsageError: there is no terminal.
        StoreError: the arena cannot be opened.
    """
    from chatlm_arena.store import store

    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError(
            "The arena needs a terminal.",
            hint="In a pipe or script: chatlm arena leaderboard, chatlm arena run",
        )
    store.check_arena_store()
    _open_requested.append(True)
    run_ui(load_config())


def consume_open_request() -> bool:
    """Return whether the arena is to open now, and clear the request."""
    return bool(_open_requested and _open_requested.pop())
