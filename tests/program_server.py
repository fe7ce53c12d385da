"""Run the command line in forks of a process in which slow imports are done.

Started by `tests.program`; reads one JSON object per line and answers each with one.
"""

from __future__ import annotations

import gc
import io
import json
import os
import pkgutil
import sys
import time
import traceback
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

SLOW_IMPORTS = ("torch", "transformers", "peft", "sentence_transformers")


def serve() -> None:
    """Run programs until the caller goes away."""
    _preload()
    gc.collect()
    gc.freeze()  # a collection in a fork would copy every page that has an object
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if not child:
            _run(order)
        print(json.dumps({"pid": child}), flush=True)
        _, status = os.waitpid(child, 0)
        print(json.dumps({"returncode": os.waitstatus_to_exitcode(status)}), flush=True)


def _preload() -> None:
    """Import what most programs need, so that each fork has it already."""
    for name in SLOW_IMPORTS:
        import_module(name)
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401  # lazy otherwise

    import chatlm.cli

    for module in pkgutil.iter_modules(chatlm.cli.__path__, "chatlm.cli."):
        import_module(module.name)
    for plugin in entry_points(group="chatlm"):
        plugin.load()


def _run(order: dict[str, Any]) -> None:
    """Become `python -m chatlm ARGUMENTS` with files for standard streams; never returns."""
    code = 1
    try:
        _prepare(order)
        from chatlm.cli.main import main

        code = main()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


def _prepare(order: dict[str, Any]) -> None:
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["environment"])
    time.tzset()
    for number, (name, mode) in enumerate(zip(order["streams"], ("rb", "wb", "wb"), strict=True)):
        with Path(name).open(mode) as file:
            os.dup2(file.fileno(), number)
    sys.stdin, sys.stdout, sys.stderr = map(_text_stream, range(3), ("rb", "wb", "wb"))
    main = find_spec("chatlm.__main__")
    assert main is not None
    sys.argv = [str(main.origin), *order["arguments"]]
    if threads := os.environ.get("OMP_NUM_THREADS"):  # torch read it when it was imported
        import_module("torch").set_num_threads(int(threads))


def _text_stream(number: int, mode: str) -> io.TextIOWrapper:
    """Open a standard stream anew, so that nothing is left in it of the parent's."""
    return io.TextIOWrapper(os.fdopen(number, mode, closefd=False), encoding="utf-8")


if __name__ == "__main__":
    serve()
