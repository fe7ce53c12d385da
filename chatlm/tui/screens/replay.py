"""The replay screen: a reply generated again beside the original, and their difference."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.containers import Container, Vertical, VerticalScroll
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

from chatlm.chat.replay import ReplayFinished, ReplayStarted
from chatlm.chat.word_diff import DiffSegment
from chatlm.text import escape_controls, one_line
from chatlm.tui.clipboard import copy
from chatlm.tui.formatting import count
from chatlm.tui.screens.approval import ApprovalScreen, QuestionScreen
from chatlm.tui.screens.card import Card
from chatlm.types.events import (
    Approval,
    ApprovalNeeded,
    Delta,
    Prefill,
    ToolFinished,
    ToolQuestion,
    ToolStarted,
)

SIDE_BY_SIDE_WIDTH = 100
"""Columns from which the texts are side by side."""


DIFF_MARKS = {"same": ("", ""), "removed": ("[-", "-]"), "added": ("{+", "+}")}
"""Marks around words of each kind, as in wdiff, so that a copy shows them too."""


DIFF_STYLES = {"same": "", "removed": "$text-error strike", "added": "$text-success bold"}


class Asked:
    """A question of a tool that runs again, or whether a call may run.

    Args:
        event: gets the answer.
    """

    def __init__(self, event: ApprovalNeeded | ToolQuestion) -> None:
        self.event = event
        self.answered = threading.Event()
        """Set when the replay may go on."""

    def give(self, answer: Approval | str) -> None:
        """Answer, and let the replay go on."""
        match self.event, answer:
            case ApprovalNeeded() as event, Approval():
                event.answer = answer
            case ToolQuestion() as event, str():
                event.answer = answer
        self.answered.set()


class ReplayScreen(Card[None]):
    """Shows the original and the running replay, then the verdict.

    Args:
        original: the reply's text.
        replay: generates it again; runs in a thread. Its last value is a `Replayed`.
    """

    DEFAULT_CSS = """
    ReplayScreen {
        & #state { height: auto; }
        & #notes { height: auto; color: $text-muted; }
        & #texts { height: 1fr; layout: vertical; margin: 1 0 0 0; }
        &.-beside #texts { layout: horizontal; }
        & #texts > VerticalScroll { width: 1fr; height: 1fr; }
        &.-beside #then { margin: 0 2 0 0; }
        & #now > Vertical { height: auto; min-height: 100%; }
        & .head { color: $text-muted; text-style: bold; }
        & #difference { display: none; }
        &.-done #then, &.-done #now { display: none; }
        &.-done #difference { display: block; }
    }
    """

    CARD_TITLE = "Replay"

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("r", "again", "again"),
        Binding("c", "copy", "copy the difference"),
        Binding("escape", "stop", "stop"),
        Binding("escape,q", "dismiss", "close"),
    ]

    def __init__(self, original: str, replay: Callable[[], Generator[object, None, None]]) -> None:
        super().__init__()
        self._original = original
        self._replay = replay
        self._text = ""
        self._tokens = 0
        self._diff: Sequence[DiffSegment] | None = None
        """The difference; None before the replay is finished."""

    def body(self) -> Iterable[Widget]:
        """Yield the progress, the differing settings and the texts."""
        yield Static(id="state")
        yield Static(id="notes")
        with Container(id="texts"):
            with VerticalScroll(id="then"):
                yield Static("Then", classes="head")
                yield Static(Content(escape_controls(self._original)))
            with VerticalScroll(id="now"), Vertical():
                yield Static("Now", classes="head")
                yield Static(id="growing")
            with VerticalScroll(id="difference"):
                yield Static(id="pieces")

    def on_mount(self) -> None:
        """Begin."""
        self.action_again()

    def on_resize(self, event: events.Resize) -> None:
        """Place the texts side by side if they fit, or else stack them."""
        self.set_class(event.size.width >= SIDE_BY_SIDE_WIDTH, "-beside")

    def handle_value(self, value: object) -> None:
        """Show a step of the replay."""
        match value:
            case ReplayStarted(reply_prefix=text):
                self._text = text
            case Prefill(done, total):
                self._show_progress(f"Reading the prompt: {done:,} of {count(total, 'token')}")
            case Delta(answer=text, usage=usage):
                self._text += text
                self._tokens = usage.completion_tokens
                self._show_text()
                self._show_progress(f"Writing: {count(self._tokens, 'token')}")
            case Asked():
                self._ask(value)
            case ToolStarted(call=call):
                self._show_progress(f"Running {one_line(call.name, 64)}")
            case ToolFinished(result=result):
                self._text += f"\n[{one_line(result.name, 64)} {result.status}]\n"
                self._show_text()
            case ReplayFinished():
                self._show_verdict(value)

    def handle_end(self) -> None:
        """Show that there is no verdict after a stop or failure."""
        if self._diff is None:
            self._show_progress("Not finished: nothing to compare.")

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Hide actions until the replay has finished."""
        match action:
            case "again" | "dismiss":
                return not self.working
            case "stop":
                return self.working
            case "copy":
                return self._diff is not None
        return True

    def action_again(self) -> None:
        """Replay again."""
        self._text, self._tokens, self._diff = "", 0, None
        self.remove_class("-done")
        self.query_one("#growing", Static).update("")
        self.query_one("#notes", Static).display = False
        self.query_one("#now", VerticalScroll).anchor()
        self._show_progress("Waiting for the model")
        self.start_work(self._replay)
        self.query_one("#now").focus()

    def action_copy(self) -> None:
        """Copy the difference, with marks around what was removed and added."""
        copy(self.app, diff_text(self._diff or ()), "the difference")

    def action_stop(self) -> None:
        """Cancel the replay."""
        self.stop_work()
        self._show_progress("Stopping")

    def _show_verdict(self, replayed: ReplayFinished) -> None:
        self._diff = replayed.diff()
        self.add_class("-done")
        self.query_one("#state", Static).update(verdict(replayed, self._diff))
        notes = "\n".join(f"· {note}" for note in replayed.mismatches)
        line = self.query_one("#notes", Static)
        line.display = bool(notes)
        line.update(Content(escape_controls(notes)))
        self.query_one("#pieces", Static).update(diff_content(self._diff))
        self.query_one("#difference").focus()
        self.refresh_bindings()

    def _ask(self, asked: Asked) -> None:
        """Show the card of a call or of a question; closing it stops the replay."""
        event = asked.event

        def close(answer: Approval | str | None) -> None:
            if answer is None:
                self.stop_work()
            else:
                asked.give(answer)

        if isinstance(event, ToolQuestion):
            self.app.push_screen(QuestionScreen(event), close)
        else:
            self.app.push_screen(ApprovalScreen(event, "", is_replay=True), close)

    def _show_text(self) -> None:
        self.query_one("#growing", Static).update(Content(escape_controls(self._text)))

    def _show_progress(self, text: str) -> None:
        self.query_one("#state", Static).update(Content(text))


