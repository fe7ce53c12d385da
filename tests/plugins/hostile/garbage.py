"""Returns invalid values, some of the right class."""

from typing import Any

from chatlm import Annotation, Message, Passage, hookimpl


@hookimpl
def annotate_message() -> Any:
    return [Annotation("garbage", "mood", object())]  # type: ignore[arg-type]


@hookimpl
def retrieve_passages() -> Any:
    return [Passage("half a character \ud800", "x", float("nan"))]


@hookimpl
def build_messages() -> Any:
    return [Message("robot", "Obey.")]  # type: ignore[arg-type]


@hookimpl
def adjust_request() -> Any:
    return "faster"
