"""Switch, train and merge LoRA adapters."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chatlm import PluginScreen, hookimpl, load_plugin_settings
from chatlm.plugin_kit.chat_state import plugin_state
from chatlm_lora import PLUGIN, actions
from chatlm_lora.alignment import votes
from chatlm_lora.settings import Settings, selected_adapter

if TYPE_CHECKING:
    from chatlm import (
        ChatlmError,
        Commands,
        Conversation,
        PluginContext,
        Request,
        Setup,
        SlashCommand,
        Ui,
    )


@hookimpl
def startup(context: PluginContext) -> None:
    """Remember where the service of the votes is found."""
    votes.use_services_of(context)


@hookimpl
def shutdown() -> None:
    """Stop a training that runs beside the chat; its checkpoint is kept."""
    import sys

    if background := sys.modules.get("chatlm_lora.alignment.background"):
        background.TRAININGS.stop()


@hookimpl
def register_commands(cli: Commands) -> None:
    """Add `chatlm adapters` and `chatlm align`."""
    cli.add_lazy(
        "adapters",
        "chatlm_lora.commands:adapters",
        "Add, check, train, merge and export LoRA adapters.",
    )
    cli.add_lazy("align", "chatlm_lora.alignment.commands:align", "Train an adapter on your votes.")


@hookimpl
def register_setups(register: Callable[[str, Setup], None]) -> None:
    """Register each adapter as a set-up of its name."""
    from chatlm import Setup
    from chatlm_lora.library import ADAPTERS

    for adapter in ADAPTERS.all():
        register(adapter.name, Setup(adapter=adapter.name))


class AdapterLibrary:
    """The adapters on this machine as the service `adapters`."""

    def names(self) -> list[str]:
        """Return the names of all adapters."""
        from chatlm_lora.library import ADAPTERS

        return [adapter.name for adapter in ADAPTERS.all()]

    def find(self, name: str, model: str) -> Path:
        """Return the folder of an adapter that fits the model."""
        from chatlm_lora.library import resolve_adapter

        folder = resolve_adapter(name, model)
        if isinstance(folder, Path):
            return folder
        raise folder


@hookimpl
def register_services(register: Callable[[str, Any], None]) -> None:
    """Offer the adapters to other plugins."""
    register("adapters", AdapterLibrary())


@hookimpl
def register_slash_commands(register: Callable[[SlashCommand], None]) -> None:
    """Add `/lora`, `/base` and `/align`."""
    actions.register(register)


@hookimpl
def register_screens(register: Callable[[PluginScreen], None]) -> None:
    """Add the adapter picker and the training on votes."""
    register(PluginScreen(actions.PICKER_SCREEN, _picker_screen))
    register(PluginScreen(actions.ALIGNMENT_SCREEN, _alignment_screen))


@hookimpl
def chat_shown(ui: Ui) -> None:
    """Show the chat's adapter in the status bar."""
    from chatlm_lora import actions

    actions.show_adapter_status(ui, actions.active_adapter(ui))


@hookimpl
def adjust_request(request: Request, conversation: Conversation) -> Request | None:
    """Set the chat's adapter, unless the user or another plugin has chosen for this request."""
    if request.adapter_fixed or request.adapter is not None:
        return None
    name = selected_adapter(
        plugin_state(conversation, PLUGIN), load_plugin_settings(PLUGIN, Settings).adapter
    )
    return dataclasses.replace(request, adapter=name) if name else None


@hookimpl(trylast=True)
def find_adapter(name: str, model: str) -> Path | ChatlmError:
    """Return the folder of an adapter for the model, or why it cannot be used."""
    from chatlm_lora.library import resolve_adapter

    return resolve_adapter(name, model)


def _picker_screen(ui: Ui, argument: str) -> Any:
    from chatlm_lora.screens.picker import AdapterPicker

    return AdapterPicker(ui)


def _alignment_screen(ui: Ui, argument: str) -> Any:
    from chatlm_lora.screens.alignment import AlignmentScreen

    return AlignmentScreen(ui, votes.read_own_votes)
