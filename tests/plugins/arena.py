"""Set-ups, matches and votes for the arena's tests."""

from __future__ import annotations

import json
import subprocess

from chatlm import Sampling, Setup, StopReason
from chatlm_arena.contestants import Contestant
from chatlm_arena.records import Match, MatchReply
from chatlm_arena.store.store import ArenaStore
from chatlm_arena.votes import Verdict
from tests.program import run_chatlm

HOT, COLD = (Setup(sampling=Sampling(temperature=t, max_tokens=24)) for t in (1.3, 0.0))


def chatlm(*arguments: str, stdin: str = "", **more: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    return run_chatlm(*arguments, stdin=stdin, environment=more)


def two(store: ArenaStore) -> tuple[Contestant, Contestant]:
    """Two contestants."""
    return store.add_contestant("hot", HOT), store.add_contestant("cold", COLD)


def reply_of(contestant: Contestant, text: str, turn: int = 0, prompt: str = "Hi?") -> MatchReply:
    """A reply that was made without a model."""
    return MatchReply(contestant.id, turn, prompt, text, StopReason.END, {"completion_tokens": 3})


def played(
    store: ArenaStore, left: Contestant, right: Contestant, verdict: Verdict | None = None
) -> Match:
    """A match with a reply on each side, and a vote if one is given."""
    match = store.add_match(left, right)
    store.add_reply(match, "left", reply_of(left, f"I am {left.name}, at your service."))
    store.add_reply(match, "right", reply_of(right, f"{right.name}."))
    if verdict:
        store.add_vote(match, verdict)
    return store.match(match.id)


def json_lines(text: str) -> list[dict[str, object]]:
    """JSON lines as values."""
    return [json.loads(line) for line in text.splitlines()]
