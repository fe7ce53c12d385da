"""The prompt x-ray: tokens by origin, and the check for forged control tokens."""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

from chatlm.chat.untrusted_text import find_marked
from chatlm.text import escape_controls
from chatlm.tui.clipboard import copy
from chatlm.tui.formatting import count
from chatlm.tui.screens.card import Card
from chatlm.tui.widgets.hints import Flow
from chatlm.tui.workers import single_value
from chatlm.types.conversations import SUMMARY_PREFIX
from chatlm.types.messages import Message, Passage
from chatlm.types.requests import Prompt, PromptToken, Request

MAX_TOKEN_LENGTH = 256
"""Maximum characters of a token."""


class TokenKind(StrEnum):
    """Origin of a token; the value is its label."""

    CONTROL = "control tokens"
    FORMAT = "chat template"
    SYSTEM = "system prompt"
    USER = "your messages"
    ASSISTANT = "replies"
    REASONING = "thoughts"
    CALL = "tool calls"
    RESULT = "tool results"
    IMAGE = "images"
    PASSAGE = "passages"
    DATA = "text from outside, marked as data"
    ADDED = "added by chatlm or a plugin"


_PART_KINDS: Mapping[str, TokenKind] = {
    "reasoning": TokenKind.REASONING,
    "tool_call": TokenKind.CALL,
    "tool_result": TokenKind.RESULT,
    "image": TokenKind.IMAGE,
}


@dataclass(frozen=True)
class PromptXray:
    """A prompt with the texts that identify its parts."""

    prompt: Prompt
    request: Request
    user_text: str = ""
    """The user's text of the newest turn."""
    passages: tuple[Passage, ...] = ()
    """Its retrieved passages."""
    sent_hash: str = ""
    """`Prompt.hash` of the prompt that was sent, if known."""


@dataclass(frozen=True)
class ForgeryCheck:
    """Tokens of message contents, and how many of them are control tokens."""

    user_tokens: int
    """Tokens of the user's text."""
    other_tokens: int
    """Tokens of all other contents."""
    forged_tokens: int
    """Control tokens among them; anything but 0 means that content forged the chat format."""


def classify_tokens(
    prompt: Prompt, request: Request, user_text: str = "", passages: Iterable[Passage] = ()
) -> list[TokenKind]:
    """The kind of each of the prompt's tokens; a token that crosses a border is of its beginning.

    In the newest user message the passages and the user's own words are found by their exact
    text, and what is neither was added by chatlm or a plugin.
    """
    owners = _character_kinds(request.messages, user_text, tuple(passages))
    drawn: dict[int, list[str]] = {}
    for token in prompt.tokens:
        if token.message_index is not None and token.part == "text":
            drawn.setdefault(token.message_index, []).append(token.text)
    reached = {
        number: _missing_prefix_length(request.messages[number].text, "".join(texts))
        for number, texts in drawn.items()
    }
    kinds = []
    for token in prompt.tokens:
        if token.message_index is None:
            kinds.append(TokenKind.CONTROL if token.control else TokenKind.FORMAT)
            continue
        if token.part != "text":
            kinds.append(_PART_KINDS.get(token.part, TokenKind.ADDED))
            continue
        owner = owners[token.message_index]
        at = reached[token.message_index]
        kinds.append(owner[min(at if token.text else at - 1, len(owner) - 1)])
        reached[token.message_index] = at + len(token.text)
    _mark_data(prompt, kinds)
    return kinds


def _mark_data(prompt: Prompt, kinds: list[TokenKind]) -> None:
    """Give the tokens of text between marks, and of the marks, their kind."""
    numbers: dict[int, list[int]] = {}
    for number, token in enumerate(prompt.tokens):
        if token.message_index is not None:
            numbers.setdefault(token.message_index, []).append(number)
    for of_message in numbers.values():
        texts = [prompt.tokens[number].text for number in of_message]
        starts = list(accumulate(map(len, texts), initial=0))
        for begin, end in find_marked("".join(texts)):
            first, last = bisect_right(starts, begin) - 1, bisect_left(starts, end)
            for number in of_message[first:last]:
                kinds[number] = TokenKind.DATA


def count_kinds(kinds: Sequence[TokenKind]) -> dict[TokenKind, int]:
    """Return the number of tokens of each kind, in the order of `Kind`."""
    counted = Counter(kinds)
    return {kind: counted[kind] for kind in TokenKind if counted[kind]}


def check_forgery(prompt: Prompt, kinds: Sequence[TokenKind]) -> ForgeryCheck:
    """Count the control tokens among content tokens.

    Args:
        prompt: the prompt.
        kinds: of these tokens, from `parts`.
    """
    contents = [
        (token, kind)
        for token, kind in zip(prompt.tokens, kinds, strict=True)
        if token.message_index is not None
    ]
    yours = sum(kind is TokenKind.USER for _, kind in contents)
    forged = sum(token.control for token, _ in contents)
    return ForgeryCheck(yours, len(contents) - yours, forged)


