"""The process in which `chatlm plugins check` tries a plugin; prints one JSON object per line."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from chatlm.chat.side_chats import side_chats
from chatlm.cli.plugin_check import CALL_SECONDS, IMPORT_SECONDS, VALUE_SECONDS
from chatlm.cli.plugin_check_values import ShownFault, trials
from chatlm.config import paths
from chatlm.config.config import Config
from chatlm.engines.scripted import ScriptedEngine
from chatlm.errors import ChatlmError
from chatlm.plugin_host import hookspecs
from chatlm.plugin_host.discovery import ENTRY_POINT_GROUP, PluginSource, find_plugins
from chatlm.plugin_host.faults import describe_error
from chatlm.plugin_host.hook_table import HOOKS, SAMPLES, sample_arguments
from chatlm.plugin_host.hook_threads import run_queue_seconds
from chatlm.plugin_host.host import PluginHost
from chatlm.text import one_line
from chatlm.types.parts import PreparedImage


class _RaisingValue:
    """Raises on every use."""

    def __getattr__(self, name: str) -> Any:
        raise ValueError("chatlm plugins check gave this on purpose")


class _SampleCommands:
    """Accepts commands like the command line, without importing it."""

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

    def read_message(self, text: str) -> tuple[str, tuple[PreparedImage, ...]]:
        return text, ()

    def set_chat(self, *, system: str | None = None, sampling: Any = None) -> None: ...

    def new_chat(self, **options: Any) -> None: ...

    def open_screen(self, name: str, argument: str = "") -> None: ...

    def show_images(self, images: Sequence[PreparedImage]) -> None: ...

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
    started, delayed = time.perf_counter(), run_queue_seconds()
    loaded = host.load(found)
    seconds = time.perf_counter() - started - (run_queue_seconds() - delayed)
    faults = host.take_faults()
    late = f"it took {seconds:.2f} s of {IMPORT_SECONDS:g} s" if seconds > IMPORT_SECONDS else ""
    before = [fault for fault in faults if fault.hook == "import"]
    _report("import", before[0].error if before else late, f"{seconds * 1000:.0f} ms")
    if not loaded:
        rest = [fault for fault in faults if fault.hook != "import"]
        for fault in rest:
            _report(fault.hook, fault.error, "")
        return
    hooks = host.hooks_of(found.name)
    _report("registration", "", f"hooks: {', '.join(hooks)}")
    own = host.settings(found.name, {})
    wrong = host.take_faults()
    kind_of = host.settings_class(found.name)
    named = ", ".join(kind_of.__dataclass_fields__) if kind_of else "none"  # type: ignore[attr-defined]
    if not _report("settings", wrong[0].error if wrong else "", named):
        return
    for hook in sorted(HOOKS, key="shutdown".__eq__):  # shutdown comes last
        if hook in hooks:
            _try_hook(host, hook, *_calls(host, hook, own))
            for name, call in trials(host, host.plugin(found.name), hook, own, _SampleUi()):
                _try_value(host, name, call)
    printed = _take_output()
    _report("standard output", f"it printed {one_line(printed, 60)!r}" if printed else "", "unused")


def _try_hook(host: PluginHost, hook: str, good: Callable[[], Any], bad: Callable[[], Any]) -> None:
    """Call a hook with valid arguments, then with ones that raise, then with valid ones again."""
    _write_line(begin=hook)
    for call, say in ((good, True), (bad, False), (good, True)):
        _call_in_time(hook, call)
        faults = host.take_faults()
        if faults and say:
            _report(hook, faults[0].error, "")
            return
    _report(hook, "", "works, also after a failure")


def _try_value(host: PluginHost, name: str, call: Callable[[], Any]) -> None:
    """Try what a hook registered or returned."""
    _write_line(begin=name)
    host.take_faults()  # of the hook, which are reported
    if name.startswith("engine "):
        thread, raised = _start(call)
        thread.join(CALL_SECONDS)
        if thread.is_alive():  # which holds nobody: a model is opened in a thread
            _report(name, "", f"not open after {CALL_SECONDS:g} s; is its server missing?")
            return
    else:
        raised = _call_in_time(name, call, VALUE_SECONDS)
    faults = host.take_faults()
    problem = faults[0].error if faults else ""
    for error in raised:
        problem = str(error) if isinstance(error, ShownFault) else describe_error(error)
    _report(name, problem, "works")


def _start(call: Callable[[], Any]) -> tuple[threading.Thread, list[BaseException]]:
    """Call something in a thread; the list gets what it raises."""
    raised: list[BaseException] = []

    def catch() -> None:
        try:
            call()
        except BaseException as error:  # whatever a plugin raises is reported
            raised.append(error)

    thread = threading.Thread(target=catch, daemon=True)
    thread.start()
    return thread, raised


def _call_in_time(
    step: str, call: Callable[[], Any], seconds: float = CALL_SECONDS
) -> list[BaseException]:
    """Call something and return what it raised, if anything; end the process if it hangs."""
    thread, raised = _start(call)
    thread.join(seconds)
    if thread.is_alive():
        _report(step, f"no result within {seconds:g} s", "")
        _write_line(done=True)
        os._exit(0)  # nothing else ends the thread it hangs in
    return raised


def _take_output() -> str:
    """Return what was printed to standard output since the start."""
    sys.stdout.flush()
    _PRINTED.seek(0)
    return _PRINTED.read().decode("utf-8", "replace").strip()


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
    _PRINTED = tempfile.TemporaryFile()  # noqa: SIM115 - to the end of the process
    os.dup2(_PRINTED.fileno(), 1)  # what a plugin prints must not stand between the lines
    try:
        main(*sys.argv[1:])
    except (ChatlmError, OSError, tomllib.TOMLDecodeError) as error:
        _report("project", str(error), "")
    _write_line(done=True)
    _OUT.flush()
    os._exit(0)  # a plugin's threads and exit handlers must not hold it up
