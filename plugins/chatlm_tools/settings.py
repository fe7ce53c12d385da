"""Settings of the plugin."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chatlm import ToolContext

_HOST = re.compile(r"[A-Za-z0-9._-]+:\d{1,5}|\[[0-9A-Fa-f:.]+\]:\d{1,5}")


@dataclass(frozen=True)
class Settings:
    """Settings under `[plugins.tools]`."""

    sandbox_seconds: float = field(
        default=30.0,
        metadata={"help": "How long a program of python or shell may run, in seconds, up to 3600."},
    )
    sandbox_memory: int = field(
        default=2048,
        metadata={"help": "How much memory such a program may use, in MB, 256 or more."},
    )
    web_hosts: tuple[str, ...] = field(
        default=(),
        metadata={
            "help": "Servers of your own network that fetch may read, each as HOST:PORT. All other "
            "addresses that are not public are refused."
        },
    )
    web_cache_hours: float = field(
        default=24.0,
        metadata={"help": "How long pages and search results are kept; 0 for not at all."},
    )
    search_server: str = field(
        default="",
        metadata={
            "help": "Address of a SearXNG server to search with, such as "
            "https://searx.example; empty for DuckDuckGo and others by ddgs."
        },
    )

    def __post_init__(self) -> None:
        if not 0 < self.sandbox_seconds <= 3600:
            raise ValueError("sandbox_seconds must be above 0 and at most 3600")
        if self.sandbox_memory < 256:
            raise ValueError("sandbox_memory must be 256 or more")
        if not 0 <= self.web_cache_hours <= 24 * 365:
            raise ValueError("web_cache_hours must be from 0 to 8760")
        for host in self.web_hosts:
            if not _HOST.fullmatch(host):
                raise ValueError(f"web_hosts: {host!r} must be HOST:PORT, such as wiki.lan:8080")
        if self.search_server and not self.search_server.startswith(("http://", "https://")):
            raise ValueError("search_server must start with https:// or http://")


def current_settings(context: ToolContext) -> Settings:
    """Return the plugin's settings, the defaults where a tool is run without a program."""
    found = context.settings
    return found if isinstance(found, Settings) else Settings()
