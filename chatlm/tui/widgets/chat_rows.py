"""What the list of chats says about each, as values; it knows no widget and no store."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from textual.content import Content

from chatlm.messages import Conversation
from chatlm.store import Summary
from chatlm.text import one_line

UNTITLED = "Untitled"

NO_CHATS = Content("No chats yet.\n\nWhat you write to the model\nis kept here.")

PINNED, UNFINISHED, ANSWERING = "▪", "◐", "●"

TITLE_WIDTH = 48
"""Characters of a suggested title at most."""


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
    title = one_line(chat.title, 60) or UNTITLED
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


def suggested_title(chat: Conversation) -> str:
    """What the first turn is about: the reply's own heading, else the message's first sentence."""
    if not chat.turns:
        return ""
    turn = chat.turns[0]
    heading = re.match(r"\s*#{1,6}\s+(\S.*)", turn.reply.text) if turn.reply else None
    if heading:
        return _short(heading[1].strip(" #*_"))
    sentence = re.match(r"\s*(.+?)(?:[.?!:]\s|[。？！\n]|[.?!:]*\s*$)", turn.user.content)
    return _short(sentence[1] if sentence else "")


def _short(text: str) -> str:
    """The first words of a text, without one that is cut."""
    line = " ".join(text.split())
    if len(line) <= TITLE_WIDTH:
        return line
    words = line[: TITLE_WIDTH + 1].rpartition(" ")[0]
    return words or line[:TITLE_WIDTH]
