"""Which embedding model an index is made with, and whether it is still the same; loads none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatlm import (
    ChatlmError,
    ModelLocation,
    UsageError,
    Work,
    ensure_model,
    find_model,
    fingerprint_weights,
)
from chatlm_rag.records import record

DEFAULT = "all-minilm-l6-v2"


@dataclass(frozen=True)
class EmbedderRecord:
    """What an index keeps of its embedder."""

    name: str
    """As chatlm's models are called."""
    fingerprint: str
    """Of its weights."""

    def to_dict(self) -> dict[str, Any]:
        """As plain values, ready for JSON."""
        return {
            "name": self.name,
            "fingerprint": self.fingerprint,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EmbedderRecord:
        """Read back what `to_dict` made.

        Raises:
            KeyError, TypeError: it is something else.
        """
        return record(
            cls,
            name=values["name"],
            fingerprint=values["fingerprint"],
        )


@dataclass(frozen=True)
class Place:
    """An embedder on this machine."""

    folder: Path
    record: EmbedderRecord

    @property
    def tokenizer(self) -> Path:
        """Its `tokenizer.json`.

        Raises:
            ChatlmError: it has none.
        """
        path = self.folder / "tokenizer.json"
        if not path.is_file():
            raise ChatlmError(
                f"The embedder in {self.folder} has no tokenizer.json.",
                hint=f"Use another one, such as {DEFAULT}.",
            )
        return path


def fetched(name: str, work: Work) -> Place:
    """The embedder, fetched first if it is not on this machine.

    Raises:
        ChatlmError: there is none, it cannot be fetched, or the person stopped it.
    """

    def tell(stage: str, done: int, total: int | None) -> None:
        work.at(done, total, f"fetching the embedder {name} ({stage})")

    return _place(ensure_model(name, tell, lambda: work.cancelled))


def here(name: str) -> Place:
    """The embedder, which has to be on this machine.

    Raises:
        ChatlmError: it is not; the message has the command that fetches it.
    """
    return _place(find_model(name))


def check(name: str, record: EmbedderRecord) -> Place:
    """The embedder an index was made with, for another text to be compared with its passages.

    Args:
        name: of the index.
        record: the embedder it was made with.

    Raises:
        ChatlmError: it is not here, or the one of that name is another now.
    """
    place = here(record.name)
    if place.record != record:
        raise ChatlmError(
            f"The index {name} was made with another {record.name} than the one that is here.",
            hint=f"Make it anew: chatlm rag update {name} --rebuild",
        )
    return place


def _place(location: ModelLocation) -> Place:
    if location.kind != "embedder":
        raise UsageError(
            f"{location.name} is a {location.kind} model, not an embedder.",
            hint="See the embedders: chatlm models list",
        )
    return Place(
        location.folder, EmbedderRecord(location.name, fingerprint_weights(location.folder))
    )
