"""Open lab models: as an engine to chat with, or as probabilities to evaluate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chatlm_lab import PLUGIN
from chatlm_lab.architectures import OpenedModel, find_architecture
from chatlm_lab.models import LAB_MODELS, damaged, read_card

if TYPE_CHECKING:
    from chatlm import LocalEngine

CONTINUES = "It continues your text; it was not taught to answer."
"""Note on models that were trained on text alone."""


def open_model(name: str) -> OpenedModel:
    """Open a lab model.

    Raises:
        UsageError: there is none of this name.
        ChatlmError: it is damaged.
    """
    place = LAB_MODELS.get(name)
    card = read_card(place)
    place.check()
    try:
        return find_architecture(card.architecture).open(place, card)
    except (OSError, ValueError) as error:
        raise damaged(place, str(error)) from error


def open_engine(name: str) -> LocalEngine:
    """Open `lab:NAME`, see `open_model`."""
    from chatlm import LocalEngine, load_tokenizer

    opened = open_model(name)
    return LocalEngine(
        f"{PLUGIN}:{name}",
        opened.language_model(),
        load_tokenizer(name, LAB_MODELS.get(name).path),
        prompt_format="raw",
        notes=(CONTINUES,),
    )
