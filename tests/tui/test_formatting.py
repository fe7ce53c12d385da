"""Labels, counts and progress as text."""

from __future__ import annotations

from chatlm.hub.jobs import STAGE_LABELS, describe_progress
from chatlm.tui import formatting
from chatlm.types.conversations import Turn
from chatlm.types.messages import Message as Said
from chatlm.types.replies import Reply, StopReason, Usage


def turn_with(*replies: Reply) -> Turn:
    return Turn(1, 0, Said("user", "Hello"), replies)


def test_every_end_has_a_label() -> None:
    labels = [formatting.stop_label(reason) for reason in (*StopReason, None)]
    assert all(labels)
    assert len(set(labels)) == len(labels)
    for reason in (*StopReason, None):
        line = formatting.stop_text(Reply(1, 1, "x", reason))
        assert (line == "") is (reason is StopReason.END)


def test_the_parts_of_the_line_below_a_reply() -> None:
    end = Reply(2, 2, "x", StopReason.END, usage=Usage(10, 0, 1204, 0.5, 38.5))
    first = Reply(1, 1, "y", StopReason.CANCELLED, usage=Usage(10, 0, 1))
    assert (formatting.stop_text(None), formatting.stop_text(first)) == ("not answered", "stopped")
    assert formatting.version_text(turn_with(first, end)) == "version 2 of 2"
    assert formatting.version_text(turn_with(first)) == formatting.version_text(turn_with()) == ""
    assert formatting.reply_cost(end) == "1,204 tokens · 31.2 tokens/s"
    assert (formatting.reply_cost(first), formatting.reply_cost(None)) == ("1 token", "")
    adapted = Reply(3, 3, "z", StopReason.END, adapter="pirate", usage=Usage(10, 0, 1))
    assert formatting.reply_cost(adapted) == "1 token"


def test_progress_in_words() -> None:
    assert describe_progress("download", 1, 4) == "downloading 25 %"
    assert describe_progress("download", 1, None) == "downloading"
    assert set(STAGE_LABELS) == {
        "wait",
        "download",
        "unpack",
        "prepare",
        "copy",
        "check",
        "compile",
    }
