"""Contestant; names hidden in answers."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from dataclasses import dataclass

from chatlm import Setup, UsageError, one_line

MAX_NAME_CHARACTERS = 60
"""Characters."""


INDEX_KEY = ("rag", "index")
"""Where a chat keeps which index it is about: the plugin, and its value's name."""


ADAPTER_KEY = ("lora", "adapter")
"""Where a chat keeps which adapter was chosen in it; an empty value is the base."""


@dataclass(frozen=True)
class Contestant:
    """One of those that are compared."""

    id: int
    name: str
    setup: Setup | None = None
    """None where only its votes are known, so that it cannot play."""

    @property
    def description(self) -> str:
        """Its set-up in a few words."""
        return describe_setup(self.setup) if self.setup else "known from imported votes only"


def validate_name(name: str) -> str:
    """The name, without blanks around it.

    Raises:
        UsageError: it is empty, too long, or would not stay on one line.
    """
    name = name.strip()
    if not name or name != one_line(name, MAX_NAME_CHARACTERS):
        raise UsageError(
            f"A contestant cannot be called {one_line(name, 2 * MAX_NAME_CHARACTERS)!r}.",
            hint=f"A name is one line of 1 to {MAX_NAME_CHARACTERS} characters.",
        )
    return name


def with_index(setup: Setup, index: str) -> Setup:
    """The same set-up, but about an index; empty for none, not even the person's usual one."""
    plugin, key = INDEX_KEY
    return dataclasses.replace(setup, plugin_data={**setup.plugin_data, plugin: {key: index}})


def index_of(setup: Setup) -> str:
    """The index that a set-up is about; empty for none."""
    plugin, key = INDEX_KEY
    return str(setup.plugin_data.get(plugin, {}).get(key, ""))


def is_same_setup(one: Setup, other: Setup, default_model: str) -> bool:
    """Whether two set-ups are the same while `default_model` is the model in use."""
    first, second = (dataclasses.replace(s, model=s.model or default_model) for s in (one, other))
    return first == second


def describe_setup(setup: Setup) -> str:
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


MASK = "▒▒▒"


_MIN_WORD_LENGTH = 3
"""Letters of a word that is hidden; shorter ones stand in too many others."""


def identifying_words(contestants: Iterable[Contestant]) -> tuple[str, ...]:
    """What may give contestants away: their names, models, adapters, and the models' families."""
    found: list[str] = []
    for contestant in contestants:
        found.append(contestant.name)
        if contestant.setup is None:
            continue
        found += [contestant.setup.adapter, contestant.setup.model]
        family = re.match(r"[A-Za-z]+\d*", contestant.setup.model.rpartition("/")[2])
        found.append(family.group() if family else "")
    kept = dict.fromkeys(word for word in found if len(word) >= _MIN_WORD_LENGTH)
    return tuple(sorted(kept, key=len, reverse=True))


def mask_words(text: str, words: Iterable[str]) -> str:
    """The text with each of the words hidden, in whatever case and with - _ or blanks between.

    Args:
        text: of a reply.
        words: see `words_of`.
    """
    patterns = [r"[-_ ]?".join(map(re.escape, re.split(r"[-_ ]+", word))) for word in words]
    if not patterns:
        return text
    whole = "|".join(rf"(?<!\w){pattern}(?!\w)" for pattern in patterns)
    return re.sub(whole, MASK, text, flags=re.IGNORECASE)
