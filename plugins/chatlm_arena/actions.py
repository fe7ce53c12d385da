"""/arena; open the arena at start."""

from __future__ import annotations

import sys
from collections.abc import Callable

from chatlm import Conversation, Setup, SlashCommand, Ui, UsageError, load_config, run_ui
from chatlm_arena import PLUGIN
from chatlm_arena.contestants import ADAPTER_KEY

ARENA_SCREEN, LEADERBOARD_SCREEN = "arena", "leaderboard"
"""The names of the plugin's screens."""


ADD, RATINGS, GOLDEN = "add", "ratings", "golden"


def arena(ui: Ui, argument: str) -> None:
    """Open the arena or the ratings, or let the chat's set-up enter it.

    Raises:
        ChatlmError: it cannot be done.
    """
    from chatlm_arena.store import store as store_module

    word, _, rest = argument.strip().partition(" ")
    if word in ("", RATINGS):
        store_module.check_arena_store()
        ui.open_screen(LEADERBOARD_SCREEN if word else ARENA_SCREEN)
    elif word == ADD:
        _add_contestant(ui, rest)
    elif word == GOLDEN:
        _add_golden(ui, rest)
    else:
        raise UsageError(
            f"/arena cannot {word}.", hint=f"/arena, /arena {ADD} NAME or /arena {RATINGS}"
        )


def current_setup(ui: Ui) -> Setup:
    """What answers the chat that is shown.

    Raises:
        UsageError: no model is loaded.
    """
    if ui.engine is None:
        raise UsageError("There is no model yet.", hint="Wait until it is loaded.")
    chat = ui.conversation
    return Setup(
        model=ui.engine.info.model,
        adapter=current_adapter(chat),
        system=chat.system,
        sampling=chat.sampling,
        plugin_data={name: values for name, values in chat.plugin_data.items() if name != PLUGIN},
    )


def current_adapter(chat: Conversation) -> str:
    """The adapter that answers a chat next: the one chosen in it, else that of its newest reply."""
    plugin, key = ADAPTER_KEY
    kept = chat.plugin_data.get(plugin, {}).get(key)
    if isinstance(kept, str):
        return kept
    newest = chat.turns[-1].reply if chat.turns else None
    return (newest.adapter if newest else None) or ""


def register(add: Callable[[SlashCommand], None]) -> None:
    """Offer it."""
    what = f"[{ADD} NAME|{RATINGS}|{GOLDEN} NAME]"
    add(SlashCommand("arena", "compare two set-ups blind", arena, what))


def _add_contestant(ui: Ui, name: str) -> None:
    from chatlm_arena.store import store as store_module

    with store_module.open_arena_store() as store:
        added = store.add_contestant(name, current_setup(ui))
        count = sum(contestant.setup is not None for contestant in store.contestants())
    more = "/arena begins." if count > 1 else "One more, and /arena can begin."
    ui.notify(f"{added.name} is in the arena: {added.description}. {more}")


def _add_golden(ui: Ui, name: str) -> None:
    """Let the selected turn be a test."""
    from chatlm_arena.golden import golden_from_turn
    from chatlm_arena.store import store as store_module

    if ui.turn is None:
        raise UsageError("There is no reply yet.", hint="Select a turn with Tab and mark that.")
    golden = golden_from_turn(name, ui.conversation, ui.turn)
    with store_module.open_arena_store() as store:
        store.add_golden(golden)
    ui.notify(f"{golden.name} is a test now. Run it: chatlm arena check CONTESTANT")


_open_requested: list[bool] = []
"""Not empty where the arena shall open as soon as the screen is there."""


def run_arena() -> None:
    """Open the terminal UI in the arena, and return when the person quits.

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
    """Whether the arena shall open now; asked again, it says no."""
    return bool(_open_requested and _open_requested.pop())
