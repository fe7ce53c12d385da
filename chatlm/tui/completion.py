"""What can be completed at the cursor: commands, their arguments, files; draws nothing."""

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

from chatlm.text import visible
from chatlm.tui.attachments import locate, mention
from chatlm.tui.commands import Command

ENTRIES = 5000
"""Files of one folder that are looked at."""

SHOWN = 100
"""Candidates that are offered at most."""

_COMMAND = re.compile(r"/([^\s/]*)")
_ARGUMENT = re.compile(r"/([^\s/]+)\s+(.*)")
_FILE = re.compile(r"""(?<![^\s(\["'])@(?:"([^"\n]*)|([^\s"]*))$""")

Completer = Callable[[str], Sequence[str]]
"""The values an argument may have, given what was typed of it."""


@dataclass(frozen=True)
class Candidate:
    """One way to go on."""

    insert: str
    """Takes the place of what was typed."""
    label: str
    detail: str = ""
    sends: bool = False
    """Whether it makes the message complete, so that Enter sends it at once."""
    goes_on: bool = False
    """Whether more can be completed behind it."""


@dataclass(frozen=True)
class Completion:
    """The candidates for the text from column `start` to the cursor."""

    start: int
    typed: str
    candidates: tuple[Candidate, ...]
    sure: bool
    """Whether Enter takes the first candidate: something was typed of a name, which begins with it.

    Never so for an argument, which may be a new name."""


def complete(
    before: str,
    commands: Iterable[Command],
    values: Mapping[str, Completer],
    folder: Path,
    *,
    only: bool,
) -> Completion | None:
    """What may stand at the cursor; None where nothing is to be completed.

    Args:
        before: the cursor's line up to the cursor.
        commands: those that can be typed.
        values: completes a command's argument, by the command's name.
        folder: where paths start.
        only: whether `before` is the whole message, as a command is.
    """
    if only and (match := _COMMAND.fullmatch(before)):
        return _commands(match[1], commands)
    if only and (match := _ARGUMENT.fullmatch(before)):
        named = [command for command in commands if command.name == match[1]]
        return _argument(match, named[0], values, folder) if named else None
    if match := _FILE.search(before):
        return _files(match, folder)
    return None


def ranked(typed: str, names: Iterable[str]) -> list[str]:
    """The names that are like what was typed: it is or begins them, is in them, or its letters are.

    Where two are alike, the order stays.
    """
    wanted = typed.casefold()

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


def paths(written: str, folder: Path) -> list[str]:
    """Files and folders, ending in a slash, that what was written may become.

    One level of one folder, and hidden ones only when the name begins with a dot.
    """
    head, slash, last = written.rpartition("/")
    place = locate(head + slash or ".", folder)
    if place is None:
        return []
    try:
        names = _names(place, place.stat().st_mtime_ns)
    except OSError:
        return []
    hidden = last.startswith(".")
    like = ranked(last, (name for name in names if hidden or not name.startswith(".")))[:SHOWN]
    return [f"{head}{slash}{name}{'/' * _is_folder(place / name)}" for name in like]


@lru_cache(maxsize=4)
def _names(folder: Path, changed: int) -> list[str]:
    """The names in a folder, sorted; read again when its time of change is another."""
    with os.scandir(folder) as entries:
        return sorted((entry.name for entry in islice(entries, ENTRIES)), key=str.casefold)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False


def _commands(typed: str, commands: Iterable[Command]) -> Completion | None:
    known = {command.name: command for command in commands}
    candidates = []
    for name in ranked(typed, known):
        command = known[name]
        candidates.append(
            Candidate(
                f"/{name} " if command.argument else f"/{name}",
                f"/{name} {command.argument}".rstrip(),
                command.help,
                sends=not command.needs_argument,
                goes_on=bool(command.argument),
            )
        )
    return _completion(0, f"/{typed}", f"/{typed}", candidates)


def _argument(
    match: re.Match[str], command: Command, values: Mapping[str, Completer], folder: Path
) -> Completion | None:
    typed = match[2]
    if command.name in values:
        found = ranked(typed, values[command.name](typed))[:SHOWN]
    elif "FILE" in command.argument:
        found = [path for path in paths(typed, folder) if visible(path) == path]
    else:
        return None
    candidates = []
    for value in found:
        opened = value.endswith("/")
        candidates.append(Candidate(value, visible(value), sends=not opened, goes_on=opened))
    return _completion(match.start(2), typed, "", candidates)


def _files(match: re.Match[str], folder: Path) -> Completion | None:
    quoted, bare = match.groups()
    written = bare if quoted is None else _unquoted(quoted)
    candidates = []
    for path in paths(written, folder):
        opened = path.endswith("/")
        insert = mention(path).rstrip('"') if opened else f"{mention(path)} "
        candidates.append(Candidate(insert, visible(path), goes_on=opened))
    return _completion(match.start(), match[0], written, candidates)


def _unquoted(begun: str) -> str:
    """The path in a JSON string that is not closed yet."""
    try:
        return str(json.loads(f'"{begun}"'))
    except ValueError:
        return begun


def _completion(
    start: int, typed: str, wanted: str, candidates: list[Candidate]
) -> Completion | None:
    if not candidates:
        return None
    begun = bool(wanted) and not wanted.endswith("/")
    first = candidates[0].label.casefold()
    return Completion(
        start, typed, tuple(candidates), begun and first.startswith(wanted.casefold())
    )
