"""What the trainings of all architectures begin with: texts, a tokenizer, ids."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from tokenizers import Tokenizer

from chatlm import ChatlmError, human_bytes
from chatlm_lab.architectures import LabRecipe, TrainingJob
from chatlm_lab.corpus import Corpus, read_corpus
from chatlm_lab.tokenizer_kinds import Ids, encode_stream, train_tokenizer

Report = Callable[[int, int, str], None]
"""`(done, total, activity)`: called as training proceeds; it may raise `TrainingStopped`."""


@dataclass
class Stopwatch:
    """Seconds of the steps of a training."""

    seconds: dict[str, float] = field(default_factory=dict)
    """By the name of the step, such as `encoding_seconds`."""

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Add the time of the block to a step."""
        started = time.perf_counter()
        yield
        key = f"{step}_seconds"
        taken = time.perf_counter() - started
        self.seconds[key] = round(self.seconds.get(key, 0.0) + taken, 3)


@dataclass(frozen=True)
class TrainingData:
    """Texts as a tokenizer has divided them."""

    corpus: Corpus
    tokenizer: Tokenizer
    ids: Ids
    """The texts to train on, see `encode_stream`."""

    @property
    def sha256(self) -> str:
        """Hash of all texts, those held out included."""
        digest = hashlib.sha256()
        for part in (self.corpus.train, self.corpus.held_out):
            for text in part:
                content = text.encode()
                digest.update(len(content).to_bytes(8, "little") + content)
            digest.update(b"\xff")
        return digest.hexdigest()

    def describe(self, job: TrainingJob) -> dict[str, Any]:
        """Return the data for the card."""
        return {
            "data": [path.name for path in job.paths],
            "files": self.corpus.files,
            "texts": len(self.corpus.train),
            "bytes": self.corpus.train_bytes,
            "tokens": len(self.ids),
            "held_out_texts": len(self.corpus.held_out),
            "held_out_bytes": sum(len(text.encode()) for text in self.corpus.held_out),
        }


def prepare_data(
    job: TrainingJob, recipe: LabRecipe, report: Report, stopwatch: Stopwatch
) -> TrainingData:
    """Read the texts, make a tokenizer and encode them.

    Raises:
        UsageError: the data or the size of the vocabulary cannot be used.
    """
    report(0, 0, "reading the data")
    corpus = read_corpus(job.paths, recipe.held_out)
    with stopwatch.timed("tokenizer"):
        report(0, 0, "making the tokenizer")
        tokenizer = train_tokenizer(recipe.tokenizer, corpus.train, recipe.vocabulary)
    with stopwatch.timed("encoding"):
        ids = encode_stream(
            tokenizer,
            recipe.tokenizer,
            corpus.train,
            lambda done, total: report(done, total, "encoding"),
        )
    return TrainingData(corpus, tokenizer, ids)


def require_memory(needed: int, purpose: str, hint: str) -> None:
    """Refuse what does not fit in the memory that is available.

    Args:
        needed: bytes, estimated.
        purpose: what takes them, as the subject of a sentence.
        hint: what takes less.

    Raises:
        ChatlmError: there is less.
    """
    available = int(psutil.virtual_memory().available)
    if needed > available:
        raise ChatlmError(
            f"{purpose} takes about {human_bytes(needed)} of memory, and "
            f"{human_bytes(available)} are available.",
            hint=hint,
        )


def folder_bytes(folder: Path) -> int:
    """Return the size of the files in a folder."""
    return sum(each.stat().st_size for each in folder.iterdir() if each.is_file())
