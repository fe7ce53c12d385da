"""Sees to it that styles of a plugin's widgets are right, and are theirs alone."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

from textual.app import App
from textual.css._help_renderables import HelpText
from textual.css.errors import StylesheetError
from textual.css.stylesheet import Stylesheet, StylesheetParseError
from textual.css.tokenizer import TokenError
from textual.screen import Screen
from textual.widget import Widget

from chatlm.errors import ChatlmError

WRONG = (StylesheetError, TokenError)
"""What Textual raises for styles that cannot be read."""


def check(app: App[Any], widget: Widget) -> None:
    """See that a widget's own styles can be read, before anything depends on them.

    Raises:
        ChatlmError: they cannot; the message says where.
    """
    sheet = Stylesheet(variables=app.get_css_variables())
    for place, css, rank, scope in widget._get_default_css():
        sheet.add_source(css, place, is_default_css=True, tie_breaker=rank, scope=scope)
    try:
        if isinstance(widget, Screen):
            sheet.read_all(widget.css_path)
            sheet.add_source(widget.CSS, ("", f"{type(widget).__name__}.CSS"))
        sheet.parse()
    except WRONG as error:
        raise in_words(error) from None


def scope(app: App[Any], screen: Screen[Any]) -> None:
    """Read the style files of a screen for that screen alone; Textual reads them for all."""
    for path in map(Path, screen.css_path):
        css = path.read_text(encoding="utf-8")
        app.stylesheet.add_source(css, (str(path), ""), scope=screen._css_type_name)


def forget_wrong(app: App[Any]) -> None:
    """Let go of what could not be read: Textual would fail at it again with the next theme."""
    sheet = app.stylesheet
    for place, source in list(sheet.source.items()):
        if source.content in sheet._invalid_css:
            del sheet.source[place]
    sheet._invalid_css.clear()


def in_words(error: Exception) -> ChatlmError:
    """What is wrong with styles, and in which line."""
    if isinstance(error, StylesheetParseError):
        token, said = next(chain.from_iterable(rule.errors for rule in error.errors.rules))
        start, place = token.start, token.read_from
        said = said.summary if isinstance(said, HelpText) else said
    elif isinstance(error, TokenError):
        start, place, said = error.start, error.read_from, str(error)
    else:
        return ChatlmError(str(error))
    return ChatlmError(f"{place[1] or place[0]}, line {start[0]}: {said}")
