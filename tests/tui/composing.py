"""An app with only a composer, which records the messages posted by it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from textual import events, on
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.geometry import Region
from textual.pilot import Pilot
from textual.widgets import Button, Static

from chatlm import ChatlmError, hookimpl
from chatlm.chat.attachments import FileReader, read_text_file
from chatlm.errors import UsageError
from chatlm.tui.commands import Command
from chatlm.tui.composer.completion import CompletionList, Matches, complete
from chatlm.tui.composer.composer import Composer
from chatlm.tui.vision import Vision
from tests.waiting import PATIENCE

COMMANDS = (
    Command("new", "new chat", "ctrl+n"),
    Command("fork", "fork the chat from here"),
    Command("attach", "attach a text file", argument="FILE"),
    Command("theme", "change the theme", argument="[NAME]"),
    Command("next-version", "show the next version"),
)


class ComposerApp(App[None]):
    """Records what the composer posts."""

    CSS = "Static { height: 1fr; } Composer { margin: 0 1; } Button { height: 1; }"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [Binding("tab", "app.focus_next")]

    def __init__(
        self,
        folder: Path,
        *,
        history: Callable[[], Sequence[str]] = tuple,
        count_tokens: Callable[[str], int | None] = lambda text: len(text.split()),
        values: Mapping[str, Callable[[str], Sequence[str]]] | None = None,
        read_file: FileReader = read_text_file,
        suggest: Callable[[str], str] = lambda text: "",
        vision: Vision | None = None,
    ) -> None:
        super().__init__()
        self.posted: list[Composer.Submitted | Composer.CommandEntered] = []
        self.drafted: list[str] = []
        self.composer = Composer(
            COMMANDS,
            history=history,
            count_tokens=count_tokens,
            completers=values or {"theme": lambda typed: ["dracula", "nord", "textual-dark"]},
            folder=folder,
            read_file=read_file,
            suggest=suggest,
            vision=vision,
        )
        self.composer.cursor_blink = False

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Static("The transcript would be here.\n" * 60)
            yield self.composer
            yield Button("other")

    def on_mount(self) -> None:
        self.composer.focus()

    @on(Composer.Submitted)
    @on(Composer.CommandEntered)
    def _note(self, event: Composer.Submitted | Composer.CommandEntered) -> None:
        self.posted.append(event)

    @on(Composer.DraftChanged)
    def _draft(self) -> None:
        self.drafted.append(self.composer.dump_draft())

    @property
    def sent(self) -> list[str]:
        return [event.text for event in self.posted if isinstance(event, Composer.Submitted)]

    @property
    def last_sent(self) -> Composer.Submitted:
        message = self.posted[-1]
        assert isinstance(message, Composer.Submitted)
        return message

    @property
    def commanded(self) -> list[tuple[str, str]]:
        return [
            (event.name, event.argument)
            for event in self.posted
            if isinstance(event, Composer.CommandEntered)
        ]

    @property
    def offered(self) -> list[str]:
        """The labels in the list; empty while it is closed."""
        matches = self.query_one(CompletionList).matches
        return [candidate.label for candidate in matches.candidates] if matches else []

    @property
    def subtitle(self) -> str:
        return Content.from_markup(self.composer.border_subtitle or "").plain


def offer(before: str, folder: Path, *, only: bool = True) -> Matches | None:
    """The completion of a text that ends at the cursor."""
    values = {"theme": lambda typed: ["dracula", "nord"]}
    return complete(before, COMMANDS, values, folder, is_whole_message=only)


def labels(completion: Matches | None) -> list[str]:
    return [candidate.label for candidate in completion.candidates] if completion else []


class SlowReader:
    """Reads any file, but returns only when `release` is called; a plugin and a `FileReader`.

    Args:
        result: what it reads, or raises.
    """

    def __init__(self, result: str | UsageError = "Call me Ishmael.") -> None:
        self.result = result
        self.threads: list[threading.Thread] = []
        self._released = threading.Event()

    def release(self) -> None:
        self._released.set()

    def __call__(self, path: Path, name: str) -> str:
        self.threads.append(threading.current_thread())
        assert self._released.wait(PATIENCE)
        if isinstance(self.result, UsageError):
            raise self.result
        return self.result

    @hookimpl
    def read_attachment(self, path: Path) -> str | ChatlmError:
        try:
            return self(path, path.name)
        except UsageError as error:
            return error


def whole(app: ComposerApp) -> str:
    """Return the drawn text of composer and completion list, with borders."""
    drawn = []
    for widget in (app.composer, app.query_one(CompletionList)):
        region = Region(0, 0, *widget.outer_size)
        drawn += [strip.text for strip in widget.render_lines(region)]
    return "\n".join(drawn)


async def type_keys(pilot: Pilot[None], text: str, *more: str) -> None:
    """Type a text, then press the keys in `more`."""
    names = {" ": "space", "\n": "ctrl+j", "/": "slash", "@": "at", "_": "underscore"}
    names |= {".": "full_stop", '"': "quotation_mark", "-": "minus"}
    await pilot.press(*(names.get(character, character) for character in text), *more)
    await pilot.pause()


def burst(pilot: Pilot[None], *keys: str) -> None:
    """Post many keys at once, as after a moment in which the screen was busy."""
    for key in keys:
        pilot.app.post_message(events.Key(key, key if len(key) == 1 else None))
