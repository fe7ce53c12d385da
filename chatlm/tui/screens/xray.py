"""Tokens of a prompt by owner; no forged control tokens."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

from chatlm.text import visible
from chatlm.tui.clipboard import copy
from chatlm.tui.formatting import count
from chatlm.tui.screens.card import Card
from chatlm.tui.widgets.hints import Flow
from chatlm.tui.workers import once
from chatlm.types.messages import SUMMARY_HEAD, Message, Passage
from chatlm.types.requests import Prompt, PromptToken, Request

LONGEST = 256
"""Characters of the longest token that is looked for."""


class Kind(StrEnum):
    """Whose a token is; the value names it on the screen."""

    CONTROL = "control tokens"
    FORMAT = "format around the messages"
    SYSTEM = "system prompt"
    USER = "your messages"
    ASSISTANT = "replies"
    PASSAGE = "passages"
    ADDED = "added by chatlm or a plugin"


@dataclass(frozen=True)
class Xray:
    """A prompt, and what is needed to tell its parts apart."""

    prompt: Prompt
    request: Request
    user_text: str = ""
    """What the person typed for the newest turn."""
    passages: tuple[Passage, ...] = ()
    """What was found for it."""
    sent_hash: str = ""
    """`Prompt.hash` of what was sent, where something was and it is known."""


@dataclass(frozen=True)
class Proof:
    """How many tokens stand in people's and documents' texts, and how many are control tokens."""

    yours: int
    """Tokens of the person's own text."""
    others: int
    """Tokens of all other contents."""
    forged: int
    """How many of both are control tokens; anything but 0 means that a text posed as the format."""


def parts(
    prompt: Prompt, request: Request, user_text: str = "", passages: Iterable[Passage] = ()
) -> list[Kind]:
    """The kind of each of the prompt's tokens; a token that crosses a border is of its beginning.

    In the newest user message the passages and the person's own words are found by their exact
    text, and what is neither was added by chatlm or a plugin.
    """
    owners = _owners(request.messages, user_text, tuple(passages))
    drawn: dict[int, list[str]] = {}
    for token in prompt.tokens:
        if token.message is not None:
            drawn.setdefault(token.message, []).append(token.text)
    reached = {
        number: _missing(request.messages[number].content, "".join(texts))
        for number, texts in drawn.items()
    }
    kinds = []
    for token in prompt.tokens:
        if token.message is None:
            kinds.append(Kind.CONTROL if token.control else Kind.FORMAT)
            continue
        owner = owners[token.message]
        at = reached[token.message]
        kinds.append(owner[min(at if token.text else at - 1, len(owner) - 1)])
        reached[token.message] = at + len(token.text)
    return kinds


def shares(kinds: Sequence[Kind]) -> dict[Kind, int]:
    """Tokens of each kind that there is, in the order of `Kind`."""
    counted = Counter(kinds)
    return {kind: counted[kind] for kind in Kind if counted[kind]}


def proof(prompt: Prompt, kinds: Sequence[Kind]) -> Proof:
    """Count the control tokens among the tokens of contents.

    Args:
        prompt: whose tokens are looked at.
        kinds: of these tokens, from `parts`.
    """
    contents = [
        (token, kind)
        for token, kind in zip(prompt.tokens, kinds, strict=True)
        if token.message is not None
    ]
    yours = sum(kind is Kind.USER for _, kind in contents)
    forged = sum(token.control for token, _ in contents)
    return Proof(yours, len(contents) - yours, forged)


def _missing(content: str, drawn: str) -> int:
    """How many of the content's first characters stand in the format's token before it, where
    `drawn` is the text of the content's own tokens, which may reach beyond its end."""
    for number in range(min(len(content), LONGEST)):
        if content.startswith(drawn, number) or drawn.startswith(content[number:]):
            return number
    return 0