def verdict(replayed: ReplayFinished, diff: Iterable[DiffSegment]) -> Content:
    """Return whether the replies are the same."""
    tokens = count(replayed.usage.completion_tokens, "token")
    if replayed.same_text:
        return Content.styled(f"✓ The same, {tokens}.", "$text-success bold")
    words = {
        kind: sum(len(piece.text.split()) for piece in diff if piece.kind == kind)
        for kind in ("removed", "added")
    }
    summary = f"✗ Different: −{words['removed']:,} +{count(words['added'], 'word')}."
    thoughts = " The thoughts come first, since they differ." if replayed.thoughts_differ else ""
    ends = f" The new reply: {replayed.stop_reason.label}, {tokens}.{thoughts}"
    return Content.assemble((summary, "$text-error bold"), ends)


def diff_text(diff: Iterable[DiffSegment]) -> str:
    """Return the difference as text with the original characters."""
    return "".join(text for piece in diff for text, _ in _diff_parts(piece))


def diff_content(diff: Iterable[DiffSegment]) -> Content:
    """Return the difference in colours and marks."""
    parts = [part for piece in diff for part in _diff_parts(piece)]
    return Content.assemble(*((escape_controls(text), style) for text, style in parts))


def _diff_parts(segment: DiffSegment) -> Iterable[tuple[str, str]]:
    """Return a styled chunk of the difference; trailing spaces stay outside the marks."""
    words = segment.text.rstrip() or segment.text
    before, after = DIFF_MARKS[segment.kind]
    yield f"{before}{words}{after}", DIFF_STYLES[segment.kind]
    yield segment.text[len(words) :], ""
