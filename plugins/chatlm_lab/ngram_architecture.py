"""Count-based models (book, section 2.5): count n-grams, validate, save; open them again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from chatlm import Artifact, UsageError, human_bytes
from chatlm.plugin_kit.training import TrainingStopped, stop_on_interrupt
from chatlm_lab import counts as ngrams
from chatlm_lab.architectures import Architecture, LabRecipe, OpenedModel, TrainingJob
from chatlm_lab.evaluation import Evaluation, evaluate
from chatlm_lab.models import LAB_MODELS, LabCard, write_card
from chatlm_lab.smoothing import SMOOTHINGS, Smoothing, SmoothingName, make_smoothing, mean_sum
from chatlm_lab.tokenizer_kinds import Ids, load_tokenizer, save_tokenizer
from chatlm_lab.training import Report, Stopwatch, folder_bytes, prepare_data, require_memory

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from chatlm_lab.ngram_model import NgramModel

COUNTS_FILE = "counts.safetensors"

NOTHING_SAVED = "Nothing was saved; the same command starts again."

TITLES: dict[SmoothingName, str] = {
    "kneser-ney": "Kneser–Ney",
    "backoff": "back-off",
    "laplace": "Laplace",
}


@dataclass(frozen=True)
class NgramRecipe(LabRecipe):
    """How a count-based model is trained."""

    order: int = 5
    """Length of the longest n-grams."""
    smoothing: SmoothingName = "kneser-ney"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.order <= ngrams.MAX_ORDER:
            raise UsageError(f"--order must be 1 to {ngrams.MAX_ORDER}, not {self.order}.")


class NgramPredictor:
    """The probabilities that a smoothing gives.

    Args:
        smoothing: of the model's counts.
    """

    def __init__(self, smoothing: Smoothing) -> None:
        self._smoothing = smoothing

    def log_probabilities(self, ids: Ids) -> Any:
        """Return the logarithm of each token's probability: (tokens,)."""
        return np.log(self._smoothing.probabilities(ids))

    def mean_sum(self, ids: Ids, places: Sequence[int]) -> float:
        """Return what the probabilities of all tokens sum to, on average over some places."""
        return mean_sum(self._smoothing, ids, places)


class OpenedNgrams(OpenedModel):
    """A count-based model, mapped into memory.

    Args:
        card: of the model.
        tokenizer: of the model.
        counts: of its n-grams.
        recipe: it was trained by.
    """

    def __init__(
        self, card: LabCard, tokenizer: Tokenizer, counts: ngrams.NgramCounts, recipe: NgramRecipe
    ) -> None:
        super().__init__(card, tokenizer)
        self.counts, self.recipe = counts, recipe

    def predictor(self, options: Mapping[str, Any]) -> NgramPredictor:
        """Return what the model is evaluated by.

        Args:
            options: `smoothing` and `order`, by default the model's own.

        Raises:
            UsageError: there are no n-grams of this order.
        """
        order = options.get("order")
        if order is not None and not 1 <= order <= self.counts.order:
            raise UsageError(
                f"--order must be 1 to {self.counts.order} for {self.card.name}, not {order}."
            )
        smoothing = options.get("smoothing", self.recipe.smoothing)
        return NgramPredictor(make_smoothing(smoothing, self.counts, order))

    def language_model(self) -> NgramModel:
        """Return the model as chatlm's engine runs it."""
        from chatlm_lab.ngram_model import NgramModel

        return NgramModel(make_smoothing(self.recipe.smoothing, self.counts), self.tokenizer)


