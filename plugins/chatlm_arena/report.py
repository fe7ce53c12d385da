"""What a tournament and the votes come to, as tables."""

from __future__ import annotations

from typing import Any

from chatlm_arena import overlap
from chatlm_arena.judging import CRITERIA
from chatlm_arena.keeping import ArenaStore
from chatlm_arena.tournament import Plan


def newest_run(store: ArenaStore) -> list[tuple[str, list[dict[str, Any]]]]:
    """Title and table of the newest tournament that has anything to tell; empty without one."""
    for number, name, values in store.runs():
        plan = Plan.from_dict(values)
        table = run_table(store, number, plan)
        if any(len(row) > 1 for row in table):
            return [(f"Tournament {name}, {len(plan.prompts)} prompts", table)]
    return []


def run_table(store: ArenaStore, run_id: int, plan: Plan) -> list[dict[str, Any]]:
    """For each contestant its mean ROUGE and ratings, as far as there are any."""
    replies = store.run_replies(run_id)
    marks = store.marks(run_id)
    table = []
    for contestant in plan.contestants:
        row: dict[str, Any] = {"name": contestant.name}
        row |= overlap.mean(
            [
                overlap.rouge(replies[item, contestant.id, turn].text, reference)
                for item, prompt in enumerate(plan.prompts)
                for turn, reference in enumerate(prompt.references)
                if reference.strip() and (item, contestant.id, turn) in replies
            ]
        )
        own = {reply.id for reply in replies.values() if reply.contestant_id == contestant.id}
        for criterion in CRITERIA:
            values = [
                value
                for (reply_id, _, name), value in marks.items()
                if reply_id in own and name == criterion and value is not None
            ]
            if values:
                row[criterion] = sum(values) / len(values)
        table.append(row)
    return table
