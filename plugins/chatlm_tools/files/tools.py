"""The tools of the group `files`: list, read, search, edit, write and undo."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chatlm import ToolContext, ToolOutput, ToolPreview, UsageError, one_line, tool
from chatlm_tools.files import undo
from chatlm_tools.files.workspace import Place, open_folder, read_text, resolve, walk, write_text

_MAX_ENTRIES = 500
_MAX_LINES = 400
_MAX_MATCHES = 100
_MAX_LOOKED_AT = 20_000
_MAX_TEXT = 1_000_000


def _explain(error: OSError, place: Place) -> UsageError:
    return UsageError(f"{place}: {error.strerror or error}")


@tool(permission="ask", group="files", read_only=True, untrusted_output=True)
def files_list(context: ToolContext, folder: str = ".") -> ToolOutput:
    """List a folder of the user's, with the sizes of its files.

    Args:
        folder: its path; by default the user's first folder.
    """
    place = resolve(context.workspace_folders, folder)
    try:
        with open_folder(place, place.parts) as descriptor, os.scandir(descriptor) as found:
            entries = sorted(found, key=lambda entry: entry.name)
            lines = [_describe(entry) for entry in entries[:_MAX_ENTRIES]]
    except OSError as error:
        raise _explain(error, place) from None
    if len(entries) > _MAX_ENTRIES:
        lines.append(f"… and {len(entries) - _MAX_ENTRIES} more")
    return ToolOutput("\n".join(lines) or "The folder is empty.", source=str(place))


def _describe(entry: os.DirEntry[str]) -> str:
    name = one_line(entry.name, 200)
    if entry.is_symlink():
        return f"{name} (link)"
    if entry.is_dir():
        return f"{name}/"
    return f"{name}  {entry.stat(follow_symlinks=False).st_size} bytes"


@tool(permission="ask", group="files", read_only=True, untrusted_output=True)
def files_read(path: str, context: ToolContext, first_line: int = 1) -> ToolOutput:
    """Read a text file of the user's, up to 400 lines at once.

    Args:
        path: the file.
        first_line: where to start, from 1.
    """
    place = resolve(context.workspace_folders, path)
    try:
        lines = read_text(place).splitlines()
    except OSError as error:
        raise _explain(error, place) from None
    start = max(first_line, 1) - 1
    shown = lines[start : start + _MAX_LINES]
    if not shown and lines:
        raise UsageError(f"{place} has only {len(lines)} lines.")
    text = "\n".join(shown)
    if (rest := len(lines) - start - len(shown)) > 0:
        text += f"\n… {rest} more lines; read on with first_line={start + len(shown) + 1}"
    return ToolOutput(text or "The file is empty.", source=str(place))


@tool(permission="ask", group="files", read_only=True, untrusted_output=True)
def files_search(
    text: str, context: ToolContext, folder: str = ".", names: str = "*"
) -> ToolOutput:
    """Find lines that contain a text, in the files below a folder; upper and lower case are alike.

    Args:
        text: what to look for, as it is written; empty to find files by name alone.
        folder: where to look; by default the user's first folder.
        names: a pattern of file names, such as *.md.
    """
    place = resolve(context.workspace_folders, folder)
    if not place.path.is_dir():
        raise UsageError(f"{place} is no folder.")
    found: list[str] = []
    wanted = text.casefold()
    for name, _ in walk(place, _MAX_LOOKED_AT):
        context.check_cancelled()
        if not Path(name).match(names):
            continue
        if not text:
            found.append(one_line(name, 200))
        else:
            found += _matching_lines(Place(place.root, place.path / name), name, wanted)
        if len(found) >= _MAX_MATCHES:
            found = [*found[:_MAX_MATCHES], f"… there are more than {_MAX_MATCHES}"]
            break
    return ToolOutput("\n".join(found) or "Nothing was found.", source=str(place))


def _matching_lines(place: Place, name: str, wanted: str) -> list[str]:
    try:
        lines = read_text(place).splitlines()
    except (OSError, UsageError):
        return []  # not a text
    return [
        f"{one_line(name, 200)}:{number}: {one_line(line, 200)}"
        for number, line in enumerate(lines, 1)
        if wanted in line.casefold()
    ]


def _replace(before: str, old: str, new: str, place: Place | str) -> str:
    count = before.count(old) if old else 0
    if not old:
        raise UsageError("old must not be empty; files_write makes a new file.")
    if count == 0:
        raise UsageError(f"{place} does not contain this text: read the file first.")
    if count > 1:
        raise UsageError(f"{place} contains this text {count} times: give more of its lines.")
    return before.replace(old, new)


def _diff(before: str | None, after: str, name: str) -> str:
    lines = difflib.unified_diff(
        (before or "").splitlines(keepends=True),
        after.splitlines(keepends=True),
        "/dev/null" if before is None else name,
        name,
    )
    return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)


def _edit_preview(arguments: Mapping[str, Any]) -> ToolPreview:
    """Show the change as a diff of the piece: a preview knows no folders to read the file from."""
    old, new = str(arguments.get("old", "")), str(arguments.get("new", ""))
    return ToolPreview("diff", _diff(old, new, str(arguments.get("path", ""))))


def _write_preview(arguments: Mapping[str, Any]) -> ToolPreview:
    text = str(arguments.get("text", ""))
    return ToolPreview("diff", _diff(None, text, str(arguments.get("path", ""))))


def _change(place: Place, before: str | None, after: str, context: ToolContext) -> ToolOutput:
    """Write a file and remember what it was."""
    if len(after) > _MAX_TEXT:
        raise UsageError(f"A file of more than {_MAX_TEXT:,} characters is not written.")
    if before == after:
        raise UsageError(f"{place} has this text already.")
    change = undo.Change(str(place), before, undo.digest(after))
    undo.remember(context.data_folder, change, incognito=context.incognito)
    try:
        write_text(place, after)
    except OSError as error:
        undo.forget(context.data_folder, change, incognito=context.incognito)
        raise _explain(error, place) from None
    return ToolOutput(
        f"Changed {place}:\n{_diff(before, after, place.path.name)}", source=str(place)
    )


@tool(permission="ask", group="files", preview=_edit_preview)
def files_edit(path: str, old: str, new: str, context: ToolContext) -> ToolOutput:
    """Replace one piece of a text file of the user's.

    Args:
        path: the file.
        old: the piece, exactly as it is in the file; it must be there once.
        new: what it becomes.
    """
    place = resolve(context.workspace_folders, path)
    try:
        before = read_text(place)
    except OSError as error:
        raise _explain(error, place) from None
    return _change(place, before, _replace(before, old, new, place), context)


@tool(permission="ask", group="files", preview=_write_preview)
def files_write(path: str, text: str, context: ToolContext) -> ToolOutput:
    """Write a new text file; files_edit changes one that exists.

    Args:
        path: the file; missing folders are made.
        text: the whole text.
    """
    place = resolve(context.workspace_folders, path)
    if os.path.lexists(place.path):
        raise UsageError(f"{place} exists already: change it with files_edit.")
    return _change(place, None, text, context)


@tool(permission="ask", group="files")
def files_undo(path: str, context: ToolContext) -> ToolOutput:
    """Undo the last change that files_edit or files_write made in a file.

    Args:
        path: the file.
    """
    place = resolve(context.workspace_folders, path)
    return ToolOutput(
        undo_change(place, context.data_folder, incognito=context.incognito), source=str(place)
    )


def undo_change(place: Place, data_folder: Path, *, incognito: bool = False) -> str:
    """Undo the last change of a file; return what was done.

    Raises:
        UsageError: no change is known, or the file was changed since.
    """
    change = undo.last_change(data_folder, str(place), incognito=incognito)
    if change is None:
        raise UsageError(f"No change of {place} is remembered.")
    try:
        current: str | None = read_text(place)
    except FileNotFoundError:
        current = None
    except OSError as error:
        raise _explain(error, place) from None
    if undo.digest(current) != change.after_digest:
        raise UsageError(f"{place} was changed since, so the older text is not put back.")
    try:
        write_text(place, change.before)
    except OSError as error:
        raise _explain(error, place) from None
    undo.forget(data_folder, change, incognito=incognito)
    return f"Removed {place}" if change.before is None else f"{place} is as it was before."


FILE_TOOLS: Sequence[Any] = (
    files_list,
    files_read,
    files_search,
    files_edit,
    files_write,
    files_undo,
)
"""All tools of this module."""
