"""The table of hooks: how each is called, how its results are validated, and sample arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from typing import Any

import pluggy

from chatlm.plugin_host import hookspecs
from chatlm.plugin_host.ui_api import Panel, PluginScreen, SlashCommand
from chatlm.plugin_host.validation import (
    accept_any,
    adjusted_request,
    folder_or_error,
    list_of,
    nonempty_text,
    text_mapping,
    text_or_error,
    text_or_refusal,
    valid_messages,
    valid_passages,
)
from chatlm.types.conversations import Conversation, Turn
from chatlm.types.engine import ModelListing
from chatlm.types.messages import Annotation, Message, Passage
from chatlm.types.methods import ReplyMethod
from chatlm.types.requests import Request
from chatlm.types.services import SERVICES
from chatlm.types.setups import Setup
from chatlm.types.tools import Tool


class CallStyle(StrEnum):
    """How a hook's implementations are called, and what becomes of their results."""

    NOTIFY = "notify"
    """All are called; results are ignored."""
    REGISTER = "register"
    """All are called with a function `register`, which takes what a plugin offers."""
    GATHER = "gather"
    """All are called; their lists are joined."""
    MERGE = "merge"
    """All are called; their mappings are merged, the first value of a key wins."""
    FIRST = "first"
    """They are called until one returns a result."""
    FOLD = "fold"
    """All are called, each with the result of the one before."""


class Surface(StrEnum):
    """Where a hook may be called, and what of the program runs there."""

    SCREEN = "screen"
    """The terminal UI."""
    ASK = "ask"
    """`chatlm ask`."""
    SERVE = "serve"
    """`chatlm serve`."""
    SIDE_CHAT = "side chats"
    """Side chats of a plugin, in a command or in the UI."""


EVERYWHERE = frozenset(Surface)
SCREEN_ONLY = frozenset({Surface.SCREEN})
STORED_CHATS = frozenset({Surface.SCREEN, Surface.ASK})
"""Where messages and replies are stored as the user's chats."""


@dataclass(frozen=True)
class Hook:
    """One row of the table."""

    style: CallStyle
    validate: Callable[..., Any] = accept_any
    """Returns the valid result or raises TypeError or ValueError. With `FOLD` it also gets the
    value before, as `original`."""
    registers: Callable[..., None] | None = None
    """With `REGISTER`: raises TypeError or ValueError for arguments of `register` that are not
    valid."""
    folded: str = ""
    """With `FOLD`: the argument that is passed on."""
    surfaces: frozenset[Surface] = EVERYWHERE
    """Where it is called when it is needed."""
    samples: Mapping[str, Any] = field(default_factory=dict)
    """Sample arguments that differ from `SAMPLES`."""
    name: str = ""
    arguments: tuple[str, ...] = ()
    """The names of all arguments, from the hook's specification."""


def _registers_named(kind: type | None, description: str) -> Callable[..., None]:
    """Return a check for `register(name, value)`; None as `kind` stands for a function."""

    def register(name: Any, value: Any) -> None:
        valid = callable(value) if kind is None else isinstance(value, kind)
        if not isinstance(name, str) or not valid:
            raise TypeError(f"register takes a name and {description}")

    return register


def _registers_engine(scheme: Any, opener: Any) -> None:
    """Check the arguments of `register(scheme, opener)`."""
    if not isinstance(scheme, str) or not scheme or ":" in scheme or not callable(opener):
        raise TypeError("register takes a scheme, a text without a colon, and a function")


def _registers_service(name: Any, service: Any) -> None:
    """Check the arguments of `register(name, service)`."""
    if not isinstance(name, str):
        raise TypeError("register takes a name and a service")
    protocol = SERVICES.get(name)
    if protocol is not None and not isinstance(service, protocol):
        raise TypeError(f"the service {name} must have the methods of chatlm.{protocol.__name__}")


def _registers_resources(prefix: Any, source: Any) -> None:
    """Check the arguments of `register(prefix, source)`."""
    if not isinstance(prefix, str) or not prefix.strip() or ":" in prefix or "/" in prefix:
        raise TypeError("register takes a prefix, a text without colons and slashes, and a source")
    if not isinstance(source, hookspecs.ResourceSource):
        raise TypeError("the source must have the methods of chatlm.ResourceSource")


def _registers(kind: type) -> Callable[..., None]:
    """Return a check for `register(value)`; the value has a method `check`."""

    def register(value: Any) -> None:
        if not isinstance(value, kind):
            raise TypeError(f"register takes a {kind.__name__}, not {type(value).__name__}")
        value.check()  # type: ignore[attr-defined]

    return register


