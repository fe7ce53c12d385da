"""The process in which `check` tries a plugin: prints one JSON object a line."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import tomllib
from collections.abc import Callable
from functools import partial
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from chatlm.cli.plugin_check import CALL_SECONDS, IMPORT_SECONDS
from chatlm.config import paths
from chatlm.config.config import Config
from chatlm.engines.scripted import ScriptedEngine
from chatlm.errors import ChatlmError
from chatlm.plugin_host import hook_table, hookspecs
from chatlm.plugin_host.discovery import ENTRY_POINT_GROUP, PluginSource, find_plugins
from chatlm.plugin_host.host import PluginHost
from chatlm.plugin_host.ui_api import Panel, PluginScreen, SlashCommand
from chatlm.types.messages import Annotation, Conversation, Message, Passage, Turn
from chatlm.types.requests import Request
from chatlm.types.setups import Setup

_MESSAGE = Message("user", "What is a turn in chatlm?")
_TURN = Turn(1, 0, _MESSAGE)
_CHAT = Conversation(1, "A chat", turns=(_TURN,))
_PASSAGES = (Passage("A turn is a message and its answer.", "words.md", 0.9),)


class _RaisingValue:
    """Raises whatever is done with it."""

    def __getattr__(self, name: str) -> Any:
        raise ValueError("chatlm plugins check gave this on purpose")


class _StandInGroup:
    """Takes commands, so that nothing of the command line is imported for it."""

    def add_command(self, cmd: Any, name: str | None = None) -> None:
        cmd.get_short_help_str()

    def add_lazy(self, name: str, import_path: str, help: str) -> None:
        if ":" not in import_path:
            raise ValueError(f"{import_path} is not module:attribute")


def _write_line(**line: Any) -> None:
    _OUT.write(json.dumps(line) + "\n")
    _OUT.flush()


def _report(step: str, problem: str, success: str) -> bool:
    _write_line(what=step, good=not problem, text=problem or success)
    return not problem


def main(kind: str, target: str) -> None:
    """Try one plugin.

    Args:
        kind: `file`, `project` or `name`.
        target: the path or name.
    """
    found = _find_plugin(kind, target)
    host = PluginHost(slow_after=CALL_SECONDS)
    _write_line(begin="import")
    started = time.perf_counter()
    here = host.load(found)
    seconds = time.perf_counter() - started
    faults = host.take_faults()
    late = f"it took {seconds:.2f} s of {IMPORT_SECONDS:g} s" if seconds > IMPORT_SECONDS else ""
    before = [fault for fault in faults if fault.hook == "import"]
    _report("import", before[0].error if before else late, f"{seconds * 1000:.0f} ms")
    if not here:
        rest = [fault for fault in faults if fault.hook != "import"]
        for fault in rest:
            _report(fault.hook, fault.error, "")
        return
    hooks = host.hooks_of(found.name)
    _report("registration", "", f"hooks: {', '.join(hooks)}")
    own = host.settings(found.name, {})
    wrong = host.take_faults()
    kind_of = host.settings_class(found.name)
    named = ", ".join(kind_of.__dataclass_fields__) if kind_of else "it has none"  # type: ignore[attr-defined]
    if not _report("settings", wrong[0].error if wrong else "", named):
        return
    calls = _hook_calls(host, own)
    for hook in (hook for hook in calls if hook in hooks):
        _try_hook(host, hook, *calls[hook])


def _try_hook(host: PluginHost, hook: str, good: Callable[[], Any], bad: Callable[[], Any]) -> None:
    """Call a hook as a chat does, then with what makes it raise, then as a chat does again."""
    _write_line(begin=hook)
    for call, say in ((good, True), (bad, False), (good, True)):
        if not _finishes_in_time(call):
            _report(hook, f"it did not come back within {CALL_SECONDS:g} s", "")
            _write_line(done=True)
            os._exit(0)  # nothing else ends the thread it hangs in
        faults = host.take_faults()
        if faults and say:
            _report(hook, faults[0].error, "")
            return
    _report(hook, "", "answers, and does so after a failure too")


def _finishes_in_time(call: Callable[[], Any]) -> bool:
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(CALL_SECONDS)
    return not thread.is_alive()


def _hook_calls(
    host: PluginHost, settings: Any
) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """For each hook a call that a chat could make, and one with arguments that raise."""
    engine, broken = ScriptedEngine("Good."), _RaisingValue()
    request = Request((_MESSAGE,))
    context = hookspecs.PluginContext(Config(), paths.data_dir(), settings)
    asked = {"conversation": _CHAT, "message": _MESSAGE}
    not_asked = {"conversation": broken, "message": broken}
    message, no_message = asked | {"passages": _PASSAGES}, not_asked | {"passages": broken}
    finished = {"conversation": _CHAT, "turn": _TURN}
    not_finished = {"conversation": broken, "turn": broken}
    turn, no_turn = finished | {"passages": _PASSAGES}, not_finished | {"passages": broken}

    def register(name: str, opener: Any) -> None:
        if not isinstance(name, str) or not callable(opener):
            raise TypeError("register takes a name and a function")

    def take(kind: type, thing: Any) -> None:
        if not isinstance(thing, kind):
            raise TypeError(f"register takes a {kind.__name__}, not {type(thing).__name__}")

    def offers(hook: str, kind: type) -> tuple[Callable[[], Any], Callable[[], Any]]:
        return each(hook, register=partial(take, kind)), each(hook, register=broken)

    def written(conversation: Any, text: Any) -> Callable[[], Any]:
        said = {"conversation": conversation, "text": text, "facts": dict}
        return lambda: host.first("write_message", None, hook_table.text_or_refusal, **said)

    def described(conversation: Any, text: Any) -> Callable[[], Any]:
        asked = {"conversation": conversation, "text": text}
        return lambda: host.merge("describe_text", hook_table.text_mapping, **asked)

    def adapter(name: Any, model: Any) -> Callable[[], Any]:
        asked = {"name": name, "model": model}
        return lambda: host.first("find_adapter", None, hook_table.folder_or_error, **asked)

    def built(arguments: dict[str, Any]) -> Callable[[], Any]:
        return lambda: host.first("build_messages", None, hook_table.valid_messages, **arguments)

    def each(hook: str, **arguments: Any) -> Callable[[], Any]:
        return lambda: list(host.call_each(hook, **arguments))

    def gather(hook: str, kind: type, arguments: dict[str, Any]) -> Callable[[], Any]:
        return lambda: host.gather(hook, kind, **arguments)

    def fold(arguments: dict[str, Any], engine: Any) -> Callable[[], Any]:
        return lambda: host.fold("adjust_request", "request", request, engine=engine, **arguments)

    def twice(
        hook: str, kind: type, good: dict[str, Any], bad: dict[str, Any]
    ) -> tuple[Callable[[], Any], Callable[[], Any]]:
        return gather(hook, kind, good), gather(hook, kind, bad)

    return {
        "startup": (each("startup", context=context), each("startup", context=broken)),
        "register_commands": (
            each("register_commands", cli=_StandInGroup()),
            each("register_commands", cli=broken),
        ),
        "register_engines": (
            each("register_engines", register=register),
            each("register_engines", register=broken),
        ),
        "register_templates": (
            each("register_templates", register=register),
            each("register_templates", register=broken),
        ),
        "register_setups": (
            each("register_setups", register=lambda name, setup: take(Setup, setup)),
            each("register_setups", register=broken),
        ),
        "register_slash_commands": offers("register_slash_commands", SlashCommand),
        "register_panels": offers("register_panels", Panel),
        "register_screens": offers("register_screens", PluginScreen),
        "describe_text": (
            described(_CHAT, _MESSAGE.text),
            described(broken, broken),
        ),
        "write_message": (written(_CHAT, _MESSAGE.text), written(broken, broken)),
        "annotate_message": twice("annotate_message", Annotation, message, no_message),
        "retrieve_passages": twice("retrieve_passages", Passage, asked, not_asked),
        "build_messages": (built(turn), built(no_turn)),
        "adjust_request": (fold(turn, engine), fold(no_turn, broken)),
        "find_adapter": (adapter("poet", "a-model"), adapter(broken, broken)),
        "turn_finished": twice("turn_finished", Annotation, finished, not_finished),
        "shutdown": (each("shutdown"), each("shutdown")),
    }


def _find_plugin(kind: str, target: str) -> PluginSource:
    if kind == "file":
        return PluginSource(Path(target).stem, target)
    if kind == "name":
        return next(found for found in find_plugins() if found.name == target and not found.problem)
    return _project_plugin(Path(target))


def _project_plugin(folder: Path) -> PluginSource:
    """The plugin that a project declares, from its source folder, installed or not."""
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
    declared = project.get("project", {}).get("entry-points", {}).get(ENTRY_POINT_GROUP, {})
    if not declared:
        raise ChatlmError(f'pyproject.toml has no [project.entry-points."{ENTRY_POINT_GROUP}"]')
    name, value = next(iter(declared.items()))
    sys.path[:0] = [str(folder), str(folder / "src")]
    return PluginSource(name, str(folder), entry_point=EntryPoint(name, value, ENTRY_POINT_GROUP))


if __name__ == "__main__":
    _OUT = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a plugin prints must not stand between the lines
    try:
        main(*sys.argv[1:])
    except (ChatlmError, OSError, tomllib.TOMLDecodeError) as error:
        _report("project", str(error), "")
    _write_line(done=True)
    _OUT.flush()
    os._exit(0)  # a plugin's threads and exit handlers must not hold it up
