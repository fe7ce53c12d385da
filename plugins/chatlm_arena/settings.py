"""Settings of the arena plugin, `[plugins.arena]` in the config file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Settings:
    """Settings of the arena."""

    pairing: Literal["informative", "round-robin", "random"] = field(
        default="informative",
        metadata={
            "help": "How the next pair is chosen: informative (shrinks the intervals most), "
            "round-robin (the pair with the fewest votes) or random."
        },
    )
    same_seed: bool = field(default=False, metadata={"help": "Use the same seed for both sides."})
    k: float = field(default=32.0, metadata={"help": "Elo's k-factor, 4 to 32."})

    def __post_init__(self) -> None:
        if not 4 <= self.k <= 32:
            raise ValueError("k must be 4 to 32")
