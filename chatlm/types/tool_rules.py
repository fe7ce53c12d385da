"""Which tools a chat has, and what may run: rules, the settings `[tools]` and those of a chat."""

from __future__ import annotations

import dataclasses
import fnmatch
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from chatlm.errors import UsageError
from chatlm.text import dump_json, one_line
from chatlm.types.settings import setting

Permission = Literal["ask", "allow", "deny"]
"""What happens when a model calls a tool: the user is asked, it runs, or it is refused."""

PERMISSIONS: tuple[Permission, ...] = ("ask", "allow", "deny")

_RULE = re.compile(r"(?P<name>[A-Za-z0-9_*?-]+)\s*(?:\((?P<arguments>.*)\))?", re.DOTALL)
_NEXT_ARGUMENT = re.compile(r",\s*(?=[A-Za-z_]\w*\s*=)")
_ARGUMENT = re.compile(r"(?P<name>[A-Za-z_]\w*)\s*=\s*(?P<pattern>.*)", re.DOTALL)

_UNSAFE = re.compile(r"[;&|<>`$(){}\n\r]")
"""With these a shell begins another command, or reads and writes files."""


@dataclass(frozen=True)
class ToolRule:
    """A rule such as `files`, `files_read` or `files_read(path=~/notes/*)`."""

    name: str
    """A tool or a group; `*` and `?` stand for any characters."""
    arguments: tuple[tuple[str, str], ...] = ()
    """Name and pattern of arguments, which must all fit."""

    @classmethod
    def parse(cls, text: str) -> ToolRule:
        """Parse a rule.

        Raises:
            UsageError: it is none; the message says why.
        """
        match = _RULE.fullmatch(text.strip())
        if match is None:
            raise UsageError(
                f"{one_line(text, 60)!r} is no rule for tools",
                hint="Write the name of a tool or a group, such as files_read, or with arguments: "
                "'files_read(path=~/notes/*)'.",
            )
        arguments = []
        for part in _NEXT_ARGUMENT.split(match["arguments"] or ""):
            if not part.strip():
                continue
            argument = _ARGUMENT.fullmatch(part.strip())
            if argument is None:
                raise UsageError(
                    f"the rule {one_line(text, 60)!r} has {one_line(part, 40)!r} for an argument",
                    hint="Write NAME=PATTERN, such as path=~/notes/*",
                )
            arguments.append((argument["name"], argument["pattern"].strip()))
        return cls(match["name"], tuple(arguments))

    def __str__(self) -> str:
        inner = ", ".join(f"{name}={pattern}" for name, pattern in self.arguments)
        return f"{self.name}({inner})" if inner else self.name

    @property
    def is_wildcard(self) -> bool:
        """Whether the name stands for several."""
        return "*" in self.name or "?" in self.name

    def names(self, tool: str, group: str) -> bool:
        """Whether it is about a tool, whatever its arguments."""
        return any(fnmatch.fnmatchcase(name, self.name) for name in (tool, group) if name)

    def matches(
        self,
        tool: str,
        group: str,
        arguments: Mapping[str, Any],
        folders: Sequence[Path] = (),
        *,
        surely: bool,
    ) -> bool:
        """Whether it is about a call.

        A pattern that begins with `/` or `~` is of a path: links and `..` are followed first, and
        a relative path is in one of the folders. Wildcards match all characters, also `/`.

        Args:
            tool: the tool's name.
            group: its group.
            arguments: of the call.
            folders: where relative paths may be.
            surely: for a rule that allows: doubtful calls do not match, and a wildcard matches no
                characters with which a shell begins another command. Else they do match.
        """
        return self.names(tool, group) and all(
            name in arguments and _fits(arguments[name], pattern, folders, surely)
            for name, pattern in self.arguments
        )

    def rank(self, tool: str) -> int:
        """How exact it is about a tool: with arguments, its name, its group, a wildcard."""
        return 3 * bool(self.arguments) + (2 if self.name == tool else 0 if self.is_wildcard else 1)


def _fits(value: Any, pattern: str, folders: Sequence[Path], surely: bool) -> bool:
    text = value if isinstance(value, str) else dump_json(value)
    if pattern == "*":
        return True
    if not pattern.startswith(("/", "~")):
        if surely and ("*" in pattern or "?" in pattern) and _UNSAFE.search(text):
            return False
        return fnmatch.fnmatchcase(text, pattern)
    head, wildcard, tail = re.fullmatch(r"([^*?\[]*)([*?\[]?)(.*)", pattern, re.DOTALL).groups()  # type: ignore[union-attr]
    folder, slash, rest = os.path.expanduser(head).rpartition("/")  # noqa: PTH111 - keeps a last /
    resolved = f"{os.path.realpath(folder or '/').rstrip('/')}{slash}{rest}{wildcard}{tail}"
    expanded = os.path.expanduser(text)  # noqa: PTH111 - raises nothing
    paths = [str(each / expanded) for each in folders]
    if Path(expanded).is_absolute():
        paths = [expanded]
    fitting = [fnmatch.fnmatchcase(os.path.realpath(path), resolved) for path in paths]
    return bool(fitting) and all(fitting) if surely else any(fitting)


