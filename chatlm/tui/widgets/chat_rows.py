"""What the list of chats says about each, as values; it knows no widget and no store."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from textual.content import Content

from chatlm.store import Summary
from chatlm.text import one_line

UNTITLED = "Untitled"

NO_CHATS = Content("No chats yet.\n\nWhat you write to the model\nis kept here.")

_FORK = re.compile(r"(.*) \((fork(?: \d+)?)\)")
"""A fork's title; the row has room for its beginning only, so the word goes there."""

PINNED, UNFINISHED, ANSWERING = "▪", "◐", "●"


def row(chat: Summary, *, current: int | None, answering: int | None) -> Content:
    """One line: a mark and the title, bold for the chat on the screen.

    Args:
        chat: what the store says about it.
        current: id of the chat on the screen.
        answering: id of the chat that a turn is running for.
    """
    if chat.id == answering:
        mark, colour = ANSWERING, "$text-primary"
    elif chat.unfinished:
        mark, colour = UNFINISHED, "$text-warning"
    elif chat.pinned:
        mark, colour = PINNED, "$text-primary"
    else:
        mark, colour = " ", ""
    title = _FORK.sub(r"\2 · \1", one_line(chat.title, 60)) or UNTITLED
    return Content.assemble((f"{mark} ", colour), (title, "bold" if chat.id == current else ""))


def group(chat: Summary, now: datetime) -> str:
    """The heading that a chat stands under."""
    return "Pinned" if chat.pinned else day_group(chat.updated, now)


def day_group(when: datetime, now: datetime) -> str:
    """A time by the person's own calendar: a day, this week since Monday, or a month."""
    day, today = when.astimezone().date(), now.astimezone().date()
    if day >= today:
        return "Today"
    if day == today - timedelta(days=1):
        return "Yesterday"
    if day >= today - timedelta(days=today.weekday()):
        return "This week"
    return day.strftime("%B %Y")
