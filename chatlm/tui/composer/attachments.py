"""Find, read and insert the files that a message mentions as `@path`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from chatlm.chat.attachments import MAX_NAME_WIDTH, format_block
from chatlm.errors import UsageError
from chatlm.text import dump_json, escape_controls, one_line

FileReader = Callable[[Path, str], str]
"""Returns the text of a file, from its path and the name for messages; raises UsageError."""


TokenCounter = Callable[[str], int | None]
"""Returns the tokens of a text; None while no model is loaded."""


_MENTION = re.compile(r"""(?<![^\s(\["'])@(?:("(?:[^"\\\n]|\\.)*")|([^\s"]\S*))""")


_BLOCK = re.compile(r"^(`{3,})[^`\n]*\n.*?^\1`*[ \t]*$", re.MULTILINE | re.DOTALL)


_TRAILING_PUNCTUATION = ".,;:!?)]}'\""
"""Punctuation that may follow a path without being part of it."""


@dataclass(frozen=True)
class Attachment:
    """A file mentioned in a text."""

    start: int
    """Start and end of the mention."""
    mention: str
    """The mention as typed, with the @."""
    raw_path: str
    """The path as it was typed."""
    path: Path


@dataclass(frozen=True)
class AttachmentCost:
    """Size of an attached file."""

    name: str
    tokens: int | None
    """None while no model is loaded."""
    characters: int

    def __str__(self) -> str:
        if self.tokens is None:
            return f"{self.name} · {self.characters:,} characters"
        return f"{self.name} · {self.tokens:,} tokens"


def format_mention(raw_path: str) -> str:
    """Return the mention of a path, quoted as a JSON string if necessary."""
    plain = f"@{raw_path}"
    match = _MENTION.fullmatch(plain)
    if (
        match
        and escape_controls(raw_path) == raw_path
        and raw_path[-1] not in _TRAILING_PUNCTUATION
    ):
        return plain
    return f"@{dump_json(raw_path)}"


def find_attachments(text: str, folder: Path) -> list[Attachment]:
    """Return the existing files that the text mentions; other words with an @ are ignored.

    Code blocks mention no files.
    """
    code = [match.span() for match in _BLOCK.finditer(text)]
    found = []
    for match in _MENTION.finditer(text):
        if any(start <= match.start() < end for start, end in code):
            continue
        for written, end in _candidate_paths(match):
            path = resolve_path(written, folder)
            if path is not None and path.is_file():
                start = match.start()
                found.append(Attachment(start, text[start:end], written, path))
                break
    return found


def _candidate_paths(match: re.Match[str]) -> list[tuple[str, int]]:
    """Return the possible paths of a mention, each with its end in the text."""
    quoted, bare = match.groups()
    if quoted is not None:
        try:
            return [(json.loads(quoted), match.end())]
        except ValueError:
            return []
    shorter = bare.rstrip(_TRAILING_PUNCTUATION)
    return [(bare, match.end()), (shorter, match.end() - len(bare) + len(shorter))]


def resolve_path(raw_path: str, folder: Path) -> Path | None:
    """Return the path if it exists; `~` is the home folder."""
    try:
        path = folder / Path(raw_path).expanduser()
        return path if raw_path and path.exists() else None
    except (OSError, ValueError, RuntimeError):  # nothing can have this name; no such home
        return None


def replace_mentions(text: str, attachments: Iterable[Attachment]) -> str:
    """Return the text with plain file names instead of mentions."""
    for file in sorted(attachments, key=lambda file: file.start, reverse=True):
        behind = text[file.start + len(file.mention) :]
        text = text[: file.start] + one_line(file.raw_path, MAX_NAME_WIDTH) + behind
    return text


def format_blocks(attachments: Iterable[Attachment], read_file: FileReader) -> list[str]:
    """Return the block of each file, once.

    Raises:
        UsageError: a file cannot be read.
    """
    once: dict[Path, str] = {}
    for file in attachments:
        once.setdefault(file.path, file.raw_path)
    return [format_block(name, read_file(path, name)) for path, name in once.items()]


def attachment_cost(
    attachment: Attachment, count_tokens: TokenCounter, read_file: FileReader
) -> AttachmentCost | UsageError:
    """Return the size of a file, or the error that prevents attaching it."""
    try:
        text = format_block(attachment.raw_path, read_file(attachment.path, attachment.raw_path))
    except UsageError as error:
        return error
    return AttachmentCost(one_line(attachment.path.name, 40), count_tokens(text), len(text))


def summarise_costs(costs: Iterable[AttachmentCost | UsageError]) -> list[str]:
    """Return short texts of the costs; more than two are summed up."""
    costs = list(costs)
    known = [cost for cost in costs if isinstance(cost, AttachmentCost)]
    failed = [cost.message for cost in costs if isinstance(cost, UsageError)]
    if len(known) > 2:
        tokens = [cost.tokens for cost in known if cost.tokens is not None]
        whole = sum(tokens) if len(tokens) == len(known) else None
        known = [
            AttachmentCost(f"{len(known)} files", whole, sum(cost.characters for cost in known))
        ]
    return failed[:1] + [str(cost) for cost in known]
