"""What a typed message means: a command with its argument, or words for the model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches

from chatlm.errors import UsageError
from chatlm.text import one_line
from chatlm.tui.commands import Command

AS_MESSAGE = "Two slashes send it as a message."

_COMMENT = re.compile(r"//+(?:\s|$)")


def parse(text: str, commands: Mapping[str, Command]) -> tuple[Command, str] | str:
    """The command and its argument, or the message.

    One slash begins a command; of two, one is taken away. A comment, with a blank behind its
    slashes, is a message as it is.

    Args:
        text: what was typed.
        commands: those there are, by name.

    Raises:
        UsageError: there is no such command, its argument is missing, or it takes none.
    """
    if not text.startswith("/") or _COMMENT.match(text):
        return text
    if text.startswith("//"):
        return text[1:]
    name, *rest = re.split(r"\s", text[1:], maxsplit=1)
    argument = "".join(rest).strip()
    command = commands.get(name)
    if command is None:
        near = get_close_matches(name, commands, 1)
        meant = f"Did you mean /{near[0]}? " if near else ""
        raise UsageError(f"There is no command /{one_line(name, 40)}", hint=meant + AS_MESSAGE)
    if command.needs_argument and not argument:
        raise UsageError(
            f"/{name} needs {command.argument}", hint=f"Write /{name} {command.argument}."
        )
    if argument and not command.argument:
        raise UsageError(f"/{name} takes nothing after it", hint=AS_MESSAGE)
    return command, argument
