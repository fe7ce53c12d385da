"""Read training examples, and make masked, padded batches of them."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import torch
from torch.utils.data import Dataset

from chatlm import ChatEncoder, Message, UsageError, check_regular_file, one_line

if TYPE_CHECKING:
    from transformers import Trainer

MAX_BYTES = 2_000_000_000


FORMAT_HELP = (
    "messages (role and content); instruction, input and output; prompt and completion; "
    "text and label, with --ask"
)


ChatExample = tuple[Message, ...]
"""A chat that ends with an assistant message."""


_TEXT_PLACEHOLDER = re.compile(r"\{text\}")


SAMPLE_ANSWERS = 4
"""Held-out prompts answered before and after training."""


MEASURE_PREFIX = "eval_measure_"
"""What the names of measures begin with among the metrics that a Trainer logs."""


@dataclass(frozen=True)
class Evaluation:
    """A model on the held-out examples."""

    loss: float
    measures: Mapping[str, float]
    """More than the loss, by name; empty for examples to imitate."""


class EncodedData(Protocol):
    """Encoded examples, the loss on them and its evaluation."""

    @property
    def train(self) -> Dataset[Any]:
        """What to train on."""
        ...

    @property
    def train_count(self) -> int:
        """Number of examples to train on."""
        ...

    @property
    def held_out_count(self) -> int:
        """Number of examples held out."""
        ...

    @property
    def too_long(self) -> int:
        """Number of examples left out because of their length."""
        ...

    @property
    def total_tokens(self) -> int:
        """Tokens of the examples to train on."""
        ...

    @property
    def sample_examples(self) -> tuple[ChatExample, ...]:
        """Held-out examples whose prompts are answered before and after training."""
        ...

    def prepare(self, model: Any, report: Callable[[str], None]) -> None:
        """Compute what is needed of the base model before training.

        Args:
            model: a `PeftModel` whose adapter is not trained yet.
            report: called with what is being done.
        """
        ...

    def build_trainer(self, **arguments: Any) -> Trainer:
        """Return the Trainer with the loss, the data and its collator.

        Args:
            arguments: those of Trainer, without data and collator.
        """
        ...

    def evaluate(self, model: Any, batch_size: int) -> Evaluation:
        """Return the model's loss and measures on the held-out examples."""
        ...


class TrainingData(Protocol):
    """What an adapter is trained on, and to which end."""

    def plan(self) -> dict[str, Any]:
        """Return everything that determines the result, as JSON values."""
        ...

    def source(self) -> dict[str, Any]:
        """Return where the data comes from, for the card."""
        ...

    def settings(self) -> dict[str, Any]:
        """Return settings besides the recipe, for the card."""
        ...

    def encode(self, encoder: ChatEncoder, max_length: int, batch_size: int) -> EncodedData:
        """Encode the examples; those with more than `max_length` tokens are left out."""
        ...


@dataclass(frozen=True)
class ChatDataset:
    """The examples of a file, split into train and held-out; the adapter learns to imitate them."""

    file_name: str
    sha256: str
    train: tuple[ChatExample, ...]
    held_out: tuple[ChatExample, ...]
    """Examples for evaluation only."""
    duplicates: int
    """Number of repeated rows, which are left out."""

    def plan(self) -> dict[str, Any]:
        """Return everything that determines the result, as JSON values."""
        return {
            "data": self.sha256,
            "examples": [len(self.train), len(self.held_out)],
            "first": [message.text for message in self.train[0]],  # reflects --ask and --system
        }

    def source(self) -> dict[str, Any]:
        """Return the file and its hash, for the card."""
        return {"data": self.file_name, "sha256": self.sha256, "repeated": self.duplicates}

    def settings(self) -> dict[str, Any]:
        """Return no settings besides the recipe."""
        return {}

    def encode(self, encoder: ChatEncoder, max_length: int, batch_size: int) -> EncodedDataset:
        """Encode the examples; those with more than `max_length` tokens are left out."""
        return EncodedDataset(self, encoder, max_length)


