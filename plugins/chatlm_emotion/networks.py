"""Three LoRA classifiers.

- generate: the chat model generates the label after the text (Burkov 2025, 5.3.2 and 5.5.2).
- head: a linear layer on the chat model's last position (Burkov 2025, 5.6).
- encoder: a linear layer on an embedder's mean-pooled output.
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
"""Token ids and attention mask, each `(texts, tokens)`; the mask is 0 at padding."""


class Network(nn.Module, ABC):
    """A base model with LoRA on its linear layers.

    Args:
        base: the base model.
        labels: the labels.
        recipe: rank, dropout and maximum tokens.
        dtype: dtype of the base model; trained weights are always float32.
    """

    def __init__(
        self, base: ModelLocation, labels: Sequence[str], recipe: Recipe, dtype: str
    ) -> None:
        super().__init__()
        self.labels = tuple(labels)
        self.max_tokens = recipe.max_length
        self.tokenizer = Tokenizer.from_file(str(base.folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        # text of a message is never a control token
        self.tokenizer.encode_special_tokens = True
        settings = LoraConfig(
            r=recipe.rank,
            lora_alpha=2 * recipe.rank,
            lora_dropout=recipe.lora_dropout,
            target_modules=self.target_modules,
        )
        model = self._load_base(base, dtype)
        # the backward pass of fused attention is slow on a CPU: a step takes a fifth longer
        model.set_attn_implementation("eager")
        with warnings.catch_warnings():  # peft uses deprecated names of transformers
            warnings.simplefilter("ignore")
            self.adapted: Any = get_peft_model(model, settings)

    target_modules: str | list[str] = "all-linear"

    @abstractmethod
    def _load_base(self, base: ModelLocation, dtype: str) -> Any: ...

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text, without padding."""

    @abstractmethod
    def logits(self, batch: Batch) -> Tensor:
        """Return logits, `(texts, labels)`; float32."""

    @abstractmethod
    def loss(self, batch: Batch, targets: Tensor) -> Tensor:
        """Return the mean loss.

        Args:
            batch: the texts.
            targets: target probabilities, `(texts, labels)`; each row sums to 1.
        """

    @abstractmethod
    def pad_batch(self, ids: Sequence[Sequence[int]]) -> Batch:
        """Pad texts to one batch."""

    def trainable_parameters(self) -> dict[str, Tensor]:
        """Return the trainable parameters by name."""
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
        """Return the token ids of each text, without padding."""
        return [each[: self.max_tokens] or [0] for each in _tokenize(self.tokenizer, texts)]

    def pad_batch(self, ids: Sequence[Sequence[int]]) -> Batch:
        """Pad on the left, so that the last position is the end of each text."""
        return _pad_batch(ids, pad_left=True)

    def logits(self, batch: Batch) -> Tensor:
        """Return logits, `(texts, labels)`; float32."""
        scores: Tensor = self.head(self.drop(self.pool(batch)))
        return scores.float()

    def loss(self, batch: Batch, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy."""
        return functional.cross_entropy(self.logits(batch), targets)

    def pool(self, batch: Batch) -> Tensor:
        """Return the state that the head reads of each text, `(texts, width)`."""
        ids, mask = batch
        states: Tensor = self.adapted(input_ids=ids, attention_mask=mask).last_hidden_state
        return states[:, -1]


class EncoderNetwork(HeadNetwork):
    """A linear layer on an embedder's mean-pooled output."""

    target_modules = ["query", "key", "value", "dense"]  # noqa: RUF012  # peft takes a list

    def _load_base(self, base: ModelLocation, dtype: str) -> Any:
        from transformers import AutoModel

        with _quiet_transformers():
            # BERT's own pooling layer, unused here, would get LoRA matrices too
            return AutoModel.from_pretrained(
                base.folder, dtype=getattr(torch, dtype), add_pooling_layer=False
            )

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text, without padding."""
        begin, end = (int(self.tokenizer.token_to_id(name) or 0) for name in ("[CLS]", "[SEP]"))
        cut = self.max_tokens - 2
        return [[begin, *each[:cut], end] for each in _tokenize(self.tokenizer, texts)]

    def pad_batch(self, ids: Sequence[Sequence[int]]) -> Batch:
        """Pad on the right."""
        return _pad_batch(ids, pad_left=False)

    def pool(self, batch: Batch) -> Tensor:
        """Return the state that the head reads of each text, `(texts, width)`."""
        ids, mask = batch
        states: Tensor = self.adapted(input_ids=ids, attention_mask=mask).last_hidden_state
        weights = mask.unsqueeze(-1).to(states.dtype)
        return (states * weights).sum(1) / weights.sum(1)


class GenerateNetwork(Network):
    """The chat model generates the label after the text."""

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
        """Return the token ids of each text, followed by the question."""
        return [
            [*each[: self.max_tokens], *self._question_ids]
            for each in _tokenize(self.tokenizer, texts)
        ]

    def pad_batch(self, ids: Sequence[Sequence[int]]) -> Batch:
        """Pad on the left, so that all answers start at the same position."""
        return _pad_batch(ids, pad_left=True)

    def logits(self, batch: Batch) -> Tensor:
        """Return the logits of each label's first token; the first tokens differ."""
        return self._vocabulary_logits(batch, 1)[:, 0, self._first_label_ids]

    def loss(self, batch: Batch, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy of the label's tokens over the vocabulary."""
        (ids, mask), best = batch, targets.argmax(1)
        longest = max(map(len, self.label_ids))
        answers = torch.full((len(ids), longest), -100)
        for row, label in enumerate(best.tolist()):
            answer = torch.tensor(self.label_ids[label])
            answers[row, : len(answer)] = answer
        targets = answers[:, : longest - 1]  # nothing is predicted after the last token
        ids = torch.cat([ids, targets.clamp(min=0)], 1)
        mask = torch.cat([mask, (targets >= 0).to(mask.dtype)], 1)
        logits = self._vocabulary_logits((ids, mask), longest)
        return functional.cross_entropy(logits.flatten(0, 1), answers.flatten())

    def _vocabulary_logits(self, batch: Batch, count: int) -> Tensor:
        """Return next-token logits of the last positions, `(texts, count, vocabulary)`; float32."""
        ids, mask = batch
        states: Tensor = self.adapted(input_ids=ids, attention_mask=mask).last_hidden_state
        # one flat matrix: for a slice of each text torch would copy the layer's weights
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
    """Silence transformers, whose bars and messages would garble the screen."""
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
    """Return the tokens of each label; the first tokens differ.

    Labels that start with the same token get a letter as prefix.
    """
    plain = [encode_text(f" {label}") for label in labels]
    if len({answer[0] for answer in plain}) == len(labels):
        return plain
    if len(labels) > len(string.ascii_letters):
        raise UsageError(
            f"{len(labels)} labels that start alike are too many for --method generate.",
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
    """Return the model without its output layer."""
    return model.get_decoder() if hasattr(model, "get_decoder") else model.base_model