def parse_rules(texts: Iterable[str]) -> tuple[ToolRule, ...]:
    """Parse rules; raises like `ToolRule.parse`."""
    return tuple(map(ToolRule.parse, texts))


def _are_rules(values: tuple[str, ...]) -> bool:
    try:
        parse_rules(values)
    except UsageError:
        return False
    return True


def _are_patterns(values: tuple[str, ...]) -> bool:
    return _are_rules(values) and not any("(" in value for value in values)


_RULES = "a list of rules such as files_read or files_read(path=~/notes/*)"
_NAMES = "a list of names of tools and groups"


@dataclass(frozen=True)
class ToolSettings:
    """The section `[tools]` of the config file."""

    enabled: bool = setting(
        False, "offer tools to the model in chats that do not say otherwise; /tools switches a chat"
    )
    on: tuple[str, ...] = setting(
        (),
        "tools and groups to offer besides those that are offered by themselves",
        accepts=_are_patterns,
        expected=_NAMES,
    )
    off: tuple[str, ...] = setting(
        (), "tools and groups that are never offered", accepts=_are_patterns, expected=_NAMES
    )
    allow: tuple[str, ...] = setting(
        (), "calls that run without asking", accepts=_are_rules, expected=_RULES
    )
    ask: tuple[str, ...] = setting(
        (), "calls that are always asked about", accepts=_are_rules, expected=_RULES
    )
    deny: tuple[str, ...] = setting(
        (), "calls that are always refused", accepts=_are_rules, expected=_RULES
    )
    folders: tuple[str, ...] = setting(
        (), "folders that tools may use, besides that of the chat's project"
    )
    max_steps: int = setting(
        8, "how often the model may write within one reply, calls included", minimum=1, maximum=1000
    )
    max_seconds: int = setting(
        300, "how many seconds one reply with tools may take", minimum=1, maximum=86_400
    )
    max_tokens: int = setting(
        20_000, "how many tokens one reply with tools may have", minimum=1, maximum=100_000_000
    )
    max_output: int = setting(
        16_000,
        "how many characters of a result the model reads",
        minimum=100,
        maximum=10_000_000,
    )


@dataclass(frozen=True)
class ChatTools:
    """What the user decided about tools in one chat."""

    enabled: bool | None = None
    """Whether there are any; None for as in the settings."""
    on: tuple[str, ...] = ()
    """Tools and groups that are offered here too."""
    off: tuple[str, ...] = ()
    """Tools and groups that are not offered here."""
    allow: tuple[str, ...] = ()
    ask: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()

    def with_permission(self, name: str, permission: Permission | None) -> ChatTools:
        """Return it with one rule of this name; None for no rule."""
        lists = {
            field: tuple(rule for rule in getattr(self, field) if rule != name)
            for field in ("allow", "ask", "deny")
        }
        if permission is not None:
            lists[permission] += (name,)
        return dataclasses.replace(self, **lists)  # type: ignore[arg-type]

    def with_offer(self, name: str, offered: bool | None) -> ChatTools:
        """Return it with a tool or group offered or not; None for as in the settings."""
        on = tuple(each for each in self.on if each != name)
        off = tuple(each for each in self.off if each != name)
        return dataclasses.replace(
            self,
            on=(*on, name) if offered else on,
            off=(*off, name) if offered is False else off,
        )

    def with_offers(self, names: Iterable[str], *, were_on: bool) -> ChatTools:
        """Return it with these tools and groups offered, and tools on if there are any.

        Args:
            names: what is offered.
            were_on: whether the chat had tools. If not, it gets no others than these.
        """
        tools = self
        for name in names:
            off = tools.off if were_on else (*(each for each in tools.off if each != "*"), "*")
            tools = dataclasses.replace(tools, enabled=True, off=off).with_offer(name, True)
            were_on = True
        return tools

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values; only what is set."""
        values: dict[str, Any] = {} if self.enabled is None else {"enabled": self.enabled}
        for name in ("on", "off", "allow", "ask", "deny"):
            if texts := getattr(self, name):
                values[name] = list(texts)
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ChatTools:
        """Restore from the values of `to_dict`; unknown keys are ignored.

        Raises:
            TypeError, UsageError: a value is invalid.
        """
        enabled = values.get("enabled")
        if enabled is not None and not isinstance(enabled, bool):
            raise TypeError("enabled must be true or false")
        lists = {}
        for name in ("on", "off", "allow", "ask", "deny"):
            texts = values.get(name, [])
            if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
                raise TypeError(f"{name} must be a list of texts")
            parse_rules(texts)
            lists[name] = tuple(texts)
        return cls(enabled, **lists)
