"""Run `main.py` inside of the sandbox, as a notebook would: the last value is shown.

Copied into the sandbox's folder and run there; it uses the standard library alone. Figures of
matplotlib that are still open at the end are saved as `plot-N.png`.
"""

from __future__ import annotations

import ast
import contextlib
import linecache
import sys
import traceback
from pathlib import Path

NAME = "main.py"


def run(source: str) -> int:
    """Run a program; return its exit code."""
    namespace = {"__name__": "__main__", "__file__": NAME}
    # Tracebacks show lines of the program though it is not imported.
    linecache.cache[NAME] = (len(source), None, source.splitlines(keepends=True), NAME)
    try:
        tree = ast.parse(source, NAME)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, NAME, "exec"), namespace)  # noqa: S102  # inside of the sandbox
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), NAME, "eval"), namespace)  # noqa: S307
            if value is not None:
                print(repr(value))  # noqa: T201
    except SystemExit as error:
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)  # noqa: T201
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException as error:
        kept = [f for f in traceback.extract_tb(error.__traceback__) if f.filename != __file__]
        lines = ["Traceback (most recent call last):\n", *traceback.format_list(kept)]
        show = traceback.format_exception_only(type(error), error)
        sys.stderr.writelines([*(lines if kept else []), *show])
        return 1
    finally:
        sys.stdout.flush()
        with contextlib.suppress(Exception):
            _save_figures()
    return 0


def _save_figures() -> None:
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is not None:
        for number in pyplot.get_fignums():
            pyplot.figure(number).savefig(f"plot-{number}.png", dpi=100)


if __name__ == "__main__":
    sys.exit(run(Path(NAME).read_text("utf-8")))
