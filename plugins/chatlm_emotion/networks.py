"""The three ways a network tells labels apart, each a base model with LoRA; imports torch.

- generate: the chat model writes the label after the text (the book's 5.3.2 and 5.5.2).
- head: a linear layer on the chat model's last position (5.6).
- encoder: a linear layer on the mean of an embedder's positions.
"""

from __future__ import annotations

import string
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

from chatlm import ModelLocation, UsageError, load_pretrained
from chatlm_emotion.recipe import Recipe

Batch = tuple[Tensor, Tensor]
"""Token ids and mask, each `(texts, tokens)`; the mask is 0 at padding."""


class Network(nn.Module, ABC):
    """A base model with LoRA on its linear layers.

    Args:
        base: the model it adapts.
        labels: what it tells apart.
        recipe: rank, dropout and length.
        dtype: the base's number format; what is trained always is float32.
    """

    def __init__(
        self, base: ModelLocation, labels: Sequence[str], recipe: Recipe, dtype: str
    ) -> None:
        super().__init__()
        self.labels = tuple(labels)
        self.max_tokens = recipe.longest
        self.tokenizer = Tokenizer.from_file(str(base.folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        # what a person writes never is a control token
        self.tokenizer.encode_special_tokens = True
        settings = LoraConfig(
            r=recipe.rank,
            lora_alpha=2 * recipe.rank,
            lora_dropout=recipe.lora_dropout,
            target_modules=self.target_modules,
        )
        model = self._load_base(base, dtype)
        # with the fused attention, whose way back is slow on a CPU, a step takes a fifth longer
        model.set_attn_implementation("eager")
        with warnings.catch_warnings():  # of old names that peft asks transformers for
            warnings.simplefilter("ignore")
            self.adapted: Any = get_peft_model(model, settings)

    target_modules: str | list[str] = "all-linear"

    @abstractmethod
    def _load_base(self, base: ModelLocation, dtype: str) -> Any: ...

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The token ids of each text, without padding."""

    @abstractmethod
    def logits(self, batch: Batch) -> Tensor:
        """Logits of the labels, `(texts, labels)`; float32."""

    @abstractmethod
    def loss(self, batch: Batch, targets: Tensor) -> Tensor:
        """The mean loss of texts.

        Args:
            batch: the texts.
            targets: how much each label holds, `(texts, labels)`; each row sums to 1.
        """

    @abstractmethod
    def pad_batch(self, ids: Sequence[Sequence[int]]) -> Batch:
        """Texts as one batch."""

    def trainable_parameters(self) -> dict[str, Tensor]:
        """What training changes, by name, as it is now."""
        return {name: value for name, value in self.named_parameters() if value.requires_grad}


class HeadNetwork(Network):
    """A linear layer on the chat model's last position."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        width = self.adapted.get_input_embeddings().weight.shape[1]
        self.drop = nn.Dropout(args[2].dropout)
        self.head = nn.Linear(width, len(self.labels))

    def _load_base(self, base: ModelLocation, dtype: str) -> Any:
        return _without_lm_head(load_pretrained(base, device="cpu", dtype=dtype))

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """See `Network`."""
        return [each[: self.max_tokens] or [0] for each in _tokenize(self.tokenizer, texts)]

    def pad_batch(self, ids: Sequence[Sequence[int]]) -> Batch:
        """See `Network`; the padding stands left, so that the last position is each text's end."""
        return _pad_batch(ids, pad_left=True)

    def logits(self, batch: Batch) -> Tensor:
        """See `Network`."""
        scores: Tensor = self.head(self.drop(self._pool(batch)))
        return scores.float()

    def loss(self, batch: Batch, targets: Tensor) -> Tensor:
        """See `Network`."""
        return functional.cross_entropy(self.logits(batch), targets)

    def _pool(self, batch: Batch) -> Tensor:
        ids, mask = batch
        states: Tensor = self.adapted(input_ids=ids, attention_mask=mask).last_hidden_state
        return states[:, -1]


class EncoderNetwork(HeadNetwork):
    """A linear layer on the mean of an embedder's positions."""

    target_modules = ["query", "key", "value", "dense"]  # noqa: RUF012  # as peft wants it

    def _load_base(self, base: ModelLocation, dtype: str) -> Any:
        from transformers import AutoModel

        with _quiet_transformers():
            # the pooling layer of BERT's own, unused here, would be adapted with the others
            return AutoModel.from_pretrained(
                base.folder, dtype=getattr(torch, dtype), add_pooling_layer=False
            )

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """See `Network`."""
        begin, end = (int(self.tokenizer.token_to_id(name) or 0) for name in ("[CLS]", "[SEP]"))
        cut = self.max_tokens - 2
        return [[begin, *each[:cut], end] for each in _tokenize(self.tokenizer, texts)]

    def pad_batch(self, ids: Sequence[Sequence[int]]) -> Batch:
        """See `Network`."""
        return _pad_batch(ids, pad_left=False)

    def _pool(self, batch: Batch) -> Tensor:
        ids, mask = batch
        states: Tensor = self.adapted(input_ids=ids, attention_mask=mask).last_hidden_state
        weights = mask.unsqueeze(-1).to(states.dtype)
        return (states * weights).sum(1) / weights.sum(1)


class GenerateNetwork(Network):
    """The chat model writes the label after the text."""

    QUESTION = "\nLabel:"

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._question_ids = self._encode_text(self.QUESTION)
        self.label_ids = _encode_labels(self.labels, self._encode_text)
        self._first_label_ids = [answer[0] for answer in self.label_ids]

    def _load_base(self, base: ModelLocation, dtype: str) -> Any:
        model = load_pretrained(base, device="cpu", dtype=dtype)
        self._lm_head = model.get_output_embeddings().requires_grad_(False)
        return _without_lm_head(model)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """See `Network`; the question to the label follows each text."""
        return [
            [*each[: self.max_tokens], *self._question_ids]
            for each in _tokenize(self.tokenizer, texts)
        ]

    def pad_batch(self, ids: Sequence[Sequence[int]]) -> Batch:
        """See `Network`; the padding stands left, so that all answers begin at one position."""
        return _pad_batch(ids, pad_left=True)

    def logits(self, batch: Batch) -> Tensor:
        """See `Network`: how likely the first token of each label is, which decides all others."""
        return self._vocabulary_logits(batch, 1)[:, 0, self._first_label_ids]

    def loss(self, batch: Batch, targets: Tensor) -> Tensor:
        """See `Network`: the mean loss of the label's tokens, among all tokens there are."""
        (ids, mask), best = batch, targets.argmax(1)
        longest = max(map(len, self.label_ids))
        answers = torch.full((len(ids), longest), -100)
        for row, label in enumerate(best.tolist()):
            answer = torch.tensor(self.label_ids[label])
            answers[row, : len(answer)] = answer
        said = answers[:, : longest - 1]  # the last token answers nothing
        ids = torch.cat([ids, said.clamp(min=0)], 1)
        mask = torch.cat([mask, (said >= 0).to(mask.dtype)], 1)
        logits = self._vocabulary_logits((ids, mask), longest)
        return functional.cross_entropy(logits.flatten(0, 1), answers.flatten())

    def _vocabulary_logits(self, batch: Batch, count: int) -> Tensor:
        """What may follow each of the last positions, `(texts, count, vocabulary)`; float32."""
        ids, mask = batch
        states: Tensor = self.adapted(input_ids=ids, attention_mask=mask).last_hidden_state
        # one flat matrix: for a part of each text torch would copy the layer's weights
        flat = states[:, -count:].reshape(len(ids) * count, -1)
        logits: Tensor = self._lm_head(flat)
        return logits.float().reshape(len(ids), count, -1)

    def _encode_text(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids


NETWORKS: dict[str, type[Network]] = {
    "generate": GenerateNetwork,
    "head": HeadNetwork,
    "encoder": EncoderNetwork,
}


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """No bars and reports of transformers in the middle of a screen."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _encode_labels(labels: Sequence[str], encode_text: Any) -> list[list[int]]:
    """The tokens of each label; their first ones differ.

    Labels that begin alike get a letter before them.
    """
    plain = [encode_text(f" {label}") for label in labels]
    if len({answer[0] for answer in plain}) == len(labels):
        return plain
    if len(labels) > len(string.ascii_letters):
        raise UsageError(
            f"{len(labels)} labels that begin alike are too many to be written.",
            hint="Train with --method head.",
        )
    pairs = zip(string.ascii_letters, labels, strict=False)
    return [encode_text(f" {letter}) {label}") for letter, label in pairs]


def _tokenize(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    clean = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]
    return [each.ids for each in tokenizer.encode_batch(clean, add_special_tokens=False)]


def _pad_batch(ids: Sequence[Sequence[int]], *, pad_left: bool) -> Batch:
    longest = max(map(len, ids))
    rows = torch.zeros(len(ids), longest, dtype=torch.long)
    mask = torch.zeros(len(ids), longest, dtype=torch.long)
    for row, each in enumerate(ids):
        at = slice(longest - len(each), None) if pad_left else slice(0, len(each))
        rows[row, at] = torch.tensor(each)
        mask[row, at] = 1
    return rows, mask


def _without_lm_head(model: Any) -> Any:
    """The layers below the one that tells the next token."""
    return model.get_decoder() if hasattr(model, "get_decoder") else model.base_model
