"""How full the model's context is, on one line; knows no session and no engine."""

from __future__ import annotations

from dataclasses import dataclass

from rich.cells import cell_len
from textual.content import Content
from textual.message import Message
from textual.reactive import reactive
from textual.widget import Widget

from chatlm.tui.formatting import count

NEARLY_FULL = 0.85
"""From this share of what a prompt may take, a warning is due."""


SYSTEM, TURNS, FREE, RESERVE = "█▓░▒"
"""What the gauge is drawn with; apart in shape as well as in colour."""


MIN_GAUGE_WIDTH, MAX_GAUGE_WIDTH = 6, 40


@dataclass(frozen=True)
class ContextFill:
    """What takes the context's room, in tokens."""

    system: int
    turns: int
    """All that is read beside the system prompt."""
    reserve: int
    """Kept for the reply."""
    limit: int
    outside: int = 0
    """How many turns do not fit."""

    @property
    def used(self) -> int:
        """What the next prompt takes before its message."""
        return self.system + self.turns

    @property
    def free(self) -> int:
        """What is left."""
        return max(self.limit - self.used - self.reserve, 0)

    @property
    def nearly_full(self) -> bool:
        """Whether little room is left for the next messages."""
        return self.used >= NEARLY_FULL * (self.limit - self.reserve)


class ContextGauge(Widget):
    """A gauge and `1,204 / 8,192`; empty while nothing is known. A click asks for more."""

    DEFAULT_CSS = """
    Ruler { width: 48; min-width: 20; height: 1; color: $text-muted; }
    Ruler:hover { text-style: underline; }
    """

    fill: reactive[ContextFill | None] = reactive[ContextFill | None](None)

    @dataclass
    class Clicked(Message):
        """The person wants to see what takes the room."""

    def watch_fill(self, fill: ContextFill | None) -> None:
        """Have the whole story at hand under the mouse."""
        self.tooltip = Content(describe_fill(fill)) if fill else None

    def render(self) -> Content:
        """The line."""
        return gauge_line(self.fill, self.size.width) if self.fill else Content("")

    def on_click(self) -> None:
        """Ask for more."""
        self.post_message(self.Clicked())


def gauge_line(fill: ContextFill, width: int) -> Content:
    """The most telling line that fits `width` cells, at the right end."""
    numbers = f"{fill.used:,} / {fill.limit:,}"
    warning, short, style = _fill_warning(fill)
    for words in dict.fromkeys((warning, short)):
        text = f"{words} · {numbers}" if words else numbers
        room = width - cell_len(text) - 1
        if room >= MIN_GAUGE_WIDTH:
            drawn = gauge(fill, min(room, MAX_GAUGE_WIDTH))
            return Content.assemble(drawn, " ", (text, style)).right(width)
    text = f"{short} {numbers}".strip()
    return Content.assemble((text if cell_len(text) <= width else numbers, style)).right(width)


def gauge(fill: ContextFill, width: int) -> Content:
    """A bar of `width` cells, at least `GAUGE_LEAST`, in which each part that is there is seen."""
    total = max(fill.limit, fill.used + fill.reserve)
    taken = (fill.system, fill.turns, fill.reserve)
    cells = [max(round(tokens / total * width), tokens > 0) for tokens in taken]
    free = width - sum(cells)
    cells[cells.index(max(cells))] += min(free, 0)
    system, turns, reserve = cells
    return Content.assemble(
        (SYSTEM * system, "$text-primary"),
        (TURNS * turns, _fill_warning(fill)[2] or "$text-success"),
        (FREE * free, "$foreground 25%"),
        (RESERVE * reserve, "$foreground 60%"),
    )


def gauge_legend(fill: ContextFill) -> list[Content]:
    """Each part of the gauge with its sign and its tokens."""
    return [
        Content.assemble((f"{sign} ", style), f"{name} {tokens:,}")
        for sign, style, name, tokens in (
            (SYSTEM, "$text-primary", "system prompt", fill.system),
            (TURNS, _fill_warning(fill)[2] or "$text-success", "turns", fill.turns),
            (FREE, "$foreground 60%", "free", fill.free),
            (RESERVE, "$foreground 60%", "kept for the reply", fill.reserve),
        )
    ]


def describe_fill(fill: ContextFill) -> str:
    """The same as a sentence."""
    words = [part.plain[2:] for part in gauge_legend(fill)]
    sentence = f"Context of {count(fill.limit, 'token')}: {', '.join(words)}"
    return "; ".join(filter(None, (sentence, _fill_warning(fill)[0]))) + "."


def _fill_warning(fill: ContextFill) -> tuple[str, str, str]:
    """In words, in short, and its colour; all empty when all is well."""
    if fill.outside:
        words = f"{count(fill.outside, 'turn')} {'does' if fill.outside == 1 else 'do'} not fit"
        return words, f"{fill.outside:,} out", "$text-error"
    return ("nearly full", "full", "$text-warning") if fill.nearly_full else ("", "", "")
