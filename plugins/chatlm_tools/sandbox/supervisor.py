"""The process between chatlm and a sandboxed program: starts it, measures it, and ends it.

Run as a module. It reads a `RunSpec` from standard input, which stays open: when it is closed,
because the call was cancelled or chatlm has ended, everything is killed. It writes one line of
JSON with the `Outcome`, its texts in base64.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import json
import os
import selectors
import signal
import time
from typing import Any

from chatlm_tools.sandbox import confine, seccomp, usage
from chatlm_tools.sandbox.limits import StopCause
from chatlm_tools.sandbox.spec import RunSpec, bubblewrap_command

_SET_CHILD_SUBREAPER = 36
_POLL_SECONDS = 0.04
_FAILED_TO_START = 127


class Supervisor:
    """One run."""

    def __init__(self, spec: RunSpec) -> None:
        self._spec = spec
        self._limits = spec.limits
        self._outputs: dict[str, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
        self._peak = 0
        self._pid = 0
        self._status: int | None = None

    def run(self) -> dict[str, Any]:
        """Run the program to its end, or stop it; nothing that it started is left."""
        began = time.monotonic()
        readers = self._start()
        with selectors.DefaultSelector() as selector:
            selector.register(0, selectors.EVENT_READ, "control")
            for name, descriptor in readers.items():
                selector.register(descriptor, selectors.EVENT_READ, name)
            stopped = self._watch(selector, began)
            seconds = time.monotonic() - began
            self._kill_all()
            if not stopped:
                self._drain(selector)
        status = self._status or 0
        return {
            "exit_code": os.waitstatus_to_exitcode(status),
            "stopped": stopped,
            "seconds": seconds,
            "peak_memory": self._peak,
            **{
                name: base64.b64encode(bytes(text[: self._limits.output])).decode()
                for name, text in self._outputs.items()
            },
        }

    def _start(self) -> dict[str, int]:
        """Start the program; return where its output can be read."""
        running = usage.count_tasks(os.getuid())
        out_reader, out_writer = os.pipe()
        err_reader, err_writer = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                self._become_program(running, out_writer, err_writer)
            except BaseException as error:
                os.write(err_writer, f"sandbox: {error}".encode())
            finally:
                os._exit(_FAILED_TO_START)
        os.close(out_writer)
        os.close(err_writer)
        for reader in (out_reader, err_reader):
            os.set_blocking(reader, False)
        return {"stdout": out_reader, "stderr": err_reader}

    def _become_program(self, running: int, out_writer: int, err_writer: int) -> None:
        os.setsid()
        confine.die_with_parent()
        null = os.open("/dev/null", os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(out_writer, 1)
        os.dup2(err_writer, 2)
        os.closerange(3, 4096)
        spec = self._spec
        command = list(spec.command)
        if spec.tier == "bubblewrap":
            reader, writer = os.pipe()
            os.write(writer, seccomp.build_filter(landlock_abi=None))
            os.close(writer)
            os.set_inheritable(reader, True)
            command = bubblewrap_command(spec, reader)
            confine.set_limits(spec.limits, running)
        else:
            confine.set_limits(spec.limits, running)
            confine.confine(spec)
        os.nice(10)
        os.execvpe(command[0], command, dict(spec.environment))  # noqa: S606  # no shell is meant

    def _watch(self, selector: selectors.BaseSelector, began: float) -> StopCause:
        """Wait for the end; return why it had to be stopped, empty if it has ended by itself."""
        limits = self._limits
        measured = 0.0
        while True:
            for key, _ in selector.select(_POLL_SECONDS):
                if key.data == "control":
                    return "cancelled"  # nothing is ever sent: it was closed
                self._read(selector, key)
            now = time.monotonic()
            if sum(map(len, self._outputs.values())) > limits.output:
                return "output"
            if now - began > limits.seconds:
                return "time"
            if now - measured >= _POLL_SECONDS:
                if cause := self._measure():
                    return cause
                measured = time.monotonic()
            if self._has_ended():
                return ""

    def _read(self, selector: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
        data = os.read(key.fd, 65536)
        if data:
            self._outputs[key.data] += data
        else:
            selector.unregister(key.fileobj)

    def _measure(self) -> StopCause:
        limits = self._limits
        processes = usage.descendants(os.getpid())
        # bubblewrap itself is two processes.
        own = 2 if self._spec.tier == "bubblewrap" else 0
        if sum(process.threads for process in processes) > limits.processes + own:
            return "processes"
        memory = sum(process.resident for process in processes)
        if memory > limits.memory:
            memory = sum(map(usage.proportional_memory, processes))
        self._peak = max(self._peak, memory)
        if memory > limits.memory:
            return "memory"
        size, files = usage.disk_use(self._spec.folder, processes, limits.files)
        return "disk" if size > limits.disk or files > limits.files else ""

    def _has_ended(self) -> bool:
        """Collect processes that have ended; return whether the program is among them."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    break
                if pid == self._pid:
                    self._status = status
        return self._status is not None

    def _kill_all(self) -> None:
        """End the program and everything that it started.

        Inside of Landlock no process can leave the program's process group, and a signal to a
        group reaches also what is being forked. In bubblewrap all processes end with the first
        one of their namespace, which ends with bubblewrap.
        """
        if self._status is None or self._spec.tier == "landlock":
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._pid, signal.SIGKILL)
        while True:
            for process in usage.descendants(os.getpid()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
            try:
                pid, status = os.waitpid(-1, 0)
            except ChildProcessError:
                return
            if pid == self._pid:
                self._status = status

    def _drain(self, selector: selectors.BaseSelector) -> None:
        """Read what is left in the pipes, which nobody writes to any more."""
        for key in list(selector.get_map().values()):
            if key.data != "control":
                with contextlib.suppress(BlockingIOError):
                    while data := os.read(key.fd, 65536):
                        self._outputs[key.data] += data


def main() -> None:
    """Run what standard input describes."""
    ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    spec = RunSpec.from_json(_read_line())
    print(json.dumps(Supervisor(spec).run()), flush=True)  # noqa: T201


def _read_line() -> str:
    """Read a line without reading ahead: what follows shows whether chatlm still waits."""
    line = bytearray()
    while (byte := os.read(0, 1)) and byte != b"\n":
        line += byte
    return line.decode()


if __name__ == "__main__":
    main()
