"""The table of commands and keys, and the parser of slash commands.

Only keys that ordinary terminals send, over ssh and inside tmux too: control with a letter, no
function key but F1 to F3, nothing that the text area needs for editing. The keys of the chat have
priority: others bubble up from the focused widget, and would act after a key that was typed later.
The keys of a turn and of the chat list are plain letters, since nothing is typed there.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from textual.binding import Binding

from chatlm.errors import UsageError
from chatlm.text import one_line


class UnknownCommandError(UsageError):
    """A text begins like a command, but there is none of that name."""


CommandHandler = Callable[[str], Awaitable[None] | None]
"""Runs a command; gets the text typed after its name."""


_TITLES = {"xray": "X-ray", "new": "New chat", "incognito": "Incognito chat"}
"""Titles of commands whose names are no words for the palette."""


@dataclass(frozen=True)
class Command:
    """A command, run by a key, a slash command or the palette."""

    name: str
    """Name as a slash command and in the config's key map."""
    help: str
    """What it does; for a plugin's command with the plugin's name."""
    key: str = ""
    """Textual key names joined by commas; empty for none."""
    argument: str = ""
    """Argument of the slash command, such as `FILE`; in brackets if optional."""
    action: str = ""
    """Textual action; by default `command(name)` of the screen."""
    is_slash_command: bool = True
    """Whether it is a slash command and listed in the palette."""

    @property
    def title(self) -> str:
        """The name in words, for the palette."""
        return _TITLES.get(self.name) or self.name.replace("-", " ").capitalize()

    @property
    def needs_argument(self) -> bool:
        """Whether its argument is required."""
        return bool(self.argument) and not self.argument.startswith("[")


COMPOSER = (
    Command("send", "send the message", "enter", action="send", is_slash_command=False),
    Command(
        "newline",
        "new line",
        "ctrl+j,shift+enter,alt+enter",
        action="newline",
        is_slash_command=False,
    ),
    Command(
        "unfold", "show a folded paste in full", "ctrl+f", action="unfold", is_slash_command=False
    ),
    Command(
        "page-up", "scroll up", "pageup", action="screen.turn_page(-1)", is_slash_command=False
    ),
    Command(
        "page-down", "scroll down", "pagedown", action="screen.turn_page(1)", is_slash_command=False
    ),
)
"""Keys of the composer."""


CHAT = (
    Command("stop", "stop the reply, or close what is open", "escape"),
    Command("continue", "continue the reply", "ctrl+g"),
    Command("regenerate", "regenerate the reply as a new version", "ctrl+r"),
    Command("new", "new chat", "ctrl+n"),
    Command("incognito", "new incognito chat, not saved", "ctrl+t"),
    Command("chats", "show, focus or hide the chat list", "ctrl+l"),
    Command("search", "search all chats", "ctrl+s", "[WORDS]"),
    Command("palette", "command palette", "ctrl+p", is_slash_command=False),
    Command("settings", "sampling, system prompt, appearance", "ctrl+o"),
    Command("thinking", "change how much the model thinks", "f2", "[LEVEL]"),
    Command("schema", "make replies fit a JSON schema", argument="[SCHEMA]"),
    Command("model", "switch to another model", argument="[NAME]"),
    Command("tools", "tools of this chat; on or off switches them", argument="[STATE]"),
    Command("plugins", "enable, disable and configure plugins"),
    Command("system", "edit the system prompt of this chat"),
    Command("context", "context usage, turn by turn"),
    Command("project", "open a folder with its instructions", argument="[PATH]"),
    Command("tag", "tag this chat; -NAME removes a tag", argument="[NAME …]"),
    Command("attach", "attach a file, an image or a folder", argument="FILE"),
    Command("paste", "attach the image on the clipboard"),
    Command("screenshot", "attach a screenshot, taken by your command"),
    Command("editor", "write in $EDITOR, also ctrl+x ctrl+e"),
    Command("history", "search the messages you sent", argument="[WORDS]"),
    Command("rename", "rename this chat", argument="[TITLE]"),
    Command("pin-chat", "pin this chat to the top of the list"),
    Command("delete", "delete this chat; undo restores it"),
    Command("undo", "restore the last deleted chat"),
    Command("export", "export this chat to a file", argument="[FILE]"),
    Command("import", "import chats from a file", argument="FILE"),
    Command("copy-chat", "copy the whole chat as Markdown"),
    Command("theme", "change the theme", argument="[NAME]"),
    Command("preview", "preview the exact prompt", "f3", "[TEXT]"),
    Command("help", "all keys and commands", "f1"),
)
"""Commands of the chat screen."""