def _missing_prefix_length(content: str, token_text: str) -> int:
    """How many of the content's first characters stand in the format's token before it, where
    `token_text` is the text of the content's own tokens, which may reach beyond its end."""
    for number in range(min(len(content), MAX_TOKEN_LENGTH)):
        if content.startswith(token_text, number) or token_text.startswith(content[number:]):
            return number
    return 0


def _character_kinds(
    messages: Sequence[Message], user_text: str, passages: Sequence[Passage]
) -> list[list[TokenKind]]:
    """Return for each message the kind of each character."""
    plain: Mapping[str, TokenKind] = {
        "system": TokenKind.SYSTEM,
        "user": TokenKind.USER,
        "assistant": TokenKind.ASSISTANT,
        "tool": TokenKind.RESULT,
    }
    users = [number for number, message in enumerate(messages) if message.role == "user"]
    owners = []
    for number, message in enumerate(messages):
        if users and number == users[-1] and user_text:
            owners.append(_newest_message_kinds(message.text, user_text, passages))
        elif message.role == "user" and message.text.startswith(SUMMARY_PREFIX):
            owners.append([TokenKind.ADDED] * len(message.text))
        else:
            owners.append([plain[message.role]] * len(message.text))
    return owners


def _newest_message_kinds(
    content: str, user_text: str, passages: Sequence[Passage]
) -> list[TokenKind]:
    """Passages first, each after the one before; then the last place of the user's words that is
    none of theirs, since a passage may quote the question."""
    kinds = [TokenKind.ADDED] * len(content)
    start = 0
    for passage in passages:
        found = content.find(passage.text, start) if passage.text else -1
        if found >= 0:
            start = found + len(passage.text)
            kinds[found:start] = [TokenKind.PASSAGE] * len(passage.text)
    found = content.rfind(user_text)
    while found >= 0 and TokenKind.PASSAGE in kinds[found : found + len(user_text)]:
        found = content.rfind(user_text, 0, found + len(user_text) - 1)
    if found >= 0:
        kinds[found : found + len(user_text)] = [TokenKind.USER] * len(user_text)
    return kinds


STYLES: dict[TokenKind, str] = {
    TokenKind.CONTROL: "bold $foreground on $primary-muted",
    TokenKind.FORMAT: "$text-muted",
    TokenKind.SYSTEM: "$text-primary",
    TokenKind.USER: "bold $foreground",
    TokenKind.ASSISTANT: "$text-success",
    TokenKind.REASONING: "italic $foreground on $warning-muted",
    TokenKind.CALL: "bold $text-warning",
    TokenKind.RESULT: "$text-warning",
    TokenKind.IMAGE: "$foreground on $success-muted",
    TokenKind.PASSAGE: "italic $text-accent",
    TokenKind.DATA: "$foreground on $accent-muted",
    TokenKind.ADDED: "underline $text-error",
}
"""Styles that differ in shape as well as in colour."""


MUTED_STYLE = "$foreground 55%"


SHOWN_HASH_LENGTH = 12


ESTIMATE_NOTICE = Content.styled(
    "The messages as they are sent, split into estimated tokens: the server applies its own "
    "template and tokenizer.",
    MUTED_STYLE,
)


