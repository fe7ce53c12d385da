"""Completes what may follow a slash command."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from chatlm import models
from chatlm.models.catalogue import catalogue
from chatlm.tui.completion import Completer

if TYPE_CHECKING:
    from chatlm.tui.app import ChatApp


def arguments(app: ChatApp) -> Mapping[str, Completer]:
    """By the command's name; paths need none."""
    return {
        "theme": lambda typed: _like(typed, app.available_themes),
        "model": lambda typed: _like(typed, _chat_models()),
        "replay": lambda typed: _like(typed, _chat_models()),
    }


def _chat_models() -> list[str]:
    """Those that are here; an embedder cannot chat."""
    entries = catalogue()
    names = models.installed_names()
    return [name for name in names if name not in entries or entries[name].kind == "chat"]


def _like(typed: str, names: Iterable[str]) -> list[str]:
    """The names that hold what was typed; those that begin with it come first."""
    typed = typed.lower()
    found = [name for name in names if typed in name.lower()]
    return sorted(found, key=lambda name: (not name.lower().startswith(typed), name))
