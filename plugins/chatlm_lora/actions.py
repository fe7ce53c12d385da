"""/lora and /base; use, leave, toggle."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from chatlm import (
    ChatlmError,
    ModelLocation,
    SlashCommand,
    Ui,
    UsageError,
    find_model,
    one_line,
    own_settings,
)
from chatlm_lora import PLUGIN, library
from chatlm_lora.library import ADAPTERS
from chatlm_lora.settings import ADAPTER, LAST, Settings, chosen, used_last

PICKER = "adapters"
"""The name of the plugin's screen."""


OFF = "off"


def lora(ui: Ui, argument: str) -> None:
    """Choose an adapter for the chat, or leave it.

    Raises:
        ChatlmError: it cannot be done.
    """

    name = argument.strip()
    if not name:
        ui.open_screen(PICKER)
    elif name == OFF:
        leave(ui)
    else:
        use(ui, name)


def base(ui: Ui, argument: str) -> None:
    """Go from the adapter to the base, or back; without either, show what there is.

    Raises:
        ChatlmError: the adapter cannot be used.
    """

    if not toggle(ui):
        ui.open_screen(PICKER)


def register(add: Callable[[SlashCommand], None]) -> None:
    """Offer both."""
    add(SlashCommand("lora", "choose an adapter for this chat", lora, f"[NAME|{OFF}]"))
    add(SlashCommand("base", "switch between adapter and base", base, key="f5"))


def in_use(ui: Ui) -> str:
    """The adapter of the chat that is shown; empty for the base alone."""
    return chosen(ui.kept, default())


def default() -> str:
    """The adapter of chats in which nothing else was chosen; empty for the base."""
    return own_settings(PLUGIN, Settings).adapter


def use(ui: Ui, name: str) -> None:
    """Let the chat use an adapter from the next reply on.

    Raises:
        UsageError: there is none of that name, neither here nor with the model.
        AdapterRefused: it cannot be used with the model.
    """
    warnings: Sequence[str] = ()
    if name not in brought(ui):
        warnings = library.checked(ADAPTERS.located(name), base_of(ui)).warnings
    ui.keep(**{ADAPTER: name, LAST: name})
    show(ui, name)
    key = "F5 switches between it and the base."
    used = f"This chat uses {one_line(name, 64)} from the next reply on. {key}"
    ui.tell("\n".join([used, *warnings]))


def leave(ui: Ui) -> None:
    """Let the chat use the base alone from the next reply on.

    Raises:
        UsageError: it does so already.
    """
    name = in_use(ui)
    if not name:
        raise UsageError("This chat uses no adapter.", hint="/lora chooses one.")
    ui.keep(**{ADAPTER: "", LAST: name})
    show(ui, "")
    ui.tell(f"This chat uses the base alone, without {one_line(name, 64)}. F5 switches back.")


def toggle(ui: Ui) -> bool:
    """Go from the adapter to the base, or back to the adapter that was used last.

    Returns:
        False where none was ever used, and nothing was done.

    Raises:
        ChatlmError: the adapter cannot be used.
    """
    if in_use(ui):
        leave(ui)
    elif name := used_last(ui.kept, default()):
        use(ui, name)
    else:
        return False
    return True


def show(ui: Ui, name: str) -> None:
    """Say in the status bar which adapter it is; empty for the base, which needs no word."""
    ui.show_status(f"adapter {one_line(name, 20)}" if name else "")


def brought(ui: Ui) -> tuple[str, ...]:
    """Adapters that come with the loaded model, such as a server's; no more is known of them."""
    return ui.engine.info.adapters if ui.engine else ()


def base_of(ui: Ui) -> ModelLocation | None:
    """The model that is loaded; None while there is none, or where it is no folder here."""
    if ui.engine is None:
        return None
    try:
        return find_model(ui.engine.info.model)
    except ChatlmError:  # it is a server's
        return None
