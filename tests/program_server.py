"""Run the command line in forks of a process in which slow imports are done.

Started by `tests.program`; reads one JSON object per line, answers each with the program's id, and
tells of each program's end.
"""

from __future__ import annotations

import faulthandler
import fcntl
import gc
import json
import os
import pkgutil
import select
import signal
import sys
import termios
import time
import traceback
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

SLOW_IMPORTS = ("torch", "transformers", "peft", "sentence_transformers")


def serve() -> bool:
    """Fork programs until the caller goes away; return in each of them, whether in a terminal."""
    _preload()
    gc.collect()
    gc.freeze()  # a collection in a fork would copy every page that has an object
    woken, wake = os.pipe()
    for end in (woken, wake):
        os.set_blocking(end, False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(wake)
    received = b""
    while True:
        ready, _, _ = select.select([0, woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            _report_ended()
        if 0 not in ready:
            continue
        read = os.read(0, 65536)
        if not read:
            os._exit(0)
        *lines, received = (received + read).split(b"\n")
        for order in map(json.loads, lines):
            terminal = _open_terminal(order)
            if child := os.fork():
                _tell(pid=child)
                if terminal is not None:
                    os.close(terminal)
                continue
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.close(woken)
            os.close(wake)
            _become(order, terminal)
            return terminal is not None


def _tell(**values: int) -> None:
    print(json.dumps(values), flush=True)


def _report_ended() -> None:
    while True:
        try:
            child, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not child:
            return
        _tell(pid=child, returncode=os.waitstatus_to_exitcode(status))


def _preload() -> None:
    """Import what most programs need, so that each fork has it already."""
    for name in SLOW_IMPORTS:
        import_module(name)
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401  # lazy otherwise

    from chatlm import tui

    os.environ["TEXTUAL_FPS"] = tui.MAX_FPS  # as `tui.run` does before it imports Textual
    for package in ("chatlm.cli", "chatlm.tui"):
        folder = import_module(package).__path__
        for module in pkgutil.iter_modules(folder, f"{package}."):
            import_module(module.name)
    for plugin in entry_points(group="chatlm"):
        plugin.load()


def _open_terminal(order: dict[str, Any]) -> int | None:
    """Open the program's terminal before the caller, who is answered then, closes it."""
    path = order.get("terminal")
    return None if path is None else os.open(path, os.O_RDWR | os.O_NOCTTY)


def _become(order: dict[str, Any], terminal: int | None) -> None:
    """Become `python -m chatlm ARGUMENTS`, whose `main` is to be run next."""
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["environment"])
    time.tzset()
    if terminal is not None:
        os.setsid()
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
        for number in range(3):
            os.dup2(terminal, number)
        os.close(terminal)
    else:
        for number, (path, mode) in enumerate(
            zip(order["streams"], ("rb", "wb", "wb"), strict=True)
        ):
            with Path(path).open(mode) as file:
                os.dup2(file.fileno(), number)
    for name, stream in zip(("stdin", "stdout", "stderr"), _streams(), strict=True):
        vars(sys).update({name: stream, f"__{name}__": stream})
    if os.environ.get("PYTHONFAULTHANDLER"):
        faulthandler.enable()
    main = find_spec("chatlm.__main__")
    assert main is not None
    sys.argv = [str(main.origin), *order["arguments"]]
    if threads := os.environ.get("OMP_NUM_THREADS"):  # torch read it when it was imported
        import_module("torch").set_num_threads(int(threads))


def _streams() -> Iterator[IO[str]]:
    """Open the standard streams anew, so that nothing is left in them of the parent's."""
    for number, mode in enumerate("rww"):
        errors = "backslashreplace" if number == 2 else "strict"
        yield os.fdopen(number, mode, encoding="utf-8", errors=errors, closefd=False)


def _run_quickly() -> int:
    """Run the program and return its exit code, so that no interpreter is torn down."""
    try:
        return main()
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()


if __name__ == "__main__":
    in_terminal = serve()
    from chatlm.cli.main import main

    if in_terminal:
        sys.exit(main())
    os._exit(_run_quickly())
