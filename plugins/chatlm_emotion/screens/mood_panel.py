"""The panel of the moods of a chat: how often each label, and where."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.cells import cell_len
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Static

from chatlm import Annotation, Turn, Ui, one_line
from chatlm_emotion import PLUGIN
from chatlm_emotion.actions import OFF
from chatlm_emotion.settings import labelled_of

QUIET = "$foreground 60%"


BARS = "▁▂▃▄▅▆▇█"
"""The higher, the likelier the label."""


NEWEST = 16
"""Messages that have room side by side."""


MOST_LABELS = 12
"""Labels that are shown, the most frequent ones."""


class Moods(Vertical):
    """A line for each label that messages of the chat have, with a bar where they have it.

    Args:
        ui: the chat's screen.
    """

    DEFAULT_CSS = """
    Moods {
        height: 1fr;

        & > Static { height: auto; }
    }
    """

    def __init__(self, ui: Ui) -> None:
        super().__init__()
        self._ui = ui

    def compose(self) -> ComposeResult:
        """One text."""
        yield Static()

    def show(self, ui: Ui) -> None:
        """Show the moods of the chat as they are now."""
        turns = ui.conversation.turns
        asked, replied = labels_of(turns, replies=False), labels_of(turns, replies=True)
        blocks = [block for block in (_block("You", asked), _block("Replies", replied)) if block]
        if not blocks:
            blocks = [self._nothing()]
        elif (turn := ui.turn) and (label := label_of(turn)):
            words = f"Selected: {_named(label)} ({label.score or 0:.2f})"
            blocks.append(Content.styled(words, QUIET))
        self.query_one(Static).update(Content("\n\n").join(blocks))

    def _nothing(self) -> Content:
        if labelled_of(self._ui.kept) == OFF:
            return Content("No message of this chat is labelled. /emotion user begins.")
        return Content("No message is labelled yet. Send one; /emotion says if it can be.")


def labels_of(turns: Sequence[Turn], *, replies: bool) -> list[Annotation]:
    """The labels of the person's messages, or of the replies that stand in the history."""
    found = []
    for turn in turns:
        of = turn.reply.id if replies and turn.reply else None
        if replies and of is None:
            continue
        found += [label for on, label in turn.annotations if on == of and label.plugin == PLUGIN]
    return found


def label_of(turn: Turn) -> Annotation | None:
    """The label of the turn's user message."""
    return next(iter(labels_of([turn], replies=False)), None)


def _block(title: str, labels: Sequence[Annotation]) -> Content | None:
    """A title, and below it a line for each label."""
    if not labels:
        return None
    counts = Counter(label.value for label in labels)
    newest = labels[-NEWEST:]
    named = {label.value: _named(label) for label in labels}
    width = max(map(cell_len, named.values()))
    count = len(labels)
    head = f"{title} · {count} message{'s' if count > 1 else ''}"
    lines = [Content.styled(head, "bold")]
    for value, often in counts.most_common(MOST_LABELS):
        strip = "".join(_bar(label) if label.value == value else "·" for label in newest)
        name = _padded(named[value], width)
        lines.append(Content.assemble(f"{name} ", (strip, "$text-primary"), (f" {often}", "bold")))
    if len(labels) > NEWEST:
        lines.append(Content.styled(f"The strips show the newest {NEWEST}.", QUIET))
    return Content("\n").join(lines)


def _bar(label: Annotation) -> str:
    share = min(max(label.score or 0.0, 0.0), 1.0)
    return BARS[min(int(share * len(BARS)), len(BARS) - 1)]


def _named(label: Annotation) -> str:
    icon = one_line(label.icon, 8)
    return f"{icon} {one_line(label.value, 10)}" if icon else one_line(label.value, 12)


def _padded(text: str, width: int) -> str:
    """The text with spaces up to a width in cells, of which an emoji takes two."""
    return text + " " * (width - cell_len(text))
