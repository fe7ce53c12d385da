"""Table of commands and keys; slash command parser.

Only keys that ordinary terminals send, over ssh and inside tmux too: control with a letter, no
function key but F1, nothing that the text area needs for editing. The keys of the chat have
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

CommandHandler = Callable[[str], Awaitable[None] | None]
"""Runs a command; gets the text typed after its name."""


@dataclass(frozen=True)
class Command:
    """One thing to do, however it is asked for."""

    name: str
    """As a slash command and in the config's key map."""
    help: str
    """What it does; for a plugin's, with that plugin's name."""
    key: str = ""
    """Textual's names, several joined by commas; empty for none."""
    argument: str = ""
    """What may follow the slash command, such as `FILE`; in brackets when it may be left out."""
    action: str = ""
    """Textual action; empty runs `action_command(name)` of the screen."""
    is_slash_command: bool = True
    """Whether it is a slash command and stands in the palette."""

    @property
    def title(self) -> str:
        """The name as words."""
        return self.name.replace("-", " ").capitalize()

    @property
    def needs_argument(self) -> bool:
        """Whether it cannot be run by its name alone."""
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
"""While writing."""


CHAT = (
    Command("stop", "stop the reply", "escape", is_slash_command=False),
    Command("continue", "go on with the reply", "ctrl+g"),
    Command("regenerate", "answer once more, as a new version", "ctrl+r"),
    Command("new", "new chat", "ctrl+n"),
    Command("incognito", "new incognito chat, nothing saved", "ctrl+t"),
    Command("chats", "chat list: show, focus, hide", "ctrl+l"),
    Command("search", "search all chats", "ctrl+s", "[WORDS]"),
    Command("palette", "everything there is to do", "ctrl+p", is_slash_command=False),
    Command("settings", "sampling, system prompt, look", "ctrl+o"),
    Command("model", "talk to another model", argument="[NAME]"),
    Command("plugins", "plugins: on or off, settings"),
    Command("system", "edit the system prompt of this chat"),
    Command("context", "what fits the model's context"),
    Command("attach", "put a text file into the message", argument="FILE"),
    Command("rename", "give this chat a title", argument="[TITLE]"),
    Command("pin-chat", "keep this chat on top of the list"),
    Command("delete", "delete this chat; undo brings it back"),
    Command("undo", "bring back the chat that was deleted last"),
    Command("export", "write this chat to a file", argument="[FILE]"),
    Command("import", "read chats from a file", argument="FILE"),
    Command("copy-chat", "copy the whole chat as Markdown"),
    Command("theme", "change the colours", argument="[NAME]"),
    Command("preview", "the exact prompt, if this were sent now", argument="[TEXT]"),
    Command("help", "all keys and commands", "f1"),
)
"""Anywhere in the chat."""


PANE_NAVIGATION = (
    Command(
        "next-region",
        "on: message, turns, chats",
        "tab",
        action="next_region(1)",
        is_slash_command=False,
    ),
    Command(
        "region-before",
        "back the same way",
        "shift+tab",
        action="next_region(-1)",
        is_slash_command=False,
    ),
)
"""Round the screen; the widgets hear these keys first."""


APP = (Command("quit", "quit", "ctrl+q", action="app.quit"),)
"""Everywhere, over the chat's other screens too."""


TURN = (
    Command("copy", "copy the reply", "c"),
    Command("copy-code", "copy a code block; again takes the next", "b"),
    Command("previous-version", "show the version before", "left"),
    Command("next-version", "show the next version", "right"),
    Command("edit", "change the message, ask again in a fork", "e"),
    Command("fork", "new chat that goes on from here", "f"),
    Command("details", "what made this reply, and what it cost", "i"),
    Command("xray", "the exact prompt of this reply", "x"),
    Command("trace", "what plugins did for this turn", "t"),
    Command("replay", "make this reply again and compare", "r", "[MODEL]"),
    Command("pin", "keep this turn in the context", "p"),
    Command("drop", "leave this turn out of the context", "d"),
    Command("summarise", "let a summary stand for this turn", "s"),
)
"""On the selected turn; typed as slash commands they take the newest one."""


