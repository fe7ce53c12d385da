"""Which input is a message, and which a slash command."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatlm.errors import UsageError
from chatlm.text import escape_controls
from chatlm.tui import commands
from chatlm.tui.composer.drafts import (
    sanitise,
)
from tests.tui.composing import COMMANDS, labels, offer
from tests.tui.support import hostile_texts

BY_NAME = {command.name: command for command in COMMANDS}


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("Hello /new", "Hello /new"),
        (" /new", " /new"),
        ("//new", "/new"),
        ("//usr/bin is full", "/usr/bin is full"),
        ("// a comment\nint x;", "// a comment\nint x;"),
        ("/// documented", "/// documented"),
        ("///path", "//path"),
    ],
)
def test_what_is_a_message(typed: str, meant: str) -> None:
    assert commands.parse_slash_command(typed, BY_NAME) == meant


@pytest.mark.parametrize(
    ("typed", "name", "argument"),
    [
        ("/new", "new", ""),
        ("/new  ", "new", ""),
        ("/theme", "theme", ""),
        ("/theme nord ", "theme", "nord"),
        ("/attach my notes.txt", "attach", "my notes.txt"),
    ],
)
def test_what_is_a_command(typed: str, name: str, argument: str) -> None:
    assert commands.parse_slash_command(typed, BY_NAME) == (BY_NAME[name], argument)


@pytest.mark.parametrize(
    ("typed", "error"),
    [
        (
            "/forc",
            "Unknown command /forc\nDid you mean /fork? "
            "Start with two slashes to send it as a message.",
        ),
        (
            "/usr/bin is full",
            "Unknown command /usr/bin\nStart with two slashes to send it as a message.",
        ),
        ("/", "Unknown command /\nStart with two slashes to send it as a message."),
        ("/attach ", "/attach needs FILE\nType /attach FILE."),
        (
            "/new chat please",
            "/new takes no argument\nStart with two slashes to send it as a message.",
        ),
    ],
)
def test_what_is_neither_says_what_to_do(typed: str, error: str) -> None:
    with pytest.raises(UsageError) as caught:
        commands.parse_slash_command(typed, BY_NAME)
    assert str(caught.value) == error


def test_hostile_texts_are_completed_and_parsed_without_harm(
    folder: Path, shared_data: Path
) -> None:
    for text in hostile_texts(shared_data):
        for typed in (text, f"/{text}", f"@{text}", f'@"{text}', f"/attach {text}"):
            line = sanitise(typed).split("\n")[0]
            for label in labels(offer(line, folder)):
                assert escape_controls(label) == label
            assert sanitise(sanitise(typed)) == sanitise(typed)
            try:
                commands.parse_slash_command(sanitise(typed), BY_NAME)
            except UsageError as error:
                assert "\x1b" not in str(error)
