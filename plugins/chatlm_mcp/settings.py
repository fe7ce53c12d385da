"""Settings of the plugin."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Settings:
    """Settings under `[plugins.mcp]`; the servers are in mcp.json."""

    start_seconds: float = field(
        default=30.0, metadata={"help": "Seconds for a server to start and introduce itself."}
    )
    call_seconds: float = field(
        default=60.0, metadata={"help": "Seconds for a server to answer a request."}
    )

    def __post_init__(self) -> None:
        for name in ("start_seconds", "call_seconds"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0")
