"""The context screen, with usage turn by turn, and the summary screen."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from rich.cells import set_cell_size
from textual import on
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.widget import Widget
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from chatlm.errors import ChatlmError
from chatlm.text import escape_controls, one_line
from chatlm.tui.formatting import count
from chatlm.tui.screens.card import Card
from chatlm.tui.widgets.column_titles import ColumnTitles
from chatlm.tui.widgets.context_gauge import ContextFill, gauge, gauge_legend
from chatlm.tui.widgets.hints import Flow
from chatlm.tui.workers import single_value
from chatlm.types.conversations import ContextPolicy, Turn

NUMBER_WIDTH, TOKENS_WIDTH, STATE_WIDTH = 5, 9, 15
"""Widths of the columns beside the text, in cells."""


BAR_WIDTH_DIVISOR = 7
"""Fraction of the width for the bar: one in this many cells."""


@dataclass(frozen=True)
class ContextBreakdown:
    """Context usage of a chat by turn."""

    system: str
    """The system prompt."""
    turns: Sequence[Turn]
    turn_tokens: Mapping[int, int]
    """Tokens of each turn by id, as the model reads it; 0 for a dropped one."""
    omitted_turns: frozenset[int]
    """Ids of turns that do not fit."""
    fill: ContextFill


ReadBreakdown = Callable[[], ContextBreakdown]


SetContextPolicy = Callable[[int, ContextPolicy], object]


Summarise = Callable[[int], Generator[str, None, None]]


class TurnList(OptionList):
    """The list of turns; Enter or a click opens the turn in the chat."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter", "select", "go to turn")]


