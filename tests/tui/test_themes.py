"""Every text of chatlm's own themes has the contrast of WCAG's level AA on every background."""

from __future__ import annotations

import itertools

import pytest
from textual.color import Color
from textual.theme import Theme

from chatlm.config.config import Config
from chatlm.tui.themes import DARK, LIGHT, THEMES
from tests.tui.support import make_app, toasts
from tests.tui.test_contrast import LEAST, luminance

TEXTS = (
    "foreground",
    "text-muted",
    "text-primary",
    "text-secondary",
    "text-accent",
    "text-success",
    "text-warning",
    "text-error",
)
BACKGROUNDS = ("background", "surface", "panel")
TINTS = (("primary", 0.10), ("primary", 0.25), ("foreground", 0.08), ("warning", 0.10))
"""Colours that widgets lay over a background, with their opacity."""


def contrast(text: Color, background: Color) -> float:
    dark, bright = sorted(luminance(each.rgb) for each in (text, background))
    return (bright + 0.05) / (dark + 0.05)


def colours(theme: Theme) -> dict[str, Color]:
    variables = {**theme.to_color_system().generate(), **theme.variables}
    names = (*TEXTS, *BACKGROUNDS, *(name for name, _ in TINTS))
    return {name: Color.parse(variables[name]) for name in names}


@pytest.mark.parametrize("theme", THEMES, ids=lambda theme: theme.name)
def test_all_texts_can_be_read_on_all_backgrounds(theme: Theme) -> None:
    known = colours(theme)
    for text, ground in itertools.product(TEXTS, BACKGROUNDS):
        assert contrast(known[text], known[ground]) >= LEAST, (text, ground)
        for tint, opacity in TINTS:
            mixed = known[ground].blend(known[tint], opacity)
            least = LEAST if text == "foreground" else 3.0
            assert contrast(known[text], mixed) >= least, (text, ground, tint, opacity)


@pytest.mark.parametrize("theme", THEMES, ids=lambda theme: theme.name)
@pytest.mark.parametrize(("ground", "opacity"), [("surface", 0.18), ("panel", 0.15)])
def test_the_explanations_of_the_chosen_row_can_be_read(
    theme: Theme, ground: str, opacity: float
) -> None:
    known = colours(theme)
    row = known[ground].blend(known["primary"], opacity)
    for text in ("foreground", "text-muted", "text-success"):
        assert contrast(known[text], row) >= LEAST, text


@pytest.mark.parametrize("theme", THEMES, ids=lambda theme: theme.name)
def test_what_has_another_meaning_has_another_colour(theme: Theme) -> None:
    known = colours(theme)
    assert len({known[name].hex for name in TEXTS}) == len(TEXTS)


async def test_the_dark_one_is_the_default_and_both_can_be_chosen() -> None:
    assert Config().theme == DARK
    app = make_app(theme=LIGHT)
    async with app.run_test() as pilot:
        assert app.theme == LIGHT
        assert {DARK, LIGHT, "nord", "textual-dark"} <= set(app.available_themes)
        assert toasts(pilot) == []