def _owners(
    messages: Sequence[Message], user_text: str, passages: Sequence[Passage]
) -> list[list[Kind]]:
    """For each message, the kind of each of its characters."""
    plain: Mapping[str, Kind] = {
        "system": Kind.SYSTEM,
        "user": Kind.USER,
        "assistant": Kind.ASSISTANT,
    }
    users = [number for number, message in enumerate(messages) if message.role == "user"]
    owners = []
    for number, message in enumerate(messages):
        if users and number == users[-1] and user_text:
            owners.append(_newest(message.content, user_text, passages))
        elif message.role == "user" and message.content.startswith(SUMMARY_HEAD):
            owners.append([Kind.ADDED] * len(message.content))
        else:
            owners.append([plain[message.role]] * len(message.content))
    return owners


def _newest(content: str, user_text: str, passages: Sequence[Passage]) -> list[Kind]:
    """Passages first, each after the one before; then the last place of the person's words that is
    none of theirs, since a passage may quote the question."""
    kinds = [Kind.ADDED] * len(content)
    start = 0
    for passage in passages:
        found = content.find(passage.text, start) if passage.text else -1
        if found >= 0:
            start = found + len(passage.text)
            kinds[found:start] = [Kind.PASSAGE] * len(passage.text)
    found = content.rfind(user_text)
    while found >= 0 and Kind.PASSAGE in kinds[found : found + len(user_text)]:
        found = content.rfind(user_text, 0, found + len(user_text) - 1)
    if found >= 0:
        kinds[found : found + len(user_text)] = [Kind.USER] * len(user_text)
    return kinds


STYLES: dict[Kind, str] = {
    Kind.CONTROL: "bold $foreground on $primary-muted",
    Kind.FORMAT: "$foreground 60%",
    Kind.SYSTEM: "$text-primary",
    Kind.USER: "bold $foreground",
    Kind.ASSISTANT: "$text-success",
    Kind.PASSAGE: "italic $text-accent",
    Kind.ADDED: "underline $text-error",
}
"""Apart in shape as well as in colour, for who sees none."""


QUIET = "$foreground 55%"


HASH_SHOWN = 12


ESTIMATED = Content.styled(
    "These are the messages that are sent, cut by an estimate: the server puts them into its own "
    "template and tokens.",
    QUIET,
)


class XrayScreen(Card[None]):
    """A prompt as the model reads it.

    Args:
        read: makes the prompt; runs in a thread, since plugins may take their time with it.
        title: what prompt it is, in the card's border.

    Raises:
        ChatlmError: by `read`; it is shown.
    """

    DEFAULT_CSS = """
    XrayScreen {
        & #head, & #proof { height: auto; }
        & #head { color: $text-muted; }
        & #legend { margin: 0 0 1 0; }
        & #proof { margin: 1 0 0 0; }
        & VerticalScroll { height: 1fr; }
        &.-low #legend { display: none; }
        &.-low #proof { margin: 0; }
    }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("t", "borders", "token borders"),
        Binding("i", "ids", "ids"),
        Binding("c", "copy_text", "copy text"),
        Binding("d,upper_c", "copy_ids", "copy ids"),
        Binding("escape,q,x", "dismiss", "close"),
    ]

    def __init__(self, read: Callable[[], Xray], title: str = "Prompt x-ray") -> None:
        super().__init__()
        self.CARD_TITLE = title
        self._read = read
        self._xray: Xray | None = None
        self._kinds: list[Kind] = []
        self._borders = False
        self._ids = False

    def body(self) -> Iterable[Widget]:
        """What it is, the legend, the tokens, the proof."""
        yield Static("Building the prompt …", id="head")
        yield Flow(id="legend")
        with VerticalScroll():
            yield Static(id="tokens")
        yield Static(id="proof")

    def on_mount(self) -> None:
        """Have the prompt made."""

        self.work(lambda: once(self._read))

    def came(self, value: object) -> None:
        """Show the prompt."""
        if not isinstance(value, Xray):
            return
        self._xray = value
        self._kinds = parts(value.prompt, value.request, value.user_text, value.passages)
        self.query_one("#head", Static).update(Content(head(value)))
        self.query_one("#legend", Flow).fill(legend(self._kinds))
        told = ESTIMATED if value.prompt.estimated else proven(proof(value.prompt, self._kinds))
        self.query_one("#proof", Static).update(told)
        self._draw()
        self.query_one(VerticalScroll).focus()

    def ended(self) -> None:
        """With no prompt there is nothing to look at."""
        if self._xray is None:
            self.query_one("#head", Static).update("There is no prompt to show.")

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Without a prompt there is only the way out."""
        return action == "dismiss" or self._xray is not None

    def action_borders(self) -> None:
        """Show or hide where each token ends."""
        self._borders = not self._borders
        self._draw()

    def action_ids(self) -> None:
        """Show or hide each token's id."""
        self._ids = not self._ids
        self._draw()

    def action_copy_text(self) -> None:
        """Copy the prompt as text, control tokens by their names."""
        if self._xray is not None:
            text = "".join(token.text for token in self._xray.prompt.tokens)
            copy(self.app, text, "the prompt")

    def action_copy_ids(self) -> None:
        """Copy the ids as a JSON list."""
        if self._xray is not None:
            ids = [token.id for token in self._xray.prompt.tokens]
            copy(self.app, json.dumps(ids), count(len(ids), "token id"))

    def _draw(self) -> None:
        if self._xray is not None:
            drawn = tokens(
                self._xray.prompt.tokens, self._kinds, borders=self._borders, ids=self._ids
            )
            self.query_one("#tokens", Static).update(drawn)