PANE_NAVIGATION = (
    Command(
        "next-region",
        "next pane",
        "tab",
        action="next_region(1)",
        is_slash_command=False,
    ),
    Command(
        "region-before",
        "previous pane",
        "shift+tab",
        action="next_region(-1)",
        is_slash_command=False,
    ),
)
"""Keys that move between panes; widgets get these keys first."""


APP = (Command("quit", "quit", "ctrl+q", action="app.quit"),)
"""Commands on every screen."""


TURN = (
    Command("copy", "copy the reply", "c"),
    Command("copy-code", "copy a code block; repeat for the next", "b"),
    Command("thoughts", "open or close thoughts and calls of tools", "o"),
    Command("copy-thoughts", "copy the thoughts"),
    Command("images", "show the images of this turn", "v", "[HASH]"),
    Command("message", "show all of a long message, or fold it", "m"),
    Command("previous-version", "show the previous version", "left"),
    Command("next-version", "show the next version", "right"),
    Command("edit", "edit the message and resend it in a fork", "e"),
    Command("fork", "fork the chat from here", "f"),
    Command("details", "model, settings and cost of this reply", "i"),
    Command("xray", "show the exact prompt of this reply", "x"),
    Command("trace", "show what plugins did in this turn", "t"),
    Command("replay", "replay this reply and compare", "r", "[--live] [MODEL]"),
    Command("pin", "always keep this turn in the context", "p"),
    Command("drop", "drop this turn from the context", "d"),
    Command("summarise", "replace this turn by a summary", "s"),
)
"""Commands of the selected turn; as slash commands they act on the newest one."""


TURN_NAVIGATION = (
    Command(
        "turn-before", "select the previous turn", "up,k", action="walk(-1)", is_slash_command=False
    ),
    Command(
        "turn-after", "select the next turn", "down,j", action="walk(1)", is_slash_command=False
    ),
    Command(
        "first-turn",
        "select the first loaded turn",
        "home",
        action="first",
        is_slash_command=False,
    ),
    Command(
        "last-turn",
        "select the last turn and follow",
        "end",
        action="last",
        is_slash_command=False,
    ),
    Command(
        "turn-help",
        "the keys of a turn",
        "question_mark",
        "",
        "screen.command('help', 'turn')",
        is_slash_command=False,
    ),
)
"""Keys that move between turns."""


CHAT_LIST = (
    Command("list-rename", "rename", "r", action="rename", is_slash_command=False),
    Command("list-pin", "pin or unpin", "p", action="pin", is_slash_command=False),
    Command("list-delete", "delete", "d,delete", action="delete", is_slash_command=False),
    Command("list-undo", "restore the deleted chat", "u", action="undo", is_slash_command=False),
    Command("list-search", "search", "slash", action="search", is_slash_command=False),
)
"""Keys of the chat list."""


_BUILTIN = {
    c.name: c
    for c in (*COMPOSER, *CHAT, *PANE_NAVIGATION, *APP, *TURN, *TURN_NAVIGATION, *CHAT_LIST)
}


ALL: dict[str, Command] = dict(_BUILTIN)
"""Every command by name, with the current keys; filled by `assign_keys`."""


