"""Completion of commands, arguments and file mentions, and its popup."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import ClassVar

from rich.cells import cell_len, set_cell_size
from textual import events, on
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.widget import Widget
from textual.widgets import OptionList, TextArea
from textual.widgets.option_list import Option

from chatlm.text import escape_controls, one_line
from chatlm.tui import commands
from chatlm.tui.commands import Command
from chatlm.tui.composer.attachments import format_mention, resolve_path
from chatlm.tui.composer.drafts import sanitise
from chatlm.tui.composer.folds import FoldingArea

MAX_FOLDER_ENTRIES = 5000
"""Maximum number of files read from one folder."""


MAX_CANDIDATES = 100
"""Maximum number of candidates."""


_COMMAND = re.compile(r"/([^\s/]*)")


_ARGUMENT = re.compile(r"/([^\s/]+)\s+(.*)")


_FILE = re.compile(r"""(?<![^\s(\["'])@(?:"([^"\n]*)|([^\s"]*))$""")


Completer = Callable[[str], Sequence[str]]
"""Returns the values of an argument that match a prefix."""


@dataclass(frozen=True)
class Candidate:
    """A completion candidate."""

    insert: str
    """Replaces the typed text."""
    label: str
    detail: str = ""
    completes_message: bool = False
    """Whether it completes the message, so that Enter sends it at once."""
    continues: bool = False
    """Whether completion continues after it."""


@dataclass(frozen=True)
class Completion:
    """The candidates for the text from column `start` to the cursor."""

    start: int
    prefix: str
    candidates: tuple[Candidate, ...]
    preselects: bool
    """Whether Enter takes the first candidate: something was typed of a name, which begins with it.

    Never so for an argument, which may be a new name."""


def complete(
    line_before_cursor: str,
    commands: Iterable[Command],
    completers: Mapping[str, Completer],
    folder: Path,
    *,
    is_whole_message: bool,
) -> Completion | None:
    """Return the completion at the cursor; None for none.

    Args:
        line_before_cursor: the line up to the cursor.
        commands: the slash commands.
        completers: completes a command's argument, by the command's name.
        folder: where paths start.
        is_whole_message: whether `line_before_cursor` is the whole message, as a command is.
    """
    if is_whole_message and (match := _COMMAND.fullmatch(line_before_cursor)):
        return _complete_command(match[1], commands)
    if is_whole_message and (match := _ARGUMENT.fullmatch(line_before_cursor)):
        named = [command for command in commands if command.name == match[1]]
        return _complete_argument(match, named[0], completers, folder) if named else None
    if match := _FILE.search(line_before_cursor):
        return _complete_mention(match, folder)
    return None


def rank_names(query: str, names: Iterable[str]) -> list[str]:
    """Return matching names: equal, by prefix, by substring, or by subsequence, in this order.

    The sort is stable.
    """
    wanted = query.casefold()

    def rank(name: str) -> int:
        folded = name.casefold()
        if folded.startswith(wanted):
            return int(folded != wanted)
        if wanted in folded:
            return 2
        letters = iter(folded)
        return 3 if all(letter in letters for letter in wanted) else 4

    ranks = [(rank(name), name) for name in names]
    return [name for number, name in sorted(ranks, key=itemgetter(0)) if number < 4]


def complete_path(raw_path: str, folder: Path) -> list[str]:
    """Return matching files and folders; folders end in a slash.

    Only one level, and hidden ones only if the name starts with a dot.
    """
    head, slash, last = raw_path.rpartition("/")
    place = resolve_path(head + slash or ".", folder)
    if place is None:
        return []
    try:
        names = _list_folder(place, place.stat().st_mtime_ns)
    except OSError:
        return []
    hidden = last.startswith(".")
    like = rank_names(last, (name for name in names if hidden or not name.startswith(".")))[
        :MAX_CANDIDATES
    ]
    return [f"{head}{slash}{name}{'/' * _is_folder(place / name)}" for name in like]


@lru_cache(maxsize=4)
def _list_folder(folder: Path, mtime_ns: int) -> list[str]:
    """Return the sorted names in a folder, cached by its modification time."""
    with os.scandir(folder) as entries:
        return sorted(
            (entry.name for entry in islice(entries, MAX_FOLDER_ENTRIES)), key=str.casefold
        )


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False


def _complete_command(prefix: str, commands: Iterable[Command]) -> Completion | None:
    known = {command.name: command for command in commands}
    candidates = []
    for name in rank_names(prefix, known):
        command = known[name]
        candidates.append(
            Candidate(
                f"/{name} " if command.argument else f"/{name}",
                f"/{name} {command.argument}".rstrip(),
                command.help,
                completes_message=not command.needs_argument,
                continues=bool(command.argument),
            )
        )
    return _make_completion(0, f"/{prefix}", f"/{prefix}", candidates)


def _complete_argument(
    match: re.Match[str], command: Command, completers: Mapping[str, Completer], folder: Path
) -> Completion | None:
    typed = match[2]
    if command.name in completers:
        found = rank_names(typed, completers[command.name](typed))[:MAX_CANDIDATES]
    elif "FILE" in command.argument:
        found = [path for path in complete_path(typed, folder) if escape_controls(path) == path]
    else:
        return None
    candidates = []
    for value in found:
        opened = value.endswith("/")
        candidates.append(
            Candidate(value, escape_controls(value), completes_message=not opened, continues=opened)
        )
    return _make_completion(match.start(2), typed, "", candidates)


def _complete_mention(match: re.Match[str], folder: Path) -> Completion | None:
    quoted, bare = match.groups()
    written = bare if quoted is None else _unquote_partial(quoted)
    candidates = []
    for path in complete_path(written, folder):
        opened = path.endswith("/")
        insert = format_mention(path).rstrip('"') if opened else f"{format_mention(path)} "
        candidates.append(Candidate(insert, escape_controls(path), continues=opened))
    return _make_completion(match.start(), match[0], written, candidates)


def _unquote_partial(partial: str) -> str:
    """Return the path in an unterminated JSON string."""
    try:
        return str(json.loads(f'"{partial}"'))
    except ValueError:
        return partial


def _make_completion(
    start: int, prefix: str, query: str, candidates: list[Candidate]
) -> Completion | None:
    if not candidates:
        return None
    begun = bool(query) and not query.endswith("/")
    first = candidates[0].label.casefold()
    return Completion(
        start, prefix, tuple(candidates), begun and first.startswith(query.casefold())
    )


class CompletingArea(FoldingArea):
    """A text area with a completion list above it.

    Args:
        slash_commands: the slash commands.
        completers: completes the arguments of commands, by the command's name. Paths are completed
            without it.
        folder: where paths start.
    """

    BINDINGS: ClassVar[list[BindingType]] = [*commands.bindings(commands.COMPOSER)]

    def __init__(
        self,
        slash_commands: Iterable[Command],
        completers: Mapping[str, Completer],
        folder: Path,
        *,
        id: str,
        placeholder: str,
    ) -> None:
        self._popup = CompletionList(self._accept)
        self._last_lookup: tuple[str, bool] = ("", False)
        """Input of the current completion."""
        super().__init__(id=id, placeholder=placeholder)
        self._commands = {command.name: command for command in slash_commands}
        self._completers = completers
        self._folder = folder
        self._key_actions = _editing_actions()

    def on_mount(self) -> None:
        """Mount the list above."""
        if isinstance(self.parent, Widget):
            self.parent.mount(self._popup, before=self)

    def on_blur(self) -> None:
        """Close the list."""
        self.close_completion()

    @property
    def accepts_commands(self) -> bool:
        """Whether a slash begins a command."""
        return True

    def action_send(self) -> None:
        """Send the message; also run by a completion that completes the message."""
        raise NotImplementedError

    def close_completion(self) -> bool:
        """Close the list; return False if it was closed."""
        was_open = self._popup.completion is not None
        self._popup.show_completion(None)
        return was_open

    def watch_selection(self) -> None:
        """Update the completion when the cursor moves."""
        if self._popup.completion is not None:
            self.update_completion()

    async def _on_key(self, event: events.Key) -> None:
        """Handle keys at once; a binding that bubbles up would run after later keys."""
        event.prevent_default()
        action = self._key_actions.get(event.key, "")
        if self._popup.completion is not None and self._handle_popup_key(event.key, action):
            event.stop()
            return
        if action and await self.app.run_action(action, self):
            event.stop()
        else:
            await super()._on_key(event)
        if event.is_printable or action.startswith("delete"):
            self.update_completion()

    def _handle_popup_key(self, key: str, action: str) -> bool:
        """Handle a key of the open list; return False for other keys."""
        completion, candidate = self._popup.completion, self._popup.highlighted_candidate
        assert completion is not None  # noqa: S101
        if key == "tab":
            self._accept(candidate or completion.candidates[0])
        elif key == "escape":
            self.close_completion()
        elif action == "cursor_up":
            self._popup.action_cursor_up()
        elif action == "cursor_down":
            self._popup.action_cursor_down()
        elif action == "send" and candidate and not _is_fully_typed(candidate, completion):
            self._accept(candidate, send=True)
        else:
            return False
        return True

    def _accept(self, candidate: Candidate, *, send: bool = False) -> None:
        """Insert a candidate in place of the typed text."""
        completion = self._popup.completion
        self.close_completion()
        if completion is None:
            return
        row, column = self.cursor_location
        start = (row, completion.start)
        insert = sanitise(candidate.insert)
        self.replace(insert, start, (row, column), maintain_selection_offset=False)
        if candidate.continues:
            self.update_completion()
        elif send and candidate.completes_message:
            self.action_send()

    def update_completion(self) -> None:
        """Show the completion at the cursor."""
        row, column = self.cursor_location
        line = self.document[row]
        whole = self.document.line_count == 1 and column == len(line)
        looked = line[:column], whole and self.accepts_commands
        if self._popup.completion is None or looked != self._last_lookup:
            self._last_lookup = looked
            self._popup.show_completion(
                self._complete(*looked) if self.selection.is_empty else None
            )

    def _complete(self, line_before_cursor: str, is_whole_message: bool) -> Completion | None:
        return complete(
            line_before_cursor,
            self._commands.values(),
            self._completers,
            self._folder,
            is_whole_message=is_whole_message,
        )


def _is_fully_typed(candidate: Candidate, completion: Completion) -> bool:
    """Whether the candidate is already typed in full."""
    typed = candidate.insert.strip() == completion.prefix.strip()
    return typed and (candidate.completes_message or not candidate.continues)


def _editing_actions() -> dict[str, str]:
    """Return the actions of the text area by key; those of the composer take precedence."""
    theirs = [binding for binding in TextArea.BINDINGS if isinstance(binding, Binding)]
    keys = [(binding.key, binding.action) for binding in theirs]
    keys += [
        (command.key, command.action) for command in commands.with_current_keys(commands.COMPOSER)
    ]
    return {key: action for joined, action in keys for key in joined.split(",")}


VISIBLE_ROWS = 8
"""Candidates visible at once."""


LABEL_WIDTH = 19
"""Width of a label that has a detail beside it."""


class CompletionList(OptionList, can_focus=False):
    """The completion popup, an overlay that never takes the focus.

    Args:
        accept: called with the candidate that was clicked.
    """

    DEFAULT_CSS = """
    CompletionList {
        overlay: screen;
        constrain: none inside;
        display: none;
        height: auto;
        max-height: 8;
        margin: 0 1;
        padding: 0;
        border: none;
        background: $panel;
        color: $foreground;
        text-wrap: nowrap;
        text-overflow: ellipsis;
        scrollbar-size-vertical: 1;
        scrollbar-background: $panel;
        scrollbar-background-hover: $panel;
        scrollbar-background-active: $panel;
        scrollbar-color: $foreground 25%;
        scrollbar-color-hover: $foreground 45%;
        scrollbar-color-active: $foreground 45%;

        &.-open { display: block; }
        & > .option-list--option { padding: 0 2; }
        & > .option-list--option-highlighted {
            background: $primary;
            color: $text;
            text-style: bold;
        }
    }
    """

    def __init__(self, accept: Callable[[Candidate], None]) -> None:
        super().__init__(markup=False)
        self._accept = accept
        self._completion: Completion | None = None

    @property
    def completion(self) -> Completion | None:
        """The current completion; None while the list is closed."""
        return self._completion

    @property
    def highlighted_candidate(self) -> Candidate | None:
        """The highlighted one."""
        if self._completion is None or self.highlighted is None:
            return None
        return self._completion.candidates[self.highlighted]

    def show_completion(self, completion: Completion | None) -> None:
        """Show the candidates, or close the list if there are none."""
        if completion == self._completion:
            return
        self._completion = completion
        self.set_class(completion is not None, "-open")
        if completion is not None:
            self.set_options(
                Option(_candidate_row(candidate)) for candidate in completion.candidates
            )
            self.highlighted = 0 if completion.preselects else None
            self.styles.offset = (0, -min(len(completion.candidates), VISIBLE_ROWS))

    @on(OptionList.OptionSelected)
    def _accept_selected(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        if self._completion is not None:
            self._accept(self._completion.candidates[event.option_index])

    @on(OptionList.OptionHighlighted)
    def _swallow_highlight(self, event: OptionList.OptionHighlighted) -> None:
        event.stop()


def _candidate_row(candidate: Candidate) -> Content:
    label = one_line(candidate.label, 200)
    if not candidate.detail:
        return Content(label)
    if cell_len(label) < LABEL_WIDTH:
        label = set_cell_size(label, LABEL_WIDTH)
    return Content.assemble(label, (f" {candidate.detail}", "$text-muted"))
