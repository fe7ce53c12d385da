"""The tools that run programs in the sandbox: `python` and `shell`."""

from __future__ import annotations

import os
import shutil
import stat
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chatlm import ToolCancelled, ToolContext, ToolOutput, ToolPreview, tool
from chatlm_tools.settings import Settings, current_settings

if TYPE_CHECKING:
    from chatlm_tools.sandbox.limits import Limits, Outcome

_MAX_IMAGES = 4
_MAX_IMAGE_BYTES = 5 << 20
_PNG = b"\x89PNG\r\n\x1a\n"
_RUNNER = Path(__file__).with_name("python_runner.py")

_ENDED = {
    "time": "It was stopped: it took longer than {seconds:g} seconds.",
    "memory": "It was stopped: it used more than {memory} MB of memory.",
    "processes": "It was stopped: it ran more than {processes} processes and threads at once.",
    "output": "It was stopped: it wrote more than {output} kB of output.",
    "disk": "It was stopped: its files took more than {disk} MB, or were more than {files}.",
}


def _limits(settings: Settings) -> Limits:
    from chatlm_tools.sandbox.limits import Limits

    return Limits(seconds=settings.sandbox_seconds, memory=settings.sandbox_memory << 20)


def _describe(outcome: Outcome, limits: Limits) -> str:
    """Write what the model reads of a run."""
    parts = [outcome.stdout.rstrip(), outcome.stderr.rstrip()]
    if outcome.stopped:
        values = {
            **vars(limits),
            "memory": limits.memory >> 20,
            "disk": limits.disk >> 20,
            "output": limits.output >> 10,
        }
        parts.append(_ENDED[outcome.stopped].format(**values))
    elif outcome.exit_code < 0:
        parts.append(f"It was ended by signal {-outcome.exit_code}.")
    elif 128 < outcome.exit_code <= 128 + 64:
        # bubblewrap and shells tell a signal in this way; a program may also exit so.
        parts.append(f"Exit code {outcome.exit_code}, as after signal {outcome.exit_code - 128}")
    elif outcome.exit_code > 0:
        parts.append(f"Exit code {outcome.exit_code}")
    return "\n".join(filter(None, parts)) or "It ended without output."


def _pictures(folder: Path) -> tuple[list[bytes], int]:
    """Read the PNG files of a finished run; links could lead anywhere and are left out.

    Returns:
        the pictures, and how many more there were.
    """
    found: list[bytes] = []
    more = 0
    for path in sorted(folder.glob("*.png")):
        # Nothing runs in the folder any more, so what is looked at is what is read.
        about = path.lstat()
        if not stat.S_ISREG(about.st_mode) or about.st_nlink != 1:
            continue
        try:
            with path.open("rb") as file:
                data = file.read(_MAX_IMAGE_BYTES + 1)
        except OSError:
            continue
        if data in found:  # it saved a figure that is still open
            continue
        if len(data) > _MAX_IMAGE_BYTES or not data.startswith(_PNG) or len(found) == _MAX_IMAGES:
            more += 1
        else:
            found.append(data)
    return found, more


def _ask_cancelled(context: ToolContext) -> Callable[[], bool]:
    return lambda: context.cancelled


def _finish(outcome: Outcome, limits: Limits) -> str:
    if outcome.stopped == "cancelled":
        raise ToolCancelled("The program was stopped.")
    return _describe(outcome, limits)


def run_python(code: str, settings: Settings, cancelled: Callable[[], bool]) -> ToolOutput:
    """Run a program in a fresh sandbox.

    Args:
        code: the whole program.
        settings: of the plugin.
        cancelled: asked ten times a second; the program is killed once it is true.

    Raises:
        SandboxUnavailable: nothing on this machine can contain it.
        ToolCancelled: it was cancelled.
    """
    from chatlm_tools.sandbox.sandbox import Sandbox

    limits = _limits(settings)
    with Sandbox.best(limits).open() as run:
        (run.path / "main.py").write_text(code, "utf-8")
        shutil.copyfile(_RUNNER, run.path / ".runner.py")
        outcome = run([sys.executable, "-I", "-X", "utf8", ".runner.py"], cancelled)
        text = _finish(outcome, limits)
        images, more = _pictures(run.path)
    if more:
        text += f"\n{more} pictures are left out: too many, too large, or no PNG files."
    return ToolOutput(text, is_error=outcome.is_error, images=tuple(images))


def _python_preview(arguments: Mapping[str, Any]) -> ToolPreview:
    return ToolPreview("code", str(arguments.get("code", "")))


@tool(permission="ask", timeout=None, group="python", preview=_python_preview)
def python(code: str, context: ToolContext) -> ToolOutput:
    """Run a Python program and read what it prints. Use it for anything that needs more than a sum.

    Each program runs alone: nothing is kept between calls, and there is no network and no access
    to the user's files. The value of the last line is shown, as in a notebook. The user sees the
    figures of matplotlib.

    Args:
        code: the whole program.
    """
    output = run_python(code, current_settings(context), _ask_cancelled(context))
    if count := len(output.images):
        seen = f"\nThe user sees {count} picture{'s' * (count != 1)}."
        return replace(output, text=output.text + seen)
    return output


def _shell_preview(arguments: Mapping[str, Any]) -> ToolPreview:
    return ToolPreview("command", str(arguments.get("command", "")))


@tool(
    permission="ask",
    always_ask=True,
    timeout=None,
    group="shell",
    preview=_shell_preview,
    enabled_by_default=False,
    untrusted_output=True,
)
def shell(command: str, context: ToolContext) -> ToolOutput:
    """Run a shell command in a sandbox: no network, and writing in an empty temporary folder alone.

    The folders that the user named can be read. Nothing that is written is kept.

    Args:
        command: what to run, for sh.
    """
    from chatlm_tools.sandbox.sandbox import Sandbox

    limits = _limits(current_settings(context))
    folders = [Path(os.path.realpath(folder)) for folder in context.workspace_folders]
    with Sandbox.best(limits, folders).open() as run:
        outcome = run(["/bin/sh", "-c", command], _ask_cancelled(context))
    text = _finish(outcome, limits)
    return ToolOutput(text, is_error=outcome.is_error, source="sandbox")
