"""The context gauge shows how full the context is, in any width, with and without colour."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from textual.app import App, ComposeResult
from textual.content import Content

from chatlm.tui.widgets.context_gauge import (
    FREE,
    MIN_GAUGE_WIDTH,
    RESERVE,
    SYSTEM,
    TURNS,
    ContextFill,
    ContextGauge,
    describe_fill,
    gauge,
    gauge_line,
)
from tests.tui.cards import SnapCompare


def filled(system: int, turns: int, outside: int = 0, limit: int = 8192) -> ContextFill:
    return ContextFill(system, turns, limit // 8, limit, outside)


CALM = filled(120, 1084)
NEARLY = filled(120, 6400)
OVER = filled(120, 7000, outside=12)


@pytest.mark.parametrize(
    "fill, width, text",
    [
        (CALM, 20, "1,204 / 8,192"),
        (NEARLY, 20, "full 6,520 / 8,192"),
        (NEARLY, 48, "nearly full · 6,520 / 8,192"),
        (OVER, 20, "12 out 7,120 / 8,192"),
        (OVER, 48, "12 turns do not fit · 7,120 / 8,192"),
        (filled(3000, 5000, outside=1), 48, "1 turn does not fit · 8,000 / 8,192"),
        (filled(0, 0, limit=131072), 20, "0 / 131,072"),
    ],
)
def test_what_is_wrong_stands_there_as_text(fill: ContextFill, width: int, text: str) -> None:
    line = gauge_line(fill, width).plain
    assert len(line) == width
    assert line.endswith(text)


def colours(line: Content) -> set[str]:
    return {str(span.style) for span in line.spans if "text" in str(span.style)}


def test_trouble_has_its_own_colour() -> None:
    assert "$text-warning" not in colours(gauge_line(CALM, 48)) | colours(gauge_line(OVER, 48))
    assert "$text-warning" in colours(gauge_line(NEARLY, 48))
    assert "$text-error" in colours(gauge_line(OVER, 48))


@given(
    st.integers(0, 9000),
    st.integers(0, 200_000),
    st.integers(64, 200_000),
    st.integers(MIN_GAUGE_WIDTH, 120),
)
def test_gauge_is_whole(system: int, turns: int, limit: int, width: int) -> None:
    """As wide as asked, and each part that is there is seen, in order."""
    drawn = gauge(ContextFill(system, turns, limit // 8, limit), width).plain
    assert len(drawn) == width
    parts = {SYSTEM: system, TURNS: turns, RESERVE: limit // 8}
    for sign, tokens in parts.items():
        assert (sign in drawn) == (tokens > 0)
    assert drawn == "".join(sorted(drawn, key=f"{SYSTEM}{TURNS}{FREE}{RESERVE}".index))


def test_gauge_is_to_scale() -> None:
    drawn = gauge(filled(2048, 1024), 32).plain
    assert [drawn.count(sign) for sign in (SYSTEM, TURNS, FREE, RESERVE)] == [8, 4, 16, 4]


def test_the_description_names_each_part() -> None:
    assert describe_fill(OVER) == (
        "Context of 8,192 tokens: system prompt 120, turns 7,000, free 48, "
        "reserved for the reply 1,024; 12 turns do not fit."
    )
    assert describe_fill(CALM).endswith("reserved for the reply 1,024.")


class RulerApp(App[None]):
    """Rulers of several widths, one below the other."""

    def __init__(self, *states: tuple[ContextFill | None, int]) -> None:
        super().__init__()
        self.states = states
        self.clicks = 0

    def compose(self) -> ComposeResult:
        for fill, width in self.states:
            each = ContextGauge()
            each.fill = fill
            each.styles.width = width
            yield each

    def on_context_gauge_clicked(self) -> None:
        self.clicks += 1


async def test_a_click_posts_a_request_for_details() -> None:
    app = RulerApp((CALM, 40))
    async with app.run_test() as pilot:
        await pilot.click(ContextGauge)
        assert app.clicks == 1
        assert str(app.query_one(ContextGauge).tooltip) == describe_fill(CALM)


async def test_unknown_usage_draws_nothing() -> None:
    app = RulerApp((None, 40))
    async with app.run_test():
        ruler = app.query_one(ContextGauge)
        assert ruler.render_line(0).text.strip() == ""
        ruler.fill = CALM
        assert ruler.render_line(0).text.endswith("1,204 / 8,192")


def test_picture(snap_compare: SnapCompare) -> None:
    """Calm, nearly full and too full, in four widths."""
    states = [(fill, width) for width in (20, 28, 48, 76) for fill in (CALM, NEARLY, OVER)]
    assert snap_compare(RulerApp(*states), terminal_size=(80, 14))
