"""Panel with the labels of a chat: how often each one, and on which messages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.cells import cell_len
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Static

from chatlm import Annotation, Turn, Ui, one_line
from chatlm.plugin_kit.screens import MUTED_STYLE, with_commands
from chatlm_emotion import PLUGIN
from chatlm_emotion.actions import OFF
from chatlm_emotion.settings import label_scope

BARS = "▁▂▃▄▅▆▇█"
"""Bars for probabilities from 0 to 1."""

MAX_RECENT = 16
"""Maximum messages in a chart."""

MAX_LABELS = 12
"""Maximum labels in a chart, the most frequent ones."""


class MoodPanel(Vertical):
    """A line for each label in the chat, with a bar for each message that has it.

    Args:
        ui: the chat's screen.
    """

    DEFAULT_CSS = """
    MoodPanel {
        height: 1fr;

        & > Static { height: auto; }
    }
    """

    def __init__(self, ui: Ui) -> None:
        super().__init__()
        self._ui = ui

    def compose(self) -> ComposeResult:
        """Compose a single text."""
        yield Static()

    def show(self, ui: Ui) -> None:
        """Show the current labels of the chat."""
        turns = ui.conversation.turns
        asked, replied = (
            message_labels(turns, of_replies=False),
            message_labels(turns, of_replies=True),
        )
        blocks = [
            block
            for block in (_label_chart("You", asked), _label_chart("Replies", replied))
            if block
        ]
        if not blocks:
            blocks = [self._empty_content()]
        elif (turn := ui.turn) and (label := user_message_label(turn)):
            words = f"Selected: {_format_label(label)} ({label.score or 0:.2f})"
            blocks.append(Content.styled(words, MUTED_STYLE))
        self.query_one(Static).update(Content("\n\n").join(blocks))

    def _empty_content(self) -> Content:
        if label_scope(self._ui.state) == OFF:
            text = (
                "Moods are off. `/emotion user` labels your messages in this chat, with a small "
                "classifier on this machine, and this panel shows how the mood goes."
            )
        else:
            text = "No message is labelled yet. Send one; `/emotion` says if it can be."
        return with_commands(text).stylize_before(MUTED_STYLE)


def message_labels(turns: Sequence[Turn], *, of_replies: bool) -> list[Annotation]:
    """Return the labels of the user's messages, or of the selected replies."""
    found = []
    for turn in turns:
        of = turn.reply.id if of_replies and turn.reply else None
        if of_replies and of is None:
            continue
        found += [label for on, label in turn.annotations if on == of and label.plugin == PLUGIN]
    return found


def user_message_label(turn: Turn) -> Annotation | None:
    """Return the label of the turn's user message."""
    return next(iter(message_labels([turn], of_replies=False)), None)


def _label_chart(title: str, labels: Sequence[Annotation]) -> Content | None:
    """Return a title and a line for each label; None without labels."""
    if not labels:
        return None
    counts = Counter(label.value for label in labels)
    newest = labels[-MAX_RECENT:]
    named = {label.value: _format_label(label) for label in labels}
    width = max(map(cell_len, named.values()))
    count = len(labels)
    head = f"{title} · {count} message{'s' if count > 1 else ''}"
    lines = [Content.styled(head, "bold")]
    for value, often in counts.most_common(MAX_LABELS):
        strip = "".join(_bar_character(label) if label.value == value else "·" for label in newest)
        name = _pad_to_width(named[value], width)
        lines.append(Content.assemble(f"{name} ", (strip, "$text-primary"), (f" {often}", "bold")))
    if len(labels) > MAX_RECENT:
        lines.append(Content.styled(f"The strips show the newest {MAX_RECENT}.", MUTED_STYLE))
    return Content("\n").join(lines)


def _bar_character(label: Annotation) -> str:
    share = min(max(label.score or 0.0, 0.0), 1.0)
    return BARS[min(int(share * len(BARS)), len(BARS) - 1)]


def _format_label(label: Annotation) -> str:
    icon = one_line(label.icon, 8)
    return f"{icon} {one_line(label.value, 10)}" if icon else one_line(label.value, 12)


def _pad_to_width(text: str, width: int) -> str:
    """Pad a text to a width in cells; an emoji takes two."""
    return text + " " * (width - cell_len(text))
