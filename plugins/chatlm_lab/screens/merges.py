"""A card that shows BPE merging, and the tokens of any text after each merge."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

from textual import on, work
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Input, Static

from chatlm import escape_controls
from chatlm.plugin_kit.screens import MUTED_STYLE, PluginCard
from chatlm_lab.bpe_steps import BpeSteps, visible

MAX_TRAINING_CHARACTERS = 200_000
"""Text that merges are learned from, so that each step is quick enough for a key."""

MAX_SHOWN_CHARACTERS = 300
"""Text whose tokens are shown."""

SHOWN_MERGES = 30
"""Newest merges that are shown, as far as they fit."""

MANY = 10
"""Merges of one press of the second key."""

_TOKEN_STYLES = ("on $primary 30%", "on $foreground 15%")
"""Of tokens side by side."""


class LabMergesCard(PluginCard):
    """BPE, one merge at a time.

    Args:
        texts: to learn merges from.
        text: whose tokens are shown at first.
    """

    DEFAULT_CSS = """
    LabMergesCard {
        & > .card { height: 28; }
        & #about { height: auto; color: $text-muted; margin-bottom: 1; }
        & #merges { height: 1fr; }
        & Input { border: none; height: 1; padding: 0 1; background: $foreground 8%; }
        & Input:focus { border: none; background: $primary 25%; }
        & #tokens { height: auto; max-height: 8; margin: 1 0; }
    }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        # before the field's own
        Binding("enter", "merge(1)", "merge", priority=True),
        Binding("pagedown", f"merge({MANY})", f"{MANY} merges", priority=True),
        Binding("escape", "dismiss", "close"),
    ]

    def __init__(self, texts: Sequence[str], text: str) -> None:
        super().__init__("Byte-pair encoding")
        self._texts = texts
        self._text = " ".join(escape_controls(text).split())[:MAX_SHOWN_CHARACTERS]
        self.steps: BpeSteps | None = None
        """None until the texts are split into words."""

    def body(self) -> Iterable[Widget]:
        """Return the merges, the field for a text and its tokens."""
        yield Static("", id="about")
        yield Static("", id="merges")
        yield Input(self._text, max_length=MAX_SHOWN_CHARACTERS, placeholder="any text")
        yield Static("", id="tokens")

    def on_mount(self) -> None:
        """Split the texts in a thread."""
        self.query_one(Input).focus()
        self._prepare()

    @work(thread=True)
    def _prepare(self) -> None:
        steps = BpeSteps(self._texts)
        self.app.call_from_thread(self._take, steps)

    def _take(self, steps: BpeSteps) -> None:
        self.steps = steps
        self._show()

    def action_merge(self, count: int) -> None:
        """Make the next merges."""
        if self.steps is not None:
            list(self.steps.steps(count))
            self._show()

    @on(Input.Changed)
    def _show_tokens(self) -> None:
        if self.steps is None:
            return
        tokens = [visible(token) for token in self.steps.encode(self.query_one(Input).value)]
        shown = [
            (escape_controls(token), _TOKEN_STYLES[number % 2])
            for number, token in enumerate(tokens)
        ]
        count = (f"\n{len(tokens)} tokens", MUTED_STYLE)
        self.query_one("#tokens", Static).update(Content.assemble(*shown, count))

    def _show(self) -> None:
        steps = self.steps
        if steps is None:
            return
        self.query_one("#about", Static).update(
            Content(
                f"{len(steps.merges):,} merges of the most frequent pairs, {len(steps.tokens):,} "
                f"tokens in the vocabulary, {steps.num_tokens:,} in the text. "
                "· is a blank, ↵ a line break."
            )
        )
        lines = []
        for number in range(len(steps.merges), max(len(steps.merges) - SHOWN_MERGES, 0), -1):
            merge = steps.merges[number - 1]
            left, right, token = map(visible, (merge.left, merge.right, merge.token))
            lines.append(
                Content.assemble(
                    (f"{number:>5}  {left:>12} + {right:<12} → ", MUTED_STYLE),
                    (f"{token:<16}", "bold"),
                    (f" {merge.count:>7,} times", MUTED_STYLE),
                )
            )
        self.query_one("#merges", Static).update(Content("\n").join(lines))
        self._show_tokens()
