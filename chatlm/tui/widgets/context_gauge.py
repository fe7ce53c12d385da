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

    system_tokens: int
    history_tokens: int
    """All that is read beside the system prompt."""
    reply_reserve: int
    """Kept for the reply."""
    context_length: int
    omitted_count: int = 0
    """How many turns do not fit."""

    @property
    def used_tokens(self) -> int:
        """What the next prompt takes before its message."""
        return self.system_tokens + self.history_tokens

    @property
    def free_tokens(self) -> int:
        """What is left."""
        return max(self.context_length - self.used_tokens - self.reply_reserve, 0)

    @property
    def nearly_full(self) -> bool:
        """Whether little room is left for the next messages."""
        return self.used_tokens >= NEARLY_FULL * (self.context_length - self.reply_reserve)


class ContextGauge(Widget):
    """A gauge and `1,204 / 8,192`; empty while nothing is known. A click asks for more."""

    DEFAULT_CSS = """
    ContextGauge { width: 48; min-width: 20; height: 1; color: $text-muted; }
    ContextGauge:hover { text-style: underline; }
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
    numbers = f"{fill.used_tokens:,} / {fill.context_length:,}"
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
    total = max(fill.context_length, fill.used_tokens + fill.reply_reserve)
    taken = (fill.system_tokens, fill.history_tokens, fill.reply_reserve)
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
            (SYSTEM, "$text-primary", "system prompt", fill.system_tokens),
            (TURNS, _fill_warning(fill)[2] or "$text-success", "turns", fill.history_tokens),
            (FREE, "$foreground 60%", "free", fill.free_tokens),
            (RESERVE, "$foreground 60%", "reserved for the reply", fill.reply_reserve),
        )
    ]


def describe_fill(fill: ContextFill) -> str:
    """The same as a sentence."""
    words = [part.plain[2:] for part in gauge_legend(fill)]
    sentence = f"Context of {count(fill.context_length, 'token')}: {', '.join(words)}"
    return "; ".join(filter(None, (sentence, _fill_warning(fill)[0]))) + "."


def _fill_warning(fill: ContextFill) -> tuple[str, str, str]:
    """In words, in short, and its colour; all empty when all is well."""
    if fill.omitted_count:
        words = (
            f"{count(fill.omitted_count, 'turn')} "
            f"{'does' if fill.omitted_count == 1 else 'do'} not fit"
        )
        return words, f"{fill.omitted_count:,} out", "$text-error"
    return ("nearly full", "full", "$text-warning") if fill.nearly_full else ("", "", "")
