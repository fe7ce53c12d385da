"""Tokenizers of lab models: bytes, characters, words and BPE (section 2.3 of the book).

All are made with the library `tokenizers` and saved as tokenizer.json, so that chatlm's engine
reads them like any model's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from chatlm import UsageError

TokenizerKind = Literal["bytes", "characters", "words", "bpe"]

KINDS: tuple[TokenizerKind, ...] = get_args(TokenizerKind)

END_OF_TEXT = "<|endoftext|>"
"""Stands between texts; its id is 0."""

UNKNOWN = "<unk>"
"""Stands for characters and words outside the vocabulary; its id is 1 where there is one."""

DEFAULT_VOCABULARY = 4096
"""Limit of the vocabulary's size."""

WORD_PATTERN = r"\n| ?\w+| ?[^\w\s]+|[^\S\n]+"
"""Pieces that BPE does not merge across, and the words: a word or signs with the blank before it, a
line break, other white space. Each line is split by itself."""

CHUNK_CHARACTERS = 50_000
"""Text is encoded in chunks of whole lines of about so many characters, several at a time."""

BATCH = 32
"""Chunks that are encoded at a time, on all processors."""

Ids = NDArray[np.uint32]


def train_tokenizer(kind: TokenizerKind, texts: Sequence[str], vocabulary: int) -> Tokenizer:
    """Make a tokenizer for texts.

    Args:
        kind: bytes have a fixed vocabulary of 257 tokens; of characters and words the most
            frequent ones are in the vocabulary; BPE merges pairs until it is full.
        texts: to take characters, words or merges from.
        vocabulary: limit of its size, special tokens included.

    Raises:
        UsageError: the vocabulary is too small for the kind.
    """
    least = 257 + (kind == "bpe") if kind in ("bytes", "bpe") else 3
    if kind != "bytes" and vocabulary < least:
        raise UsageError(
            f"A vocabulary of {kind} needs {least} tokens or more, not {vocabulary}.",
            hint="Set another size: --vocabulary 4096",
        )
    match kind:
        case "bytes":
            return _byte_level(models.BPE(_byte_vocabulary(), []), r"[\s\S]+")
        case "bpe":
            tokenizer = _byte_level(models.BPE(), WORD_PATTERN)
            trainer: Any = trainers.BpeTrainer(
                vocab_size=vocabulary,
                special_tokens=[END_OF_TEXT],
                initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                show_progress=False,
            )
        case _:
            pattern = r"[\s\S]" if kind == "characters" else WORD_PATTERN
            tokenizer = Tokenizer(models.WordLevel({}, unk_token=UNKNOWN))
            tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
            tokenizer.decoder = decoders.Fuse()
            trainer = trainers.WordLevelTrainer(
                vocab_size=vocabulary,
                special_tokens=[END_OF_TEXT, UNKNOWN],
                show_progress=False,
            )
    tokenizer.train_from_iterator(_all_chunks(texts), trainer)
    tokenizer.encode_special_tokens = True
    return tokenizer


def _byte_vocabulary() -> dict[str, int]:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    return {letter: number for number, letter in enumerate(letters, 1)}


def _byte_level(model: Any, pattern: str) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = byte_level(pattern)
    tokenizer.decoder = decoders.ByteLevel()
    if model.token_to_id("a") is not None:  # a trainer adds its own
        tokenizer = _with_end_first(tokenizer)
    tokenizer.encode_special_tokens = True
    return tokenizer


def byte_level(pattern: str) -> Any:
    """Return what splits a text by a pattern and writes the bytes of each part as letters."""
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _with_end_first(tokenizer: Tokenizer) -> Tokenizer:
    """Return the tokenizer with `END_OF_TEXT` as its token 0."""
    content = json.loads(tokenizer.to_str())
    content["model"]["vocab"][END_OF_TEXT] = 0
    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.add_special_tokens([END_OF_TEXT])
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json, as `chatlm.load_tokenizer` reads them."""
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END_OF_TEXT}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def load_tokenizer(folder: Path) -> Tokenizer:
    """Read the tokenizer of a lab model; text never becomes a special token.

    Raises:
        OSError, ValueError: it cannot be read.
    """
    content = (folder / "tokenizer.json").read_text(encoding="utf-8")
    try:
        tokenizer = Tokenizer.from_str(content)
    except Exception as error:  # `tokenizers` raises plain exceptions
        raise ValueError(f"tokenizer.json: {error}") from error
    tokenizer.encode_special_tokens = True
    return tokenizer


def encode_stream(
    tokenizer: Tokenizer,
    kind: TokenizerKind,
    texts: Sequence[str],
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Ids:
    """Encode texts as one sequence of ids, with `END_OF_TEXT` before, between and after them.

    Args:
        tokenizer: of the kind.
        kind: bytes and characters are looked up in a table, which is many times faster.
        texts: to encode.
        report: called with the characters that are encoded, and those of all texts.

    Returns:
        The ids, of shape (tokens,).
    """
    total, done = sum(map(len, texts)), 0
    end = np.zeros(1, np.uint32)
    encode = _table_encoder(tokenizer, kind) if kind in ("bytes", "characters") else None
    parts = [end]
    for text in texts:
        if encode is not None:
            parts += [encode(text), end]
            done += len(text)
            report(done, total)
            continue
        for batch in _batches(_chunks(text)):
            for encoding in tokenizer.encode_batch_fast(batch, add_special_tokens=False):
                parts.append(np.array(encoding.ids, np.uint32))
            done += sum(map(len, batch))
            report(done, total)
        parts.append(end)
    return np.concatenate(parts)


def _table_encoder(tokenizer: Tokenizer, kind: TokenizerKind) -> Callable[[str], Ids]:
    if kind == "bytes":
        # one byte is one token, but most bytes are no text by themselves
        letters = json.loads(tokenizer.to_str())["model"]["vocab"]
        table = np.zeros(256, np.uint32)
        for letter, byte in bytes_of_letters().items():
            table[byte] = letters[letter]
        return lambda text: table[np.frombuffer(text.encode(), np.uint8)]
    vocabulary = tokenizer.get_vocab()
    table = np.full(0x110000, vocabulary[UNKNOWN], np.uint32)
    for token, number in vocabulary.items():
        if len(token) == 1:
            table[ord(token)] = number
    return lambda text: table[np.frombuffer(text.encode("utf-32-le"), np.uint32)]


def bytes_of_letters() -> dict[str, int]:
    """Return the byte of each letter of a byte-level vocabulary, as GPT-2 assigns them."""
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printed]
    return {chr(byte): byte for byte in printed} | {
        chr(256 + place): byte for place, byte in enumerate(others)
    }


def _all_chunks(texts: Sequence[str]) -> Iterator[str]:
    for text in texts:
        yield from _chunks(text)


def _chunks(text: str) -> Iterator[str]:
    """Divide a text after line breaks, which changes no token."""
    start = 0
    while start < len(text):
        end = text.find("\n", start + CHUNK_CHARACTERS) + 1 or len(text)
        yield text[start:end]
        start = end


def _batches(chunks: Iterator[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    for chunk in chunks:
        batch.append(chunk)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
