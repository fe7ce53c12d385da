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
    load_plugin_settings,
    one_line,
)
from chatlm_lora import PLUGIN, library
from chatlm_lora.library import ADAPTERS
from chatlm_lora.settings import (
    ADAPTER_KEY,
    LAST_ADAPTER_KEY,
    Settings,
    last_adapter,
    selected_adapter,
)

PICKER_SCREEN = "adapters"
"""The name of the plugin's screen."""


OFF = "off"


def lora(ui: Ui, argument: str) -> None:
    """Choose an adapter for the chat, or leave it.

    Raises:
        ChatlmError: it cannot be done.
    """

    name = argument.strip()
    if not name:
        ui.open_screen(PICKER_SCREEN)
    elif name == OFF:
        use_base_model(ui)
    else:
        use_adapter(ui, name)


def base(ui: Ui, argument: str) -> None:
    """Go from the adapter to the base, or back; without either, show what there is.

    Raises:
        ChatlmError: the adapter cannot be used.
    """

    if not toggle_adapter(ui):
        ui.open_screen(PICKER_SCREEN)


def register(add: Callable[[SlashCommand], None]) -> None:
    """Offer both."""
    add(SlashCommand("lora", "choose an adapter for this chat", lora, f"[NAME|{OFF}]"))
    add(SlashCommand("base", "switch between adapter and base", base, key="f5"))


def active_adapter(ui: Ui) -> str:
    """The adapter of the chat that is shown; empty for the base alone."""
    return selected_adapter(ui.state, default_adapter())


def default_adapter() -> str:
    """The adapter of chats in which nothing else was chosen; empty for the base."""
    return load_plugin_settings(PLUGIN, Settings).adapter


def use_adapter(ui: Ui, name: str) -> None:
    """Let the chat use an adapter from the next reply on.

    Raises:
        UsageError: there is none of that name, neither here nor with the model.
        AdapterRefused: it cannot be used with the model.
    """
    warnings: Sequence[str] = ()
    if name not in engine_adapters(ui):
        warnings = library.validate_cached(ADAPTERS.get(name), loaded_model(ui)).warnings
    ui.set_state(**{ADAPTER_KEY: name, LAST_ADAPTER_KEY: name})
    show_adapter_status(ui, name)
    key = "F5 switches between it and the base."
    used = f"This chat uses {one_line(name, 64)} from the next reply on. {key}"
    ui.notify("\n".join([used, *warnings]))


def use_base_model(ui: Ui) -> None:
    """Let the chat use the base alone from the next reply on.

    Raises:
        UsageError: it does so already.
    """
    name = active_adapter(ui)
    if not name:
        raise UsageError("This chat uses no adapter.", hint="/lora chooses one.")
    ui.set_state(**{ADAPTER_KEY: "", LAST_ADAPTER_KEY: name})
    show_adapter_status(ui, "")
    ui.notify(f"This chat uses the base alone, without {one_line(name, 64)}. F5 switches back.")


def toggle_adapter(ui: Ui) -> bool:
    """Go from the adapter to the base, or back to the adapter that was used last.

    Returns:
        False where none was ever used, and nothing was done.

    Raises:
        ChatlmError: the adapter cannot be used.
    """
    if active_adapter(ui):
        use_base_model(ui)
    elif name := last_adapter(ui.state, default_adapter()):
        use_adapter(ui, name)
    else:
        return False
    return True


def show_adapter_status(ui: Ui, name: str) -> None:
    """Say in the status bar which adapter it is; empty for the base, which needs no word."""
    ui.show_status(f"adapter {one_line(name, 20)}" if name else "")


def engine_adapters(ui: Ui) -> tuple[str, ...]:
    """Adapters that come with the loaded model, such as a server's; no more is known of them."""
    return ui.engine.info.adapters if ui.engine else ()


def loaded_model(ui: Ui) -> ModelLocation | None:
    """The model that is loaded; None while there is none, or where it is no folder here."""
    if ui.engine is None:
        return None
    try:
        return find_model(ui.engine.info.model)
    except ChatlmError:  # it is a server's
        return None
