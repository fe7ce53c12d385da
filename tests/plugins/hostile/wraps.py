"""Wants to see the results of other plugins."""

from collections.abc import Generator
from typing import Any

from chatlm import hookimpl


@hookimpl(wrapper=True)
def build_messages(conversation: Any, turn: Any) -> Generator[None, Any, Any]:
    result = yield
    return result
