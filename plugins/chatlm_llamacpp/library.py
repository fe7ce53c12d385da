"""llama.cpp's C functions, from llama-cpp-python; its messages go to chatlm's log."""

from __future__ import annotations

import ctypes
import logging
import os
from collections import deque
from functools import cache
from importlib import import_module
from typing import Any

from chatlm import Unsupported

log = logging.getLogger("chatlm.plugins.llamacpp")

_LEVELS = {3: logging.INFO, 4: logging.WARNING}
"""Warning and error of llama.cpp: it also warns of what is usual. The rest is for debugging."""

_CONTINUED = 5


class LogForwarder:
    """Writes llama.cpp's messages to chatlm's log, line by line, and remembers its errors."""

    def __init__(self) -> None:
        self.errors: deque[str] = deque(maxlen=4)
        """The newest errors, oldest first."""
        self._line = ""
        self._level = logging.DEBUG

    def cause(self) -> str:
        """Return the first of the errors, without the name of llama.cpp's function."""
        line = self.errors[0] if self.errors else ": it does not say why"
        return line.split(": ", 1)[-1].removeprefix("error loading model: ")

    def __call__(self, level: int, text: bytes, user_data: Any) -> None:
        """Take a message or a piece of one; called by llama.cpp in any thread."""
        if level != _CONTINUED:
            self._level = _LEVELS.get(level, logging.DEBUG)
        *lines, self._line = (self._line + text.decode("utf-8", "replace")).split("\n")
        for line in filter(str.strip, lines):
            log.log(self._level, "%s", line)
            if self._level == logging.WARNING:
                self.errors.append(line.strip())


forwarder = LogForwarder()


@cache
def load_library() -> Any:
    """Import the C functions and structures of llama.cpp, by their own names.

    Raises:
        Unsupported: they cannot be loaded.
    """
    try:
        api: Any = import_module("llama_cpp")
    except (ImportError, OSError, RuntimeError) as error:
        raise Unsupported(
            f"llama.cpp cannot be loaded: {error}; `pip install --force-reinstall "
            "llama-cpp-python` compiles it again"
        ) from error
    # the package writes to the terminal, which is the chat's
    on_message, on_abort = api.llama_log_callback(forwarder), _ON_ABORT(_log_abort)
    _KEPT.extend([on_message, on_abort])
    api.llama_log_set(on_message, None)
    load_ggml().ggml_set_abort_callback(on_abort)
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")
    api.llama_backend_init()
    return api


@cache
def load_mtmd() -> Any:
    """Import llama.cpp's functions for images, by their own names.

    Raises:
        Unsupported: they cannot be loaded.
    """
    api = load_library()
    try:
        mtmd: Any = import_module("llama_cpp.mtmd_cpp")
        on_message = api.llama_log_callback(forwarder)
        _KEPT.append(on_message)
        mtmd.mtmd_log_set(on_message, None)
        mtmd.mtmd_helper_log_set(on_message, None)
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        raise Unsupported(
            f"this llama-cpp-python cannot read images: {error}; `pip install --upgrade "
            "llama-cpp-python` brings a newer one"
        ) from error
    return mtmd


def load_ggml() -> Any:
    """Return the library of llama.cpp's tensors and devices."""
    return import_module("llama_cpp._ggml").libggml


_ON_ABORT = ctypes.CFUNCTYPE(None, ctypes.c_char_p)


def _log_abort(message: bytes) -> None:
    log.critical("llama.cpp ends the program: %s", message.decode("utf-8", "replace"))


_KEPT: list[Any] = []
"""Callbacks that llama.cpp may call until the program ends."""