def assign_keys(keys: Mapping[str, str], extra: Iterable[Command] = ()) -> list[str]:
    """Fill the table with built-in and plugin commands and the user's keys.

    A plugin's command gets its key only if no other command has it.

    Args:
        keys: command names to keys, as in the config.
        extra: commands of plugins, with unique names.

    Returns:
        Problems to show: unknown names and keys that are taken.
    """
    wanted = {command.name: command for command in extra}
    usual = _BUILTIN | {name: dataclasses.replace(c, key="") for name, c in wanted.items()}
    ALL.clear()
    ALL.update(usual)
    problems = []
    for name, key in keys.items():
        if name in ALL:
            pressed = ",".join(part.strip() for part in key.split(","))
            ALL[name] = dataclasses.replace(ALL[name], key=pressed)
            continue
        near = get_close_matches(name, ALL, 1)
        meant = f" Did you mean {near[0]}?" if near else ""
        problems.append(f"config.toml: there is no key for {name!r}.{meant}")
    for name in keys.keys() & ALL.keys():
        if other := _key_conflict(name):
            problems.append(
                f"config.toml: {keys[name]} is the key for {other}, and cannot be {name}."
            )
            ALL[name] = usual[name]
    for name in (name for name in wanted if name not in keys):
        ALL[name] = wanted[name]
        if _key_conflict(name):
            ALL[name] = usual[name]
    return problems


def user_keymap() -> dict[str, str]:
    """Return the changed keys of built-in commands as a Textual key map."""
    return {name: ALL[name].key for name, own in _BUILTIN.items() if ALL[name].key != own.key}


def plugin_commands() -> list[Command]:
    """Return the commands of plugins."""
    return [command for name, command in ALL.items() if name not in _BUILTIN]


def builtin_names() -> list[str]:
    """Return the names of the built-in commands."""
    return list(_BUILTIN)


def _key_conflict(name: str) -> str:
    """Return a command that has one of this command's keys in the same place; empty for none."""
    anywhere = {command.name for command in (*CHAT, *PANE_NAVIGATION, *APP, *plugin_commands())}
    for group in (COMPOSER, (*TURN, *TURN_NAVIGATION), CHAT_LIST):
        heard = anywhere | {command.name for command in group}
        for other in heard - {name} if name in heard else ():
            if set(ALL[other].key.split(",")) & set(filter(None, ALL[name].key.split(","))):
                return other
    return ""


def with_current_keys(commands: Iterable[Command]) -> list[Command]:
    """Return the commands with their current keys."""
    return [ALL[command.name] for command in commands]


def bindings(commands: Iterable[Command], *, priority: bool = False) -> list[Binding]:
    """Return bindings with the default keys; their ids are the command names, for the key map."""
    return [
        Binding(
            command.key,
            command.action or f"screen.command('{command.name}')",
            command.help,
            show=False,
            priority=priority,
            id=command.name,
        )
        for command in commands
        if command.key
    ]


def key_of(name: str) -> str:
    """Return the display name of a command's current key; empty for none."""
    return key_name(ALL[name].key)


def key_name(keys: str) -> str:
    """Return the display name of the first key."""
    words = {"escape": "esc", "pageup": "page up", "pagedown": "page down", "slash": "/"}
    words |= {"question_mark": "?", "left": "←", "right": "→", "up": "↑", "down": "↓"}
    first = keys.split(",")[0]
    return words.get(first, first)


DOUBLE_SLASH_HINT = "Start with two slashes to send it as a message."


_COMMENT = re.compile(r"//+(?:\s|$)")


def parse_slash_command(text: str, commands: Mapping[str, Command]) -> tuple[Command, str] | str:
    """Return the command and its argument, or the message.

    One slash starts a command; of two, one is removed. A comment, with a space after its
    slashes, is an unchanged message.

    Args:
        text: the text in the composer.
        commands: the slash commands by name.

    Raises:
        UnknownCommandError: there is no such command.
        UsageError: its argument is missing or not accepted.
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
        raise UnknownCommandError(
            f"Unknown command /{one_line(name, 40)}", hint=meant + DOUBLE_SLASH_HINT
        )
    if command.needs_argument and not argument:
        raise UsageError(
            f"/{name} needs {command.argument}", hint=f"Type /{name} {command.argument}."
        )
    if argument and not command.argument:
        raise UsageError(f"/{name} takes no argument", hint=DOUBLE_SLASH_HINT)
    return command, argument
