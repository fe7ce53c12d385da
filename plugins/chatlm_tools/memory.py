"""Facts that the user lets a model remember across chats, and the tools for them.

The facts are one JSON file, which the user sees, edits and deletes with `chatlm memory` or
`/memory`. A model reads them with a tool, and asks before it writes or deletes one.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from chatlm import (
    ChatlmError,
    ToolContext,
    ToolPreview,
    UsageError,
    one_line,
    tool,
    write_atomically,
)
from chatlm_tools import PLUGIN

MAX_FACTS = 500
MAX_LENGTH = 500
"""Characters of one fact."""
_FILE = "memory.json"


@dataclass(frozen=True)
class Fact:
    """One fact."""

    id: int
    text: str
    saved: str
    """Date, as 2026-11-27."""


class Memory:
    """The facts in a folder.

    Args:
        folder: of the plugin's data.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / _FILE

    def facts(self) -> list[Fact]:
        """Return all facts, the oldest first.

        Raises:
            ChatlmError: the file is damaged.
        """
        try:
            rows = json.loads(self.path.read_text("utf-8"))
            return [Fact(int(row["id"]), str(row["text"]), str(row["saved"])) for row in rows]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ChatlmError(
                f"The facts in {self.path} cannot be read: {one_line(str(error), 100)}",
                hint="Mend the file, or move it away to start without facts.",
            ) from None

    def add(self, text: str) -> Fact:
        """Add a fact.

        Raises:
            UsageError: it is empty or too long, known already, or there are too many.
        """
        text = _check_text(text)

        def change(facts: list[Fact]) -> Fact:
            if any(fact.text.casefold() == text.casefold() for fact in facts):
                raise UsageError("This fact is known already.")
            if len(facts) >= MAX_FACTS:
                raise UsageError(f"There are {MAX_FACTS} facts, which is all that is kept.")
            number = max((fact.id for fact in facts), default=0) + 1
            fact = Fact(number, text, datetime.date.today().isoformat())
            facts.append(fact)
            return fact

        return self._change(change)

    def edit(self, number: int, text: str) -> Fact:
        """Change a fact's text.

        Raises:
            UsageError: there is no such fact, or the text is empty or too long.
        """
        text = _check_text(text)

        def change(facts: list[Fact]) -> Fact:
            place = _place(facts, number)
            facts[place] = Fact(number, text, datetime.date.today().isoformat())
            return facts[place]

        return self._change(change)

    def delete(self, number: int) -> Fact:
        """Delete a fact.

        Raises:
            UsageError: there is no such fact.
        """
        return self._change(lambda facts: facts.pop(_place(facts, number)))

    def _change(self, change: Callable[[list[Fact]], Fact]) -> Fact:
        from filelock import FileLock  # takes 60 ms

        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path.with_suffix(".lock")):
            facts = self.facts()
            changed = change(facts)
            write_atomically(self.path, json.dumps([asdict(fact) for fact in facts], indent=1))
        return changed


def _check_text(text: str) -> str:
    text = " ".join(text.split())
    if not text:
        raise UsageError("A fact must not be empty.")
    if len(text) > MAX_LENGTH:
        raise UsageError(f"A fact may have {MAX_LENGTH} characters, not {len(text)}.")
    return text


def _place(facts: list[Fact], number: int) -> int:
    for place, fact in enumerate(facts):
        if fact.id == number:
            return place
    raise UsageError(f"There is no fact {number}.", hint="List them: chatlm memory list")


def user_memory() -> Memory:
    """Return the memory where no tool's context gives its folder."""
    from chatlm import data_dir

    return Memory(data_dir() / "plugin-data" / PLUGIN)


def describe(facts: list[Fact]) -> str:
    """Write one fact a line, with its number."""
    return "\n".join(f"{fact.id}. {fact.text} ({fact.saved})" for fact in facts)


@tool(permission="allow", read_only=True, group="memory")
def memory_list(context: ToolContext, about: str = "") -> str:
    """Read what the user let you remember in earlier chats.

    Args:
        about: a word that the facts must contain; empty for all facts.
    """
    facts = Memory(context.data_folder).facts()
    found = [fact for fact in facts if about.casefold() in fact.text.casefold()]
    return describe(found) or "Nothing is remembered."


def _text_preview(arguments: Mapping[str, Any]) -> ToolPreview:
    return ToolPreview("text", f"Remember in all chats: {arguments.get('fact', '')}")


@tool(permission="ask", group="memory", preview=_text_preview)
def memory_save(fact: str, context: ToolContext) -> str:
    """Remember a fact about the user for later chats; they are asked first.

    Args:
        fact: one sentence that can be understood alone.
    """
    if context.incognito:
        raise UsageError("Nothing is remembered of an incognito chat.")
    saved = Memory(context.data_folder).add(fact)
    return f"Remembered as fact {saved.id}."


@tool(permission="ask", group="memory")
def memory_delete(number: int, context: ToolContext) -> str:
    """Forget a fact.

    Args:
        number: as memory_list shows it.
    """
    deleted = Memory(context.data_folder).delete(number)
    return f"Forgot: {deleted.text}"
