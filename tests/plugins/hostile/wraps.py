"""Wants to see what the other plugins return."""

from collections.abc import Generator
from typing import Any

from chatlm import hookimpl


@hookimpl(wrapper=True)
def build_messages(conversation: Any, turn: Any) -> Generator[None, Any, Any]:
    result = yield
    return result
