"""Contestants, their set-ups, and masking of what identifies them in their answers."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from dataclasses import dataclass

from chatlm import Setup, UsageError, one_line

MAX_NAME_CHARACTERS = 60

INDEX_KEY = ("rag", "index")
"""Where a chat stores its index: the plugin, and the key in the plugin's data."""

ADAPTER_KEY = ("lora", "adapter")
"""Where a chat stores its selected adapter; an empty value means the base model."""

MASK = "▒▒▒"
"""Replaces what identifies a contestant."""

_MIN_WORD_LENGTH = 3
"""Shorter words are not masked, since they occur in too many others."""


@dataclass(frozen=True)
class Contestant:
    """A named set-up that takes part in the arena."""

    id: int
    name: str
    setup: Setup | None = None
    """None for a contestant known from imported votes only, which cannot play."""

    @property
    def description(self) -> str:
        """A short description of its set-up."""
        return describe_setup(self.setup) if self.setup else "known from imported votes only"


def validate_name(name: str) -> str:
    """Return the name without surrounding whitespace.

    Raises:
        UsageError: it is empty, too long or not a single line.
    """
    name = name.strip()
    if not name or name != one_line(name, MAX_NAME_CHARACTERS):
        raise UsageError(
            f"Invalid contestant name: {one_line(name, 2 * MAX_NAME_CHARACTERS)!r}",
            hint=f"A name is one line of 1 to {MAX_NAME_CHARACTERS} characters.",
        )
    return name


def with_index(setup: Setup, index: str) -> Setup:
    """Return the set-up with an index; an empty name overrides the default index with none."""
    plugin, key = INDEX_KEY
    return dataclasses.replace(setup, plugin_data={**setup.plugin_data, plugin: {key: index}})


def index_of(setup: Setup) -> str:
    """Return the name of a set-up's index; empty for none."""
    plugin, key = INDEX_KEY
    return str(setup.plugin_data.get(plugin, {}).get(key, ""))


def is_same_setup(one: Setup, other: Setup, default_model: str) -> bool:
    """Return whether two set-ups are equal, given the default model."""
    first, second = (dataclasses.replace(s, model=s.model or default_model) for s in (one, other))
    return first == second


def describe_setup(setup: Setup) -> str:
    """Describe a set-up briefly: only what differs from the plain model."""
    parts = [setup.model or "default model"]
    parts += [
        f"{label} {value}"
        for label, value in (
            ("adapter", setup.adapter),
            ("template", setup.template),
            ("index", index_of(setup)),
            ("tools", " ".join(setup.tools)),
        )
        if value
    ]
    parts += [f"{name} {value}" for name, value in setup.sampling.to_dict().items()]
    if setup.system:
        parts.append(f"system “{one_line(setup.system, 30)}”")
    return one_line(", ".join(parts), 200)


def identifying_words(contestants: Iterable[Contestant]) -> tuple[str, ...]:
    """Return what may identify contestants: names, models, model families and adapters."""
    words: list[str] = []
    for contestant in contestants:
        words.append(contestant.name)
        if contestant.setup is None:
            continue
        words += [contestant.setup.adapter, contestant.setup.model]
        family = re.match(r"[A-Za-z]+\d*", contestant.setup.model.rpartition("/")[2])
        words.append(family.group() if family else "")
    unique = dict.fromkeys(word for word in words if len(word) >= _MIN_WORD_LENGTH)
    return tuple(sorted(unique, key=len, reverse=True))


def mask_words(text: str, words: Iterable[str]) -> str:
    """Mask words in a text, in any case and with any of `-`, `_` and spaces as separators.

    Args:
        text: a reply.
        words: from `identifying_words`.
    """
    patterns = [r"[-_ ]?".join(map(re.escape, re.split(r"[-_ ]+", word))) for word in words]
    if not patterns:
        return text
    whole_words = "|".join(rf"(?<!\w){pattern}(?!\w)" for pattern in patterns)
    return re.sub(whole_words, MASK, text, flags=re.IGNORECASE)
