"""A contestant: a named set-up that can enter the arena; knows no storage."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from chatlm import Setup, UsageError, one_line

LONGEST_NAME = 60
"""Characters."""

INDEX = ("rag", "index")
"""Where a chat keeps which index it is about: the plugin, and its value's name."""

ADAPTER = ("lora", "adapter")
"""Where a chat keeps which adapter was chosen in it; an empty value is the base."""


@dataclass(frozen=True)
class Contestant:
    """One of those that are compared."""

    id: int
    name: str
    setup: Setup | None = None
    """None where only its votes are known, so that it cannot play."""

    @property
    def told(self) -> str:
        """Its set-up in a few words."""
        return in_words(self.setup) if self.setup else "known from imported votes only"


def checked_name(name: str) -> str:
    """The name, without blanks around it.

    Raises:
        UsageError: it is empty, too long, or would not stay on one line.
    """
    name = name.strip()
    if not name or name != one_line(name, LONGEST_NAME):
        raise UsageError(
            f"A contestant cannot be called {one_line(name, 2 * LONGEST_NAME)!r}.",
            hint=f"A name is one line of 1 to {LONGEST_NAME} characters.",
        )
    return name


def with_index(setup: Setup, index: str) -> Setup:
    """The same set-up, but about an index; empty for none, not even the person's usual one."""
    plugin, key = INDEX
    return dataclasses.replace(setup, kept={**setup.kept, plugin: {key: index}})


def index_of(setup: Setup) -> str:
    """The index that a set-up is about; empty for none."""
    plugin, key = INDEX
    return str(setup.kept.get(plugin, {}).get(key, ""))


def alike(one: Setup, other: Setup, in_use: str) -> bool:
    """Whether two set-ups are the same while `in_use` is the model in use."""
    first, second = (dataclasses.replace(s, model=s.model or in_use) for s in (one, other))
    return first == second


def in_words(setup: Setup) -> str:
    """A set-up in a few words: only what differs from the plain model."""
    parts = [setup.model or "the model in use"]
    parts += [
        f"{what} {value}"
        for what, value in (
            ("adapter", setup.adapter),
            ("template", setup.template),
            ("index", index_of(setup)),
        )
        if value
    ]
    parts += [f"{name} {value}" for name, value in setup.sampling.to_dict().items()]
    if setup.system:
        parts.append(f"system “{one_line(setup.system, 30)}”")
    return one_line(", ".join(parts), 200)
