"""What a template makes, as a value; it knows no file format and no template language."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from chatlm.sampling import Sampling


@dataclass(frozen=True)
class Rendered:
    """A template with its gaps filled."""

    system: str = ""
    """The system prompt; empty where the template has none."""
    user: str = ""
    """The user's message; empty where the person still has to write it."""
    sampling: Sampling = field(default_factory=Sampling)
    """What holds where the person says nothing."""
    typed: str = ""
    """The words that the plugin's `write_message` makes `user` of; empty where it has no part."""
    kept: Mapping[str, Any] = field(default_factory=dict)
    """What the plugin keeps with a chat that begins so, as plain values."""


Facts = Callable[[], Mapping[str, str]]
"""`() -> facts`: what plugins say of the words that were typed, by name, such as their mood. Asked
for only where it is needed, since a plugin may have to think about it."""

TemplateRenderer = Callable[[Mapping[str, str], str, Facts], Rendered]
"""`(values, typed, facts) -> rendered`: `values` of the variables by name, what the person typed or
piped in, and what plugins say of that. Raises UsageError for a name that is unknown or a value that
is missing or wrong."""
