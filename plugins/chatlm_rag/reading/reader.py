"""Read passages: score each of their statements as the answer to a question.

The reader is the default embedder with LoRA matrices and two heads that were trained on questions
and answers; `reader/README.md` says on which. It works with any index, whatever its embedder.
"""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from chatlm import ChatlmError, find_model, fingerprint_weights
from chatlm_rag.documents.document import replace_surrogates
from chatlm_rag.index.embedding import DEFAULT_EMBEDDER, autocast, load_quietly
from chatlm_rag.reading.statements import statements

if TYPE_CHECKING:
    from chatlm_rag.reading.network import ReaderNetwork
    from chatlm_rag.reading.windows import Window, WindowLayout

FOLDER = Path(__file__).parent / "reader"
"""The trained weights and their card."""

WEIGHTS_FILE, CARD_FILE = "weights.safetensors", "card.json"

BATCH_SIZE = 8
"""Windows per forward pass."""

_PAGE = re.compile(r"page \d+.*|OCR .*")

_MAX_CACHED = 256
"""Passages whose scores are kept."""


@dataclass(frozen=True)
class Reading:
    """The statements of a passage, and how well each answers a question."""

    statements: tuple[str, ...]
    scores: tuple[float, ...]
    """For each statement the log-odds that it answers, rather than none near it."""

    @property
    def best(self) -> float:
        """The best score; minus infinity without statements."""
        return max(self.scores, default=float("-inf"))


def reading_title(place: str) -> str:
    """Return the title of a passage for the reader: the headings above it, but not a page."""
    return "" if _PAGE.fullmatch(place) else place.replace(" > ", " ")


class Reader:
    """Scores statements; thread-safe. It is loaded on first use.

    Args:
        encoder: folder of the embedder that it was trained with.
        weights: folder of the trained weights and their card.
    """

    def __init__(self, encoder: Path, weights: Path = FOLDER) -> None:
        self._encoder = encoder
        self._weights = weights
        self._lock = Lock()
        self._loaded: tuple[ReaderNetwork, WindowLayout] | None = None
        self._cache: OrderedDict[tuple[str, str, str], Reading] = OrderedDict()

    def read(self, question: str, passages: Sequence[tuple[str, str]]) -> list[Reading]:
        """Read passages; recent results are cached.

        Args:
            question: to answer.
            passages: the title and the text of each.

        Raises:
            ChatlmError: the encoder or the weights cannot be used.
        """
        with self._lock:
            if self._loaded is None:
                self._loaded = _load(self._encoder, self._weights)
            keys = [(question, title, text) for title, text in passages]
            new = [key for key in dict.fromkeys(keys) if key not in self._cache]
            for key, reading in zip(new, self._read(*self._loaded, new), strict=True):
                self._cache[key] = reading
            result = [self._cache[key] for key in keys]
            while len(self._cache) > _MAX_CACHED:
                self._cache.popitem(last=False)
        return result

    def _read(
        self, network: ReaderNetwork, layout: WindowLayout, keys: Sequence[tuple[str, str, str]]
    ) -> list[Reading]:
        """Read passages that are not cached."""
        parts = [tuple(statements(replace_surrogates(text))) for _, _, text in keys]
        windows: list[tuple[int, Window]] = [
            (number, window)
            for number, ((question, title, _), found) in enumerate(zip(keys, parts, strict=True))
            for window in layout.windows(
                replace_surrogates(question), replace_surrogates(title), found
            )
        ]
        scores = [[float("-inf")] * len(found) for found in parts]
        windows.sort(key=lambda item: len(item[1].ids))
        for start in range(0, len(windows), BATCH_SIZE):
            batch = windows[start : start + BATCH_SIZE]
            for (number, window), row in zip(
                batch, _margins(network, [each for _, each in batch]), strict=True
            ):
                for (statement, _, _), score in zip(window.spans, row, strict=False):
                    scores[number][statement] = max(scores[number][statement], score)
        return [Reading(*pair) for pair in zip(parts, map(tuple, scores), strict=True)]


def shared_reader() -> Reader:
    """Return the reader that all indices share.

    Raises:
        ChatlmError: the default embedder, on which it is based, is not on this machine.
    """
    return _reader_of(find_model(DEFAULT_EMBEDDER).folder)


@cache
def _reader_of(encoder: Path) -> Reader:
    return Reader(encoder)


def _margins(network: ReaderNetwork, windows: Sequence[Window]) -> list[list[float]]:
    """Return for each statement of each window its score minus that of "none"."""
    import torch

    from chatlm_rag.reading.network import Batch

    with torch.inference_mode(), autocast("cpu"):
        scores = network(Batch(windows)).float()
    rows: list[list[float]] = (scores[:, 1:] - scores[:, :1]).tolist()
    return rows


def _load(encoder: Path, folder: Path) -> tuple[ReaderNetwork, WindowLayout]:
    from safetensors.torch import load_file
    from tokenizers import Tokenizer
    from transformers import BertModel

    from chatlm_rag.reading.network import ReaderNetwork
    from chatlm_rag.reading.windows import WindowLayout

    card: dict[str, Any] = json.loads((folder / CARD_FILE).read_bytes())
    if fingerprint_weights(encoder) != card["fingerprint"]:
        raise ChatlmError(
            f"The reader of documents was trained with other weights of {card['base']} than the "
            "installed ones.",
            hint=f"Install those: chatlm models remove {card['base']}, then chatlm models pull "
            f"{card['base']}",
        )
    with load_quietly(
        f"The reader of documents cannot be loaded from {encoder}",
        f"Check it: chatlm models verify {encoder.name}",
    ):
        network = ReaderNetwork(
            BertModel.from_pretrained(encoder, use_safetensors=True, local_files_only=True),
            card["hidden_size"],
        )
        merge(network, load_file(folder / WEIGHTS_FILE), card["lora_scale"])
        layout = WindowLayout(Tokenizer.from_file(str(encoder / "tokenizer.json")))
    return network.eval(), layout


def merge(network: ReaderNetwork, trained: dict[str, Any], lora_scale: float) -> None:
    """Add LoRA matrices to the encoder's weights, and set the heads.

    Args:
        network: with the encoder as it was before training.
        trained: tensors by name: `encoder.….lora_A` and `lora_B`, `answer.…` and `none.…`.
        lora_scale: scale of the product of the matrices.
    """
    import torch

    with torch.no_grad():
        for name, value in trained.items():
            if name.endswith(".lora_A"):
                layer = name.removesuffix(".lora_A")
                change = trained[f"{layer}.lora_B"].float() @ value.float()
                network.encoder.get_submodule(layer).weight += lora_scale * change
            elif not name.endswith(".lora_B"):
                network.get_parameter(name).copy_(value)
