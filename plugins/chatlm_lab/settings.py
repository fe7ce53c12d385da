"""Settings of the lab."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Settings:
    """Settings in `[plugins.lab]`."""

    autocomplete: bool = field(
        default=False,
        metadata={"help": "Suggest how your message goes on, from your earlier messages."},
    )
    autocomplete_data: tuple[str, ...] = field(
        default=(),
        metadata={"help": "Text files and folders that the suggestions are also made from."},
    )
