"""Has settings without a default."""

from dataclasses import dataclass
from typing import Any

from chatlm import hookimpl


@dataclass(frozen=True)
class Settings:
    where: str


@hookimpl
def turn_finished(turn: Any) -> None:
    """Never called."""
