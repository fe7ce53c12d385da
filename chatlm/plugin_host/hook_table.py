"""What a plugin has to keep to: the names and arguments of hooks, and the types of results."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import Any

import pluggy

from chatlm.errors import ChatlmError, UsageError
from chatlm.plugin_host import hookspecs
from chatlm.plugin_host.type_hints import describe_hint, field_hints, matches_hint
from chatlm.text import one_line
from chatlm.types.messages import Message


def check_signatures(manager: pluggy.PluginManager, plugin: Any) -> None:
    """See that each hook of a plugin exists and has the arguments that are asked for.

    Raises:
        TypeError: one does not; the message names what there is.
    """
    if inspect.isclass(plugin):
        raise TypeError("it is a class; the entry point must name an object of it")
    known = _hook_arguments()
    for attribute in dir(plugin):
        options = manager.parse_hookimpl_opts(plugin, attribute)
        if options is None:
            continue
        hook = options["specname"] or attribute
        if hook not in known:
            near = get_close_matches(hook, known, 1)
            meant = f"; did you mean {near[0]}?" if near else ""
            raise TypeError(f"there is no hook {hook}{meant}")
        for argument in inspect.signature(getattr(plugin, attribute)).parameters:
            if argument not in known[hook]:
                has = ", ".join(known[hook]) or "none"
                raise TypeError(f"{hook} has no argument {argument}; it has {has}")


def check_implementations(manager: pluggy.PluginManager, plugin: Any) -> None:
    """See that a registered plugin has hooks, and that each can be called alone.

    Raises:
        TypeError: it has none, or one is a wrapper or async.
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


def instance_of(kind: type, original: Any = None) -> Callable[[Any], Any]:
    """A function that gives a result back if it is a `kind`, and raises TypeError if not.

    Args:
        kind: a dataclass.
        original: one that is good; what the result has of it is not looked at again.
    """

    def accept(result: Any) -> Any:
        if not isinstance(result, kind):
            raise TypeError(f"returned {type(result).__name__}, not {kind.__name__}")
        for name, hint in field_hints(kind).items():
            value = getattr(result, name)
            if original is not None and value is getattr(original, name):
                continue
            if not matches_hint(value, hint):
                got = f"{type(value).__name__} {one_line(repr(value), 60)}"
                raise TypeError(
                    f"returned {kind.__name__} with {name} = {got}, not {describe_hint(hint)}"
                )
        return result

    return accept


def nonempty_text(result: Any) -> str:
    """Gives a result back if it is a text that says something.

    Raises:
        TypeError: it is something else.
        ValueError: it is empty.
    """
    if not matches_hint(result, str):
        raise TypeError(
            f"returned {type(result).__name__} {one_line(repr(result), 60)}, not a text"
        )
    if not result.strip():
        raise ValueError("returned an empty text")
    return str(result)


def text_or_refusal(result: Any) -> str | UsageError:
    """Gives a result back if it is a `UsageError`, or a text; raises as `text`."""
    return result if isinstance(result, UsageError) else nonempty_text(result)


def text_mapping(result: Any) -> dict[str, str]:
    """Gives a result back if it is texts by name.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(result, Mapping):
        raise TypeError(f"returned {type(result).__name__}, not texts by name")
    for name, value in result.items():
        if not matches_hint(name, str) or not matches_hint(value, str):
            shown = one_line(f"{name!r}: {value!r}", 60)
            raise TypeError(f"returned {shown}, not a name and a text")
    return dict(result)


def folder_or_error(result: Any) -> Path | ChatlmError:
    """Gives a result back if it is a `ChatlmError`, or the path of a folder.

    Raises:
        TypeError: it is something else.
        ValueError: there is no such folder.
    """
    if isinstance(result, ChatlmError):
        return result
    if not isinstance(result, Path):
        raise TypeError(f"returned {type(result).__name__}, not a path")
    if not result.is_dir():
        raise ValueError(f"returned {result}, which is no folder")
    return result


def list_of(kind: type) -> Callable[[Any], list[Any]]:
    """A function that gives a result back as a list if it has only `kind`s; raises as `one`."""
    accept_one = instance_of(kind)

    def accept(result: Any) -> list[Any]:
        if not isinstance(result, list | tuple):
            raise TypeError(f"returned {type(result).__name__}, not a list of {kind.__name__}")
        return [accept_one(value) for value in result]

    return accept


def valid_messages(result: Any) -> list[Message]:
    """Gives a result back if it is messages that a model can read.

    Raises:
        TypeError: it is something else.
        ValueError: see `check_order`.
    """
    accepted = list_of(Message)(result)
    check_message_order(accepted)
    return accepted


def check_message_order(messages: Sequence[Message]) -> None:
    """See that a model can answer the messages.

    At most one system message begins them, the user speaks first after it, the assistant not twice
    in a row, and the last message says something.

    Raises:
        ValueError: it cannot; the message says what is wrong.
    """
    spoken = messages[1:] if messages and messages[0].role == "system" else messages
    if any(message.role == "system" for message in spoken):
        raise ValueError("returned a system message that is not the first message")
    if not spoken:
        raise ValueError("returned no message of the user")
    if spoken[0].role == "assistant":
        raise ValueError("returned messages in which the assistant speaks before the user")
    if any(before.role == after.role == "assistant" for before, after in pairwise(spoken)):
        raise ValueError("returned two messages of the assistant in a row")
    if not spoken[-1].text.strip():
        raise ValueError("returned messages of which the last is empty")


@functools.cache
def _hook_arguments() -> dict[str, list[str]]:
    """The arguments of each hook, by its name."""
    return {
        name: list(inspect.signature(value).parameters)
        for name, value in vars(hookspecs).items()
        if hasattr(value, "chatlm_spec")
    }