class NgramArchitecture(Architecture):
    """Counts of n-grams."""

    recipe_type = NgramRecipe

    def train(self, job: TrainingJob, recipe: NgramRecipe) -> LabCard:
        """Count n-grams, with a progress bar; see `Architecture.train`."""
        from chatlm.plugin_kit.progress import progress_bar

        with stop_on_interrupt(NOTHING_SAVED) as should_stop, progress_bar() as progress:
            return train_ngram(
                job,
                recipe,
                lambda done, total, activity: progress.update(done, total or None, activity),
                should_stop,
            )

    def open(self, place: Artifact, card: LabCard) -> OpenedNgrams:
        """Map the counts into memory; see `Architecture.open`."""
        try:
            recipe = NgramRecipe(order=card.settings["order"], smoothing=card.settings["smoothing"])
        except (KeyError, TypeError, UsageError) as error:
            raise ValueError("its card has no order or smoothing") from error
        if recipe.smoothing not in SMOOTHINGS:
            raise ValueError("its card has an unknown smoothing")
        counts = ngrams.load_counts(place.path / COUNTS_FILE)
        tokenizer = load_tokenizer(place.path)
        if not card.vocabulary == counts.vocabulary == tokenizer.get_vocab_size():
            raise ValueError("its counts, tokenizer and card have different vocabularies")
        return OpenedNgrams(card, tokenizer, counts, recipe)

    def summary(self, card: LabCard) -> str:
        """Return the number of tokens and n-grams, the size and the speed."""
        return (
            f"{card.data['tokens']:,} tokens, {sum(card.size['ngrams']):,} n-grams, "
            f"{human_bytes(card.cost['bytes'])}; {card.cost['megabytes_per_second']:g} MB/s"
        )


def train_ngram(
    job: TrainingJob, recipe: NgramRecipe, report: Report, should_stop: Callable[[], bool]
) -> LabCard:
    """Train a count-based model and save it.

    Args:
        job: what to train.
        recipe: how to train.
        report: shows the progress.
        should_stop: whether to stop, asked between steps and batches of text.

    Raises:
        UsageError: the name, the recipe or the data cannot be used.
        TrainingStopped: `should_stop` returned true.
        ChatlmError: there is too little memory, or the disk is full.
    """
    place = LAB_MODELS.new(job.name)

    def advance(done: int, total: int, activity: str) -> None:
        if should_stop():
            raise TrainingStopped("Stopped.", hint=NOTHING_SAVED)
        report(done, total, activity)

    watch = Stopwatch()
    data = prepare_data(job, recipe, advance, watch)
    ids, tokenizer = data.ids, data.tokenizer
    vocabulary = tokenizer.get_vocab_size()
    require_memory(
        len(ids) * ngrams.BYTES_PER_TOKEN,
        f"Counting the n-grams of {len(ids):,} tokens",
        "Use less text, or a tokenizer with larger tokens: --tokenizer bpe",
    )
    if len(ids) < recipe.order:
        raise UsageError(
            f"The data has {len(ids)} tokens, too few for n-grams of {recipe.order}.",
            hint="Add text.",
        )
    with watch.timed("counting"):
        counts = ngrams.count_ngrams(
            ids, recipe.order, vocabulary, lambda level: advance(level, recipe.order, "counting")
        )
    found: Evaluation | None = None
    if data.corpus.held_out:
        with watch.timed("validation"):
            advance(0, 0, "validating")
            predictor = NgramPredictor(make_smoothing(recipe.smoothing, counts))
            found = evaluate(predictor, tokenizer, recipe.tokenizer, data.corpus.held_out)
    advance(0, 0, "saving")
    with LAB_MODELS.create(place) as folder:
        save_tokenizer(tokenizer, folder)
        ngrams.save_counts(counts, folder / COUNTS_FILE)
        work = sum(
            watch.seconds[f"{step}_seconds"] for step in ("tokenizer", "encoding", "counting")
        )
        card = LabCard(
            name=job.name,
            architecture="ngram",
            description=f"{recipe.order}-gram, {TITLES[recipe.smoothing]}, "
            f"{vocabulary:,} tokens ({recipe.tokenizer})",
            tokenizer=recipe.tokenizer,
            vocabulary=vocabulary,
            settings=recipe.to_dict(),
            command=job.command,
            data=data.describe(job),
            size={"ngrams": [len(level.keys) for level in counts.levels]},
            held_out=found.to_dict() if found else {},
            cost={
                **watch.seconds,
                "megabytes_per_second": round(data.corpus.train_bytes / 1e6 / max(work, 1e-9), 2),
                "bytes": folder_bytes(folder),
            },
            licence=job.licence,
        )
        write_card(card, folder)
    return card
