"""The process in which `chatlm plugins check` tries a plugin; prints one JSON object per line."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from chatlm.chat.side_chats import side_chats
from chatlm.cli.plugin_check import CALL_SECONDS, IMPORT_SECONDS
from chatlm.config import paths
from chatlm.config.config import Config
from chatlm.engines.scripted import ScriptedEngine
from chatlm.errors import ChatlmError
from chatlm.plugin_host import hookspecs
from chatlm.plugin_host.discovery import ENTRY_POINT_GROUP, PluginSource, find_plugins
from chatlm.plugin_host.hook_table import HOOKS, SAMPLES, sample_arguments
from chatlm.plugin_host.host import PluginHost


class _RaisingValue:
    """Raises whatever is done with it."""

    def __getattr__(self, name: str) -> Any:
        raise ValueError("chatlm plugins check gave this on purpose")


class _SampleCommands:
    """Takes commands as the command line does, without importing it."""

    def add_command(self, cmd: Any, name: str | None = None) -> None:
        cmd.get_short_help_str()

    def add_lazy(self, name: str, import_path: str, help: str) -> None:
        if ":" not in import_path:
            raise ValueError(f"{import_path} is not module:attribute")

    def group_of(self, name: str) -> _SampleCommands:
        return self


class _SampleProgress:
    """A progress line that is never cancelled."""

    cancelled = False

    def update(self, done: int, total: int | None = None, note: str = "") -> None:
        """Accept the progress."""


class _SampleUi:
    """A `Ui` with one chat on its screen; it accepts every call."""

    conversation = SAMPLES["conversation"]
    turn = SAMPLES["turn"]
    passages = SAMPLES["passages"]
    engine = None

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}

    def set_state(self, **values: Any) -> None:
        self.state |= values

    def notify(self, text: str, *, warning: bool = False) -> None: ...

    def show_status(self, text: str) -> None: ...

    def insert_text(self, text: str) -> None: ...

    def send(self, text: str) -> None: ...

    def set_chat(self, *, system: str | None = None, sampling: Any = None) -> None: ...

    def new_chat(self, **options: Any) -> None: ...

    def open_screen(self, name: str, argument: str = "") -> None: ...

    def open_panel(self, name: str) -> None: ...

    def side_chats(self, report: Callable[[str], None]) -> Any:
        return side_chats(Config(), report)

    @contextmanager
    def progress(self, title: str) -> Iterator[_SampleProgress]:
        yield _SampleProgress()


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
    for hook in sorted(HOOKS, key="shutdown".__eq__):  # shutdown comes last
        if hook in hooks:
            _try_hook(host, hook, *_calls(host, hook, own))


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


def _calls(
    host: PluginHost, hook: str, settings: Any
) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Return a call that a chat could make, and one with arguments that raise."""
    valid = sample_arguments(
        hook,
        cli=_SampleCommands(),
        context=hookspecs.PluginContext(Config(), paths.data_dir(), settings),
        engine=ScriptedEngine("Good."),
        ui=_SampleUi(),
    )
    invalid = dict.fromkeys(valid, _RaisingValue())
    return partial(host.call_hook, hook, **valid), partial(host.call_hook, hook, **invalid)


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
