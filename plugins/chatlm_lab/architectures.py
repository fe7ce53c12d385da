"""What every architecture of lab models provides: a recipe, a training, and a model to open.

`ARCHITECTURES` names them. A new one is a subclass of `Architecture` and a line there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from chatlm import UsageError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from chatlm import Artifact, Model
    from chatlm_lab.models import LabCard
    from chatlm_lab.tokenizer_kinds import Ids, TokenizerKind

ARCHITECTURES = {
    "ngram": "chatlm_lab.ngram_architecture:NgramArchitecture",
    "rnn": "chatlm_lab.network_architecture:RecurrentArchitecture",
    "gru": "chatlm_lab.network_architecture:RecurrentArchitecture",
    "lstm": "chatlm_lab.network_architecture:RecurrentArchitecture",
    "minlstm": "chatlm_lab.network_architecture:RecurrentArchitecture",
    "decoder": "chatlm_lab.network_architecture:DecoderArchitecture",
    "llama": "chatlm_lab.network_architecture:LlamaArchitecture",
}
"""Architectures by name, each the class that provides it; it is imported when it is used."""


@dataclass(frozen=True)
class LabRecipe:
    """How a model is trained; each architecture adds its own settings."""

    tokenizer: TokenizerKind = "bpe"
    vocabulary: int = 4096
    """Limit of the vocabulary's size."""
    held_out: float = 0.1
    """Share of the characters that is held out."""

    def __post_init__(self) -> None:
        if not 0 <= self.held_out <= 0.5:
            raise UsageError(f"--held-out must be 0 to 0.5, not {self.held_out:g}.")
        if not self.vocabulary < 1 << 20:
            raise UsageError(f"--vocabulary must be below {1 << 20:,}, not {self.vocabulary:,}.")

    def to_dict(self) -> dict[str, Any]:
        """Return the values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class TrainingJob:
    """One model to train."""

    name: str
    paths: tuple[Path, ...]
    """Files and folders with text, see `read_corpus`."""
    command: str = ""
    """For the card."""
    licence: str = ""
    """Of the data, for the card."""
    options: Mapping[str, Any] | None = None
    """Stored with a run that may be stopped, see `TrainingRuns.options`."""
    restart: bool = False
    """Discard a run that was stopped."""
    finish: bool = False
    """Save the best weights of a run that was stopped, instead of training."""


class Predictor(Protocol):
    """Probabilities of the tokens of a text."""

    def log_probabilities(self, ids: Ids) -> Any:
        """Return the logarithm of the probability of each token after those before it: (tokens,).

        The first token has none before it; its value has no meaning.
        """
        ...

    def mean_sum(self, ids: Ids, places: Sequence[int]) -> float:
        """Return what the probabilities of all tokens sum to, on average over some places."""
        ...


class OpenedModel(ABC):
    """A lab model that is open.

    Args:
        card: of the model.
        tokenizer: of the model.
    """

    def __init__(self, card: LabCard, tokenizer: Tokenizer) -> None:
        self.card, self.tokenizer = card, tokenizer

    @abstractmethod
    def predictor(self, options: Mapping[str, Any]) -> Predictor:
        """Return what the model is evaluated by.

        Args:
            options: of the evaluation, such as the smoothing of n-grams.

        Raises:
            UsageError: the model has no such options.
        """

    @abstractmethod
    def language_model(self) -> Model:
        """Return the model as chatlm's engine runs it."""


class Architecture(ABC):
    """A kind of model that can be trained.

    Args:
        name: its key in `ARCHITECTURES`.
    """

    recipe_type: ClassVar[type[LabRecipe]]

    def __init__(self, name: str) -> None:
        self.name = name

    def make_recipe(self, options: Mapping[str, Any]) -> LabRecipe:
        """Return the recipe for options of the command line that were given.

        Raises:
            UsageError: the architecture has no such option, or a value is out of its range.
        """
        known = {field.name for field in fields(self.recipe_type)}
        for option in options:
            if option not in known:
                others = [
                    name
                    for name in ARCHITECTURES
                    if option in {each.name for each in fields(find_architecture(name).recipe_type)}
                ]
                raise UsageError(
                    f"--{option.replace('_', '-')} has no meaning for --arch {self.name}.",
                    hint=f"It is for --arch {', '.join(others)}."
                    if others
                    else "Another version of chatlm may know it.",
                )
        return self.recipe_type(**options)

    @abstractmethod
    def train(self, job: TrainingJob, recipe: Any) -> LabCard:
        """Train a model and save it; progress is shown on stderr, and Ctrl-C stops.

        Args:
            job: what to train, and on what.
            recipe: how, from `make_recipe`.

        Raises:
            UsageError: the name, the recipe or the data cannot be used.
            TrainingStopped: Ctrl-C was pressed.
            ChatlmError: there is too little memory, or the disk is full.
        """

    @abstractmethod
    def open(self, place: Artifact, card: LabCard) -> OpenedModel:
        """Open a model, whose files were checked.

        Raises:
            OSError, ValueError: a file cannot be read, or does not fit the card.
        """

    @abstractmethod
    def summary(self, card: LabCard) -> str:
        """Return what was trained, and at what cost, as one line."""


def find_architecture(name: str) -> Architecture:
    """Return the architecture of a name in `ARCHITECTURES`.

    Raises:
        ValueError: there is none of this name.
    """
    if name not in ARCHITECTURES:
        raise ValueError(f"its architecture {name!r} is not known to this version")
    module, _, attribute = ARCHITECTURES[name].partition(":")
    found: Architecture = getattr(import_module(module), attribute)(name)
    return found