class ContextScreen(Card[int | None]):
    """Lists every turn with its tokens and policy; returns the id of a turn to open, or None.

    All three callables run in a thread, one at a time; a `ChatlmError` they raise is
    shown.

    Args:
        read: returns the measured chat.
        set_policy: stores the context policy of a turn.
        summarise: has the model write a turn's summary and stores it; closed early, it stores none.
    """

    DEFAULT_CSS = """
    ContextScreen {
        & OptionList {
            height: 1fr;
            text-wrap: nowrap;
        }
        & #summary { display: none; height: auto; max-height: 6; color: $text-muted; }
        & #summary.-shown { display: block; }
        & #gauge { height: 1; margin: 1 0 0 0; }
    }
    """

    CARD_TITLE = "Context"

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("p", "pin", "pin"),
        Binding("d", "drop", "drop"),
        Binding("s", "summarise", "summarise"),
        Binding("escape", "stop", "stop the summary"),
        Binding("escape,q", "dismiss", "close"),
    ]

    def __init__(
        self, read: ReadBreakdown, set_policy: SetContextPolicy, summarise: Summarise
    ) -> None:
        super().__init__()
        self._read = read
        self._set_policy = set_policy
        self._summarise = summarise
        self._breakdown: ContextBreakdown | None = None
        self._summary_text = ""
        self._summarising_number = 0
        """Number of the turn being summarised; 0 for none."""

    def body(self) -> Iterable[Widget]:
        """Yield the turns, the summary being written and the totals."""
        yield ColumnTitles(())
        yield TurnList(Option("Measuring …", disabled=True), markup=False)
        yield Static(id="summary")
        yield Static(id="gauge")
        yield Flow(id="parts")

    def on_mount(self) -> None:
        """Measure the turns."""
        self.start_work(lambda: single_value(self._read))

    def on_resize(self) -> None:
        """Adapt the columns to the width."""
        self.call_after_refresh(self._update_rows)

    def handle_value(self, value: object) -> None:
        """Show a chunk of the summary, or the measured turns."""
        if isinstance(value, ContextBreakdown):
            self._breakdown = value
            self._update_rows()
        elif isinstance(value, str):
            self._summary_text += value
            self._show_summary()

    def handle_end(self) -> None:
        """Measure again after a summary was written or cancelled."""
        self._summarising_number, self._summary_text = 0, ""
        self._show_summary()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Hide the keys of turns on the system prompt and while a summary is written."""
        if action in ("pin", "drop", "summarise"):
            return self._highlighted_turn is not None and not self._summarising_number
        return bool(self._summarising_number) if action == "stop" else True

    def action_pin(self) -> None:
        """Pin the turn, or unpin it."""
        self._toggle_policy(ContextPolicy.PINNED)

    def action_drop(self) -> None:
        """Drop the turn, or take it back."""
        self._toggle_policy(ContextPolicy.DROPPED)

    def action_summarise(self) -> None:
        """Use the summary in place of the turn, or stop using it; write it if there is none."""
        turn = self._highlighted_turn
        if turn is None:
            return
        if turn.summary:
            self._toggle_policy(ContextPolicy.SUMMARISED)
            return
        self._summarising_number = turn.position + 1
        self._show_summary()
        self.start_work(partial(self._write_summary, turn.id))

    def action_stop(self) -> None:
        """Cancel the summary."""
        self.stop_work()

    @on(OptionList.OptionSelected)
    def _go_to_turn(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        if self._highlighted_turn is not None:
            self.dismiss(self._highlighted_turn.id)

    @on(OptionList.OptionHighlighted)
    def _handle_highlighted(self, event: OptionList.OptionHighlighted) -> None:
        event.stop()
        self.refresh_bindings()

    @property
    def _highlighted_turn(self) -> Turn | None:
        """The highlighted turn; None on the system prompt and the tools."""
        option = self.query_one(OptionList).highlighted_option
        if self._breakdown is None or option is None or option.id is None:
            return None
        return self._breakdown.turns[int(option.id)]

    def _toggle_policy(self, policy: ContextPolicy) -> None:
        turn = self._highlighted_turn
        if turn is not None:
            wanted = ContextPolicy.AUTO if turn.context_policy is policy else policy
            self.start_work(partial(self._apply_policy, turn.id, wanted))

    def _apply_policy(self, turn_id: int, policy: ContextPolicy) -> Generator[object, None, None]:
        self._set_policy(turn_id, policy)
        yield self._read()

    def _write_summary(self, turn_id: int) -> Generator[object, None, None]:
        yield from self._summarise(turn_id)
        yield self._read()

    def _show_summary(self) -> None:
        line = self.query_one("#summary", Static)
        line.set_class(bool(self._summarising_number), "-shown")
        text = escape_controls(self._summary_text).strip() or "…"
        line.update(Content(f"Summarising turn {self._summarising_number}: {text}"))
        self.call_after_refresh(self.query_one(OptionList).scroll_to_highlight)

    def _update_rows(self) -> None:
        ledger, turns = self._breakdown, self.query_one(OptionList)
        if ledger is None:
            return
        kept = turns.highlighted
        width = turns.scrollable_content_region.width
        self.query_one(ColumnTitles).show(titles(width))
        turns.set_options(turn_rows(ledger, width))
        newest = len(ledger.turns) + bool(ledger.fill.tool_count)
        turns.highlighted = newest if kept is None else kept
        self.query_one("#gauge", Static).update(gauge(ledger.fill, max(width, 10)))
        outside = (
            count(len(ledger.omitted_turns), "turn") + " out"
            if ledger.omitted_turns
            else "all turns fit"
        )
        limit = Content(f"of {count(ledger.fill.context_length, 'token')}, {outside}")
        self.query_one("#parts", Flow).set_items([*gauge_legend(ledger.fill), limit])


def turn_rows(breakdown: ContextBreakdown, width: int) -> list[Option]:
    """Return rows of `width` cells for the system prompt, the tools and each turn."""
    fill, always = breakdown.fill, ("always read", "")
    system = fill.system_tokens - fill.tool_tokens
    most = max([system, fill.tool_tokens, *breakdown.turn_tokens.values(), 1])
    words = f"System prompt: {breakdown.system}" if breakdown.system else "No system prompt"
    if not breakdown.system and system:
        words = "System prompt: the default of the model's template"
    drawn = [Option(_turn_row("", words, system, most, always, width))]
    if fill.tool_count:
        words = f"{count(fill.tool_count, 'tool')}, described to the model: /tools"
        drawn.append(Option(_turn_row("", words, fill.tool_tokens, most, always, width)))
    for index, turn in enumerate(breakdown.turns):
        number, cost = f"{turn.position + 1}", breakdown.turn_tokens.get(turn.id, 0)
        state = turn_state(turn, turn.id in breakdown.omitted_turns)
        drawn.append(
            Option(_turn_row(number, turn.display_text, cost, most, state, width), id=str(index))
        )
    if not breakdown.turns:
        drawn.append(
            Option("No turns yet. They appear here after your first message.", disabled=True)
        )
    return drawn


def turn_state(turn: Turn, omitted: bool) -> tuple[str, str]:
    """Return the label and style of a turn's context policy."""
    if turn.context_policy is ContextPolicy.DROPPED:
        return "left out", "$text-muted"
    if omitted:
        return "does not fit", "$text-error"
    if turn.context_policy is ContextPolicy.PINNED:
        return "pinned", "$text-accent"
    if turn.context_policy is ContextPolicy.SUMMARISED:
        return "summarised", "$text-primary"
    return "read", ""


