"""Train a count-based model: make a tokenizer, count n-grams, validate, save with a card."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from chatlm import ChatlmError, UsageError, human_bytes
from chatlm.plugin_kit.training import TrainingStopped
from chatlm_lab import counts as ngrams
from chatlm_lab.corpus import Corpus, read_corpus
from chatlm_lab.evaluation import Evaluation, evaluate
from chatlm_lab.models import COUNTS_FILE, LAB_MODELS, LabCard, write_card
from chatlm_lab.smoothing import SmoothingName, make_smoothing
from chatlm_lab.tokenizer_kinds import (
    TokenizerKind,
    encode_stream,
    save_tokenizer,
    train_tokenizer,
)

NOTHING_SAVED = "Nothing was saved; the same command starts again."

Report = Callable[[int, int, str], None]
"""`(done, total, activity)`: called as training proceeds."""


@dataclass(frozen=True)
class NgramRecipe:
    """How a count-based model is trained."""

    order: int = 5
    smoothing: SmoothingName = "kneser-ney"
    tokenizer: TokenizerKind = "bpe"
    vocabulary: int = 4096
    held_out: float = 0.1
    """Share of the characters that is held out."""

    def __post_init__(self) -> None:
        if not 1 <= self.order <= ngrams.MAX_ORDER:
            raise UsageError(f"--order must be 1 to {ngrams.MAX_ORDER}, not {self.order}.")
        if not 0 <= self.held_out <= 0.5:
            raise UsageError(f"--held-out must be 0 to 0.5, not {self.held_out:g}.")
        if not self.vocabulary < 1 << 20:
            raise UsageError(f"--vocabulary must be below {1 << 20:,}, not {self.vocabulary:,}.")


def train_ngram(
    name: str,
    paths: Sequence[Path],
    recipe: NgramRecipe,
    report: Report,
    should_stop: Callable[[], bool],
    *,
    command: str = "",
    licence: str = "",
) -> LabCard:
    """Train a count-based model and save it.

    Args:
        name: of the new model.
        paths: files and folders with text, see `read_corpus`.
        recipe: how to train.
        report: shows the progress.
        should_stop: whether to stop, asked between steps and batches of text.
        command: for the card.
        licence: of the data, for the card.

    Raises:
        UsageError: the name, the recipe or the data cannot be used.
        TrainingStopped: `should_stop` returned true.
        ChatlmError: there is too little memory, or the disk is full.
    """
    place = LAB_MODELS.new(name)

    def advance(done: int, total: int, activity: str) -> None:
        if should_stop():
            raise TrainingStopped("Stopped.", hint=NOTHING_SAVED)
        report(done, total, activity)

    seconds: dict[str, float] = {}

    @contextmanager
    def timed(step: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        seconds[f"{step}_seconds"] = round(time.perf_counter() - started, 3)

    advance(0, 0, "reading the data")
    corpus = read_corpus(paths, recipe.held_out)
    with timed("tokenizer"):
        advance(0, 0, "making the tokenizer")
        tokenizer = train_tokenizer(recipe.tokenizer, corpus.train, recipe.vocabulary)
    with timed("encoding"):
        ids = encode_stream(
            tokenizer,
            recipe.tokenizer,
            corpus.train,
            lambda done, total: advance(done, total, "encoding"),
        )
    vocabulary = tokenizer.get_vocab_size()
    _check_memory(len(ids))
    if len(ids) < recipe.order:
        raise UsageError(
            f"The data has {len(ids)} tokens, too few for n-grams of {recipe.order}.",
            hint="Add text.",
        )
    with timed("counting"):
        counts = ngrams.count_ngrams(
            ids, recipe.order, vocabulary, lambda level: advance(level, recipe.order, "counting")
        )
    found: Evaluation | None = None
    if corpus.held_out:
        with timed("validation"):
            advance(0, 0, "validating")
            smoothing = make_smoothing(recipe.smoothing, counts)
            found = evaluate(smoothing, tokenizer, recipe.tokenizer, corpus.held_out)
    advance(0, 0, "saving")
    with LAB_MODELS.create(place) as folder:
        save_tokenizer(tokenizer, folder)
        ngrams.save_counts(counts, folder / COUNTS_FILE)
        size = sum(each.stat().st_size for each in folder.iterdir())
        work = seconds["tokenizer_seconds"] + seconds["encoding_seconds"]
        work += seconds["counting_seconds"]
        card = LabCard(
            name=name,
            architecture="ngram",
            order=recipe.order,
            smoothing=recipe.smoothing,
            tokenizer=recipe.tokenizer,
            vocabulary=vocabulary,
            command=command,
            data=_describe_data(paths, corpus, len(ids)),
            ngrams=tuple(len(level.keys) for level in counts.levels),
            held_out=found.to_dict() if found else {},
            cost={
                **seconds,
                "megabytes_per_second": round(corpus.train_bytes / 1e6 / max(work, 1e-9), 2),
                "bytes": size,
            },
            licence=licence,
        )
        write_card(card, folder)
    return card


def _describe_data(paths: Sequence[Path], corpus: Corpus, tokens: int) -> dict[str, object]:
    return {
        "data": [path.name for path in paths],
        "files": corpus.files,
        "texts": len(corpus.train),
        "bytes": corpus.train_bytes,
        "tokens": tokens,
        "held_out_texts": len(corpus.held_out),
        "held_out_bytes": sum(len(text.encode()) for text in corpus.held_out),
    }


def _check_memory(tokens: int) -> None:
    """Refuse a text whose n-grams cannot be counted in the memory that is available."""
    import psutil

    needed, available = tokens * ngrams.BYTES_PER_TOKEN, int(psutil.virtual_memory().available)
    if needed > available:
        raise ChatlmError(
            f"Counting the n-grams of {tokens:,} tokens takes about {human_bytes(needed)} of "
            f"memory, and {human_bytes(available)} are available.",
            hint="Use less text, or a tokenizer with larger tokens: --tokenizer bpe",
        )
