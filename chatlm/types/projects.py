"""Projects: a folder whose instructions a chat follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

INSTRUCTIONS_FILE = "AGENTS.md"
"""Name of the file with a project's instructions."""


@dataclass(frozen=True)
class Project:
    """The folder that a chat belongs to, with its instructions as the user confirmed them."""

    folder: str
    """Absolute path."""
    instructions: str = ""
    """Text of `AGENTS.md`; empty for none."""

    @property
    def name(self) -> str:
        """The last part of the folder's path."""
        return PurePath(self.folder).name or self.folder

    @property
    def prompt(self) -> str:
        """What the system prompt says of it, with its source; empty without instructions."""
        if not self.instructions.strip():
            return ""
        head = f"Instructions of the project {self.name}, from its file {INSTRUCTIONS_FILE}:"
        return f"{head}\n\n{self.instructions.strip()}"

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values."""
        return {"folder": self.folder, "instructions": self.instructions}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Project:
        """Restore from the values of `to_dict`.

        Raises:
            KeyError, TypeError: a value is missing or no text.
        """
        folder, instructions = values["folder"], values.get("instructions", "")
        if not isinstance(folder, str) or not isinstance(instructions, str):
            raise TypeError("a project's folder and instructions are texts")
        return cls(folder, instructions)
