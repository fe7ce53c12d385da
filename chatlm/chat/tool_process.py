"""Tools in processes of their own: started for one call, and killed when nobody waits for it.

The tool's process reads one JSON object a line from its input and writes one a line to its output:
first the call, then `progress`, `ask` with its answer, and `output` or `error` at the end.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import enum
import importlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from chatlm.config.schema import Section
from chatlm.errors import ChatlmError, UsageError
from chatlm.text import one_line
from chatlm.types.messages import Passage
from chatlm.types.tools import Tool, ToolCancelled, ToolContext, ToolOutput, function_of

_POLL_SECONDS = 0.05

_MAX_ERRORS = 2000
"""Characters of what a failed process wrote to its error output."""


def call_tool(tool: Tool, arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput:
    """Run a tool here or in a process of its own, as it says; errors become the output.

    Raises:
        ToolCancelled: nobody waits for it any longer.
    """
    if not tool.own_process or tool.problem(arguments):
        return tool.call(arguments, context)
    try:
        output = run_in_process(tool, arguments, context)
    except ToolCancelled:
        raise
    except ChatlmError as error:
        return ToolOutput(str(error), is_error=True)
    return dataclasses.replace(output, untrusted=output.untrusted or tool.untrusted_output)


def run_in_process(tool: Tool, arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput:
    """Run a tool in a process of its own, until it ends or `context` says that it is cancelled.

    Args:
        tool: made by the decorator `tool`; its function is at the top of a module.
        arguments: of the call, as JSON values.
        context: its progress and questions are passed on.

    Raises:
        ToolCancelled: nobody waits for it any longer.
        UsageError: the tool, or the class of its plugin's settings, cannot be found by its name.
    """
    call = {
        "tool": _reference(function_of(tool), f"the tool {tool.name}", "function"),
        "arguments": dict(arguments),
        "conversation_id": context.conversation_id,
        "incognito": context.incognito,
        "data_folder": str(context.data_folder),
        "workspace_folders": [str(folder) for folder in context.workspace_folders],
        "settings": _settings_to_dict(tool, context.settings),
    }
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "chatlm.chat.tool_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
        try:
            return _follow(process, call, context, errors)
        finally:
            _kill(process)


def _follow(
    process: subprocess.Popen[bytes],
    call: Mapping[str, Any],
    context: ToolContext,
    errors: IO[bytes],
) -> ToolOutput:
    """Send the call and read what the process writes."""
    lines: queue.Queue[bytes | None] = queue.Queue()
    assert process.stdin is not None and process.stdout is not None  # noqa: S101 - pipes

    def read(output: IO[bytes] = process.stdout) -> None:
        with contextlib.suppress(OSError, ValueError):
            for line in output:
                lines.put(line)
        lines.put(None)

    threading.Thread(target=read, name="chatlm-tool-output", daemon=True).start()
    _send(process.stdin, call)
    while True:
        context.check_cancelled()
        try:
            line = lines.get(timeout=_POLL_SECONDS)
        except queue.Empty:
            continue
        if line is None:
            process.wait()
            errors.seek(0)
            said = errors.read().decode("utf-8", "replace").strip()[-_MAX_ERRORS:]
            why = f"\n{said}" if said else ""
            raise ChatlmError(f"its process ended with code {process.returncode}{why}")
        message = json.loads(line)
        match message["type"]:
            case "progress":
                context.progress(message["text"], message["fraction"])
            case "ask":
                try:
                    answer = context.ask(message["question"], message["choices"])
                except ToolCancelled:
                    if context.cancelled:
                        raise
                    _send(process.stdin, {"answer": None})
                else:
                    _send(process.stdin, {"answer": answer})
            case "output":
                return _output_from_dict(message["output"])
            case "cancelled":
                raise ToolCancelled(message["text"])


def _send(stream: IO[bytes], value: Mapping[str, Any]) -> None:
    try:
        stream.write(json.dumps(value).encode() + b"\n")
        stream.flush()
    except (BrokenPipeError, ValueError):  # it has ended, which its output tells
        pass


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the process and all that it started in its session."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()


def _reference(found: Any, owner: str, what: str) -> dict[str, str]:
    """Return how another process finds a function or class.

    Args:
        found: the function or class.
        owner: what needs it, for the error message.
        what: `function` or `class`, likewise.

    Raises:
        UsageError: it cannot.
    """
    module = sys.modules.get(getattr(found, "__module__", "") or "")
    name = getattr(found, "__qualname__", "")
    if module is None or not name or "<locals>" in name or not getattr(module, "__file__", None):
        raise UsageError(
            f"{owner} cannot run in a process of its own: its {what} is not at the top of a module"
        )
    return {"module": module.__name__, "file": str(module.__file__), "name": name}


def _settings_to_dict(tool: Tool, settings: Any) -> dict[str, Any] | None:
    """Return a plugin's settings as the config file has them, with their class."""
    if settings is None:
        return None
    owner = f"the tool {tool.name}"
    return {
        "class": _reference(type(settings), owner, "plugin's class Settings"),
        "values": {
            field.name: _plain(value)
            for field in dataclasses.fields(settings)
            if (value := getattr(settings, field.name)) is not None
        },
    }


