"""Complete commands, arguments and file mentions, with a list of candidates."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from operator import itemgetter
from pathlib import Path

from rich.cells import cell_len, set_cell_size
from textual import on
from textual.content import Content
from textual.widgets import OptionList, TextArea
from textual.widgets.option_list import Option

from chatlm.text import escape_controls, one_line
from chatlm.tui.commands import Command
from chatlm.tui.composer.attachments import format_mention, resolve_path
from chatlm.tui.composer.drafts import sanitise

MAX_FOLDER_ENTRIES = 5000
"""Maximum number of files read from one folder."""


_GENERATED = ("__pycache__", "node_modules")
"""Folders that tools fill, which nobody attaches."""

MAX_CANDIDATES = 100
"""Maximum number of candidates."""


MIN_DEEP_QUERY, MAX_DEEP = 2, 20
"""Letters from which folders below are searched, and the files shown of them."""

DEEP_SECONDS, DEEP_CACHE_SECONDS = 0.05, 5.0
"""How long a search in folders below may take, since keys wait for it, and how long it holds."""


_COMMAND = re.compile(r"/([^\s/]*)")


_ARGUMENT = re.compile(r"/([^\s/]+)\s+(.*)")


_FILE = re.compile(r"""(?<![^\s(\["'])@(?:"([^"\n]*)|([^\s"]*))$""")


Completer = Callable[[str], Sequence[str]]
"""Returns the values of an argument that match a prefix."""


@dataclass(frozen=True)
class Candidate:
    """One way to complete what was typed."""

    insert: str
    """Replaces the typed text."""
    label: str
    detail: str = ""
    completes_message: bool = False
    """Whether it completes the message, so that Enter sends it at once."""
    continues: bool = False
    """Whether completion continues after it."""


@dataclass(frozen=True)
class Matches:
    """The candidates for the text from column `start` to the cursor."""

    start: int
    prefix: str
    candidates: tuple[Candidate, ...]
    preselects: bool
    """Whether Enter takes the first candidate: its name starts with what was typed.

    Never for an argument, which may be a new name."""


def complete(
    line_before_cursor: str,
    commands: Iterable[Command],
    completers: Mapping[str, Completer],
    folder: Path,
    *,
    is_whole_message: bool,
    resource_names: Callable[[], Sequence[str]] = tuple,
) -> Matches | None:
    """Return the candidates for the text before the cursor; None if there are none.

    Args:
        line_before_cursor: the line up to the cursor.
        commands: the slash commands.
        completers: completes a command's argument, by the command's name.
        folder: where paths start.
        is_whole_message: whether `line_before_cursor` is the whole message, as a command is.
        resource_names: returns what plugins offer to attach, such as `wiki:Home`.
    """
    if is_whole_message and (match := _COMMAND.fullmatch(line_before_cursor)):
        return _complete_command(match[1], commands)
    if is_whole_message and (match := _ARGUMENT.fullmatch(line_before_cursor)):
        named = [command for command in commands if command.name == match[1]]
        return _complete_argument(match, named[0], completers, folder) if named else None
    if match := _FILE.search(line_before_cursor):
        return _complete_mention(match, folder, resource_names())
    return None


def rank_names(query: str, names: Iterable[str]) -> list[str]:
    """Return the names that match a query, best first: equal, prefix, substring, subsequence.

    Names that match equally well keep their order.
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
    """Return the files and folders that match a path; folders end in a slash.

    Only one folder is searched, and hidden files match only a name that starts with a dot; folders
    that tools generate match only the beginning of their name.
    """
    head, slash, last = raw_path.rpartition("/")
    place = resolve_path(head + slash or ".", folder)
    if place is None:
        return []
    try:
        names = _list_folder(place, place.stat().st_mtime_ns)
    except OSError:
        return []
    like = rank_names(last, (name for name in names if not _is_hidden(name, last)))[:MAX_CANDIDATES]
    return [f"{head}{slash}{name}{'/' * _is_folder(place / name)}" for name in like]


def _is_hidden(name: str, typed: str = "") -> bool:
    """Return whether a file is not offered for what was typed of its name."""
    if name.startswith("."):
        return not typed.startswith(".")
    return name in _GENERATED and not (typed and name.startswith(typed))


def _deeper_paths(query: str, folder: Path) -> list[str]:
    """Return files in folders below that have the letters of a query, at least two, in order.

    Those come first whose own name matches better.
    """
    if len(query) < MIN_DEEP_QUERY or "/" in query or query.startswith((".", "~")):
        return []
    try:
        paths = _list_below(folder, int(time.monotonic() / DEEP_CACHE_SECONDS))
    except OSError:
        return []
    names = rank_names(query, {path.rpartition("/")[2] for path in paths})
    by_name = {name: place for place, name in enumerate(names)}
    found = [path for path in paths if path.rpartition("/")[2] in by_name]
    found.sort(key=lambda path: by_name[path.rpartition("/")[2]])
    return found[:MAX_DEEP]


@lru_cache(maxsize=2)
def _list_below(folder: Path, _: int) -> list[str]:
    """Return the sorted files in the folders below, without hidden ones, for a short while."""
    found: list[str] = []
    deadline = time.monotonic() + DEEP_SECONDS
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not _is_hidden(name))
        if Path(parent) != folder:
            inside = Path(parent).relative_to(folder).as_posix()
            found += [f"{inside}/{name}" for name in sorted(files) if not _is_hidden(name)]
        if len(found) > MAX_FOLDER_ENTRIES or time.monotonic() > deadline:
            break
    return found


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


def _complete_command(prefix: str, commands: Iterable[Command]) -> Matches | None:
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
) -> Matches | None:
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


def _complete_mention(
    match: re.Match[str], folder: Path, resources: Sequence[str]
) -> Matches | None:
    quoted, bare = match.groups()
    written = bare if quoted is None else _unquote_partial(quoted)
    candidates = []
    for path in [*complete_path(written, folder), *_deeper_paths(written, folder)]:
        opened = path.endswith("/")
        insert = format_mention(path).rstrip('"') if opened else f"{format_mention(path)} "
        candidates.append(Candidate(insert, escape_controls(path), continues=opened))
    for mention in rank_names(written, resources)[: MAX_CANDIDATES - len(candidates)]:
        candidates.append(Candidate(f"{format_mention(mention)} ", escape_controls(mention)))
    return _make_completion(match.start(), match[0], written, candidates)


def _unquote_partial(partial: str) -> str:
    """Return the path in an unterminated JSON string."""
    try:
        return str(json.loads(f'"{partial}"'))
    except ValueError:
        return partial


def _make_completion(
    start: int, prefix: str, query: str, candidates: list[Candidate]
) -> Matches | None:
    if not candidates:
        return None
    is_partial = bool(query) and not query.endswith("/")
    first = candidates[0].label.casefold()
    return Matches(
        start, prefix, tuple(candidates), is_partial and first.startswith(query.casefold())
    )


class Completion:
    """Completes what is typed in a text area, with a list of candidates above it.

    Args:
        area: the text area.
        slash_commands: the slash commands.
        completers: completes a command's argument, by the command's name. Paths are completed
            without it.
        folder: where paths start.
        resource_names: returns what plugins offer to attach, such as `wiki:Home`.
        accepts_commands: returns whether a slash at the start of the text begins a command.
        send: sends the message, after a candidate that completes it.
        on_accepted: called after a candidate was inserted.
        on_changed: called when the list opens or closes.
    """

    def __init__(
        self,
        area: TextArea,
        slash_commands: Iterable[Command],
        completers: Mapping[str, Completer],
        folder: Path,
        resource_names: Callable[[], Sequence[str]],
        *,
        accepts_commands: Callable[[], bool],
        send: Callable[[], None],
        on_accepted: Callable[[], None],
        on_changed: Callable[[], None],
    ) -> None:
        self.commands = {command.name: command for command in slash_commands}
        """The slash commands by name."""
        self.popup = CompletionList(self.accept)
        """The list; the composer mounts it."""
        self._area = area
        self._completers = completers
        self._folder = folder
        self._resource_names = resource_names
        self._accepts_commands = accepts_commands
        self._send = send
        self._on_accepted = on_accepted
        self._on_changed = on_changed
        self._last_lookup: tuple[str, bool] = ("", False)
        """What the candidates in the list were looked up for."""

    @property
    def is_open(self) -> bool:
        """Whether the list is open."""
        return self.popup.matches is not None

    def close(self) -> bool:
        """Close the list; return False if it was closed."""
        was_open = self.is_open
        self._show(None)
        return was_open

    def update(self) -> None:
        """Show the candidates for the text before the cursor."""
        row, column = self._area.cursor_location
        line = self._area.document[row]
        whole = self._area.document.line_count == 1 and column == len(line)
        lookup = line[:column], whole and self._accepts_commands()
        if self.is_open and lookup == self._last_lookup:
            return
        self._last_lookup = lookup
        self._show(self._find(*lookup) if self._area.selection.is_empty else None)

    def _show(self, matches: Matches | None) -> None:
        self.popup.show_matches(matches)
        self._on_changed()

    def handle_key(self, key: str, action: str) -> bool:
        """Handle a key while the list is open; return False if the text area should handle it.

        Args:
            key: the key's name.
            action: what the key does in the text area; empty for nothing.
        """
        matches, candidate = self.popup.matches, self.popup.highlighted_candidate
        if matches is None:
            return False
        if key == "tab":
            self.accept(candidate or matches.candidates[0])
        elif key == "escape":
            self.close()
        elif action == "cursor_up":
            self.popup.action_cursor_up()
        elif action == "cursor_down":
            self.popup.action_cursor_down()
        elif action == "send" and candidate and not _is_fully_typed(candidate, matches):
            self.accept(candidate, send=True)
        else:
            return False
        return True

    def accept(self, candidate: Candidate, *, send: bool = False) -> None:
        """Insert a candidate in place of the typed text.

        Args:
            candidate: the candidate.
            send: also send the message, if the candidate completes it.
        """
        matches = self.popup.matches
        self.close()
        if matches is None:
            return
        row, column = self._area.cursor_location
        insert = sanitise(candidate.insert)
        self._area.replace(
            insert, (row, matches.start), (row, column), maintain_selection_offset=False
        )
        if candidate.continues:
            self.update()
        elif send and candidate.completes_message:
            self._send()
        self._on_accepted()

    def _find(self, line_before_cursor: str, is_whole_message: bool) -> Matches | None:
        return complete(
            line_before_cursor,
            self.commands.values(),
            self._completers,
            self._folder,
            is_whole_message=is_whole_message,
            resource_names=self._resource_names,
        )


def _is_fully_typed(candidate: Candidate, matches: Matches) -> bool:
    """Whether the candidate is already typed in full."""
    typed = candidate.insert.strip() == matches.prefix.strip()
    return typed and (candidate.completes_message or not candidate.continues)


VISIBLE_ROWS = 8
"""Candidates visible at once."""


LABEL_WIDTH = 19
"""Width of a label that has a detail beside it."""


class CompletionList(OptionList, can_focus=False):
    """The list of candidates, an overlay that never takes the focus.

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
            background: $primary 15%;
            color: $foreground;
            text-style: bold;
        }
    }
    """

    def __init__(self, accept: Callable[[Candidate], None]) -> None:
        super().__init__(markup=False)
        self._accept = accept
        self._matches: Matches | None = None

    @property
    def matches(self) -> Matches | None:
        """The candidates in the list; None while it is closed."""
        return self._matches

    @property
    def highlighted_candidate(self) -> Candidate | None:
        """The highlighted candidate; None if there is none."""
        if self._matches is None or self.highlighted is None:
            return None
        return self._matches.candidates[self.highlighted]

    def show_matches(self, matches: Matches | None) -> None:
        """Show the candidates, or close the list if there are none."""
        if matches == self._matches:
            return
        self._matches = matches
        self.set_class(matches is not None, "-open")
        if matches is not None:
            self.set_options(Option(_candidate_row(candidate)) for candidate in matches.candidates)
            self.highlighted = 0 if matches.preselects else None
            self.styles.offset = (0, -min(len(matches.candidates), VISIBLE_ROWS))

    @on(OptionList.OptionSelected)
    def _accept_selected(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        if self._matches is not None:
            self._accept(self._matches.candidates[event.option_index])

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
