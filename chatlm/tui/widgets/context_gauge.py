"""The context gauge: how full the model's context is."""

from __future__ import annotations

from dataclasses import dataclass

from rich.cells import cell_len
from textual.content import Content
from textual.message import Message
from textual.reactive import reactive
from textual.widget import Widget

from chatlm.tui.formatting import count

NEARLY_FULL = 0.85
"""Share of the prompt limit from which a warning is shown."""


SYSTEM, TURNS, FREE, RESERVE = "█▓░▒"
"""Symbols of the gauge, which differ in shape as well as in colour."""


MIN_GAUGE_WIDTH, MAX_GAUGE_WIDTH = 6, 40


@dataclass(frozen=True)
class ContextFill:
    """Tokens of each part of the context."""

    system_tokens: int
    history_tokens: int
    """Tokens of the turns."""
    reply_reserve: int
    """Tokens reserved for the reply."""
    context_length: int
    omitted_count: int = 0
    """Number of turns that do not fit."""
    tool_count: int = 0
    tool_tokens: int = 0
    """Tokens of `system_tokens` that describe tools to the model."""

    @property
    def used_tokens(self) -> int:
        """Tokens of the next prompt without its message."""
        return self.system_tokens + self.history_tokens

    @property
    def free_tokens(self) -> int:
        """Free tokens."""
        return max(self.context_length - self.used_tokens - self.reply_reserve, 0)

    @property
    def nearly_full(self) -> bool:
        """Whether the context is nearly full."""
        return self.used_tokens >= NEARLY_FULL * (self.context_length - self.reply_reserve)


class ContextGauge(Widget):
    """A gauge and `1,204 / 8,192`; empty while unknown. A click opens the context screen."""

    DEFAULT_CSS = """
    ContextGauge { width: 48; min-width: 20; height: 1; color: $foreground; }
    ContextGauge:hover { text-style: underline; }
    """

    fill: reactive[ContextFill | None] = reactive[ContextFill | None](None)

    @dataclass
    class Clicked(Message):
        """The gauge was clicked."""

    def watch_fill(self, fill: ContextFill | None) -> None:
        """Update the tooltip."""
        self.tooltip = Content(describe_fill(fill)) if fill else None

    def render(self) -> Content:
        """The line."""
        return gauge_line(self.fill, self.size.width) if self.fill else Content("")

    def on_click(self) -> None:
        """Post `Clicked`."""
        self.post_message(self.Clicked())


def gauge_line(fill: ContextFill, width: int) -> Content:
    """Return the most detailed line that fits `width` cells, right-aligned."""
    numbers = f"{fill.used_tokens:,} / {fill.context_length:,}"
    warning, short, style = _fill_warning(fill)
    legend = short_legend(fill)
    for words, before in (
        (warning, legend),
        (warning, Content.styled("context ", "$foreground 70%")),
        (warning, Content()),
        (short, Content()),
    ):
        text = f"{words} · {numbers}" if words else numbers
        room = width - before.cell_length - cell_len(text) - 1
        if room >= (MIN_GAUGE_WIDTH if not before else 2 * MIN_GAUGE_WIDTH):
            drawn = gauge(fill, min(room, MAX_GAUGE_WIDTH))
            return Content.assemble(before, drawn, " ", (text, style)).right(width)
    text = f"{short} {numbers}".strip()
    return Content.assemble((text if cell_len(text) <= width else numbers, style)).right(width)


def gauge(fill: ContextFill, width: int) -> Content:
    """Return a bar of `width` cells in which each non-empty part is visible."""
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


def short_legend(fill: ContextFill) -> Content:
    """Return the gauge's symbols with a word each, as they stand before it."""
    parts = [
        (SYSTEM, "$text-primary", "system", fill.system_tokens),
        (TURNS, _fill_warning(fill)[2] or "$text-success", "turns", fill.history_tokens),
        (RESERVE, "$foreground 60%", "reply", fill.reply_reserve),
    ]
    return Content.assemble(
        *(
            Content.assemble((sign, style), (f" {word}  ", "$foreground 70%"))
            for sign, style, word, tokens in parts
            if tokens
        )
    )


def gauge_legend(fill: ContextFill) -> list[Content]:
    """Return the legend of the gauge."""
    system = "system prompt and tools" if fill.tool_tokens else "system prompt"
    return [
        Content.assemble((f"{sign} ", style), f"{name} {tokens:,}")
        for sign, style, name, tokens in (
            (SYSTEM, "$text-primary", system, fill.system_tokens),
            (TURNS, _fill_warning(fill)[2] or "$text-success", "turns", fill.history_tokens),
            (FREE, "$foreground 60%", "free", fill.free_tokens),
            (RESERVE, "$foreground 60%", "reserved for the reply", fill.reply_reserve),
        )
    ]


def describe_fill(fill: ContextFill) -> str:
    """Describe the gauge in a sentence."""
    words = [part.plain[2:] for part in gauge_legend(fill)]
    sentence = f"Context of {count(fill.context_length, 'token')}: {', '.join(words)}"
    return "; ".join(filter(None, (sentence, _fill_warning(fill)[0]))) + "."


def _fill_warning(fill: ContextFill) -> tuple[str, str, str]:
    """Return a warning, its short form and its colour; all empty if there is none."""
    if fill.omitted_count:
        words = (
            f"{count(fill.omitted_count, 'turn')} "
            f"{'does' if fill.omitted_count == 1 else 'do'} not fit"
        )
        return words, f"{fill.omitted_count:,} out", "$text-error"
    return ("nearly full", "full", "$text-warning") if fill.nearly_full else ("", "", "")
