"""Shared by tests of cards: an app that shows one, and prompts."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from textual.app import App
from textual.pilot import Pilot
from textual.screen import Screen
from textual.widgets import Input, TextArea

from chatlm.tui.widgets.hints import Hints
from chatlm.types.messages import Message
from chatlm.types.parts import Reasoning
from chatlm.types.requests import Prompt, PromptToken, Request, prompt_hash
from tests.tui.support import plain

SnapCompare = Callable[..., bool]
Steps = Callable[[Pilot[None]], Awaitable[None]]

both_sizes = pytest.mark.parametrize("size", [(80, 24), (160, 48)], ids=["80x24", "160x48"])


class CardApp(App[None]):
    """Shows one card, and records its results."""

    ENABLE_COMMAND_PALETTE = False

    def __init__(self, card: Screen[Any], theme: str = "textual-dark") -> None:
        super().__init__()
        self.card = card
        self.wanted_theme = theme
        self.given: list[Any] = []

    def on_mount(self) -> None:
        self.theme = self.wanted_theme
        self.push_screen(self.card, self.given.append)


def still(steps: Steps) -> Steps:
    """The steps, with every cursor standing still and all keys at the foot."""

    async def run(pilot: Pilot[None]) -> None:
        await pilot.pause()
        for field in pilot.app.screen.query(Input):
            field.cursor_blink = False
        for area in pilot.app.screen.query(TextArea):
            area.cursor_blink = False
        await steps(pilot)
        await pilot.pause()

    return run


def everything_visible(pilot: Pilot[None]) -> str:
    """The screen's lines as the terminal shows them, nothing that is cut off or covered."""
    return "\n".join(strip.text for strip in pilot.app.screen._compositor.render_strips())


def hint(pilot: Pilot[None]) -> str:
    """The line of keys."""
    return plain(pilot.app.screen.query_one(Hints))


def prompt_of(messages: Sequence[Message], forged: int | None = None) -> Prompt:
    """A prompt in ChatML whose tokens are words; the id of the message whose first token poses as a
    control token may be given."""
    tokens: list[PromptToken] = []

    def words(text: str, message: int | None = None, part: str = "text") -> None:
        for word in re.findall(r" ?\w+|\W", text):
            posing = message is not None and message == forged and tokens[-1].message_index is None
            tokens.append(PromptToken(len(tokens) * 37 % 49152, word, posing, message, part))

    for number, message in enumerate(messages):
        tokens.append(PromptToken(1, "<|im_start|>", control=True))
        words(f"{message.role}\n")
        for part in message.parts:
            if isinstance(part, Reasoning):
                words("<think>")
                words(part.text, number, part.type)
                words("</think>")
        words(message.text, number)
        tokens.append(PromptToken(2, "<|im_end|>", control=True))
        words("\n")
    tokens.append(PromptToken(1, "<|im_start|>", control=True))
    words("assistant\n")
    ids = [token.id for token in tokens]
    return Prompt(tuple(tokens), (10,) * len(messages), (), 8192, 1024, prompt_hash(ids))


def request_of(*messages: tuple[str, str]) -> Request:
    """A request of `(role, content)`."""
    return Request(tuple(Message(role, content) for role, content in messages))  # type: ignore[arg-type]
