"""The trace screen: every plugin call of a turn, its duration and its changes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

from chatlm.chat.word_diff import diff_words
from chatlm.text import dump_json, escape_controls, one_line
from chatlm.tui import clipboard
from chatlm.tui.formatting import count, join_parts
from chatlm.tui.screens.card import Card
from chatlm.tui.screens.replay import diff_content
from chatlm.types.conversations import Turn
from chatlm.types.provenance import Call, Change, Trace, format_duration

PLUGIN_WIDTH, HOOK_WIDTH = 16, 20
"""Column widths; longer names are cut."""


MAX_INLINE_LENGTH = 22
"""Characters up to which a result is shown on the line of its call."""


SLOW_CALL_SECONDS = 1.0
"""Seconds from which a call is marked as slow."""


NO_CALLS = "No plugin was called in this turn, or it predates plugin traces."


class TraceScreen(Card[None]):
    """A card with scrolling text.

    Args:
        turn: the turn; calls for its message and active reply are shown.
        traces: the plugin calls of the turn, in order.
    """

    DEFAULT_CSS = """
    TraceScreen {
        & VerticalScroll { height: 1fr; }
        & .head { margin: 1 0 0 0; color: $text-primary; text-style: bold; }
        & .below { padding: 0 0 0 10; }
    }
    """

    CARD_TITLE = "Plugin trace of this turn"

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("c", "copy", "copy as JSON"),
        Binding("escape", "dismiss", "close"),
        Binding("t,q", "dismiss", "close", show=False),
    ]

    def __init__(self, turn: Turn, traces: Sequence[Trace]) -> None:
        super().__init__()
        shown = {None, turn.reply.id if turn.reply else None}
        self._turn = turn
        self._traces = [trace for trace in traces if trace.reply_id in shown]

    def body(self) -> Iterable[Widget]:
        """Yield the summary and the calls."""
        with VerticalScroll():
            yield Static(trace_summary(self._traces))
            answered: set[int | None] = {None}
            for trace in self._traces:
                yield Static(
                    self._heading(trace, continued=trace.reply_id in answered), classes="head"
                )
                answered.add(trace.reply_id)
                for call in trace.calls:
                    yield Static(call_line(call))
                    if below := call_details(call):
                        yield Static(below, classes="below")

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Hide the copy key of an empty trace."""
        return bool(self._traces) if action == "copy" else True

    def action_copy(self) -> None:
        """Copy the complete trace."""
        values = [trace.to_dict() for trace in self._traces]
        clipboard.copy(self.app, dump_json(values), "the trace")

    def _heading(self, trace: Trace, *, continued: bool) -> Content:
        if trace.reply_id is None:
            return Content("The message")
        versions = len(self._turn.replies)
        version = self._turn.reply.version if self._turn.reply else 1
        which = f", version {version} of {versions}" if versions > 1 else ""
        return Content(f"The reply{which}{', continued' if continued else ''}")


def trace_summary(traces: Sequence[Trace]) -> Content:
    """Return the number of plugins and their total time."""
    calls = [call for trace in traces for call in trace.calls]
    if not calls:
        return Content.styled(NO_CALLS, "$text-muted")
    plugins = count(len({call.plugin for call in calls}), "plugin")
    seconds = format_duration(sum(call.seconds for call in calls))
    text = Content(join_parts(plugins, count(len(calls), "call"), seconds))
    failed = sum(bool(call.error) for call in calls)
    return text + Content.styled(f" · {failed:,} failed", "$text-error") if failed else text


def call_line(call: Call) -> Content:
    """Return the line of a call: time, plugin, hook and a short result."""
    plugin = one_line(call.plugin, PLUGIN_WIDTH).ljust(PLUGIN_WIDTH)
    hook = one_line(call.hook, HOOK_WIDTH).ljust(HOOK_WIDTH)
    time_style = "$text-warning" if call.seconds >= SLOW_CALL_SECONDS else "$text-muted"
    return Content.assemble(
        (f"{format_duration(call.seconds):>8}", time_style),
        "  ",
        (plugin, "bold"),
        "  ",
        hook,
        "  ",
        _result(call),
    )


def call_details(call: Call) -> Content | None:
    """Return what does not fit on the line of a call; None for nothing."""
    lines = list(_details(call))
    return Content("\n").join(lines) if lines else None


def _result(call: Call) -> Content:
    if call.error:
        return Content.styled("✗ failed", "$text-error bold")
    if call.changes:
        return Content.styled("✎ changed", "$text-success")
    if not call.result_summary:
        return Content.styled("nothing", "$text-muted")
    return (
        Content(escape_controls(call.result_summary))
        if len(call.result_summary) <= MAX_INLINE_LENGTH
        else Content()
    )


def _details(call: Call) -> Iterator[Content]:
    if call.error:
        yield Content.styled(escape_controls(call.error), "$text-error")
    if not call.changes and (
        len(call.result_summary) > MAX_INLINE_LENGTH or (call.result_summary and call.error)
    ):
        yield Content(escape_controls(call.result_summary))
    for change in call.changes:
        yield _change(change)


def _change(change: Change) -> Content:
    what = (f"{escape_controls(change.target)}  ", "$text-muted")
    return Content.assemble(what, diff_content(diff_words(change.before, change.after)))
