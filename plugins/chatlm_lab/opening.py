"""Open lab models: as an engine to chat with, or as probabilities to evaluate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tokenizers import Tokenizer

from chatlm import Artifact
from chatlm_lab import PLUGIN
from chatlm_lab.counts import NgramCounts, load_counts
from chatlm_lab.models import COUNTS_FILE, LAB_MODELS, LabCard, damaged, read_card
from chatlm_lab.smoothing import make_smoothing
from chatlm_lab.tokenizer_kinds import load_tokenizer

if TYPE_CHECKING:
    from chatlm import LocalEngine

CONTINUES = "It continues your text; it was not taught to answer."
"""Note on models that were trained on text alone."""


@dataclass(frozen=True)
class OpenedModel:
    """A count-based model, mapped into memory."""

    card: LabCard
    counts: NgramCounts
    tokenizer: Tokenizer


def open_model(name: str) -> OpenedModel:
    """Map a lab model into memory.

    Raises:
        UsageError: there is none of this name.
        ChatlmError: it is damaged.
    """
    place = LAB_MODELS.get(name)
    card = read_card(place)
    place.check()
    try:
        counts = load_counts(place.path / COUNTS_FILE)
        tokenizer = load_tokenizer(place.path)
    except (OSError, ValueError) as error:
        raise damaged(place, str(error)) from error
    if not card.vocabulary == counts.vocabulary == tokenizer.get_vocab_size():
        raise damaged(place, "its counts, tokenizer and card have different vocabularies")
    return OpenedModel(card, counts, tokenizer)


def open_engine(name: str) -> LocalEngine:
    """Open `lab:NAME`, see `open_model`."""
    from chatlm import LocalEngine
    from chatlm import load_tokenizer as load_chat_tokenizer
    from chatlm_lab.ngram_model import NgramModel

    opened = open_model(name)
    place: Artifact = LAB_MODELS.get(name)
    smoothing = make_smoothing(opened.card.smoothing, opened.counts)
    return LocalEngine(
        f"{PLUGIN}:{name}",
        NgramModel(smoothing, opened.tokenizer),
        load_chat_tokenizer(name, place.path),
        prompt_format="raw",
        notes=(CONTINUES,),
    )
