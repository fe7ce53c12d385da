"""What the person can set for all servers."""

from __future__ import annotations

from dataclasses import dataclass, field

from chatlm_openai.endpoints import Endpoint

MAX_IN_FLIGHT = 256


@dataclass(frozen=True)
class Settings:
    """What the person can set under `[plugins.openai]`."""

    endpoints: tuple[str, ...] = field(
        default=(),
        metadata={
            "help": "Servers, each as NAME URL, or NAME URL VARIABLE where a key is in the "
            "environment; the first is used where a model names none."
        },
    )
    context: int | None = field(
        default=None,
        metadata={"help": "Tokens of context of models whose server does not say it."},
    )
    in_flight: int = field(
        default=8,
        metadata={"help": f"Replies asked for at once in a tournament, 1 to {MAX_IN_FLIGHT}."},
    )
    connect_seconds: float = field(
        default=5.0, metadata={"help": "How long a server may take to accept a connection."}
    )
    first_token_seconds: float = field(
        default=120.0, metadata={"help": "How long a server may take to begin a reply."}
    )
    between_seconds: float = field(
        default=30.0, metadata={"help": "How long a server may fall silent within a reply."}
    )
    patience_seconds: float = field(
        default=60.0,
        metadata={"help": "How long a busy server is asked again, 0 for not at all."},
    )

    def __post_init__(self) -> None:
        names = [endpoint.name for endpoint in self.parse_endpoints()]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two endpoints are called {min(twice)}")
        if self.context is not None and self.context < 64:
            raise ValueError("context must be 64 or more")
        if not 1 <= self.in_flight <= MAX_IN_FLIGHT:
            raise ValueError(f"in_flight must be 1 to {MAX_IN_FLIGHT}")
        for name in ("connect_seconds", "first_token_seconds", "between_seconds"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0")
        if self.patience_seconds < 0:
            raise ValueError("patience_seconds must be 0 or more")

    def parse_endpoints(self) -> list[Endpoint]:
        """The servers that the person named.

        Raises:
            ValueError: one of them is not written as it must be.
        """
        return [Endpoint.parse(line) for line in self.endpoints]
