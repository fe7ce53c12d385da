"""Create a plugin project that can be installed, tested and checked as it is."""

from __future__ import annotations

import keyword
import re
import sys
from pathlib import Path
from string import Template

from chatlm.errors import UsageError
from chatlm.plugin_host.discovery import NAME_PATTERN, find_plugins
from chatlm.version import version

_PYPROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "chatlm-$name"
version = "0.1.0"
description = "A plugin for chatlm"
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["chatlm$versions"]

[project.optional-dependencies]
test = ["pytest"]

[project.entry-points.chatlm]
$name = "$package.plugin"

[tool.hatch.build.targets.wheel]
packages = ["$package"]
dev-mode-dirs = ["."]

[tool.pytest.ini_options]
testpaths = ["tests"]
"""


_PLUGIN = '''\
"""The hooks of the plugin $name; import slow libraries inside the hooks, not here."""

from dataclasses import dataclass, field

import click

from chatlm import Annotation, Message, SlashCommand, hookimpl


@dataclass(frozen=True)
class Settings:
    """The section `[plugins.$name]` of config.toml."""

    at_least: int = field(default=1, metadata={"help": "least number of words to label"})

    def __post_init__(self):
        if self.at_least < 0:
            raise ValueError("at_least must be 0 or more")


settings = Settings()


@hookimpl
def startup(context):
    """Read the settings."""
    global settings
    settings = context.settings(Settings)


@hookimpl
def annotate_message(message: Message):
    """Label a message with its number of words."""
    words = len(message.text.split())
    if words < settings.at_least:
        return None
    return [Annotation("$name", "words", str(words))]


def count_words(ui, text):
    """Show the number of words of a text."""
    ui.notify(f"{len(text.split())} words")


@hookimpl
def register_slash_commands(register):
    """Add `/$slash`."""
    register(SlashCommand("$slash", "count the words of a text", count_words, argument="TEXT"))


@click.command("$name")
@click.argument("text")
def command(text):
    """Count the words of a text.

    Example: chatlm $name "one two"
    """
    click.echo(len(text.split()))


@hookimpl
def register_commands(cli):
    """Add `chatlm $name`."""
    cli.add_command(command)
'''


_TEST = '''\
"""Run the plugin in a chat with a scripted model; no weights are needed."""

import asyncio

import pytest
from click.testing import CliRunner

from chatlm.testing import scripted_chat, scripted_screen
from $package import plugin


def test_messages_get_their_number_of_words():
    with scripted_chat(plugin, "Two words.") as chat:
        turn = chat.say("How many is this?")
        labels = {(label.name, label.value) for label in chat.annotations(turn)}
        assert labels == {("words", "4"), ("words", "2")}
        assert chat.faults == []


def test_a_setting_is_applied():
    with scripted_chat(plugin, "Yes.", settings={"at_least": 3}) as chat:
        turn = chat.say("Is this long enough?")
        assert [label.value for label in chat.annotations(turn)] == ["4"]


def test_an_invalid_setting_is_rejected():
    with pytest.raises(ValueError, match="at_least"):
        with scripted_chat(plugin, settings={"at_least": "many"}):
            pass


def test_the_slash_command_counts():
    async def try_it():
        async with scripted_screen(plugin) as shown:
            await shown.submit("/$slash one two three")
            assert "3 words" in shown.text()
            assert shown.faults == []

    asyncio.run(try_it())


def test_the_command_counts():
    assert CliRunner().invoke(plugin.command, ["one two"]).output == "2\\n"
'''


_README = """\
# chatlm-$name

A plugin for chatlm that labels each message with its number of words and adds the command
`chatlm $name` and the slash command `/$slash`.

    pip install -e ".[test]"
    pytest
    chatlm plugins check $name
    chatlm $name "one two"

`$package/plugin.py` has the hooks and the settings; `tests/` runs them in a chat and in the UI
without a model.
Change a setting: `chatlm config set plugins.$name.at_least 3`
"""


def compatible_versions(version: str) -> str:
    """Return the range of chatlm's versions for a plugin that is created with this one.

    Until 1.0 a new minor version may break plugins, afterwards a new major one; empty for a
    checkout without a version.
    """
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers is None:
        return ""
    major, minor = map(int, numbers.groups())
    return f">={major}.{minor},<{f'{major}.{minor + 1}' if major == 0 else major + 1}"


def create_project(name: str, parent: Path) -> Path:
    """Write a project into a new folder `chatlm-NAME` and return the folder.

    Args:
        name: the plugin's name: letters, digits, `-` and `_`.
        parent: where the folder is created.

    Raises:
        UsageError: the name is invalid or taken, or the folder exists or cannot be created.
    """
    package = f"chatlm_{name.replace('-', '_')}".lower()
    if (
        not NAME_PATTERN.fullmatch(name)
        or keyword.iskeyword(name)
        or package in sys.stdlib_module_names
    ):
        raise UsageError(
            f"{name!r} is not a valid name for a plugin.",
            hint="A name begins with a letter and has only letters, digits, - and _.",
        )
    if taken := next((found for found in find_plugins() if found.name == name), None):
        raise UsageError(
            f"There already is a plugin {name}, from {taken.source}.", hint="Choose another name."
        )
    folder, slash = parent / f"chatlm-{name}", name.replace("_", "-").lower()
    pieces = {
        "pyproject.toml": _PYPROJECT,
        "README.md": _README,
        f"{package}/__init__.py": f'"""chatlm\'s plugin {name}."""\n',
        f"{package}/plugin.py": _PLUGIN,
        "tests/test_plugin.py": _TEST,
    }
    try:
        folder.mkdir(parents=True)
        for path, text in pieces.items():
            (folder / path).parent.mkdir(exist_ok=True)
            written = Template(text).substitute(
                name=name, package=package, slash=slash, versions=compatible_versions(version())
            )
            (folder / path).write_text(written, encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"{folder} cannot be created: {error.strerror}.",
            hint="Choose another name, or another folder: --into FOLDER",
        ) from error
    return folder
