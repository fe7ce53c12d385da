"""/autocomplete and /bpe, and what the hooks of the screen do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock
from typing import TYPE_CHECKING

from chatlm import SlashCommand, Ui, UsageError, load_plugin_settings, save_setting
from chatlm_lab import PLUGIN
from chatlm_lab.settings import Settings

if TYPE_CHECKING:
    from chatlm_lab.autocomplete import Autocomplete

MERGES = "bpe"
"""Name of the screen that shows merges, and of its command."""

_lock = Lock()
_running: list[Autocomplete] = []
"""What suggests words; empty until it is needed."""


def register(register: Callable[[SlashCommand], None]) -> None:
    """Register the slash commands."""
    register(
        SlashCommand(
            "autocomplete",
            "suggest how your messages go on, from your earlier ones",
            set_autocomplete,
            argument="[on|off]",
        )
    )
    register(
        SlashCommand(
            MERGES, "watch BPE merge on the texts of this chat", show_merges, argument="[TEXT]"
        )
    )


def show_merges(ui: Ui, text: str) -> None:
    """Open the card that shows BPE merging.

    Raises:
        UsageError: there is no text.
    """
    if not text.strip() and not any(each.text for each in ui.conversation.messages()):
        raise UsageError(
            "This chat has no text yet.", hint="Give some: /bpe the cat and the hat and the bat"
        )
    ui.open_screen(MERGES, text)


def set_autocomplete(ui: Ui, argument: str) -> None:
    """Turn suggestions on or off in all chats, or say how much they are made from.

    Raises:
        UsageError: the argument is something else.
    """
    wanted = argument.strip().lower()
    if wanted not in ("", "on", "off"):
        raise UsageError(f"/autocomplete takes on or off, not {wanted!r}.")
    if wanted:
        save_setting(PLUGIN, Settings, "autocomplete", "true" if wanted == "on" else "false")
    if not load_plugin_settings(PLUGIN, Settings).autocomplete:
        close()
        ui.notify("Autocompletion is off. /autocomplete on suggests words while you type.")
        return
    running = _start()
    running.refresh().result()
    ui.notify(
        f"Autocompletion is on, from {running.words:,} words of your messages. Tab takes all of "
        "the dimmed text, → a word."
    )


def suggest(text: str) -> str | None:
    """Return how a message goes on; None where nothing is likely, or for a command."""
    if text[:1] == "/" or not load_plugin_settings(PLUGIN, Settings).autocomplete:
        return None
    return _start().complete(text) or None


def refresh() -> None:
    """Learn from the saved chats, in a thread, where autocompletion is on."""
    if load_plugin_settings(PLUGIN, Settings).autocomplete:
        _start().refresh()


def forget() -> None:
    """Forget what was learned, and learn again from what is left, where something was."""
    with _lock:
        running = list(_running)
    for each in running:
        each.forget()
        each.refresh()


def close() -> None:
    """Forget what was learned, and end the thread."""
    with _lock:
        running = list(_running)
        _running.clear()
    for each in running:
        each.close()


def _start() -> Autocomplete:
    from chatlm_lab.autocomplete import Autocomplete

    with _lock:
        if not _running:
            _running.append(Autocomplete(_read_texts))
        return _running[0]


def _read_texts() -> Sequence[str]:
    from chatlm import data_dir
    from chatlm_lab.autocomplete import read_own_texts

    data = load_plugin_settings(PLUGIN, Settings).autocomplete_data
    return read_own_texts(data_dir() / "chats.db", data)