def read_dataset(
    path: Path,
    *,
    seed: int,
    held_out_share: float,
    question_template: str = "",
    system_prompt: str = "",
) -> ChatDataset:
    """Read a file, JSON lines or one JSON list, and split it.

    Args:
        path: the file.
        seed: decides which examples are held out.
        held_out_share: share of the examples to hold out, above 0 and below 1; at least one is.
        question_template: a question with `{text}` in it, for rows of `text` and `label`.
        system_prompt: system prompt for examples without one.

    Raises:
        UsageError: the file cannot be read, or a row is not valid.
    """
    raw = read_bytes(path)
    chats: dict[ChatExample, None] = {}
    count = 0
    for where, row in parse_rows(path, raw):
        example = _parse_example(row, question_template, where)
        if system_prompt and example[0].role != "system":
            example = (Message("system", system_prompt), *example)
        chats[example] = None
        count += 1
    if len(chats) < 2:
        raise UsageError(
            f"{path} has {len(chats)} different examples.", hint="At least two are needed."
        )
    examples = list(chats)
    random.Random(seed).shuffle(examples)  # noqa: S311  # no secret
    held = min(max(round(len(examples) * held_out_share), 1), len(examples) - 1)
    return ChatDataset(
        file_name=path.name,
        sha256=hashlib.sha256(raw).hexdigest(),
        train=tuple(examples[held:]),
        held_out=tuple(examples[:held]),
        duplicates=count - len(chats),
    )


def read_bytes(path: Path) -> bytes:
    """Return the content of a data file.

    Raises:
        UsageError: it cannot be read, or is too large.
    """
    try:
        check_regular_file(path)
        if path.stat().st_size > MAX_BYTES:
            raise UsageError(f"{path} is too large.", hint="Split it; the maximum is 2 GB.")
        return path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read: {error.strerror}.", hint="Specify a .jsonl or .json file."
        ) from error


