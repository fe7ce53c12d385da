"""Write a text in the user's own editor."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

from chatlm.errors import UsageError

_USUAL = ("nano", "vi")


def find_editor() -> list[str]:
    """Return the command of the user's editor: $VISUAL, $EDITOR, or else nano or vi.

    Raises:
        UsageError: there is none.
    """
    for variable in ("VISUAL", "EDITOR"):
        if words := shlex.split(os.environ.get(variable, "")):
            if shutil.which(words[0]) is None:
                raise UsageError(
                    f"${variable} is {words[0]}, which is not on this machine",
                    hint="Set it to the command of your editor.",
                )
            return words
    for name in _USUAL:
        if shutil.which(name):
            return [name]
    raise UsageError("There is no editor", hint="Set $EDITOR to the command of one.")


def edit_text(command: list[str], text: str) -> str:
    """Return a text as the user left it in the editor; waits until the editor ends.

    Args:
        command: the editor; gets the name of a file that only the user can read.
        text: the text to begin with.

    Raises:
        UsageError: the editor cannot be started or reports a failure, or the text is no UTF-8.
    """
    handle, name = tempfile.mkstemp(prefix="chatlm-", suffix=".md")
    path = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="replace") as file:
            file.write(text)
        ended = subprocess.run([*command, name], check=False)
        if ended.returncode:
            raise UsageError(
                f"{command[0]} ended with status {ended.returncode}", hint="The text is as before."
            )
        return path.read_text(encoding="utf-8").removesuffix("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{command[0]} did not work: {error}") from error
    finally:
        path.unlink(missing_ok=True)
