"""Embedding models: fetch, fingerprint, embed.

It knows no index and no file of the person. sentence-transformers takes seconds to import, so it
is imported when the first text is embedded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, cast

from chatlm import (
    ChatlmError,
    ModelLocation,
    ProgressReporter,
    UsageError,
    ensure_model,
    find_model,
    fingerprint_weights,
)
from chatlm_rag.json_fields import get_str

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from sentence_transformers import SentenceTransformer


DEFAULT_EMBEDDER = "all-minilm-l6-v2"


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
        return cls(
            name=get_str(values, "name"),
            fingerprint=get_str(values, "fingerprint"),
        )


@dataclass(frozen=True)
class LocalEmbedder:
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
                hint=f"Use another one, such as {DEFAULT_EMBEDDER}.",
            )
        return path


def fetch_embedder(name: str, work: ProgressReporter) -> LocalEmbedder:
    """The embedder, fetched first if it is not on this machine.

    Raises:
        ChatlmError: there is none, it cannot be fetched, or the person stopped it.
    """

    def tell(stage: str, done: int, total: int | None) -> None:
        work.update(done, total, f"fetching the embedder {name} ({stage})")

    return _local_embedder(ensure_model(name, tell, lambda: work.cancelled))


def find_embedder(name: str) -> LocalEmbedder:
    """The embedder, which has to be on this machine.

    Raises:
        ChatlmError: it is not; the message has the command that fetches it.
    """
    return _local_embedder(find_model(name))


def find_index_embedder(index_name: str, record: EmbedderRecord) -> LocalEmbedder:
    """The embedder an index was made with, for another text to be compared with its passages.

    Args:
        index_name: of the index.
        record: the embedder it was made with.

    Raises:
        ChatlmError: it is not here, or the one of that name is another now.
    """
    place = find_embedder(record.name)
    if place.record != record:
        raise ChatlmError(
            f"The index {index_name} was made with another {record.name} than the one "
            "that is here.",
            hint=f"Make it anew: chatlm rag update {index_name} --rebuild",
        )
    return place


def _local_embedder(location: ModelLocation) -> LocalEmbedder:
    if location.kind != "embedder":
        raise UsageError(
            f"{location.name} is a {location.kind} model, not an embedder.",
            hint="See the embedders: chatlm models list",
        )
    return LocalEmbedder(
        location.folder, EmbedderRecord(location.name, fingerprint_weights(location.folder))
    )


ProgressCallback = Callable[[int, int], None]
"""Called with how many texts are done and how many there are; what it raises ends the work."""


BATCH_SIZE = 16
"""Texts that go through the model at once; on a CPU larger batches are slower."""


class Embedder:
    """An embedding model; its methods may be called in any thread, one at a time runs.

    It is loaded when it is first needed; each method raises `ChatlmError` when that fails.

    Args:
        folder: a sentence-transformers folder with its weights as safetensors. Its name is the
            embedder's.
    """

    def __init__(self, folder: Path) -> None:
        self.name = folder.name
        self._folder = folder
        self._lock = Lock()
        self._loaded: SentenceTransformer | None = None

    @property
    def dimension(self) -> int:
        """The length of a vector."""
        with self._model() as model:
            return cast(int, model.get_embedding_dimension())

    def embed(
        self, texts: Sequence[str], *, progress: ProgressCallback | None = None
    ) -> NDArray[np.float32]:
        """The vectors of pieces of documents: `(len(texts), dimension)`, each row of length 1.

        A text longer than the model reads is cut. Texts of like length go through the model
        together, so that little of a batch is padding. A processor that has bfloat16 multiplies
        in it, which takes half the time; the cosine with the exact vector stays above 0.999.

        Args:
            texts: in any order.
            progress: told after each batch.
        """
        import numpy as np

        vectors = np.empty((len(texts), self.dimension), dtype=np.float32)
        longest_first = sorted(range(len(texts)), key=lambda which: -len(texts[which]))
        for begin in range(0, len(texts), BATCH_SIZE):
            batch = longest_first[begin : begin + BATCH_SIZE]
            with self._model() as model, _autocast(model):
                vectors[batch] = model.encode_document(
                    [replace_surrogates(texts[which]) for which in batch],
                    batch_size=BATCH_SIZE,
                    normalize_embeddings=True,
                    show_progress_bar=False,
                )
            if progress:
                progress(begin + len(batch), len(texts))
        return vectors

    def embed_query(self, text: str) -> NDArray[np.float32]:
        """The vector of a question: `(dimension,)`, of length 1."""
        with self._model() as model:
            return model.encode_query(
                replace_surrogates(text), normalize_embeddings=True, show_progress_bar=False
            )

    @contextmanager
    def _model(self) -> Iterator[SentenceTransformer]:
        with self._lock:
            if self._loaded is None:
                self._loaded = _load(self._folder)
            yield self._loaded


def _autocast(model: SentenceTransformer) -> AbstractContextManager[object]:
    import torch

    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported", "_is_arm_bf16_supported")
    fast = any(getattr(torch.cpu, check, bool)() for check in checks)
    if model.device.type == "cpu" and fast:
        return torch.autocast("cpu", dtype=torch.bfloat16)
    return nullcontext()


def replace_surrogates(text: str) -> str:
    """The text without lone surrogates, which no tokenizer takes."""
    return text.encode("utf-8", "replace").decode("utf-8")


@contextmanager
def load_quietly(message: str, hint: str) -> Iterator[None]:
    """Load a model without the bars that transformers draws.

    Args:
        message: the message if it fails, without the reason.
        hint: what to do then.

    Raises:
        ChatlmError: it fails.
    """
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    except Exception as error:  # transformers raises many kinds
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ChatlmError(f"{message}: {reason}", hint=hint) from error
    finally:
        if shown:
            logging.enable_progress_bar()


def _load(folder: Path) -> SentenceTransformer:
    if not (folder / "modules.json").is_file():
        raise ChatlmError(
            f"The model in {folder} is no embedder.",
            hint="An embedder's folder has a modules.json. See those there are: chatlm models list",
        )
    with load_quietly(
        f"The embedder in {folder} cannot be loaded",
        f"Check it: chatlm models verify {folder.name}",
    ):
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer(
            str(folder),
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True},
        )
