"""Settings of the plugin."""

from __future__ import annotations

from dataclasses import dataclass, field

from chatlm_openai.endpoints import Endpoint

MAX_IN_FLIGHT = 256


@dataclass(frozen=True)
class Settings:
    """Settings under `[plugins.openai]`."""

    endpoints: tuple[str, ...] = field(
        default=(),
        metadata={
            "help": "Servers, each as NAME URL, or NAME URL VARIABLE with the environment variable "
            "of the key; the first one is the default."
        },
    )
    find_servers: bool = field(
        default=True,
        metadata={
            "help": "Look for Ollama, LM Studio and similar programs on their usual ports of this "
            "machine when models are listed."
        },
    )
    context: int | None = field(
        default=None,
        metadata={"help": "Context window in tokens if the server does not report it."},
    )
    thoughts_to: tuple[str, ...] = field(
        default=(),
        metadata={
            "help": "Endpoints, by name or URL, that want the thoughts of earlier replies back."
        },
    )
    images_to: tuple[str, ...] = field(
        default=(),
        metadata={
            "help": "Endpoints, by name or URL, or models whose server does not say that they take "
            "images, although they do."
        },
    )
    in_flight: int = field(
        default=8,
        metadata={"help": f"Requests that run at once in a tournament, 1 to {MAX_IN_FLIGHT}."},
    )
    connect_seconds: float = field(default=5.0, metadata={"help": "Timeout for the connection."})
    first_token_seconds: float = field(
        default=120.0, metadata={"help": "Timeout for the first token of a reply."}
    )
    between_seconds: float = field(
        default=30.0, metadata={"help": "Timeout between two tokens of a reply."}
    )
    patience_seconds: float = field(
        default=60.0,
        metadata={"help": "How long to retry while a server is busy; 0 for no retries."},
    )

    def __post_init__(self) -> None:
        names = [endpoint.name for endpoint in self.parse_endpoints()]
        if duplicates := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two endpoints are called {min(duplicates)}")
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
        """Parse the configured endpoints.

        Raises:
            ValueError: the syntax of one is invalid.
        """
        return [Endpoint.parse(line) for line in self.endpoints]