def parse_rows(path: Path, raw: bytes) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield each row of JSON lines, or of one JSON list, with its location.

    Raises:
        UsageError: the text is not UTF-8, or a row is not a JSON object.
    """
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 (byte {error.start}).") from None
    if text.lstrip().startswith("["):
        rows = _parse_json(text, str(path))
        for number, row in enumerate(rows, 1):
            yield _require_object(row, f"{path}, entry {number}")
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            where = f"{path}, line {number}"
            yield _require_object(_parse_json(line, where), where)


def _require_object(row: Any, location: str) -> tuple[str, Mapping[str, Any]]:
    if not isinstance(row, dict):
        reject(location, "is not a JSON object")
    return location, row


def _parse_json(text: str, location: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reject(location, f"is not JSON: {error}")


def _parse_example(row: Mapping[str, Any], question_template: str, location: str) -> ChatExample:
    make = next((make for keys, make in _ROW_PARSERS.items() if set(keys) <= set(row)), None)
    if make is None:
        keys = one_line(", ".join(map(str, row)), 100)
        reject(location, f"has the keys {keys}", f"A row has {FORMAT_HELP}.")
    return make(row, question_template, location)


def _from_messages(row: Mapping[str, Any], question_template: str, location: str) -> ChatExample:
    chat = parse_messages(row, "messages", location)
    check_turns(chat, location)
    return chat


def parse_messages(row: Mapping[str, Any], key: str, location: str) -> ChatExample:
    """Return the messages that a row has under a key.

    Args:
        row: the row.
        key: names a list of objects with role and content.
        location: of the row, for errors.

    Raises:
        UsageError: they are not messages of text.
    """
    given = row[key]
    if not isinstance(given, list):
        reject(location, f"has `{key}` that are not a list")
    chat = []
    for entry in given:
        role = entry.get("role") if isinstance(entry, dict) else None
        if role not in ("system", "user", "assistant"):
            reject(location, f"has a message of the role {role!r}")
        if isinstance(entry.get("content"), list):
            reject(
                location,
                "has a message of several parts",
                "Adapters are trained on text only, even those for vision models: leave out "
                "examples with images, and write a text as the content.",
            )
        chat.append(Message(role, require_text(entry, "content", location)))
    return tuple(chat)


def check_turns(chat: ChatExample, location: str) -> None:
    """Refuse a chat that does not end with a reply, or in which roles do not alternate.

    Raises:
        UsageError: it is refused.
    """
    roles = [message.role for message in chat]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    if not turns or turns != ["user", "assistant"] * (len(turns) // 2):
        reject(
            location,
            "has messages that do not alternate",
            "Write a system message if you want one, then user and assistant in turn.",
        )


def _from_instruction(row: Mapping[str, Any], question_template: str, location: str) -> ChatExample:
    about = row.get("input") or ""
    if not isinstance(about, str):
        reject(location, "has an `input` that is not a string")
    task = require_text(row, "instruction", location)
    question = f"{task}\n\n{about.strip()}" if about.strip() else task
    return _single_turn(question, require_text(row, "output", location))


def _from_completion(row: Mapping[str, Any], question_template: str, location: str) -> ChatExample:
    return _single_turn(
        require_text(row, "prompt", location), require_text(row, "completion", location)
    )


def _from_label(row: Mapping[str, Any], question_template: str, location: str) -> ChatExample:
    if not _TEXT_PLACEHOLDER.search(question_template):
        raise UsageError(
            "Rows of text and label need a question to the model.",
            hint="Specify one with {text} in it: --ask 'Which feeling is in this text? {text}'",
        )
    text = require_text(row, "text", location)
    label = (
        str(row["label"]) if isinstance(row["label"], int) else require_text(row, "label", location)
    )
    return _single_turn(_TEXT_PLACEHOLDER.sub(lambda _: text, question_template), label)


_ROW_PARSERS: Mapping[tuple[str, ...], Callable[[Mapping[str, Any], str, str], ChatExample]] = {
    ("messages",): _from_messages,
    ("instruction", "output"): _from_instruction,
    ("prompt", "completion"): _from_completion,
    ("text", "label"): _from_label,
}
"""Parsers by the keys that a row must have."""


def _single_turn(question: str, answer: str) -> ChatExample:
    return (Message("user", question), Message("assistant", answer))


def require_text(row: Mapping[str, Any], key: str, location: str) -> str:
    """Return the text that a row has under a key, without space around it.

    Raises:
        UsageError: there is none.
    """
    text = row.get(key)
    if not isinstance(text, str) or not text.strip():
        reject(location, f"has no text in {key}")
    return text.strip()


def reject(location: str, problem: str, hint: str = "") -> NoReturn:
    """Raise the error about a row.

    Raises:
        UsageError: always.
    """
    raise UsageError(f"{location}: it {problem}.", hint=hint)


IGNORE_INDEX = -100
"""Label of tokens that are ignored by the loss."""


EncodedExample = dict[str, list[int]]
"""`input_ids` and `labels`, of the same length."""


class EncodedChats(Dataset[EncodedExample]):
    """Encoded examples with labels for the assistant's tokens.

    Args:
        examples: the examples.
        encoder: the model's encoder.
        max_tokens: longer examples are left out.
    """

    def __init__(
        self, examples: Sequence[ChatExample], encoder: ChatEncoder, max_tokens: int
    ) -> None:
        encoded = [_encode_example(example, encoder) for example in examples]
        self.items = [item for item in encoded if len(item["input_ids"]) <= max_tokens]
        self.too_long = len(encoded) - len(self.items)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> EncodedExample:
        return self.items[index]

    @property
    def total_tokens(self) -> int:
        """Tokens of all examples."""
        return sum(len(item["input_ids"]) for item in self.items)

    def sort_by_length(self) -> None:
        """Sort by length, so that batches need little padding."""
        self.items.sort(key=lambda item: len(item["input_ids"]))


def _encode_example(example: ChatExample, encoder: ChatEncoder) -> EncodedExample:
    chat = encoder.encode_chat(example)
    labels = [
        number if is_reply else IGNORE_INDEX
        for number, is_reply in zip(chat.ids, chat.assistant_mask, strict=True)
    ]
    return {"input_ids": list(chat.ids), "labels": labels}


class Collator:
    """Batches examples, padded on the left so that the assistant's tokens are at the end of a row.

    The model then computes logits for the last columns only (`logits_to_keep`), to which `labels`
    are cut: with a large vocabulary that saves much of the work.

    Args:
        pad_token_id: any id, since padding is masked.
    """

    def __init__(self, pad_token_id: int) -> None:
        self._pad_token_id = pad_token_id

    def __call__(self, items: Sequence[EncodedExample]) -> dict[str, Any]:
        """Return tensors of shape (rows, columns); `labels` has shape (rows, `logits_to_keep`)."""
        width = max(len(item["input_ids"]) for item in items)
        ids = torch.full((len(items), width), self._pad_token_id)
        labels = torch.full((len(items), width), IGNORE_INDEX)
        mask = torch.zeros((len(items), width), dtype=torch.long)
        for row, item in enumerate(items):
            start = width - len(item["input_ids"])
            ids[row, start:] = torch.tensor(item["input_ids"])
            labels[row, start:] = torch.tensor(item["labels"])
            mask[row, start:] = 1
        first = int((labels != IGNORE_INDEX).any(0).nonzero()[0])
        kept = min(width - first + 1, width)  # each label is predicted one column earlier
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "position_ids": (mask.cumsum(1) - 1).clamp(min=0),
            "labels": labels[:, -kept:],
            "logits_to_keep": kept,
        }


def evaluate_loss(model: Any, chats: EncodedChats, collator: Collator, batch_size: int) -> float:
    """Return the mean cross-entropy over the assistant's tokens, in nats.

    Args:
        model: a causal language model of transformers; it is left in evaluation mode.
        chats: at least one.
        collator: makes the batches.
        batch_size: examples per batch.
    """
    model.eval()
    total, count = 0.0, 0
    with torch.no_grad():
        for batch in _batches(chats, collator, batch_size):
            labelled = int((batch["labels"][:, 1:] != IGNORE_INDEX).sum())
            on_device = {
                key: value.to(model.device) if isinstance(value, torch.Tensor) else value
                for key, value in batch.items()
            }
            total += float(model(**on_device).loss) * labelled
            count += labelled
    return total / count


def _batches(chats: EncodedChats, collator: Collator, batch_size: int) -> Iterator[dict[str, Any]]:
    for start in range(0, len(chats), batch_size):
        yield collator(chats.items[start : start + batch_size])


class EncodedDataset:
    """The encoded examples of a file, which a model learns to imitate.

    Args:
        data: the examples.
        encoder: the model's encoder.
        max_length: tokens of an example; longer ones are left out.
    """

    def __init__(self, data: ChatDataset, encoder: ChatEncoder, max_length: int) -> None:
        self.train = EncodedChats(data.train, encoder, max_length)
        self.held_out = EncodedChats(data.held_out, encoder, max_length)
        self.held_out.sort_by_length()
        self.sample_examples = data.held_out[:SAMPLE_ANSWERS]
        self._collator = Collator(encoder.eos_token_id)

    @property
    def train_count(self) -> int:
        """Number of examples to train on."""
        return len(self.train)

    @property
    def held_out_count(self) -> int:
        """Number of examples held out."""
        return len(self.held_out)

    @property
    def too_long(self) -> int:
        """Number of examples left out because of their length."""
        return self.train.too_long + self.held_out.too_long

    @property
    def total_tokens(self) -> int:
        """Tokens of the examples to train on."""
        return self.train.total_tokens

    def prepare(self, model: Any, report: Callable[[str], None]) -> None:
        """Do nothing: imitation needs no base model."""

    def build_trainer(self, **arguments: Any) -> Trainer:
        """Return a Trainer of the cross-entropy over the assistant's tokens."""
        from transformers import Trainer

        return Trainer(
            train_dataset=self.train,
            eval_dataset=self.held_out,
            data_collator=self._collator,
            **arguments,
        )

    def evaluate(self, model: Any, batch_size: int) -> Evaluation:
        """Return the model's loss on the held-out examples."""
        return Evaluation(evaluate_loss(model, self.held_out, self._collator, batch_size), {})
