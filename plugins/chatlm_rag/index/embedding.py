"""Find or download an embedding model, and embed texts and queries with it.

sentence-transformers reads how a model pools, truncates and prompts from the model's own files. The
catalogue adds prompts that only a model's card names. Its import takes seconds, so it is imported
when the first text is embedded.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, cast

from chatlm import (
    ChatlmError,
    ModelLocation,
    ProgressReporter,
    UsageError,
    embedder_facts,
    ensure_model,
    find_model,
    fingerprint_weights,
)
from chatlm_rag.documents.document import replace_surrogates
from chatlm_rag.json_fields import get_int, get_str

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from sentence_transformers import SentenceTransformer


DEFAULT_EMBEDDER = "all-minilm-l6-v2"


@dataclass(frozen=True)
class EmbedderRecord:
    """The embedder of an index, as stored in its manifest."""

    name: str
    """Name of the model in chatlm's catalogue."""
    fingerprint: str
    """Hash of its weights."""
    query_prompt: str = ""
    """Text before each query; empty for that of the model's files, if any."""
    passage_prompt: str = ""
    """Text before each passage; empty for that of the model's files, if any."""
    cut_to: int = 0
    """Size to which its vectors are cut (Matryoshka); 0 for the whole."""

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values."""
        return {
            "name": self.name,
            "fingerprint": self.fingerprint,
            "query_prompt": self.query_prompt,
            "passage_prompt": self.passage_prompt,
            "cut_to": self.cut_to,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EmbedderRecord:
        """Read the result of `to_dict`.

        Raises:
            KeyError, TypeError: a value is missing or has the wrong type.
        """
        return cls(
            name=get_str(values, "name"),
            fingerprint=get_str(values, "fingerprint"),
            query_prompt=get_str(values, "query_prompt", ""),
            passage_prompt=get_str(values, "passage_prompt", ""),
            cut_to=get_int(values, "cut_to", 0),
        )


@dataclass(frozen=True)
class LocalEmbedder:
    """An embedder on this machine."""

    folder: Path
    record: EmbedderRecord

    @property
    def tokenizer(self) -> Path:
        """The path of its `tokenizer.json`.

        Raises:
            ChatlmError: there is none.
        """
        path = self.folder / "tokenizer.json"
        if not path.is_file():
            raise ChatlmError(
                f"The embedder in {self.folder} has no tokenizer.json.",
                hint=f"Use another one, such as {DEFAULT_EMBEDDER}.",
            )
        return path

    @property
    def token_limit(self) -> int | None:
        """Tokens of a text that it reads, with special tokens and prompt; None for no limit."""
        for file, key in (
            ("sentence_bert_config.json", "max_seq_length"),
            ("config.json", "max_position_embeddings"),
        ):
            limit = _read_json(self.folder / file).get(key)
            if isinstance(limit, int) and limit > 0:
                return limit
        return None


def _read_json(path: Path) -> Mapping[str, Any]:
    """Return the object in a file; empty if there is none."""
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def fetch_embedder(name: str, work: ProgressReporter, cut_to: int = 0) -> LocalEmbedder:
    """Find an embedder, and download it if it is missing; also the one that the reader is based on.

    Args:
        name: of the catalogue, of the hub or a folder.
        work: receives the progress of the download; may cancel.
        cut_to: size to which its vectors are cut; 0 for the whole.

    Raises:
        UsageError: its vectors cannot be cut to that size.
        ChatlmError: it is unknown, cannot be downloaded, or the user stopped it.
    """
    _check_cut(name, cut_to)

    if name != DEFAULT_EMBEDDER:
        _fetch(DEFAULT_EMBEDDER, work)  # which reads what the search finds
    return _local_embedder(_fetch(name, work), cut_to)


def _fetch(name: str, work: ProgressReporter) -> ModelLocation:
    def report(stage: str, done: int, total: int | None) -> None:
        work.update(done, total, f"downloading the embedder {name} ({stage})")

    _being_fetched.append(name)
    try:
        return ensure_model(name, report, lambda: work.cancelled)
    finally:
        _being_fetched.remove(name)


def is_being_fetched() -> bool:
    """Return whether an embedder is being downloaded."""
    return bool(_being_fetched)


_being_fetched: list[str] = []
"""Names of the embedders that are being downloaded, in any thread."""


def find_embedder(name: str) -> LocalEmbedder:
    """Find an embedder on this machine.

    Raises:
        ChatlmError: it is missing; the hint has the command that downloads it.
    """
    return _local_embedder(find_model(name))


def find_index_embedder(index_name: str, record: EmbedderRecord) -> LocalEmbedder:
    """Find the embedder of an index, and check that its weights are the same.

    Args:
        index_name: the index.
        record: its embedder.

    Raises:
        ChatlmError: it is missing, or the model of that name has other weights.
    """
    embedder = find_embedder(record.name)
    if embedder.record.fingerprint != record.fingerprint:
        raise ChatlmError(
            f"The index {index_name} was built with other weights of {record.name} than the "
            "installed ones.",
            hint=f"Rebuild it: chatlm rag update {index_name} --rebuild",
        )
    return replace(embedder, record=record)


def _check_cut(name: str, cut_to: int) -> None:
    """Check that an embedder of the catalogue may be cut to a size.

    Raises:
        UsageError: its card does not name that size.
    """
    facts = embedder_facts(name)
    if not cut_to or facts is None or cut_to in facts.shorter:
        return
    sizes = ", ".join(map(str, facts.shorter))
    raise UsageError(
        f"The vectors of {name} cannot be cut to {cut_to} numbers.",
        hint=f"They can be cut to {sizes}." if sizes else "It has one size only.",
    )


def _local_embedder(location: ModelLocation, cut_to: int = 0) -> LocalEmbedder:
    if location.kind != "embedder":
        raise UsageError(
            f"{location.name} is a {location.kind} model, not an embedder.",
            hint="List the embedders: chatlm models list",
        )
    facts = embedder_facts(location.name)
    return LocalEmbedder(
        location.folder,
        EmbedderRecord(
            location.name,
            fingerprint_weights(location.folder),
            facts.query_prompt if facts else "",
            facts.passage_prompt if facts else "",
            cut_to,
        ),
    )


ProgressCallback = Callable[[int, int], None]
"""Called with the number of texts done and the total; an exception from it stops the work."""


BATCH_SIZE = 16
"""Texts per forward pass; larger batches are slower on a CPU."""


class Embedder:
    """An embedding model. Thread-safe: calls run one at a time.

    It is loaded on first use; each method raises `ChatlmError` if that fails.

    Args:
        folder: a sentence-transformers or model2vec model with safetensors weights. The name of
            the folder is the name of the embedder.
        record: the prompts and the size of the vectors; None for those of the model's files.
    """

    def __init__(self, folder: Path, record: EmbedderRecord | None = None) -> None:
        self.name = folder.name
        self._folder = folder
        self._record = record or EmbedderRecord(folder.name, "")
        self._lock = Lock()
        self._loaded: SentenceTransformer | None = None

    @property
    def dimension(self) -> int:
        """Size of its vectors."""
        with self._model() as model:
            return cast(int, model.get_embedding_dimension())

    def embed(
        self, texts: Sequence[str], *, progress: ProgressCallback | None = None
    ) -> NDArray[np.float32]:
        """Embed document texts.

        Text beyond the model's limit is truncated. Texts of similar length share a batch, so that
        there is little padding. A CPU with bfloat16 instructions uses them, which halves the time;
        the cosine with the exact vector stays above 0.999.

        Args:
            texts: in any order.
            progress: called after each batch.

        Returns:
            Unit vectors, `(len(texts), dimension)`.
        """
        import numpy as np

        vectors = np.empty((len(texts), self.dimension), dtype=np.float32)
        longest_first = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
        for start in range(0, len(texts), BATCH_SIZE):
            batch = longest_first[start : start + BATCH_SIZE]
            with self._model() as model, autocast(model.device.type):
                vectors[batch] = model.encode_document(
                    [replace_surrogates(texts[index]) for index in batch],
                    batch_size=BATCH_SIZE,
                    normalize_embeddings=True,
                    show_progress_bar=False,
                )
            if progress:
                progress(start + len(batch), len(texts))
        return vectors

    def embed_query(self, text: str) -> NDArray[np.float32]:
        """Embed a query as a unit vector, `(dimension,)`."""
        with self._model() as model:
            return model.encode_query(
                replace_surrogates(text), normalize_embeddings=True, show_progress_bar=False
            )

    @contextmanager
    def _model(self) -> Iterator[SentenceTransformer]:
        with self._lock:
            if self._loaded is None:
                self._loaded = _load(self._folder, self._record)
            yield self._loaded


def autocast(device: str) -> AbstractContextManager[object]:
    """Return a context in which a processor with bfloat16 instructions uses them.

    Args:
        device: type of torch device; nothing changes on others than `cpu`.
    """
    import torch

    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported", "_is_arm_bf16_supported")
    fast = any(getattr(torch.cpu, check, bool)() for check in checks)
    if device == "cpu" and fast:
        return torch.autocast("cpu", dtype=torch.bfloat16)
    return nullcontext()


@contextmanager
def load_quietly(message: str, hint: str) -> Iterator[None]:
    """Load a model without the progress bars of transformers, and translate errors.

    Args:
        message: the error message, without the reason.
        hint: its hint.

    Raises:
        ChatlmError: loading fails.
    """
    from transformers.utils import logging

    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    except Exception as error:  # transformers raises many types
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ChatlmError(f"{message}: {reason}", hint=hint) from error
    finally:
        if was_enabled:
            logging.enable_progress_bar()


def _load(folder: Path, record: EmbedderRecord) -> SentenceTransformer:
    is_static = _read_json(folder / "config.json").get("model_type") == "model2vec"
    if not (is_static or (folder / "modules.json").is_file()):
        raise ChatlmError(
            f"The model in {folder} is not an embedder.",
            hint="An embedder's folder has a modules.json. List the models: chatlm models list",
        )
    with load_quietly(
        f"The embedder in {folder} cannot be loaded",
        f"Check it: chatlm models verify {folder.name}",
    ):
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import StaticEmbedding

        if is_static:
            table = StaticEmbedding.load(str(folder), local_files_only=True)
            model = SentenceTransformer(modules=[table], device="cpu")
        else:
            model = SentenceTransformer(
                str(folder),
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"use_safetensors": True},
            )
    prompts = {"query": record.query_prompt, "document": record.passage_prompt}
    model.prompts |= {name: prompt for name, prompt in prompts.items() if prompt}
    size = model.get_embedding_dimension() or 0
    if record.cut_to > size:
        raise UsageError(
            f"The vectors of {record.name} have {size} numbers and cannot be cut to "
            f"{record.cut_to}."
        )
    model.truncate_dim = record.cut_to or model.truncate_dim
    return model
