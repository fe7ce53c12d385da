"""The result table of a tournament, and the HTML report of the arena."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from chatlm import escape_controls, one_line
from chatlm_arena import charts, metrics
from chatlm_arena.charts import MAX_MATRIX_ROWS
from chatlm_arena.judging import CRITERIA
from chatlm_arena.leaderboard import Leaderboard
from chatlm_arena.store.store import ArenaStore
from chatlm_arena.tournament import TournamentPlan


def newest_run_table(store: ArenaStore) -> list[tuple[str, list[dict[str, Any]]]]:
    """Return title and table of the newest tournament with results; empty without one."""
    for number, name, values in store.runs():
        plan = TournamentPlan.from_dict(values)
        table = run_table(store, number, plan)
        if any(len(row) > 1 for row in table):
            return [(f"Tournament {name}, {len(plan.prompts)} prompts", table)]
    return []


def run_table(store: ArenaStore, run_id: int, plan: TournamentPlan) -> list[dict[str, Any]]:
    """Return each contestant's mean ROUGE scores and ratings, as far as available."""
    replies = store.run_replies(run_id)
    ratings = store.ratings(run_id)
    table = []
    for contestant in plan.contestants:
        row: dict[str, Any] = {"name": contestant.name}
        row |= metrics.mean_scores(
            [
                metrics.rouge_scores(replies[item, contestant.id, turn].text, reference)
                for item, prompt in enumerate(plan.prompts)
                for turn, reference in enumerate(prompt.references)
                if reference.strip() and (item, contestant.id, turn) in replies
            ]
        )
        own = {reply.id for reply in replies.values() if reply.contestant_id == contestant.id}
        for criterion in CRITERIA:
            values = [
                value
                for (reply_id, _, name), value in ratings.items()
                if reply_id in own and name == criterion and value is not None
            ]
            if values:
                row[criterion] = sum(values) / len(values)
        table.append(row)
    return table


STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --quiet: #666; --line: #d5d5d5; --paper: #fff;
  --mark: #0072b2; --good: 0, 114, 178; }
@media (prefers-color-scheme: dark) { :root { --ink: #eaeaea; --quiet: #9a9a9a; --line: #3a3a3a;
  --paper: #161616; --mark: #56b4e9; --good: 86, 180, 233; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 900px; margin: 2.5rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
p, caption { color: var(--quiet); } .wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .6rem; text-align: right; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child, .name { text-align: left; }
svg { width: 100%; height: auto; } svg text { font: 13px system-ui, sans-serif; fill: var(--ink); }
.grid { stroke: var(--line); } .line { stroke: var(--mark); stroke-width: 2; fill: none; }
.point { fill: var(--mark); } polyline { fill: none; stroke-width: 2; }
"""


def html_page(
    board: Leaderboard,
    findings: Iterable[str],
    tables: Sequence[tuple[str, Sequence[Mapping[str, Any]]]],
) -> str:
    """Render the report as one self-contained HTML page.

    Args:
        board: the leaderboard.
        findings: sentences about it.
        tables: title and rows of further tables.
    """
    votes, players = f"{len(board.votes):,} votes", f"{len(board.rows)} contestants"
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        f"<title>Arena: {players}</title><style>{STYLE}</style></head><body>",
        f"<h1>Arena</h1><p>{votes}, {players}. Ratings are Bradley-Terry ratings on the Elo scale "
        "with 95 % intervals; Elo ratings depend on the order of the votes.</p>",
    ]
    if board.rows:
        parts += [
            "<h2>Ratings</h2>",
            charts.svg_intervals(board.rows),
            _leaderboard_table(board),
            "<h2>Head to head</h2><p>How often the row beats the column; a tie is half a win.</p>",
            _win_matrix(board),
            "<h2>Elo over time</h2>",
            charts.svg_elo_curves(board),
        ]
    parts += [f"<p>{escape(escape_controls(sentence))}</p>" for sentence in findings]
    for title, rows in tables:
        parts += [f"<h2>{escape(escape_controls(title))}</h2>", _html_table(rows)]
    return "\n".join([*parts, "</body></html>", ""])


def _leaderboard_table(board: Leaderboard) -> str:
    rows = [
        {
            "name": row.name,
            "rating": f"{row.rating:.0f}",
            "95 % interval": f"{row.rating_low:.0f} to {row.rating_high:.0f}"
            if math.isfinite(row.rating_low)
            else "unknown",
            "Elo": f"{row.elo:.0f}",
            "games": f"{row.games:,}",
            "wins": f"{row.win_rate:.0%}",
            "": "" if row.is_stable else "not enough votes",
        }
        for row in board.rows
    ]
    return _html_table(rows)


def _win_matrix(board: Leaderboard) -> str:
    rows = board.rows[:MAX_MATRIX_ROWS]
    place = {name: at for at, name in enumerate(board.votes.names)}
    head = "".join(f"<th>{number}</th>" for number in range(1, len(rows) + 1))
    lines = []
    for number, row in enumerate(rows, 1):
        cells = []
        for other in rows:
            won, lost = (
                float(board.win_matrix[place[one], place[two]])
                for one, two in ((row.name, other.name), (other.name, row.name))
            )
            if won + lost:
                rate = won / (won + lost)
                shade = f"background:rgba(var(--good),{rate * 0.6:.2f})"
                cells.append(f'<td style="{shade}">{rate:.0%}</td>')
            else:
                cells.append("<td>·</td>")
        lines.append(f"<tr><td>{number} {_escape_name(row.name)}</td>{''.join(cells)}</tr>")
    return f'<div class="wide"><table><tr><th></th>{head}</tr>{"".join(lines)}</table></div>'


def _html_table(rows: Sequence[Mapping[str, Any]]) -> str:
    heads = list(dict.fromkeys(key for row in rows for key in row))
    head = "".join(f"<th>{escape(escape_controls(key))}</th>" for key in heads)
    lines = [
        "<tr>" + "".join(f"<td>{_format_cell(row.get(key, ''))}</td>" for key in heads) + "</tr>"
        for row in rows
    ]
    return f'<div class="wide"><table><tr>{head}</tr>{"".join(lines)}</table></div>'


def _format_cell(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else _escape_name(str(value))


def _escape_name(text: str) -> str:
    return escape(one_line(text, 60))
