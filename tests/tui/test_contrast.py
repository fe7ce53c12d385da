"""The keys that the screen names can be read: the contrast of WCAG's level AA, 4.5 to 1."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest
from rich.segment import Segment
from textual.pilot import Pilot
from textual.strip import Strip

from chatlm.engines.scripted import ScriptedEngine
from chatlm.tui.chat.status import StatusBar
from chatlm.tui.widgets.hints import Hints
from tests.tui.support import idle, make_app, say, until

LEAST = 4.5


def contrasts(segments: Iterable[Segment]) -> Iterator[tuple[str, float]]:
    """The texts, each with its contrast from 1 to 21."""
    for text, style, _ in segments:
        if text.strip() and style and style.color and style.bgcolor:
            pair = (style.color.get_truecolor(), style.bgcolor.get_truecolor())
            dark, bright = sorted(map(luminance, pair))
            yield text, (bright + 0.05) / (dark + 0.05)


def luminance(color: tuple[int, int, int]) -> float:
    """Relative luminance as WCAG 2 defines it, from 0 to 1."""
    parts = [value / 255 for value in color]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_the_measure_itself() -> None:
    assert luminance((255, 255, 255)) == pytest.approx(1)
    assert luminance((0, 0, 0)) == 0
    assert luminance((119, 119, 119)) == pytest.approx(0.184, abs=0.001)


async def hints(pilot: Pilot[None]) -> Strip:
    """The first line of keys on the topmost screen."""
    line = pilot.app.screen.query_one(Hints)
    await until(pilot, lambda: line.size.height and line.render_line(0).text.strip())
    return line.render_line(0)


@pytest.mark.parametrize(
    "theme",
    ["chatlm-dark", "chatlm-light", "textual-light", "textual-dark", "solarized-dark", "nord"],
)
async def test_the_keys_can_be_read(theme: str) -> None:
    app = make_app(ScriptedEngine("Hi."), theme=theme)
    async with app.run_test(size=(120, 30)) as pilot:
        await say(pilot, "Hello")
        await idle(pilot)
        await pilot.press("tab")
        bar = app.screen.query_one(StatusBar)
        await until(pilot, lambda: "copy" in bar.render_line(0).text)
        found = dict(contrasts(bar.render_line(0)))
        assert {"c", "e", "i", "?"} <= {text.strip() for text in found}
        await pilot.press("ctrl+l")
        found |= dict(contrasts(await hints(pilot)))
        for command in ("settings", "context", "rename"):
            await app.chat_screen.action_command(command)
            await until(pilot, lambda: app.screen is not app.chat_screen)
            found |= dict(contrasts(await hints(pilot)))
            await pilot.press("escape")
            await until(pilot, lambda: app.screen is app.chat_screen)
        assert len(found) > 10
        assert {text: seen for text, seen in found.items() if seen < LEAST} == {}