def titles(width: int) -> list[tuple[str, int]]:
    """Return the titles of the columns of rows of `width` cells."""
    room, bar = _text_and_bar(width)
    words, cost = NUMBER_WIDTH + room, bar + TOKENS_WIDTH - 1
    turn = " " * NUMBER_WIDTH + "turn"
    return [(turn, words), ("tokens", -cost), ("", 2), ("state", STATE_WIDTH - 1)]


def _text_and_bar(width: int) -> tuple[int, int]:
    """Return the cells of a row's text and of its bar."""
    bar = width // BAR_WIDTH_DIVISOR
    return max(width - NUMBER_WIDTH - bar - TOKENS_WIDTH - STATE_WIDTH, 8), bar


def _turn_row(
    number: str, text: str, tokens: int, max_tokens: int, state: tuple[str, str], width: int
) -> Content:
    label, style = state
    quiet = "$text-muted" if label in ("left out", "does not fit") else ""
    room, bar = _text_and_bar(width)
    filled = max(round(tokens / max_tokens * bar), tokens > 0)
    return Content.assemble(
        (f"{number:>{NUMBER_WIDTH - 2}}  ", "$text-muted"),
        (set_cell_size(one_line(text, room - 1), room), quiet),
        ("━" * filled, "$text-error" if label == "does not fit" else "$text-success"),
        ("·" * (bar - filled), "$foreground 25%"),
        f"{tokens:>{TOKENS_WIDTH - 1},}  ",
        (label.ljust(STATE_WIDTH - 1), style),
    )


class SummaryScreen(Card[None]):
    """Shows a summary while it is written, then closes.

    Args:
        write: has the summary written and stored; runs in a thread and yields its pieces.
    """

    DEFAULT_CSS = """
    SummaryScreen > .card { width: 72; height: auto; }
    SummaryScreen #words { height: auto; margin: 1 0; }
    """

    CARD_TITLE = "Summary"

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "leave", "cancel")]

    def __init__(self, write: Callable[[], Generator[str, None, None]]) -> None:
        super().__init__()
        self._write = write
        self._summary_text = ""
        self._failed = False

    def body(self) -> Iterable[Widget]:
        """Yield the text."""
        yield Static("The model is reading the turn …", id="words")

    def on_mount(self) -> None:
        """Start writing."""
        self.start_work(self._write)

    def handle_value(self, value: object) -> None:
        """Show a chunk."""
        self._summary_text += str(value)
        if self._summary_text.strip():
            self.query_one("#words", Static).update(
                Content(escape_controls(self._summary_text.strip()))
            )

    def show_error(self, error: ChatlmError | None) -> None:
        """Keep the screen open after a failure."""
        super().show_error(error)
        self._failed = error is not None

    def handle_end(self) -> None:
        """Close, unless it failed or is closed already."""
        if not self._failed and self.is_current:
            self.dismiss()

    def action_leave(self) -> None:
        """Cancel, or close."""
        self.stop_work()
        self.dismiss()
