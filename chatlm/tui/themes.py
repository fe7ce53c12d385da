"""chatlm's own themes.

The screen uses a theme's colours by what they mean, so that every Textual theme works:

| what | colour of the theme |
|---|---|
| user | primary |
| model | success |
| tool | accent |
| reasoning | secondary |
| warning, error | warning, error |
| quoted and explained | text-muted |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from textual.theme import BUILTIN_THEMES, Theme

DARK, LIGHT = "chatlm-dark", "chatlm-light"


def _theme(name: str, *, dark: bool, colours: Mapping[str, str]) -> Theme:
    """Return a theme whose texts are solid colours, so that their contrast can be tested."""
    return Theme(
        name=name,
        dark=dark,
        background=colours["background"],
        surface=colours["surface"],
        panel=colours["panel"],
        foreground=colours["foreground"],
        primary=colours["user"],
        secondary=colours["reasoning"],
        accent=colours["tool"],
        success=colours["model"],
        warning=colours["warning"],
        error=colours["error"],
        variables={
            "text-primary": colours["user"],
            "text-secondary": colours["reasoning"],
            "text-accent": colours["tool"],
            "text-success": colours["model"],
            "text-warning": colours["warning"],
            "text-error": colours["error"],
            "text-muted": colours["muted"],
            "link-color": colours["user"],
            "link-background-hover": colours["panel"],
            "link-color-hover": colours["foreground"],
        },
    )


DARK_COLOURS = {
    "background": "#12151c",
    "surface": "#191d26",
    "panel": "#232936",
    "foreground": "#e7eaf0",
    "muted": "#a3adbd",
    "user": "#7db8ff",
    "model": "#6fd6a4",
    "tool": "#f0b95a",
    "reasoning": "#c2a5ff",
    "warning": "#ffb347",
    "error": "#ff8b8b",
}

LIGHT_COLOURS = {
    "background": "#fcfbf8",
    "surface": "#f4f2ec",
    "panel": "#e8e4da",
    "foreground": "#1c212b",
    "muted": "#4b5361",
    "user": "#0b559f",
    "model": "#0a6141",
    "tool": "#7c4a00",
    "reasoning": "#6335b0",
    "warning": "#8a4b00",
    "error": "#a81e1e",
}

THEMES = (
    _theme(DARK, dark=True, colours=DARK_COLOURS),
    _theme(LIGHT, dark=False, colours=LIGHT_COLOURS),
)
"""All their texts have the contrast of WCAG's level AA on all their backgrounds."""

_NORD = BUILTIN_THEMES["nord"]

CHANGED_THEMES = (replace(_NORD, variables={**_NORD.variables, "text-muted": "auto 68%"}),)
"""Themes of Textual whose quiet texts have too little contrast on their panels."""
