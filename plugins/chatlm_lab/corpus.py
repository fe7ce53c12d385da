"""Read texts to train on, and hold a part of them out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from chatlm import UsageError, check_regular_file, one_line

TEXT_SUFFIXES = (".txt", ".md", ".rst", ".jsonl")
"""Files that are read from a folder; a file that is named itself may have any suffix."""


@dataclass(frozen=True)
class Corpus:
    """Texts, divided into those to train on and those held out."""

    train: tuple[str, ...]
    held_out: tuple[str, ...]
    files: int
    """Number of files that the texts come from."""

    @property
    def train_bytes(self) -> int:
        """Size of the texts to train on, in UTF-8."""
        return sum(len(text.encode()) for text in self.train)


def read_corpus(paths: Iterable[Path], held_out: float) -> Corpus:
    """Read texts, and hold out the end of each file.

    A text is a file, or the value of `text` in each line of a .jsonl file. Of a file that is one
    text its end is held out, cut after a line; of a .jsonl file its last texts are.

    Args:
        paths: files, and folders, whose files with one of `TEXT_SUFFIXES` are read.
        held_out: share of the characters that is held out, from 0 to 0.5.

    Raises:
        UsageError: a file cannot be read, is not UTF-8 or has no text; nothing is left to train on.
    """
    train: list[str] = []
    kept: list[str] = []
    files = find_files(paths)
    for file in files:
        texts = _read_texts(file)
        first, second = _split(texts, held_out)
        train += first
        kept += second
    if not train:
        raise UsageError("The data has no text.", hint="Name files with some text in UTF-8.")
    if held_out and not kept:
        raise UsageError(
            f"The data is too short to hold {held_out:.0%} of it out.",
            hint="Add text, in lines, or do without validation: --held-out 0",
        )
    return Corpus(tuple(train), tuple(kept), len(files))


def read_texts(paths: Iterable[Path]) -> list[str]:
    """Read texts to evaluate on, see `read_corpus`."""
    return list(read_corpus(paths, 0.0).train)


def find_files(paths: Iterable[Path]) -> list[Path]:
    """Return the files that paths stand for, each once, those of a folder by name.

    Raises:
        UsageError: a path does not exist, or a folder has no text files.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            inside = sorted(
                each
                for each in path.rglob("*")
                if each.suffix.lower() in TEXT_SUFFIXES and each.is_file()
            )
            if not inside:
                raise UsageError(
                    f"The folder {path} has no text.",
                    hint=f"Files that end with {', '.join(TEXT_SUFFIXES)} are read.",
                )
            found |= dict.fromkeys(inside)
        elif path.exists():
            found[path] = None
        else:
            raise UsageError(f"There is no file {path}.", hint="Check the path after --data.")
    return list(found)


def _read_texts(file: Path) -> list[str]:
    try:
        check_regular_file(file)
        content = file.read_bytes()
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror or error}.") from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{file} is not UTF-8 text: byte {error.start:,} is not part of a character.",
            hint="Convert it, for example: iconv -t UTF-8",
        ) from error
    if file.suffix.lower() == ".jsonl":
        return list(_json_texts(file, text))
    text = text.replace("\r\n", "\n")
    return [text] if text.strip() else []


def _json_texts(file: Path, content: str) -> Iterator[str]:
    for number, line in enumerate(content.split("\n"), 1):  # strings may have other line breaks
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            text = row["text"]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise UsageError(
                f"{file}, line {number}: {one_line(line, 60)} has no text.",
                hint='Each line must be an object such as {"text": "…"}.',
            ) from error
        if not isinstance(text, str):
            raise UsageError(f"{file}, line {number}: the value of text is not a text.")
        if text.strip():
            yield text.encode("utf-8", "replace").decode()  # JSON can have halves of a character


def _split(texts: Sequence[str], share: float) -> tuple[list[str], list[str]]:
    """Divide the texts of a file, so that about a share of their characters comes last."""
    wanted = share * sum(map(len, texts))
    if not wanted:
        return list(texts), []
    if len(texts) == 1:
        text = texts[0]
        cut = text.rfind("\n", 0, len(text) - int(wanted)) + 1
        return ([text[:cut]], [text[cut:]]) if text[:cut].strip() else ([text], [])
    taken, start = 0, len(texts)
    while start > 1 and taken < wanted:
        start -= 1
        taken += len(texts[start])
    return list(texts[:start]), list(texts[start:])
