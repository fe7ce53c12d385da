"""How an editor is told to open a file at a line; runs nothing."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path

from chatlm import UsageError

_PLUS = {"vi", "vim", "nvim", "view", "nano", "pico", "emacs", "emacsclient", "kak", "micro"}
_PLUS |= {"joe", "jed", "mg", "ne", "gedit", "sensible-editor"}
"""`+LINE FILE`"""
_COLON = {"hx", "helix", "subl", "zed"}
"""`FILE:LINE`"""
_GOTO = {"code", "codium", "cursor"}
"""`--goto FILE:LINE`"""

_USUAL = ("sensible-editor", "nano", "vim", "vi")

_NO_TEXT = {".pdf", ".docx"}


def command(path: str, line: int) -> list[str]:
    """What opens a file in `$VISUAL`, `$EDITOR`, or else in an editor that is here.

    Args:
        path: of the file.
        line: from 1; 0 for none.

    Raises:
        UsageError: the file is gone or no text, or there is no editor.
    """
    file = Path(path).absolute()
    if not file.is_file():
        raise UsageError(f"{file} is not there.", hint="The passage is what was read of it.")
    if file.suffix.lower() in _NO_TEXT:
        raise UsageError(f"{file} is no text file.", hint="Open it in a program that shows it.")
    editor = _editor()
    name = Path(editor[0]).stem
    if not line:
        return [*editor, str(file)]
    if name in _PLUS:
        return [*editor, f"+{line}", str(file)]
    if name in _COLON:
        return [*editor, f"{file}:{line}"]
    if name in _GOTO:
        return [*editor, "--goto", f"{file}:{line}"]
    return [*editor, str(file)]


def _editor() -> list[str]:
    for variable in ("VISUAL", "EDITOR"):
        try:
            words = shlex.split(os.environ.get(variable, ""))
        except ValueError:
            continue
        if words:
            return words
    for name in _USUAL:
        if shutil.which(name):
            return [name]
    raise UsageError("There is no editor.", hint="Set $EDITOR, for example to nano.")
