"""Context use turn by turn; summary while it is written."""

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
from chatlm.tui.widgets.context_gauge import ContextFill, gauge, gauge_legend
from chatlm.tui.widgets.hints import Flow
from chatlm.tui.workers import single_value
from chatlm.types.messages import ContextPolicy, Turn

NUMBER_WIDTH, TOKENS_WIDTH, STATE_WIDTH = 5, 9, 15
"""Widths of the columns beside the words, in cells."""


BAR_WIDTH_DIVISOR = 7
"""The bar takes this part of the width, one in so many."""


@dataclass(frozen=True)
class ContextBreakdown:
    """What a chat's turns take."""

    system: str
    """The system prompt."""
    turns: Sequence[Turn]
    costs: Mapping[int, int]
    """Tokens of each turn by its id, in the form in which it is read; 0 for a dropped one."""
    outside: frozenset[int]
    """Ids of the turns that do not fit."""
    fill: ContextFill


ReadBreakdown = Callable[[], ContextBreakdown]


SetContextPolicy = Callable[[int, ContextPolicy], object]


Summarise = Callable[[int], Generator[str, None, None]]


class TurnList(OptionList):
    """The rows; Enter or a click goes to the turn in the chat."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter", "select", "go to it")]


class ContextScreen(Card[int | None]):
    """Every turn with its cost and state; gives the id of a turn to go to, or None.

    All three callables run in a thread, one at a time, and may raise a `ChatlmError`, which is
    shown.

    Args:
        read: the chat as it is now, measured.
        set_standing: stores how a turn takes part, by its id.
        summarise: has the model write a turn's summary and stores it; closed early, it stores none.
    """

    DEFAULT_CSS = """
    ContextScreen {
        & OptionList {
            height: 1fr;
            border: none;
            padding: 0;
            background: $surface;
            text-wrap: nowrap;
            &:focus { border: none; background-tint: $foreground 0%; }
            & > .option-list--option-disabled { color: $text-muted; }
            & > .option-list--option-highlighted {
                background: $foreground 10%; color: $foreground;
            }
            &:focus > .option-list--option-highlighted {
                background: $primary 40%; color: $foreground; text-style: none;
            }
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
        self, read: ReadBreakdown, set_standing: SetContextPolicy, summarise: Summarise
    ) -> None:
        super().__init__()
        self._read = read
        self._set_standing = set_standing
        self._summarise = summarise
        self._ledger: ContextBreakdown | None = None
        self._summary = ""
        self._summarising = 0
        """The number of the turn that is being summarised; 0 for none."""

    def body(self) -> Iterable[Widget]:
        """The turns, the summary that is being written, the totals."""
        yield TurnList(Option("Measuring …", disabled=True), markup=False)
        yield Static(id="summary")
        yield Static(id="gauge")
        yield Flow(id="parts")

    def on_mount(self) -> None:
        """Have the turns measured."""
        self.work(lambda: single_value(self._read))

    def on_resize(self) -> None:
        """The columns follow the width."""
        self.call_after_refresh(self._draw)

    def came(self, value: object) -> None:
        """Take a piece of the summary, or the turns as they are now."""
        if isinstance(value, ContextBreakdown):
            self._ledger = value
            self._draw()
        elif isinstance(value, str):
            self._summary += value
            self._say_summary()

    def ended(self) -> None:
        """The summary stands, or is forgotten."""
        self._summarising, self._summary = 0, ""
        self._say_summary()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Only a turn can be changed, and not while one is being summarised."""
        if action in ("pin", "drop", "summarise"):
            return self._turn is not None and not self._summarising
        return bool(self._summarising) if action == "stop" else True

    def action_pin(self) -> None:
        """Read the turn always; or, once more, as long as it fits."""
        self._toggle(ContextPolicy.PINNED)

    def action_drop(self) -> None:
        """Leave the turn out; or, once more, read it as long as it fits."""
        self._toggle(ContextPolicy.DROPPED)

    def action_summarise(self) -> None:
        """Let the summary stand for the turn, or no longer; with none, have it written."""
        turn = self._turn
        if turn is None:
            return
        if turn.summary:
            self._toggle(ContextPolicy.SUMMARISED)
            return
        self._summarising = turn.position + 1
        self._say_summary()
        self.work(partial(self._summarised, turn.id))

    def action_stop(self) -> None:
        """Give up the summary that is being written."""
        self.halt()

    @on(OptionList.OptionSelected)
    def _go(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        if self._turn is not None:
            self.dismiss(self._turn.id)

    @on(OptionList.OptionHighlighted)
    def _highlight(self, event: OptionList.OptionHighlighted) -> None:
        event.stop()
        self.refresh_bindings()

    @property
    def _turn(self) -> Turn | None:
        """The highlighted turn; None on the system prompt."""
        option = self.query_one(OptionList).highlighted_option
        if self._ledger is None or option is None or option.id is None:
            return None
        return self._ledger.turns[int(option.id)]

    def _toggle(self, standing: ContextPolicy) -> None:
        turn = self._turn
        if turn is not None:
            wanted = ContextPolicy.AUTO if turn.standing is standing else standing
            self.work(partial(self._changed, turn.id, wanted))

    def _changed(self, turn_id: int, standing: ContextPolicy) -> Generator[object, None, None]:
        self._set_standing(turn_id, standing)
        yield self._read()

    def _summarised(self, turn_id: int) -> Generator[object, None, None]:
        yield from self._summarise(turn_id)
        yield self._read()

    def _say_summary(self) -> None:
        line = self.query_one("#summary", Static)
        line.set_class(bool(self._summarising), "-shown")
        text = escape_controls(self._summary).strip() or "…"
        line.update(Content(f"Summarising turn {self._summarising}, esc stops: {text}"))
        self.call_after_refresh(self.query_one(OptionList).scroll_to_highlight)

    def _draw(self) -> None:
        ledger, turns = self._ledger, self.query_one(OptionList)
        if ledger is None:
            return
        kept = turns.highlighted
        width = turns.scrollable_content_region.width
        turns.set_options(turn_rows(ledger, width))
        turns.highlighted = len(ledger.turns) if kept is None else kept
        self.query_one("#gauge", Static).update(gauge(ledger.fill, max(width, 10)))
        outside = count(len(ledger.outside), "turn") + " out" if ledger.outside else "all turns fit"
        limit = Content(f"of {count(ledger.fill.limit, 'token')}, {outside}")
        self.query_one("#parts", Flow).fill([*gauge_legend(ledger.fill), limit])


def turn_rows(ledger: ContextBreakdown, width: int) -> list[Option]:
    """The system prompt, then each turn, in lines of `width` cells; a turn's id is its index."""
    most = max([ledger.fill.system, *ledger.costs.values(), 1])
    words = f"System prompt: {ledger.system}" if ledger.system else "No system prompt"
    if not ledger.system and ledger.fill.system:
        words = "System prompt: none of yours; the model's own template adds its own"
    drawn = [Option(_turn_row("", words, ledger.fill.system, most, ("always read", ""), width))]
    for index, turn in enumerate(ledger.turns):
        number, cost = f"{turn.position + 1}", ledger.costs.get(turn.id, 0)
        told = turn_state(turn, turn.id in ledger.outside)
        drawn.append(Option(_turn_row(number, turn.words, cost, most, told, width), id=str(index)))
    if not ledger.turns:
        drawn.append(
            Option("No turns yet: they stand here once you have said something.", disabled=True)
        )
    return drawn


def turn_state(turn: Turn, outside: bool) -> tuple[str, str]:
    """Whether the model reads the turn, in words, and the style for it."""
    if turn.standing is ContextPolicy.DROPPED:
        return "left out", "$foreground 60%"
    if outside:
        return "does not fit", "$text-error"
    if turn.standing is ContextPolicy.PINNED:
        return "pinned", "$text-accent"
    if turn.standing is ContextPolicy.SUMMARISED:
        return "summary read", "$text-primary"
    return "read", ""


def _turn_row(
    number: str, words: str, tokens: int, most: int, told: tuple[str, str], width: int
) -> Content:
    label, style = told
    quiet = "$foreground 60%" if label in ("left out", "does not fit") else ""
    bar = width // BAR_WIDTH_DIVISOR
    room = max(width - NUMBER_WIDTH - bar - TOKENS_WIDTH - STATE_WIDTH, 8)
    filled = max(round(tokens / most * bar), tokens > 0)
    return Content.assemble(
        (f"{number:>{NUMBER_WIDTH - 2}}  ", "$foreground 60%"),
        (set_cell_size(one_line(words, room - 1), room), quiet),
        ("━" * filled, "$text-error" if label == "does not fit" else "$text-success"),
        ("·" * (bar - filled), "$foreground 25%"),
        f"{tokens:>{TOKENS_WIDTH - 1},}  ",
        (label.ljust(STATE_WIDTH - 1), style),
    )


class SummaryScreen(Card[None]):
    """Closes by itself when the summary is written.

    Args:
        write: has the summary written and stored; runs in a thread and yields its pieces.
    """

    DEFAULT_CSS = """
    SummaryScreen > .card { width: 72; height: auto; }
    SummaryScreen #words { height: auto; margin: 1 0; }
    """

    CARD_TITLE = "Summary"

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "leave", "give up")]

    def __init__(self, write: Callable[[], Generator[str, None, None]]) -> None:
        super().__init__()
        self._write = write
        self._words = ""
        self._failed = False

    def body(self) -> Iterable[Widget]:
        """The words so far."""
        yield Static("The model reads the turn …", id="words")

    def on_mount(self) -> None:
        """Have it written."""
        self.work(self._write)

    def came(self, value: object) -> None:
        """Take a piece."""
        self._words += str(value)
        if self._words.strip():
            self.query_one("#words", Static).update(Content(escape_controls(self._words.strip())))

    def complain(self, error: ChatlmError | None) -> None:
        """A failure stays to be read."""
        super().complain(error)
        self._failed = error is not None

    def ended(self) -> None:
        """Go, unless something went wrong or the person has left already."""
        if not self._failed and self.is_current:
            self.dismiss()

    def action_leave(self) -> None:
        """Give up, or close."""
        self.halt()
        self.dismiss()