TURN_NAVIGATION = (
    Command(
        "turn-before", "select the turn before", "up,k", action="walk(-1)", is_slash_command=False
    ),
    Command(
        "turn-after", "select the turn after", "down,j", action="walk(1)", is_slash_command=False
    ),
    Command(
        "first-turn",
        "select the first turn that is drawn",
        "home",
        action="first",
        is_slash_command=False,
    ),
    Command(
        "last-turn",
        "select the last turn, and follow",
        "end",
        action="last",
        is_slash_command=False,
    ),
    Command(
        "turn-help",
        "all keys",
        "question_mark",
        "",
        "screen.command('help')",
        is_slash_command=False,
    ),
)
"""From turn to turn, while one is selected."""


CHAT_LIST = (
    Command("list-rename", "rename", "r", action="rename", is_slash_command=False),
    Command("list-pin", "pin or unpin", "p", action="pin", is_slash_command=False),
    Command("list-delete", "delete", "d,delete", action="delete", is_slash_command=False),
    Command("list-undo", "bring back what was deleted", "u", action="undo", is_slash_command=False),
    Command("list-search", "search", "slash", action="search", is_slash_command=False),
)
"""In the chat list."""


_BUILTIN = {
    c.name: c
    for c in (*COMPOSER, *CHAT, *PANE_NAVIGATION, *APP, *TURN, *TURN_NAVIGATION, *CHAT_LIST)
}


ALL: dict[str, Command] = dict(_BUILTIN)
"""Every command by its name, with the keys that hold in this program: see `choose_keys`."""


def assign_keys(keys: Mapping[str, str], extra: Iterable[Command] = ()) -> list[str]:
    """Fill the table: chatlm's own commands and others, with the keys that the person chose.

    A command of a plugin gets the key it asks for only if no other has it.

    Args:
        keys: command names to keys, as in the config.
        extra: commands of plugins, with names that no other command has.

    Returns:
        What could not be done, in words: a name that does not exist, a key that is taken.
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
    """The keys of chatlm's own commands that differ from the usual, as Textual's key map."""
    return {name: ALL[name].key for name, own in _BUILTIN.items() if ALL[name].key != own.key}


def plugin_commands() -> list[Command]:
    """The commands of plugins."""
    return [command for name, command in ALL.items() if name not in _BUILTIN]


def builtin_names() -> list[str]:
    """The names of chatlm's own commands."""
    return list(_BUILTIN)


def _key_conflict(name: str) -> str:
    """Which other command would hear one of this one's keys at the same place; empty for none."""
    anywhere = {command.name for command in (*CHAT, *PANE_NAVIGATION, *APP, *plugin_commands())}
    for group in (COMPOSER, (*TURN, *TURN_NAVIGATION), CHAT_LIST):
        heard = anywhere | {command.name for command in group}
        for other in heard - {name} if name in heard else ():
            if set(ALL[other].key.split(",")) & set(filter(None, ALL[name].key.split(","))):
                return other
    return ""


def with_current_keys(commands: Iterable[Command]) -> list[Command]:
    """The commands with the keys that hold in this program."""
    return [ALL[command.name] for command in commands]


def bindings(commands: Iterable[Command], *, priority: bool = False) -> list[Binding]:
    """The commands' own keys; each binding has the command's name as its id, for the key map."""
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
    """The key that runs the command now, as people write it; empty for none."""
    return key_name(ALL[name].key)


def key_name(keys: str) -> str:
    """The first of the keys as people write it."""
    words = {"escape": "esc", "pageup": "page up", "pagedown": "page down", "slash": "/"}
    words |= {"question_mark": "?", "left": "←", "right": "→", "up": "↑", "down": "↓"}
    first = keys.split(",")[0]
    return words.get(first, first)


DOUBLE_SLASH_HINT = "Two slashes send it as a message."


_COMMENT = re.compile(r"//+(?:\s|$)")


def parse_slash_command(text: str, commands: Mapping[str, Command]) -> tuple[Command, str] | str:
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
        raise UsageError(
            f"There is no command /{one_line(name, 40)}", hint=meant + DOUBLE_SLASH_HINT
        )
    if command.needs_argument and not argument:
        raise UsageError(
            f"/{name} needs {command.argument}", hint=f"Write /{name} {command.argument}."
        )
    if argument and not command.argument:
        raise UsageError(f"/{name} takes nothing after it", hint=DOUBLE_SLASH_HINT)
    return command, argument
