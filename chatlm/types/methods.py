"""Ways to make a reply that run the model more than once."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass

from chatlm.types.engine import Engine
from chatlm.types.events import EngineEvent
from chatlm.types.requests import Request


@dataclass(frozen=True)
class ReplyMethod:
    """A way to make a reply, chosen by `Sampling.method`."""

    name: str
    """Lowercase letters, digits and hyphens."""
    help: str
    """What it does, in one line."""
    stream: Callable[[Engine, Request, str], Generator[EngineEvent, None, None]]
    """`(engine, request, argument) -> events`: makes a reply. The request names no method, asks for
    no log-probabilities, offers no tools and ends with the user's message; the argument is the text
    after the colon of the setting, or empty. Yields what `Engine.stream` does, with the usage of
    all generations; its work is `Delta`s of the part `reasoning`. Pulled and closed like
    `Engine.stream`: while it waits, it yields an empty `Delta` at least every few tokens. Raises
    `UsageError` for an argument that is not valid."""
    argument: str = ""
    """The argument's placeholder, such as `SAMPLES`; in brackets if it is optional."""

    def check(self) -> None:
        """Check the fields, when it is registered.

        Raises:
            ValueError: a field is not valid.
        """
        name = self.name
        if (
            not isinstance(name, str)
            or not name.replace("-", "a").isalnum()
            or name != name.lower()
        ):
            raise ValueError(f"the name {name!r} must be lowercase letters, digits and hyphens")
        if not isinstance(self.help, str) or not self.help.strip():
            raise ValueError(f"help must be one line, not {self.help!r}")
        if not callable(self.stream):
            raise ValueError(f"stream must be a function, not {self.stream!r}")
