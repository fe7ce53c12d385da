"""Limits on what a chat template may compute: it comes with the model, so it may be hostile.

Jinja's sandbox keeps a template from reaching Python, but not from running forever or filling the
memory.
"""

from __future__ import annotations

import functools
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from chatlm.errors import EngineError

MAX_SECONDS = 10.0
"""Processor time for one prompt; real templates take milliseconds."""


MAX_LENGTH = 20_000_000
"""Of a text in characters, and of a list in items."""


_MAX_ARGUMENT = 1_000_000
"""Of a whole number that a method or filter takes, such as a width."""


_MAX_BITS = 10_000
"""Of a whole number."""


_WIDTH = re.compile(r"\*|\d{7}")


class TemplateTooSlow(EngineError):
    """A chat template did not end in time."""


class TooLarge(Exception):
    """A chat template makes something too large; the message says what."""


class Stopwatch:
    """The processor time of each thread's render."""

    def __init__(self) -> None:
        self._local = threading.local()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Measure a render."""
        self._local.end = time.thread_time() + MAX_SECONDS
        try:
            yield
        finally:
            del self._local.end

    def check(self) -> None:
        """Stop a render that takes too long.

        Raises:
            TemplateTooSlow: it does.
        """
        if time.thread_time() > getattr(self._local, "end", float("inf")):
            raise TemplateTooSlow(
                "The model's chat template was stopped: it did not finish within "
                f"{MAX_SECONDS:g} seconds.",
                hint="Try `chatlm config set prompt_format chatml`, or another source of the "
                "model: the template may be damaged or malicious.",
            )


def check_length(length: int) -> None:
    """Refuse a text or list of this length.

    Raises:
        TooLarge: it is too long.
    """
    if length > MAX_LENGTH:
        raise TooLarge(f"it makes a text or list of {length:,} elements")


def check_operands(operator: str, left: Any, right: Any) -> None:
    """Refuse an operation whose result would be too large.

    Raises:
        TooLarge: it would be.
    """
    if operator == "%":
        if isinstance(left, str):
            check_format(left)
    elif operator == "+":
        if isinstance(left, str | list | tuple) and isinstance(right, str | list | tuple):
            check_length(len(left) + len(right))
    elif isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length()
        if (bits * right if operator == "**" else bits + right.bit_length()) > _MAX_BITS:
            raise TooLarge("it computes a number with thousands of digits")
    elif operator == "*":
        for sequence, times in ((left, right), (right, left)):
            if isinstance(sequence, str | list | tuple) and isinstance(times, int):
                check_length(len(sequence) * times)


def check_format(form: str) -> None:
    """Refuse a format with a huge width.

    Raises:
        TooLarge: it has one.
    """
    if _WIDTH.search(form):
        raise TooLarge("it pads a text to a huge width")


def check_arguments(arguments: Iterable[Any]) -> None:
    """Refuse huge numbers as arguments.

    Raises:
        TooLarge: there is one.
    """
    for value in arguments:
        if isinstance(value, int) and value > _MAX_ARGUMENT:
            raise TooLarge(f"it uses {value:,} as a width or a count")


def limit_filters(filters: dict[str, Any]) -> None:
    """Let the filters that pad texts or lists refuse huge numbers."""
    for name in ("batch", "center", "indent", "slice", "tojson"):
        filters[name] = _with_checked_arguments(filters[name])


def _with_checked_arguments(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)  # also copies what Jinja notes about its first argument
    def checked(*values: Any, **named: Any) -> Any:
        check_arguments((*values[1:], *named.values()))
        return function(*values, **named)

    return checked


def format_pieces(
    text: str, formatter: Any, values: tuple[Any, ...], named: Mapping[str, Any]
) -> list[tuple[str, bool]]:
    """Fill in a format of `str.format`; return the pieces and whether each is of the format."""
    pieces: list[tuple[str, bool]] = []
    count = 0
    for literal, field, spec, conversion in formatter.parse(text):
        pieces.append((literal, True))
        if field is None:
            continue
        name = field or str(count)
        count += not field
        check_format(spec)
        value, _ = formatter.get_field(name, values, named)
        value = formatter.convert_field(value, conversion)
        pieces.append((value if not spec and isinstance(value, str)
                       else formatter.format_field(value, spec), False))  # fmt: skip
    return pieces
