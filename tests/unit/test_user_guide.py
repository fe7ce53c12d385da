"""The user guide names every command with its keys, shows commands that exist, and links to what
is there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import pytest

from chatlm.cli.main import cli
from chatlm.tui import commands
from chatlm.tui.commands import Command

REPOSITORY = Path(__file__).parents[2]
GUIDE = REPOSITORY / "docs" / "guide.md"
PAGES = (
    GUIDE,
    REPOSITORY / "README.md",
    REPOSITORY / "CONTRIBUTING.md",
    *(REPOSITORY / "docs" / name for name in ("design.md", "glossary.md", "scaling.md")),
)

GROUPS = (
    commands.COMPOSER,
    (*commands.PANE_NAVIGATION, *commands.CHAT, *commands.APP),
    (*commands.TURN, *commands.TURN_NAVIGATION),
    commands.CHAT_LIST,
)
"""In the order of the guide's tables."""

WRITTEN = {
    "escape": "Esc",
    "pageup": "Page Up",
    "pagedown": "Page Down",
    "question_mark": "?",
    "slash": "/",
    "left": "←",
    "right": "→",
    "up": "↑",
    "down": "↓",
}
"""Textual's names of keys -> the guide's, where they differ in more than their case."""


def in_the_guide(key: str) -> str:
    if len(key) == 1:
        return f"`{key}`"
    return WRITTEN.get(key) or "-".join(part.capitalize() for part in key.split("+"))


def expected(command: Command) -> tuple[str, str]:
    keys = ", ".join(in_the_guide(key) for key in command.key.split(",") if key)
    typed = f"/{command.name} {command.argument}".strip()
    return keys, f"`{typed if command.is_slash_command else command.name}`"


def tables() -> list[list[tuple[str, str]]]:
    """The first two columns of each table of keys."""
    text = GUIDE.read_text(encoding="utf-8")
    found = re.findall(r"^\| key \| command \|.*\n\|[-|]+\n((?:\|.*\n)+)", text, re.MULTILINE)
    rows = [[line.split("|")[1:3] for line in table.splitlines()] for table in found]
    return [[(keys.strip(), typed.strip()) for keys, typed in table] for table in rows]


@pytest.mark.parametrize("number", range(len(GROUPS)))
def test_a_table_names_every_command_of_its_place(number: int) -> None:
    assert tables()[number] == [expected(command) for command in GROUPS[number]]


def test_there_is_no_other_table_of_keys() -> None:
    assert len(tables()) == len(GROUPS)


def shell_lines() -> Iterator[str]:
    """Return the commands that the pages show."""
    for page in PAGES:
        blocks = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text("utf-8"), re.M | re.S)
        for line in (line for kind, text in blocks if not kind for line in text.splitlines()):
            yield from (part.strip() for part in line.split("|"))


@pytest.mark.parametrize("line", [line for line in shell_lines() if line.startswith("chatlm")])
def test_a_command_that_is_shown_can_be_typed(line: str) -> None:
    parse(cli, "chatlm", shlex.split(line)[1:])


def parse(command: click.Command, name: str, arguments: Sequence[str]) -> None:
    """Read the arguments as click does, without running anything.

    Raises:
        click.UsageError: they are wrong.
        ChatlmError: there is no such command.
    """
    with command.make_context(name, list(arguments)) as context:
        if isinstance(command, click.Group):
            given = [*context._protected_args, *context.args]
            if given:
                inner, found, rest = command.resolve_command(context, given)
                assert found is not None
                parse(found, inner or "", rest)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text("utf-8")
    heads = {anchor(head) for head in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}
    targets = re.findall(r"\]\(([^)]+)\)", text)
    for target in targets:
        path, _, name = target.partition("#")
        assert "://" in target or not path or (page.parent / path).exists(), target
        assert path or name in heads, target


def anchor(head: str) -> str:
    """How a heading is linked to."""
    return re.sub(r"[^\w-]", "", head.lower().replace(" ", "-"))