def _plain(value: Any) -> Any:
    """Return a setting without the types that JSON lacks."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def _output_to_dict(output: ToolOutput) -> dict[str, Any]:
    return {
        "text": output.text,
        "is_error": output.is_error,
        "untrusted": output.untrusted,
        "source": output.source,
        "images": [base64.b64encode(image).decode() for image in output.images],
        "passages": [passage.to_dict() for passage in output.passages],
    }


def _output_from_dict(values: Mapping[str, Any]) -> ToolOutput:
    return ToolOutput(
        values["text"],
        values["is_error"],
        values["untrusted"],
        values["source"],
        tuple(base64.b64decode(image) for image in values["images"]),
        tuple(Passage(**passage) for passage in values["passages"]),
    )


# --- in the tool's process ----------------------------------------------------------------


class _PipeContext:
    """The context of a tool in its process, which speaks to the other one."""

    def __init__(self, call: Mapping[str, Any], source: IO[str], sink: IO[str]) -> None:
        self.conversation_id = call["conversation_id"]
        self.incognito = call["incognito"]
        self.data_folder = Path(call["data_folder"])
        self.workspace_folders = tuple(map(Path, call["workspace_folders"]))
        self.settings = _settings_from_dict(call["settings"])
        self.cancelled = False  # the process is killed instead
        self._source, self._sink = source, sink
        self._lock = threading.Lock()

    def check_cancelled(self) -> None:
        """Do nothing: the process is killed instead."""

    def progress(self, text: str, fraction: float | None = None) -> None:
        """Pass it on."""
        self._write({"type": "progress", "text": str(text), "fraction": fraction})

    def ask(self, question: str, choices: Sequence[str] = ()) -> str:
        """Pass the question on and wait for the answer."""
        self._write({"type": "ask", "question": question, "choices": list(choices)})
        answer = json.loads(self._source.readline())["answer"]
        if answer is None:
            raise ToolCancelled("Nobody answered the question of the tool")
        return str(answer)

    def _write(self, message: Mapping[str, Any]) -> None:
        with self._lock:
            self._sink.write(json.dumps(message) + "\n")
            self._sink.flush()


def _find(reference: Mapping[str, str]) -> Any:
    """Import what `_reference` describes."""
    try:
        found: Any = importlib.import_module(reference["module"])
    except ImportError:
        from chatlm.plugin_host.discovery import load_file

        found = load_file(Path(reference["file"]))
    for name in reference["name"].split("."):
        found = getattr(found, name)
    return found


def _find_tool(reference: Mapping[str, str]) -> Tool:
    found = _find(reference)
    if not isinstance(found, Tool):
        raise TypeError(f"{reference['name']} is not a tool")
    return found


def _settings_from_dict(values: Mapping[str, Any] | None) -> Any:
    if values is None:
        return None
    return Section(_find(values["class"])).read(values["values"], "the settings of the plugin")


def _main() -> None:
    source, sink = os.fdopen(os.dup(0), "r"), os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the tool prints must not mix with the messages
    os.close(0)
    os.open(os.devnull, os.O_RDONLY)
    call = json.loads(source.readline())
    result: dict[str, Any]
    try:
        tool = _find_tool(call["tool"])
        output = tool.call(call["arguments"], _PipeContext(call, source, sink))
    except ToolCancelled as error:
        result = {"type": "cancelled", "text": error.message}
    except Exception as error:  # it cannot be imported
        text = one_line(f"{type(error).__name__}: {error}", _MAX_ERRORS)
        result = {"type": "output", "output": _output_to_dict(ToolOutput(text, is_error=True))}
    else:
        result = {"type": "output", "output": _output_to_dict(output)}
    sink.write(json.dumps(result) + "\n")
    sink.flush()


if __name__ == "__main__":
    _main()
