"""Has settings, and is switched off in config.toml."""

from dataclasses import dataclass, field
from typing import Any

from chatlm import hookimpl


@dataclass(frozen=True)
class Settings:
    """Checked when the settings are read."""

    town: str = field(default="", metadata={"help": "The town."})
    every: int = field(default=1, metadata={"help": "Hours between two looks."})


@hookimpl
def startup(context: Any) -> None:
    """Fail."""
    raise ValueError("no such town")
