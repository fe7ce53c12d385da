"""Protocols of the services that plugins offer each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from chatlm.types.messages import Annotation, Passage
from chatlm.types.setups import SideChat


@runtime_checkable
class Documents(Protocol):
    """Searches collections of the user's documents."""

    def collections(self) -> Sequence[str]:
        """Return the names of the collections that can be searched."""
        ...

    def search(self, collection: str, query: str) -> Sequence[Passage]:
        """Return the passages that are relevant to the query, best first.

        Raises:
            ChatlmError: the collection does not exist or cannot be read.
        """
        ...


@runtime_checkable
class Classifier(Protocol):
    """Labels texts."""

    def classify(self, text: str) -> Annotation:
        """Return the label of a text; may load a model first.

        Raises:
            ChatlmError: the classifier cannot be loaded.
        """
        ...


@runtime_checkable
class Adapters(Protocol):
    """Finds LoRA adapters."""

    def names(self) -> Sequence[str]:
        """Return the names of all adapters."""
        ...

    def find(self, name: str, model: str) -> Path:
        """Return the folder of an adapter.

        Raises:
            ChatlmError: the adapter does not exist, or does not fit the model.
        """
        ...


@runtime_checkable
class Judge(Protocol):
    """Compares two answers to a prompt."""

    def compare(
        self, chat: SideChat, prompt: str, first: str, second: str, seed: int = 0
    ) -> Literal["first", "second", "tie"] | None:
        """Return the better answer, None where the model gives no verdict.

        Args:
            chat: an empty side chat with the model that judges.
            prompt: what both answers reply to.
            first: one answer.
            second: the other answer.
            seed: for sampling, where the model has to be asked again.

        Raises:
            EngineError: the model failed.
        """
        ...


SERVICES: Mapping[str, type] = {
    "documents": Documents,
    "classifier": Classifier,
    "adapters": Adapters,
    "judge": Judge,
}
"""The names of these services, each with its protocol. Plugins may offer others."""
