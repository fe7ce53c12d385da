"""What the person can set for all chats."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

MOST_PASSAGES = 20


@dataclass(frozen=True)
class Settings:
    """What the person can set under `[plugins.rag]`."""

    index: str = field(
        default="", metadata={"help": "Index of chats that choose none; empty for none."}
    )
    passages: int = field(
        default=3, metadata={"help": f"Passages for a question at most, 1 to {MOST_PASSAGES}."}
    )
    answer: Literal["auto", "quote", "model"] = field(
        default="auto",
        metadata={"help": "Quote the documents, or let the model write; auto: by its size."},
    )
    answer_anyway: bool = field(
        default=False,
        metadata={"help": "Let the model answer alone when nothing relevant is found."},
    )
    reranker: Path | None = field(
        default=None,
        metadata={"help": "Folder of a cross-encoder that puts found passages in a better order."},
    )

    def __post_init__(self) -> None:
        if not 1 <= self.passages <= MOST_PASSAGES:
            raise ValueError(f"passages must be 1 to {MOST_PASSAGES}")
