"""Export chats to files, and import them with a progress card."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.content import Content
from textual.widget import Widget
from textual.widgets import ProgressBar, Static

from chatlm.config.paths import write_atomically
from chatlm.errors import ChatlmError, UsageError
from chatlm.store import export
from chatlm.store.export import FORMAT_BY_SUFFIX, stream_export
from chatlm.store.importing.importer import ImportProgress, import_file
from chatlm.store.store import Store
from chatlm.text import escape_controls
from chatlm.tui.formatting import count
from chatlm.tui.screens.card import Card
from chatlm.types.conversations import Conversation


class ImportScreen(Card[None]):
    """Shows the progress of an import, then what was imported and skipped.

    Args:
        read: imports the chats and yields the progress; runs in a thread.
    """

    DEFAULT_CSS = """
    ImportScreen > .card { width: 72; height: auto; }
    ImportScreen ProgressBar { margin: 1 0; }
    ImportScreen #status { height: auto; }
    """

    CARD_TITLE = "Import"

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "stop", "stop"),
        Binding("escape,enter,q", "dismiss", "close"),
    ]

    def __init__(self, read: Callable[[], Generator[ImportProgress, None, None]]) -> None:
        super().__init__()
        self._read = read
        self._has_imported = False

    def body(self) -> Iterable[Widget]:
        """Yield the bar and the text."""
        yield ProgressBar(total=None, show_eta=False)
        yield Static("Checking the file …", id="status")

    def on_mount(self) -> None:
        """Begin."""
        self.start_work(self._read)

    def handle_value(self, value: object) -> None:
        """Show the progress."""
        if isinstance(value, ImportProgress):
            self._has_imported = bool(value.added)
            self.query_one(ProgressBar).update(total=value.total_bytes, progress=value.bytes_read)
            self.query_one("#status", Static).update(Content(escape_controls(import_status(value))))

    def show_error(self, error: ChatlmError | None) -> None:
        """After a failure, show only the chats that were stored."""
        super().show_error(error)
        self.query_one(ProgressBar).display = error is None
        self.query_one("#status").display = error is None or self._has_imported

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Stop a running import, or close."""
        return self.working == (action == "stop")

    def action_stop(self) -> None:
        """Stop and close."""
        self.stop_work()
        self.dismiss()


def import_status(state: ImportProgress) -> str:
    """Return the progress of an import."""
    if state.checking:
        return "Checking the file …"
    stored = f", {state.already_stored} already stored" if state.already_stored else ""
    out = ", ".join(f"{number} {what}" for what, number in state.left_out.most_common())
    return f"{count(len(state.added), 'chat')} imported{stored}" + (
        f"\nSkipped: {out}" if out else ""
    )


MAX_NAME_LENGTH = 60


IMPORT_FORMATS_HINT = (
    "Chats are read from chatlm's .jsonl, lists of messages, and ChatGPT's export."
)


def suggest_file_name(chat: Conversation) -> str:
    """Return an unused file name from the chat's title."""
    words = re.sub(r"[^\w]+", "-", export.display_title(chat).lower()).strip("-_")[:MAX_NAME_LENGTH]
    stem = words.strip("-_") or f"chat-{chat.id}"
    number, path = 1, Path(f"{stem}.md")
    while path.exists():
        number += 1
        path = Path(f"{stem}-{number}.md")
    return str(path)


def export_chat(store: Store, chat: Conversation, path: Path) -> None:
    """Write the chat in the format of the file's extension.

    Raises:
        UsageError: the extension is unknown, or the file exists or cannot be written.
    """
    endings = [ending for ending in FORMAT_BY_SUFFIX if path.name.lower().endswith(ending)]
    if not endings:
        raise UsageError(
            f"{path.name} has no known file extension",
            hint=f"Use {', '.join(FORMAT_BY_SUFFIX)}.",
        )
    try:
        if path.exists():
            raise UsageError(f"{path} already exists", hint="Choose another name.")
        write_atomically(
            path, stream_export(store, [chat.id], FORMAT_BY_SUFFIX[max(endings, key=len)])
        )
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written: {error.strerror}",
            hint="Check the folder, its permissions and the free space.",
        ) from error


def import_chats(store: Store, path: Path) -> Generator[ImportProgress, None, None]:
    """Import the chats of a file; yield the progress.

    Raises:
        UsageError: the file contains no chats or unreadable ones; nothing is imported.
        StoreError: they cannot be stored.
    """
    state = ImportProgress()
    for state in import_file(store, path):
        yield state
    if state.unreadable_count:
        first = state.unreadable[0]
        others = "`chatlm chats import --skip-bad` imports the others."
        raise UsageError(
            f"{path.name}, {first.location}: {first.problem}; nothing was imported",
            hint=others if state.readable_count else IMPORT_FORMATS_HINT,
        )
    if not state.added and not state.already_stored:
        raise UsageError(f"{path.name} contains no chats", hint=IMPORT_FORMATS_HINT)
