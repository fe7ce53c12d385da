"""What the person can do at each moment of a match; knows no widget."""

from __future__ import annotations

from enum import Enum


class State(Enum):
    """What the person can do now."""

    ASK = "ask"
    """Type the message of a new match."""
    ANSWERS = "answers"
    """Read along, or stop both."""
    VOTE = "vote"
    COUNT = "count"
    """Wait a moment for what the vote changes."""
    MORE = "more"
    """Type another message to the same two."""
    REVEALED = "revealed"


SAID = {
    State.ASK: "Type a message that both shall answer.",
    State.ANSWERS: "They answer; chance decides who begins.",
    State.VOTE: "Which answer is better? The names come after your vote.",
    State.COUNT: "Counting …",
    State.MORE: "Type what both shall answer next.",
    State.REVEALED: "Enter begins the next match.",
}

AT_ONCE = {
    "send": (State.ASK, State.MORE),
    "stop": (State.ANSWERS,),
}
"""The actions that a key does at any time, each with the states that have it."""

ALLOWED = {
    "vote": (State.VOTE,),
    "skip": (State.VOTE,),
    "again": (State.VOTE,),
    "more": (State.VOTE,),
    "next": (State.REVEALED,),
    "undo": (State.VOTE, State.REVEALED),
    "ratings": (State.VOTE, State.REVEALED),
    "back": (State.MORE,),
    "leave": (State.ASK, State.VOTE, State.COUNT, State.REVEALED),
}
"""The actions that a key does only once the state was seen, each with the states that have it."""

SEEN_AFTER = 0.4
"""Seconds for which a state has been on the screen before a key that belongs to it acts: what was
pressed twice, or meant for the state before, changes nothing unseen."""

NEED_ANSWERS = ("vote", "more")
"""The actions for which both must have answered."""
