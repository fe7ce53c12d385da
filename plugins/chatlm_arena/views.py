"""What the ratings screen and the command line show, computed from the arena's database."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from chatlm_arena import charts, summaries
from chatlm_arena import leaderboard as leaderboard_module
from chatlm_arena.leaderboard import build_leaderboard
from chatlm_arena.ratings import EloRules
from chatlm_arena.statistics.aspects import AspectReport, report_aspects
from chatlm_arena.statistics.audit import audit_votes
from chatlm_arena.statistics.boards import build_board
from chatlm_arena.statistics.judges import Calibration, calibrate_judges
from chatlm_arena.statistics.pareto import SpeedRow, speed_rows
from chatlm_arena.statistics.preference_model import Ties
from chatlm_arena.store.store import ArenaStore

NO_VOTES = "No votes yet. /arena lets two set-ups answer your messages; your votes rank them."


def calibration(store: ArenaStore) -> Calibration:
    """Return how far each judge agrees with the user."""
    return calibrate_judges(store.judged_matches(), store.votes_by_judge(), store.order_counts())


def aspects(store: ArenaStore) -> AspectReport:
    """Return what the ratings of single answers say."""
    return report_aspects(store.aspect_ratings(), store.rated_votes())


def speeds(store: ArenaStore, rules: EloRules | None = None) -> list[SpeedRow]:
    """Return rating and speed of each contestant, the fastest first."""
    board = build_leaderboard(store.votes(), rules)
    return speed_rows(board.rows, store.reply_times())


def _ratings(store: ArenaStore, width: int, rules: EloRules) -> Iterator[str]:
    votes, lengths = store.votes(), store.reply_lengths()
    board = build_leaderboard(votes, rules)
    findings = leaderboard_module.describe_findings(
        board,
        leaderboard_module.measure_side_bias(votes.score),
        leaderboard_module.measure_length_bias(*lengths),
    )
    yield from charts.leaderboard_table(board.rows, width)
    yield ""
    yield from charts.matrix_table(board)
    yield ""
    yield from charts.elo_sparklines(board, width)
    yield ""
    yield from findings


def _ties(store: ArenaStore, width: int, rules: EloRules) -> Iterator[str]:
    return summaries.board_lines(build_board(store.votes(), store.vote_facts(), Ties.DAVIDSON))


def _style(store: ArenaStore, width: int, rules: EloRules) -> Iterator[str]:
    board = build_board(store.votes(), store.vote_facts(), Ties.DAVIDSON, with_style=True)
    if not board.votes:
        return iter(["The votes so far have no replies whose style could be compared."])
    return summaries.board_lines(board)


def _checks(store: ArenaStore, width: int, rules: EloRules) -> Iterator[str]:
    return audit_votes(store.votes(), store.vote_facts()).lines()


def _judges(store: ArenaStore, width: int, rules: EloRules) -> Iterator[str]:
    return summaries.judge_lines(calibration(store))


def _aspects(store: ArenaStore, width: int, rules: EloRules) -> Iterator[str]:
    return summaries.aspect_lines(aspects(store))


def _speed(store: ArenaStore, width: int, rules: EloRules) -> Iterator[str]:
    return summaries.speed_lines(speeds(store, rules), width)


View = Callable[[ArenaStore, int, EloRules], Iterator[str]]

VIEWS: dict[str, tuple[str, View]] = {
    "ratings": ("Ratings", _ratings),
    "ties": ("Ratings with ties modelled", _ties),
    "style": ("Ratings with style controlled", _style),
    "checks": ("Can the ratings be trusted?", _checks),
    "judges": ("Judges", _judges),
    "aspects": ("Aspects of the answers", _aspects),
    "speed": ("Quality against time", _speed),
}
"""Title and text of each view of the ratings screen, by the name that its key has in the footer."""


def view_text(name: str, store: ArenaStore, width: int, rules: EloRules) -> str:
    """Return the text of a view.

    Args:
        name: one of `VIEWS`.
        store: the arena's database.
        width: columns.
        rules: of the Elo ratings.
    """
    if not len(store.votes()) and name != "aspects":
        return NO_VOTES
    return "\n".join(VIEWS[name][1](store, width, rules))