_ROWS = {
    "startup": Hook(CallStyle.NOTIFY),
    "shutdown": Hook(CallStyle.NOTIFY),
    "register_commands": Hook(CallStyle.NOTIFY, surfaces=frozenset({Surface.SERVE})),
    "register_ask_options": Hook(
        CallStyle.REGISTER,
        registers=_registers(hookspecs.AskOption),
        surfaces=frozenset({Surface.ASK}),
    ),
    "register_engines": Hook(CallStyle.REGISTER, registers=_registers_engine),
    "register_gguf_runtimes": Hook(
        CallStyle.REGISTER, registers=_registers_named(None, "a function")
    ),
    "list_models": Hook(CallStyle.GATHER, list_of(ModelListing), surfaces=SCREEN_ONLY),
    "register_templates": Hook(
        CallStyle.REGISTER,
        registers=_registers_named(None, "a function"),
        surfaces=EVERYWHERE - SCREEN_ONLY,
    ),
    "register_methods": Hook(
        CallStyle.REGISTER,
        registers=_registers(ReplyMethod),
        surfaces=EVERYWHERE - {Surface.SERVE},
    ),
    "register_setups": Hook(
        CallStyle.REGISTER,
        registers=_registers_named(Setup, "a chatlm.Setup"),
        surfaces=EVERYWHERE - STORED_CHATS,
    ),
    "register_services": Hook(CallStyle.REGISTER, registers=_registers_service),
    "register_tools": Hook(CallStyle.REGISTER, registers=_registers(Tool), surfaces=STORED_CHATS),
    "register_slash_commands": Hook(
        CallStyle.REGISTER, registers=_registers(SlashCommand), surfaces=SCREEN_ONLY
    ),
    "register_panels": Hook(CallStyle.REGISTER, registers=_registers(Panel), surfaces=SCREEN_ONLY),
    "register_screens": Hook(
        CallStyle.REGISTER, registers=_registers(PluginScreen), surfaces=SCREEN_ONLY
    ),
    "screen_opened": Hook(CallStyle.NOTIFY, surfaces=SCREEN_ONLY),
    "chat_shown": Hook(CallStyle.NOTIFY, surfaces=SCREEN_ONLY),
    "chat_deleted": Hook(CallStyle.NOTIFY, surfaces=SCREEN_ONLY),
    "suggest_text": Hook(CallStyle.FIRST, nonempty_text, surfaces=SCREEN_ONLY),
    "read_attachment": Hook(CallStyle.FIRST, text_or_error, surfaces=STORED_CHATS),
    "register_resources": Hook(
        CallStyle.REGISTER, registers=_registers_resources, surfaces=STORED_CHATS
    ),
    "describe_text": Hook(CallStyle.MERGE, text_mapping),
    "write_message": Hook(CallStyle.FIRST, text_or_refusal),
    "annotate_message": Hook(CallStyle.GATHER, list_of(Annotation), surfaces=STORED_CHATS),
    "retrieve_passages": Hook(CallStyle.GATHER, valid_passages),
    "build_messages": Hook(CallStyle.FIRST, valid_messages),
    "adjust_request": Hook(CallStyle.FOLD, adjusted_request, folded="request"),
    "find_adapter": Hook(CallStyle.FIRST, folder_or_error),
    "turn_finished": Hook(CallStyle.GATHER, list_of(Annotation), surfaces=STORED_CHATS),
}


def _complete(rows: Mapping[str, Hook]) -> dict[str, Hook]:
    """Add name and arguments to each row, from the hook's specification."""
    return {
        name: replace(
            row, name=name, arguments=tuple(inspect.signature(getattr(hookspecs, name)).parameters)
        )
        for name, row in rows.items()
    }


HOOKS: Mapping[str, Hook] = _complete(_ROWS)
"""All hooks by name, in the order of the specifications."""

_MESSAGE = Message("user", "What is a turn in chatlm?")
_TURN = Turn(1, 0, _MESSAGE)

SAMPLES: Mapping[str, Any] = {
    "conversation": Conversation(1, "A chat", turns=(_TURN,)),
    "turn": _TURN,
    "message": _MESSAGE,
    "text": _MESSAGE.text,
    "passages": (Passage("A turn is a message and its answer.", "words.md", 0.9),),
    "facts": dict,
    "request": Request((_MESSAGE,)),
    "conversation_id": 1,
    "path": Path("notes.pdf"),
    "name": "poet",
    "model": "a-model",
}
"""Sample values by the name of the argument."""


def sample_arguments(hook: str, **environment: Any) -> dict[str, Any]:
    """Return arguments with which a chat could call the hook.

    Args:
        hook: the hook's name.
        environment: values of arguments that only higher layers can make: `cli`, `context`,
            `engine` and `ui`.
    """
    row = HOOKS[hook]
    values = {**SAMPLES, **environment, "register": row.registers, **row.samples}
    return {name: values[name] for name in row.arguments}


def check_signatures(manager: pluggy.PluginManager, plugin: Any) -> None:
    """Check that a plugin's hooks and their arguments exist.

    Raises:
        TypeError: one does not; the message names the nearest hook, or the arguments.
    """
    if inspect.isclass(plugin):
        raise TypeError("it is a class; the entry point must name an object of it")
    for attribute in dir(plugin):
        options = manager.parse_hookimpl_opts(plugin, attribute)
        if options is None:
            continue
        hook = options["specname"] or attribute
        if hook not in HOOKS:
            near = get_close_matches(hook, HOOKS, 1)
            meant = f"; did you mean {near[0]}?" if near else ""
            raise TypeError(f"there is no hook {hook}{meant}")
        for argument in inspect.signature(getattr(plugin, attribute)).parameters:
            if argument not in HOOKS[hook].arguments:
                has = ", ".join(HOOKS[hook].arguments) or "none"
                raise TypeError(f"{hook} has no argument {argument}; it has {has}")


def check_implementations(manager: pluggy.PluginManager, plugin: Any) -> None:
    """Check that a registered plugin implements hooks, each a plain function.

    Raises:
        TypeError: it implements none, or one is a wrapper or async.
    """
    callers = manager.get_hookcallers(plugin) or ()
    if not callers:
        raise TypeError("it implements no hook; mark its functions with @chatlm.hookimpl")
    for caller in callers:
        for impl in caller.get_hookimpls():
            if impl.plugin is not plugin:
                continue
            if impl.wrapper or impl.hookwrapper:
                raise TypeError(f"{caller.name} is a wrapper; chatlm calls each hook alone")
            if inspect.iscoroutinefunction(impl.function):
                raise TypeError(f"{caller.name} is async; chatlm calls plain functions")
