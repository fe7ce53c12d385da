"""The commands that this plugin adds to the screen; they know no Textual."""

from __future__ import annotations

from collections.abc import Callable

from chatlm import SlashCommand, Ui

PICKER = "adapters"
"""The name of the plugin's screen."""

OFF = "off"


def lora(ui: Ui, argument: str) -> None:
    """Choose an adapter for the chat, or leave it.

    Raises:
        ChatlmError: it cannot be done.
    """
    from chatlm_lora import switching

    name = argument.strip()
    if not name:
        ui.open_screen(PICKER)
    elif name == OFF:
        switching.leave(ui)
    else:
        switching.use(ui, name)


def base(ui: Ui, argument: str) -> None:
    """Go from the adapter to the base, or back; without either, show what there is.

    Raises:
        ChatlmError: the adapter cannot be used.
    """
    from chatlm_lora import switching

    if not switching.toggle(ui):
        ui.open_screen(PICKER)


def register(add: Callable[[SlashCommand], None]) -> None:
    """Offer both."""
    add(SlashCommand("lora", "choose an adapter for this chat", lora, f"[NAME|{OFF}]"))
    add(SlashCommand("base", "switch between adapter and base", base, key="f5"))
