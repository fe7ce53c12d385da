"""What the person can set under `[plugins.arena]`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Settings:
    """Checked when the settings are read."""

    pairing: Literal["informative", "round-robin", "random"] = field(
        default="informative",
        metadata={
            "help": "Who meets next: informative (what shrinks the intervals most), round-robin "
            "(the pair with the fewest votes) or random."
        },
    )
    same_seed: bool = field(
        default=False, metadata={"help": "Let both sides draw by the same random numbers."}
    )
    k: float = field(default=32.0, metadata={"help": "Elo's k, 4 to 32."})

    def __post_init__(self) -> None:
        if not 4 <= self.k <= 32:
            raise ValueError("k must be 4 to 32")