class XrayScreen(Card[None]):
    """Shows a prompt token by token.

    Args:
        read: builds the prompt; runs in a thread, since plugins may be slow.
        title: shown in the border.

    Raises:
        ChatlmError: raised by `read`, and shown.
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
        Binding("t", "borders", "token boundaries"),
        Binding("i", "ids", "ids"),
        Binding("c", "copy_text", "copy text"),
        Binding("d,upper_c", "copy_ids", "copy ids"),
        Binding("escape,q,x", "dismiss", "close"),
    ]

    def __init__(self, read: Callable[[], PromptXray], title: str = "Prompt x-ray") -> None:
        super().__init__()
        self.CARD_TITLE = title
        self._read = read
        self._xray: PromptXray | None = None
        self._kinds: list[TokenKind] = []
        self._show_borders = False
        self._show_ids = False

    def body(self) -> Iterable[Widget]:
        """Yield the summary, the legend, the tokens and the check."""
        yield Static("Building the prompt …", id="head")
        yield Flow(id="legend")
        with VerticalScroll():
            yield Static(id="tokens")
        yield Static(id="proof")

    def on_mount(self) -> None:
        """Build the prompt."""

        self.start_work(lambda: single_value(self._read))

    def handle_value(self, value: object) -> None:
        """Show the prompt."""
        if not isinstance(value, PromptXray):
            return
        self._xray = value
        self._kinds = classify_tokens(value.prompt, value.request, value.user_text, value.passages)
        self.query_one("#head", Static).update(Content(heading(value)))
        self.query_one("#legend", Flow).set_items(legend(self._kinds))
        verdict = (
            ESTIMATE_NOTICE
            if value.prompt.estimated
            else forgery_verdict(check_forgery(value.prompt, self._kinds))
        )
        self.query_one("#proof", Static).update(verdict)
        self._update_tokens()
        self.query_one(VerticalScroll).focus()

    def handle_end(self) -> None:
        """Show that there is no prompt."""
        if self._xray is None:
            self.query_one("#head", Static).update("There is no prompt to show.")

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Hide all keys but close without a prompt."""
        return action == "dismiss" or self._xray is not None

    def action_borders(self) -> None:
        """Show or hide token boundaries."""
        self._show_borders = not self._show_borders
        self._update_tokens()

    def action_ids(self) -> None:
        """Show or hide each token's id."""
        self._show_ids = not self._show_ids
        self._update_tokens()

    def action_copy_text(self) -> None:
        """Copy the prompt as text, with control tokens by name."""
        if self._xray is not None:
            text = "".join(token.text for token in self._xray.prompt.tokens)
            copy(self.app, text, "the prompt")

    def action_copy_ids(self) -> None:
        """Copy the ids as a JSON list."""
        if self._xray is not None:
            ids = [token.id for token in self._xray.prompt.tokens]
            copy(self.app, json.dumps(ids), count(len(ids), "token id"))

    def _update_tokens(self) -> None:
        if self._xray is not None:
            drawn = tokens_content(
                self._xray.prompt.tokens,
                self._kinds,
                borders=self._show_borders,
                ids=self._show_ids,
            )
            self.query_one("#tokens", Static).update(drawn)


def heading(xray: PromptXray) -> str:
    """Return the length of the prompt, what was omitted, and whether it is the one sent."""
    prompt = xray.prompt
    facts = [
        f"{len(prompt.tokens):,} of {count(prompt.context_length, 'token')}",
        f"{prompt.reply_reserve:,} reserved for the reply",
    ]
    if prompt.omitted:
        facts.append(f"{count(len(prompt.omitted), 'message')} left out")
    facts.append(f"hash {prompt.hash[:SHOWN_HASH_LENGTH]}")
    line = " · ".join(facts)
    if not xray.sent_hash:
        return line
    if xray.sent_hash == prompt.hash:
        return f"{line}\nThis is exactly the prompt that was sent."
    return (
        f"{line}\nNot the prompt that was sent ({xray.sent_hash[:SHOWN_HASH_LENGTH]}): "
        "the model, its template or its context has changed."
    )


def legend(kinds: list[TokenKind]) -> list[Content]:
    """Return the legend: each kind with its tokens and share."""
    return [
        Content.assemble((kind.value, STYLES[kind]), f" {number:,} ({number / len(kinds):.0%})")
        for kind, number in count_kinds(kinds).items()
    ]


def forgery_verdict(check: ForgeryCheck) -> Content:
    """Return the result of the check for forged control tokens."""
    if check.forged_tokens:
        text = (
            f"{count(check.forged_tokens, 'control token')} inside the texts: one of "
            "them can pose as"
        )
        return Content.assemble((f"✗ {text} another's turn. Please report this.", "$text-error"))
    yours = f"✓ {count(check.user_tokens, 'token')} of your text, none is a control token"
    others = f"; nor is any of {check.other_tokens:,} others" if check.other_tokens else ""
    return Content.assemble((yours + others, "$text-success"))


def tokens_content(
    prompt_tokens: Iterable[PromptToken], kinds: Iterable[TokenKind], *, borders: bool, ids: bool
) -> Content:
    """Return the styled tokens; a newline is drawn as ↵ before the line break.

    Args:
        prompt_tokens: the tokens.
        kinds: their kinds.
        borders: draw a line after each token.
        ids: draw each id after its token, and the line.
    """
    drawn: list[tuple[str, str]] = []
    for token, kind in zip(prompt_tokens, kinds, strict=True):
        style = STYLES[kind]
        text = escape_controls(token.text).replace("\n", "↵\n")
        line_ends = text.endswith("\n")
        if kind is TokenKind.CONTROL:
            text = f" {text} "
        elif not text and (borders or ids):
            text = "…"
        drawn.append((text.removesuffix("\n"), style))
        if borders or ids:
            drawn.append((f" {token.id}│" if ids else "│", MUTED_STYLE))
        if line_ends:
            drawn.append(("\n", ""))
    return Content.assemble(*drawn)
