"""Find, read and insert the files and resources that a message mentions as `@path`."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Thread
from typing import TypeVar
from urllib.parse import unquote, urlsplit

from chatlm.chat.attached import Attached, join_attached, read_attached, split_fragment
from chatlm.chat.attachments import MAX_NAME_WIDTH, FileReader, FolderTooLarge, read_text_file
from chatlm.chat.images import IMAGE_SUFFIXES
from chatlm.chat.pasted_images import PastedImages
from chatlm.chat.resources import Resources
from chatlm.chat.web_images import fetch_image, is_web_address
from chatlm.errors import ChatlmError, UsageError
from chatlm.text import dump_json, escape_controls, one_line
from chatlm.tui.composer.folders import FolderIndexing
from chatlm.tui.vision import Vision
from chatlm.tui.workers import to_user_error
from chatlm.types.parts import PreparedImage

T = TypeVar("T")


TokenCounter = Callable[[str], int | None]
"""Returns the tokens of a text; None while no model is loaded."""


_MENTION = re.compile(r"""(?<![^\s(\["'])@(?:("(?:[^"\\\n]|\\.)*")|([^\s"]\S*))""")


_BLOCK = re.compile(r"^(`{3,})[^`\n]*\n.*?^\1`*[ \t]*$", re.MULTILINE | re.DOTALL)


MAX_NOTE_WIDTH = 40
"""Characters of a file's name in the border of the composer."""


MAX_PASTED_PATH = 4096
"""Characters of the longest path that a system has."""

MAX_PASTED_PATHS = 65_536
"""Characters of the longest list of paths."""

_TRAILING_PUNCTUATION = ".,;:!?)]}'\""
"""Punctuation that may follow a path without being part of it."""


@dataclass(frozen=True)
class Sources:
    """Where attachments are read from; used in threads."""

    read_file: FileReader = read_text_file
    """Reads the text of a file."""
    resources: Resources = field(default_factory=Resources)
    """What plugins offer to attach."""
    web_hosts: tuple[str, ...] = ()
    """Servers that need not be public, each as HOST:PORT."""
    pasted: PastedImages = field(default_factory=PastedImages)
    """Images of the clipboard and screenshots."""
    folder_fits: Callable[[str], bool] = lambda text: True
    """Whether a message can take the text of a folder."""


@dataclass(frozen=True)
class Attachment:
    """A file, a folder, an image of the web or a plugin's resource mentioned in a text."""

    start: int
    """Start and end of the mention."""
    mention: str
    """The mention as typed, with the @."""
    raw_path: str
    """The path as it was typed, or the mention of a resource, such as `wiki:Home`."""
    path: Path | None
    """None for a resource, an address of the web and a pasted image."""
    fragment: str = ""
    """What of a file is attached, see `split_fragment`."""

    @property
    def short_name(self) -> str:
        """The name for a note, with a slash after that of a folder."""
        name = self.raw_path if self.path is None else self.path.name
        name += f"#{self.fragment}" * bool(self.fragment)
        is_folder = self.path is not None and self.path.is_dir()
        return one_line(name, MAX_NOTE_WIDTH) + "/" * is_folder

    @property
    def plain_name(self) -> str:
        """What stands for the mention in a message: the path as it was typed; of an image with an
        absolute path its name alone, as servers need not know the user's folders."""
        name = self.raw_path
        is_shown = self.fragment.startswith("pages") or not self.fragment
        if (
            self.path is not None
            and is_shown
            and name.startswith(("/", "~"))
            and self.path.suffix.lower() in {*IMAGE_SUFFIXES, ".pdf" * bool(self.fragment)}
        ):
            name = self.path.name + f"#{self.fragment}" * bool(self.fragment)
        return one_line(name, MAX_NAME_WIDTH)

    @property
    def is_on_the_web(self) -> bool:
        """Whether it is an address, which is asked for only when the user says so."""
        return self.path is None and is_web_address(self.raw_path)

    def read(self, sources: Sources) -> Attached:
        """Return what it adds to a message.

        Raises:
            UsageError: it cannot be read.
        """
        if self.is_on_the_web:
            return Attached(images=(fetch_image(self.raw_path, sources.web_hosts),))
        if self.path is None and sources.pasted.includes(self.raw_path):
            return Attached(images=(sources.pasted.read(self.raw_path),))
        if self.path is None:
            return Attached((sources.resources.read_block(self.raw_path),))
        name, _ = split_fragment(self.raw_path) if self.fragment else (self.raw_path, "")
        return read_attached(self.path, name, self.fragment, sources.read_file, sources.folder_fits)


@dataclass(frozen=True)
class AttachmentCost:
    """Size of an attached file."""

    name: str
    tokens: int | None
    """None while no model is loaded, or where the model does not say."""
    characters: int = 0
    """Of its text."""
    pixels: tuple[str, ...] = ()
    """The size of each image, such as `640×480`."""
    to_index: bool = False
    """Whether it is a folder that is indexed instead, as it is too large."""

    def __str__(self) -> str:
        facts = [self.name]
        if self.to_index:
            return f"{self.name} · too large to attach, will be indexed"
        if len(self.pixels) > 1:
            facts.append(f"{len(self.pixels)} images")
        facts += self.pixels[:1] if len(self.pixels) == 1 else []
        if self.tokens is not None:
            facts.append(f"{self.tokens:,} tokens")
        elif not self.pixels:
            facts.append(f"{self.characters:,} characters")
        return " · ".join(facts)


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


def find_attachments(
    text: str, folder: Path, resources: Resources | None = None
) -> list[Attachment]:
    """Return what the text mentions: existing files, folders with a slash at their end, resources.

    Other words with an @ are ignored, and code blocks mention no files.
    """
    code = [match.span() for match in _BLOCK.finditer(text)]
    found = []
    for match in _MENTION.finditer(text):
        if any(start <= match.start() < end for start, end in code):
            continue
        candidates = _candidate_paths(match)
        start = match.start()
        for written, end in candidates:
            path, fragment = _resolve(written, folder)
            if path is not None:
                found.append(Attachment(start, text[start:end], written, path, fragment))
                break
        else:
            address, end = candidates[-1] if candidates else ("", start)
            pasted = [each for each in candidates if PastedImages.includes(each[0])]
            if pasted:
                written, end = pasted[0]
                found.append(Attachment(start, text[start:end], written, None))
            elif is_web_address(address):
                found.append(Attachment(start, text[start:end], address, None))
            elif resources is not None and (chosen := _choose_resource(candidates, resources)):
                written, end = chosen
                found.append(Attachment(start, text[start:end], written, None))
    return found


def _resolve(written: str, folder: Path) -> tuple[Path | None, str]:
    """Return the file or folder that a mention names, and the fragment behind it."""
    path = resolve_path(written, folder)
    if path is not None and (path.is_file() or (path.is_dir() and written.endswith("/"))):
        return path, ""
    name, fragment = split_fragment(written)
    path = resolve_path(name, folder) if fragment else None
    return (path, fragment) if path is not None and path.is_file() else (None, "")


def _choose_resource(
    candidates: list[tuple[str, int]], resources: Resources
) -> tuple[str, int] | None:
    """Return the candidate that is a resource: one that is listed, else without punctuation."""
    possible = [each for each in candidates if resources.includes(each[0])]
    if not possible:
        return None
    listed = set(resources.names())
    return next((each for each in possible if each[0] in listed), possible[-1])


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


def pasted_path(text: str) -> str | None:
    """Return the absolute path that a pasted text is, as terminals write a dropped file.

    It may be in quotes, have backslashes before blanks, or be a file:// address.
    """
    line = text.strip()
    if not line or "\n" in line or len(line) > MAX_PASTED_PATH:
        return None
    if line[0] in "'\"" and line[-1] == line[0]:
        line = line[1:-1]
    elif line.startswith("file://"):
        line = unquote(urlsplit(line).path)
    else:
        line = re.sub(r"\\(.)", r"\1", line)
    return line if line.startswith(("/", "~/")) else None


def pasted_paths(text: str) -> Iterator[list[str]]:
    """Yield the lists of absolute paths that a pasted text may be: one path, or several, each on
    a line of its own or separated by blanks."""
    if (path := pasted_path(text)) is not None:
        yield [path]
    if len(text) > MAX_PASTED_PATHS:
        return
    with suppress(ValueError):  # a quote that does not end
        for pieces in (text.split("\n"), map(shlex.quote, shlex.split(text))):
            paths = [pasted_path(piece) for piece in pieces if piece.strip()]
            known = [path for path in paths if path is not None]
            if len(known) == len(paths) > 1:
                yield known


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
        text = text[: file.start] + file.plain_name + behind
    return text


def read_attachments(attachments: Iterable[Attachment], sources: Sources) -> Attached:
    """Return what files and resources add to a message, each once.

    Raises:
        UsageError: one cannot be read, or there are too many images.
    """
    once: dict[tuple[Path | str, str], Attachment] = {}
    for file in attachments:
        once.setdefault((file.path or file.raw_path, file.fragment), file)
    return join_attached(file.read(sources) for file in once.values())


def summarise_costs(costs: Iterable[AttachmentCost | ChatlmError], width: int) -> list[str]:
    """Return short texts of the costs.

    Args:
        costs: of all files.
        width: in characters; more than two files are summed up, and two that are too long for it.
    """
    costs = list(costs)
    known = [cost for cost in costs if isinstance(cost, AttachmentCost) and not cost.to_index]
    indexed = [str(cost) for cost in costs if isinstance(cost, AttachmentCost) and cost.to_index]
    failed = [cost.message for cost in costs if isinstance(cost, ChatlmError)]
    length = sum(len(str(cost)) + 3 for cost in known)
    if len(known) > 2 or (len(known) == 2 and length > width):
        tokens = [cost.tokens for cost in known if cost.tokens is not None]
        whole = sum(tokens) if len(tokens) == len(known) else None
        known = [
            AttachmentCost(
                f"{len(known)} files",
                whole,
                sum(cost.characters for cost in known),
                tuple(size for cost in known for size in cost.pixels),
            )
        ]
    return failed[:1] + indexed + [str(cost) for cost in known]


@dataclass(frozen=True)
class CompleteMessage:
    """A message with what its files add to it."""

    text: str
    images: tuple[PreparedImage, ...] = ()


@dataclass(frozen=True)
class OutgoingMessage:
    """A message, and the files that are attached to it."""

    text: str
    """The text with its pastes, and with plain file names instead of mentions."""
    files: tuple[Attachment, ...] = ()
    sources: Sources = field(default_factory=Sources)

    def without_folder(self, folder: Path) -> OutgoingMessage:
        """Return the message without a folder, and without its name at either end of the text.

        A name that the text has more than once stays, since it may be one of its words.
        """
        text = self.text.strip()
        for file in self.files:
            if file.path == folder and text.count(file.plain_name) == 1:
                name = re.escape(file.plain_name)
                text = re.sub(rf"^{name}(?!\S)|(?<!\S){name}$", "", text).strip()
        files = tuple(file for file in self.files if file.path != folder)
        return dataclasses.replace(self, text=text or self.text, files=files)

    def read(self) -> CompleteMessage:
        """Return the text followed by the files; call it in a thread if there are files.

        Raises:
            FolderTooLarge: a folder is, see `without_folder`.
            UsageError: a file cannot be read.
        """
        attached = read_attachments(self.files, self.sources)
        text = self.text
        if attached.blocks:
            text = "\n\n".join([text.rstrip(), *attached.blocks])
        return CompleteMessage(text, attached.images)


class Attachments:
    """The files that a text mentions, read and counted in threads.

    Args:
        folder: where paths start.
        count_tokens: returns the tokens of a text; called in a thread.
        sources: where files are read from; used in threads.
        vision: what the model makes of images; asked in a thread.
        call_in_ui_thread: calls a function in the UI thread, from any thread.
        on_changed: called when `notes` has changed.
        on_failed: called when a file of `attach` cannot be read.
    """

    def __init__(
        self,
        folder: Path,
        count_tokens: TokenCounter,
        sources: Sources,
        vision: Vision,
        *,
        call_in_ui_thread: Callable[[Callable[[], None]], object],
        on_changed: Callable[[], None],
        on_failed: Callable[[ChatlmError], None],
    ) -> None:
        self._folder = folder
        self._count_tokens = count_tokens
        self._sources = sources
        self._vision = vision
        self._call_in_ui_thread = call_in_ui_thread
        self._on_changed = on_changed
        self._on_failed = on_failed
        self._files: dict[str, Attachment] = {}
        """The files found by the last scan, by mention."""
        self._costs: dict[str, AttachmentCost | ChatlmError] = {}
        """The cost of each file, or why it cannot be read."""
        self._counting: dict[str, object] = {}
        """A token for each file that is being counted; a cost with another token is outdated."""
        self._message: OutgoingMessage | None = None
        """The message whose files are being read."""
        self.folders: FolderIndexing | None = None
        """Indexes folders that are too large; None where nothing does."""

    def find_mention(self, path: str) -> str:
        """Return the mention of an existing file.

        Raises:
            UsageError: there is no such file.
        """
        name = one_line(path, MAX_NAME_WIDTH)
        if is_web_address(path):
            return format_mention(path)
        found, _ = _resolve(path, self._folder)
        found = found or resolve_path(path, self._folder)
        if found is None:
            raise UsageError(f"{name} does not exist", hint="Check the path.")
        if found.is_dir():
            return format_mention(f"{path.rstrip('/')}/")
        if not found.is_file():
            raise UsageError(f"{name} is not a file", hint="Give the path of a file or folder.")
        return format_mention(path)

    def mention_of_paste(self, text: str) -> str | None:
        """Return the mentions of files whose paths were pasted or dropped; None for other texts."""
        mentions = []
        for paths in pasted_paths(text):
            try:
                mentions = [self.find_mention(path) for path in paths]
            except UsageError:
                continue
            return " ".join(mentions) or None
        return None

    def scan(self, text: str, *, attached: str = "", recount: bool = False) -> None:
        """Find the files that a text mentions, and count those whose cost is not known.

        Args:
            text: the text.
            attached: a mention that the user has added with a command, and hears of if its file
                cannot be read.
            recount: also count files that were counted before.
        """
        self._files = {file.mention: file for file in self._find(text)}
        self._costs = {name: cost for name, cost in self._costs.items() if name in self._files}
        for mention, file in self._files.items():
            cost = self._costs.get(mention)
            is_known = isinstance(cost, AttachmentCost) and (
                cost.tokens is not None or bool(cost.pixels) or cost.to_index
            )
            if file.is_on_the_web and mention != attached:
                continue  # a request for each key that completes it would tell others
            if recount or mention == attached or not (is_known or mention in self._counting):
                self._start_counting(file, tell=mention == attached)
        self._on_changed()

    def notes(self, text: str, width: int) -> list[str]:
        """Return short texts about the files that a text still mentions.

        Args:
            text: the text.
            width: see `summarise_costs`.
        """
        mentions = [mention for mention in self._files if mention in text]
        costs = [self._costs[mention] for mention in mentions if mention in self._costs]
        names = [
            self._files[mention].short_name.rstrip("/")
            for mention in mentions
            if mention not in self._costs
        ]
        on_web = [name for name in names if is_web_address(name)]
        names = [name for name in names if name not in on_web]
        reading = names if len(names) < 2 else [f"{len(names)} files"]
        notes = summarise_costs(costs, width) + [f"reading {what}…" for what in reading]
        return notes + ["read from the web when it is sent"] * bool(on_web)

    def has_problem(self, text: str) -> bool:
        """Return whether a file that a text still mentions cannot be attached."""
        return any(
            isinstance(self._costs.get(mention), ChatlmError)
            for mention in self._files
            if mention in text
        )

    def outgoing_message(self, text: str, unfold: Callable[[str], str]) -> OutgoingMessage:
        """Return the message that a text stands for.

        Args:
            text: the text as typed.
            unfold: inserts the pastes of a text.
        """
        files = self._find(text)
        mentions = {file.mention for file in files}
        gone = [
            file
            for mention, file in self._files.items()
            if mention in text and mention not in mentions
        ]
        whole = unfold(replace_mentions(text, files))
        return OutgoingMessage(whole, (*gone, *files), self._sources)

    def message_of(self, text: str) -> OutgoingMessage:
        """Return the message that a text without pastes stands for; call it in any thread."""
        files = self._find(text)
        return OutgoingMessage(replace_mentions(text, files), tuple(files), self._sources)

    @property
    def is_reading_message(self) -> bool:
        """Whether the files of a message are being read."""
        return self._message is not None

    def read_message(
        self, message: OutgoingMessage, on_read: Callable[[CompleteMessage | ChatlmError], None]
    ) -> None:
        """Read the files of a message in a thread, in place of any other message.

        Args:
            message: the message.
            on_read: called with the whole message, or why it cannot be read; not called after
                `cancel_message`.
        """

        indexed: list[Callable[[], None]] = []

        def finish(result: CompleteMessage | ChatlmError) -> None:
            if self._message is message:
                self._message = None
                if not isinstance(result, ChatlmError):
                    for use_index in indexed:
                        use_index()
                self._on_changed()
                on_read(result)

        def work() -> None:
            result = _result_of(partial(self._read, message, indexed), "reading attached files")
            self._call_in_ui_thread(partial(finish, result))

        self._message = message
        self._on_changed()
        Thread(target=work, name="chatlm-attachments", daemon=True).start()

    def _read(self, message: OutgoingMessage, indexed: list[Callable[[], None]]) -> CompleteMessage:
        """Read a message; one with images that the model cannot read is refused.

        Args:
            message: the message.
            indexed: receives what lets the chat use the indices of folders that are too large.
        """
        try:
            whole = message.read()
        except FolderTooLarge as error:
            if self.folders is None or not self.folders.is_possible:
                raise
            if indexed:
                raise UsageError(
                    "A chat can use the index of one folder, and several are too large to attach",
                    hint="Index them together: /rag build PATH, then chatlm rag add NAME PATH",
                ) from error
            indexed.append(self.folders.index(error.folder))
            return self._read(message.without_folder(error.folder), indexed)
        self._vision.check([each.image for each in whole.images])
        return whole

    def cancel_message(self) -> bool:
        """Give up the message whose files are being read; return False if there is none."""
        was_reading, self._message = self._message is not None, None
        if was_reading:
            self._on_changed()
        return was_reading

    def _find(self, text: str) -> list[Attachment]:
        return find_attachments(text, self._folder, self._sources.resources)

    def _start_counting(self, file: Attachment, *, tell: bool) -> None:
        token = self._counting[file.mention] = object()

        def count() -> AttachmentCost:
            try:
                attached = file.read(self._sources)
            except FolderTooLarge:
                if self.folders is None or not self.folders.is_possible:
                    raise
                return AttachmentCost(file.short_name, None, to_index=True)
            images = [each.image for each in attached.images]
            self._vision.check(images)
            text = "\n\n".join(attached.blocks)
            costs = [self._vision.count_tokens(image) for image in images]
            if text or not images:
                costs.append(self._count_tokens(text))
            known = [cost for cost in costs if cost is not None]
            return AttachmentCost(
                file.short_name,
                sum(known) if len(known) == len(costs) else None,
                len(text),
                tuple(f"{image.width:,}×{image.height:,}" for image in images),
            )

        def work() -> None:
            cost = _result_of(count, "counting an attached file")
            self._call_in_ui_thread(partial(self._show_cost, file.mention, token, tell, cost))

        Thread(target=work, name="chatlm-attachment", daemon=True).start()

    def _show_cost(
        self, mention: str, token: object, tell: bool, cost: AttachmentCost | ChatlmError
    ) -> None:
        if self._counting.get(mention) is not token:
            return
        del self._counting[mention]
        self._costs[mention] = cost
        self._on_changed()
        if tell and isinstance(cost, ChatlmError):
            self._on_failed(cost)


def _result_of(work: Callable[[], T], description: str) -> T | ChatlmError:
    """Return what work returns, or its error for the user.

    Args:
        work: reads files.
        description: names the work in the log.
    """
    try:
        return work()
    except UsageError as error:  # of a file that the user named: not for the log
        return error
    except Exception as problem:
        return to_user_error(problem, description) or UsageError("The file was not read")
