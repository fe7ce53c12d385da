"""Build language models yourself, talk to them, and see how they work."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from chatlm import PluginScreen, hookimpl
from chatlm_lab import PLUGIN, actions
from chatlm_lab.settings import Settings

if TYPE_CHECKING:
    from textual.screen import Screen

    from chatlm import Commands, Engine, EngineOpener, ModelListing, SlashCommand, Turn, Ui

__all__ = ["Settings"]


@hookimpl
def register_commands(cli: Commands) -> None:
    """Add `chatlm lab`."""
    cli.add_lazy("lab", "chatlm_lab.commands:lab", "Build language models and see how they work.")


@hookimpl
def register_engines(register: Callable[[str, EngineOpener], None]) -> None:
    """Register the engine that opens `lab:NAME`."""
    register(PLUGIN, _open_engine)


@hookimpl
def list_models() -> list[ModelListing]:
    """List the lab models; a damaged one is left out."""
    from chatlm import ChatlmError, ModelListing
    from chatlm_lab.models import LAB_MODELS, read_card

    found = []
    for place in LAB_MODELS.all():
        try:
            card = read_card(place)
        except ChatlmError:
            continue
        found.append(ModelListing(f"{PLUGIN}:{place.name}", card.description))
    return found


@hookimpl
def register_slash_commands(register: Callable[[SlashCommand], None]) -> None:
    """Add `/autocomplete` and `/bpe`."""
    actions.register(register)


@hookimpl
def register_screens(register: Callable[[PluginScreen], None]) -> None:
    """Add the card that shows BPE merging."""
    register(PluginScreen(actions.MERGES, _open_merges))


@hookimpl
def chat_shown(ui: Ui) -> None:
    """Learn from the saved chats, in a thread, where autocompletion is on."""
    actions.refresh()


@hookimpl
def turn_finished(turn: Turn) -> None:
    """Learn from the message, if its chat is saved."""
    actions.refresh()


@hookimpl
def chat_deleted(conversation_id: int) -> None:
    """Forget all, and learn from what is left."""
    actions.forget()


@hookimpl
def suggest_text(text: str) -> str | None:
    """Suggest how a message goes on."""
    return actions.suggest(text)


@hookimpl
def shutdown() -> None:
    """Forget what was learned."""
    actions.close()


def _open_merges(ui: Ui, text: str) -> Screen[Any]:
    from chatlm_lab.screens.merges import MAX_TRAINING_CHARACTERS, LabMergesCard

    texts = [each.text for each in ui.conversation.messages()]
    whole = "\n".join([text, *reversed(texts)])[:MAX_TRAINING_CHARACTERS]
    return LabMergesCard([whole], text or texts[-1])


def _open_engine(name: str) -> Engine:
    from chatlm_lab.opening import open_engine

    return open_engine(name)
