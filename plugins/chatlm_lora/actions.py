"""/lora and /base: use an adapter in a chat, or the base model alone; /align: train one."""

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
"""Name of the picker screen."""

ALIGNMENT_SCREEN = "align"
"""Name of the screen that trains on votes."""

OFF = "off"


def lora(ui: Ui, argument: str) -> None:
    """Use an adapter in the chat, or the base model; without an argument open the picker.

    Raises:
        ChatlmError: the adapter cannot be used.
    """
    name = argument.strip()
    if not name:
        ui.open_screen(PICKER_SCREEN)
    elif name == OFF:
        use_base_model(ui)
    else:
        use_adapter(ui, name)


def base(ui: Ui, argument: str) -> None:
    """Switch between the adapter and the base model; open the picker if none was used yet.

    Raises:
        ChatlmError: the adapter cannot be used.
    """
    if not toggle_adapter(ui):
        ui.open_screen(PICKER_SCREEN)


def align(ui: Ui, argument: str) -> None:
    """Open the screen that trains an adapter on the user's votes."""
    ui.open_screen(ALIGNMENT_SCREEN)


def register(add: Callable[[SlashCommand], None]) -> None:
    """Register the commands."""
    add(SlashCommand("lora", "choose an adapter for this chat", lora, f"[NAME|{OFF}]"))
    add(SlashCommand("base", "switch between adapter and base", base, key="f5"))
    add(SlashCommand("align", "train an adapter on your votes", align))


def active_adapter(ui: Ui) -> str:
    """Return the open chat's adapter; empty for the base model alone."""
    return selected_adapter(ui.state, default_adapter())


def default_adapter() -> str:
    """Return the default adapter of chats; empty for the base model."""
    return load_plugin_settings(PLUGIN, Settings).adapter


def use_adapter(ui: Ui, name: str) -> None:
    """Use an adapter in the chat from the next reply on.

    Raises:
        UsageError: no adapter has that name, neither installed nor offered by the model.
        AdapterRefused: it cannot be used with the model.
    """
    warnings: Sequence[str] = ()
    if name not in engine_adapters(ui):
        warnings = library.validate_cached(ADAPTERS.get(name), loaded_model(ui)).warnings
    ui.set_state(**{ADAPTER_KEY: name, LAST_ADAPTER_KEY: name})
    show_adapter_status(ui, name)
    text = (
        f"This chat uses {one_line(name, 64)} from the next reply on. "
        "F5 switches to the base model and back."
    )
    ui.notify("\n".join([text, *warnings]))


def use_base_model(ui: Ui) -> None:
    """Use the base model alone from the next reply on.

    Raises:
        UsageError: the chat uses no adapter.
    """
    name = active_adapter(ui)
    if not name:
        raise UsageError("This chat uses no adapter.", hint="Choose one: /lora")
    ui.set_state(**{ADAPTER_KEY: "", LAST_ADAPTER_KEY: name})
    show_adapter_status(ui, "")
    ui.notify(f"This chat uses the base model, without {one_line(name, 64)}. F5 switches back.")


def toggle_adapter(ui: Ui) -> bool:
    """Switch from the adapter to the base model, or back to the last adapter.

    Returns:
        False if the chat has never used an adapter; nothing changes then.

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
    """Show the adapter in the status bar; nothing for an empty name, the base model."""
    ui.show_status(f"adapter {one_line(name, 20)}" if name else "")


def engine_adapters(ui: Ui) -> tuple[str, ...]:
    """Return the adapters that the loaded model offers, such as a server's."""
    return ui.engine.info.adapters if ui.engine else ()


def loaded_model(ui: Ui) -> ModelLocation | None:
    """Return the loaded model; None while there is none, or if it is not a local folder."""
    if ui.engine is None:
        return None
    try:
        return find_model(ui.engine.info.model)
    except ChatlmError:  # a model on a server
        return None