def head(xray: Xray) -> str:
    """How long the prompt is, whether all fits, and whether it is what was sent."""
    prompt = xray.prompt
    told = [
        f"{len(prompt.tokens):,} of {count(prompt.limit, 'token')}",
        f"{prompt.reserve:,} kept for the reply",
    ]
    if prompt.left_out:
        told.append(f"{count(len(prompt.left_out), 'message')} left out")
    told.append(f"hash {prompt.hash[:HASH_SHOWN]}")
    line = " · ".join(told)
    if not xray.sent_hash:
        return line
    if xray.sent_hash == prompt.hash:
        return f"{line}\nThis is the very prompt that was sent."
    return (
        f"{line}\nNot the prompt that was sent ({xray.sent_hash[:HASH_SHOWN]}): "
        "the model, its format or its context is another one now."
    )


def legend(kinds: list[Kind]) -> list[Content]:
    """Each kind in its own look, with its tokens and their share."""
    return [
        Content.assemble((kind.value, STYLES[kind]), f" {number:,} ({number / len(kinds):.0%})")
        for kind, number in shares(kinds).items()
    ]


def proven(result: Proof) -> Content:
    """That no text poses as the format; or, loudly, that one does."""
    if result.forged:
        text = f"{count(result.forged, 'control token')} inside the texts: one of them can pose as"
        return Content.assemble((f"✗ {text} another's turn. Please report this.", "$text-error"))
    yours = f"✓ {count(result.yours, 'token')} of your text, none is a control token"
    others = f" (nor any of {result.others:,} others)" if result.others else ""
    return Content.assemble((yours + others, "$text-success"))


def tokens(
    prompt: Iterable[PromptToken], kinds: Iterable[Kind], *, borders: bool, ids: bool
) -> Content:
    """The tokens one after the other; a line end is drawn as ↵ before it ends the line.

    Args:
        prompt: the tokens.
        kinds: theirs.
        borders: draw a line after each; else neighbours of one kind flow together.
        ids: draw each one's id after it, and the line too.
    """
    drawn: list[tuple[str, str]] = []
    for token, kind in zip(prompt, kinds, strict=True):
        style = STYLES[kind]
        text = visible(token.text).replace("\n", "↵\n")
        line_ends = text.endswith("\n")
        if kind is Kind.CONTROL:
            text = f" {text} "
        elif not text and (borders or ids):
            text = "…"
        drawn.append((text.removesuffix("\n"), style))
        if borders or ids:
            drawn.append((f" {token.id}│" if ids else "│", QUIET))
        if line_ends:
            drawn.append(("\n", ""))
    return Content.assemble(*drawn)
