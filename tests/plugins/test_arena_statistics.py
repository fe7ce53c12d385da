"""Statistics of votes: against brute force, other implementations and published examples."""

from __future__ import annotations

import math
from collections.abc import Hashable
from itertools import product

import evalica
import numpy as np
import pytest
from scipy import integrate, optimize, stats
from sklearn.metrics import cohen_kappa_score

from benchmarks import arena_statistics as simulation
from chatlm_arena.ratings import POINTS_PER_LOG_STRENGTH, estimate_log_strengths, fit_strengths
from chatlm_arena.statistics.agreement import (
    Distance,
    cohen_kappa,
    krippendorff_alpha,
    verdict_table,
)
from chatlm_arena.statistics.drop_check import check_drops
from chatlm_arena.statistics.prediction_powered import JudgedPairs, fit_prediction_powered
from chatlm_arena.statistics.preference_model import (
    Comparisons,
    Ties,
    comparisons_from_votes,
    fit_preferences,
)
from chatlm_arena.statistics.stopping import check_stopping, log_wealth, share_interval
from chatlm_arena.statistics.style import (
    POSITION,
    Style,
    control_style,
    measure_style,
    style_differences,
)
from chatlm_arena.statistics.win_matrices import fit_win_matrices
from chatlm_arena.votes import Verdict, Votes, tally_votes, votes_from_rows

L, R, T = Verdict.LEFT, Verdict.RIGHT, Verdict.TIE


def random_votes(seed: int, size: int = 4, count: int = 300, ties: float = 1.0) -> Votes:
    """Votes by Davidson's model, with strengths from -1 to 1."""
    draw = np.random.default_rng(seed)
    left = draw.integers(0, size, count)
    right = (left + draw.integers(1, size, count)) % size
    strengths = np.linspace(1, -1, size)
    score = simulation.davidson_scores(strengths[left] - strengths[right], ties, draw)
    return Votes(tuple("abcdefghij"[:size]), left, right, score)


# Ties


def test_ties_modelled_as_evalica_models_them() -> None:
    votes = random_votes(1)
    cells = tally_votes(votes)
    winners = (evalica.Winner.Y, evalica.Winner.Draw, evalica.Winner.X)
    theirs = evalica.newman(
        cells.one.tolist(),
        cells.other.tolist(),
        [winners[round(2 * score)] for score in cells.score.tolist()],
        weights=cells.count.tolist(),
        tolerance=1e-12,
        limit=10_000,
    )
    logs = np.log(theirs.scores.reindex(range(4)).to_numpy())
    fit = fit_preferences(comparisons_from_votes(votes))
    assert fit.log_strength == pytest.approx(logs - logs.mean(), abs=1e-4)
    assert fit.log_tie == pytest.approx(math.log(2 * theirs.v), abs=1e-3)


def test_half_wins_are_the_strengths_of_the_leaderboard() -> None:
    votes = random_votes(2)
    fit = fit_preferences(comparisons_from_votes(votes), Ties.HALF_WINS)
    assert fit.log_strength == pytest.approx(estimate_log_strengths(tally_votes(votes)), abs=1e-5)
    assert math.isnan(fit.log_tie)


def test_the_likelihood_has_its_maximum_there() -> None:
    """A general optimiser finds the same strengths, effect and tie parameter."""
    votes = random_votes(3, size=3, count=120)
    x = np.random.default_rng(3).normal(size=120)
    fit = fit_preferences(comparisons_from_votes(votes, x[:, np.newaxis]))

    def loss(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
        logs = np.array([*values[:2], -values[:2].sum()])
        gap = logs[votes.left] - logs[votes.right] + values[2] * x
        total = np.exp(gap / 2) + np.exp(-gap / 2) + math.exp(values[3])
        chosen = np.select(
            [votes.score == 1, votes.score == 0.5],
            [np.exp(gap / 2), math.exp(values[3])],
            np.exp(-gap / 2),
        )
        return float(-np.log(chosen / total).sum() + 0.005 * (values[2] ** 2 + values[3] ** 2))

    best = optimize.minimize(loss, np.zeros(4), method="BFGS", options={"gtol": 1e-8}).x
    assert fit.log_strength[:2] == pytest.approx(best[:2], abs=1e-4)
    assert fit.effects[0] == pytest.approx(best[2], abs=1e-4)
    assert fit.log_tie == pytest.approx(best[3], abs=1e-4)


@pytest.mark.parametrize("ties", list(Ties))
def test_errors_are_those_of_resampled_votes(ties: Ties) -> None:
    votes = random_votes(4, count=600)
    fit = fit_preferences(comparisons_from_votes(votes), ties)
    draw = np.random.default_rng(0)
    found = []
    for _ in range(200):
        at = draw.integers(0, len(votes), len(votes))
        again = Votes(votes.names, votes.left[at], votes.right[at], votes.score[at])
        found.append(fit_preferences(comparisons_from_votes(again), ties).rating)
    assert fit.rating_error == pytest.approx(np.std(found, axis=0), rel=0.25)


def test_votes_of_one_ranking_count_together() -> None:
    votes = random_votes(5)
    left, right, score = votes.left, votes.right, votes.score
    doubled = Votes(votes.names, np.repeat(left, 2), np.repeat(right, 2), np.repeat(score, 2))
    once = fit_preferences(comparisons_from_votes(votes))
    clusters = np.repeat(np.arange(len(votes)), 2)
    together = fit_preferences(comparisons_from_votes(doubled, cluster=clusters))
    alone = fit_preferences(comparisons_from_votes(doubled))
    assert together.rating_error == pytest.approx(once.rating_error, rel=1e-3)
    assert alone.rating_error == pytest.approx(once.rating_error / math.sqrt(2), rel=1e-2)


@pytest.mark.parametrize("verdicts", [[L] * 12, [T] * 12, [L] * 6 + [R] * 6])
@pytest.mark.parametrize("ties", list(Ties))
def test_extreme_votes_have_finite_ratings(verdicts: list[Verdict], ties: Ties) -> None:
    fit = fit_preferences(
        comparisons_from_votes(votes_from_rows([("a", "b", v) for v in verdicts])), ties
    )
    assert np.isfinite(fit.rating).all()
    assert np.isfinite(fit.rating_error).all()
    assert (fit.rating[0] > fit.rating[1] + 1) == (verdicts[-1] is L)


def test_no_votes_are_no_error() -> None:
    empty = np.zeros(0, dtype=np.int64)
    data = Comparisons(empty, empty, np.zeros(0), np.zeros(0), 0)
    assert fit_preferences(data).log_strength.shape == (0,)


# Style


def test_style_is_counted_outside_of_code() -> None:
    text = (
        "# Title\n\nSome **bold** words, 2 * 3 * 4.\n\n- one\n- two\n1. three\n"
        "```\n# no title\n- no item\n**no bold**\n```\n__more bold__"
    )
    assert measure_style(text) == Style(len(" ".join(text.split())), 1, 2, 3)
    assert measure_style("") == Style(0, 0, 0, 0)
    assert measure_style("```\n# open\n- to the end") == Style(23, 0, 0, 0)


def test_differences_of_style_are_relative() -> None:
    found = style_differences([Style(200, 2, 0, 0)], [Style(100, 0, 0, 3)])
    assert found.tolist() == [[pytest.approx(1 / 3), 1.0, 0.0, -1.0]]


def test_a_style_that_hardly_differs_is_left_out() -> None:
    votes = random_votes(6, count=200)
    columns = np.zeros((200, 4))
    columns[:, 0] = np.random.default_rng(6).uniform(-1, 1, 200)
    columns[:5, 3] = 1
    found = control_style(votes, columns)
    assert {effect.name for effect in found.effects} == {"length", POSITION}
    assert found.left_out == ("headings", "bold", "lists")


def test_a_style_that_is_the_contestants_own_is_not_controlled() -> None:
    """If one of two always writes lists, nothing says whether the lists or it was liked."""
    votes = random_votes(7, size=2, count=200)
    columns = np.zeros((200, 4))
    columns[:, 3] = np.where(votes.left == 0, 1.0, -1.0)
    columns[:, 0] = np.random.default_rng(7).uniform(-1, 1, 200)
    found = control_style(votes, columns)
    assert found.confounded == ("lists",)
    assert {effect.name for effect in found.effects} == {"length", POSITION}
    assert np.isfinite(found.fit.effect_error).all()


# Drop-k


def test_drop_k_equals_brute_force() -> None:
    found = simulation.drops(boards=12, most=4)
    assert found["boards"] > 8
    assert found["equal"] == found["proven"] == found["boards"]


def test_one_vote_decides() -> None:
    rows = [("a", "b", L)] * 3 + [("a", "b", R)] * 2
    found = check_drops(tally_votes(votes_from_rows(rows)))
    assert found is not None
    assert (found.count, found.is_exact, found.new_first) == (2, True, 1)
    (dropped,) = found.dropped
    assert (dropped.one, dropped.other, dropped.score, dropped.count) == (0, 1, 1.0, 2)


def test_what_cannot_be_overturned() -> None:
    assert check_drops(tally_votes(votes_from_rows([("a", "b", T)] * 4))) is None
    assert check_drops(tally_votes(votes_from_rows([]))) is None
    found = check_drops(tally_votes(votes_from_rows([("a", "b", L)] * 4)))
    assert found is not None
    assert (found.count, found.new_first, found.proven_below) == (None, None, 4)


def test_many_small_fits_at_once() -> None:
    draw = np.random.default_rng(0)
    won = draw.integers(0, 4, (30, 4, 4)).astype(float)
    won[:, range(4), range(4)] = 0
    found = fit_win_matrices(won)
    for matrix, logs in zip(won, found, strict=True):
        rows = [(a, b, L) for a, b in product(range(4), repeat=2) for _ in range(int(matrix[a, b]))]
        votes = votes_from_rows([(str(a), str(b), v) for a, b, v in rows], "0123")
        alone = np.log(fit_strengths(tally_votes(votes)))
        assert logs == pytest.approx(alone - alone.mean(), abs=1e-4)


# Stopping


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (3, 1), (40, 25), (10, 60)])
def test_wealth_is_the_mean_over_all_bets(wins: int, losses: int) -> None:
    value, _ = integrate.quad(lambda bet: (1 + bet) ** wins * (1 - bet) ** losses, 0, 1)
    assert math.exp(log_wealth(wins, losses)) == pytest.approx(value, rel=1e-6)


def test_wealth_does_not_grow_by_itself() -> None:
    """The mean of the next wealth, after a fair vote, is the present one at most."""
    for wins, losses in product(range(6), repeat=2):
        now, won, lost = (
            math.exp(log_wealth(*after))
            for after in ((wins, losses), (wins + 1, losses), (wins, losses + 1))
        )
        assert (won + lost) / 2 == pytest.approx(now)


def test_a_share_has_an_interval_at_all_times() -> None:
    assert share_interval(0, 0) == (0.0, 1.0)
    low, high = share_interval(30, 10)
    fixed = stats.binomtest(30, 40).proportion_ci()
    assert low < fixed.low < 0.75 < fixed.high < high
    one, other = share_interval(10, 30)
    assert (1 - other, 1 - one) == pytest.approx((low, high))


def test_equals_are_seldom_settled_however_often_one_looks() -> None:
    found = simulation.stopping(runs=300, votes=200)
    assert found["equal"]["stopped"] <= 0.05
    assert found["better"]["stopped"] > 0.5


def test_the_leader_must_beat_everyone() -> None:
    rows = [("a", "b", L)] * 60 + [("a", "c", L)] * 3 + [("b", "c", L)] * 30
    rule = check_stopping(tally_votes(votes_from_rows(rows)), [0, 1, 2])
    assert rule is not None
    assert not rule.is_settled
    open_duel, settled = rule.duels
    assert (open_duel.other, open_duel.settled) == (2, False)
    assert open_duel.votes_needed is not None
    assert 1 <= open_duel.votes_needed <= 10
    assert (settled.other, settled.settled, settled.votes_needed) == (1, True, 0)
    rows += [("a", "c", L)] * open_duel.votes_needed
    rule = check_stopping(tally_votes(votes_from_rows(rows)), [0, 1, 2])
    assert rule is not None
    assert rule.is_settled


# Agreement


def test_kappa_of_a_published_table() -> None:
    """Fleiss (1981), table 13.1: two diagnosticians, 100 patients."""
    found = cohen_kappa(np.array([[75, 1, 4], [5, 4, 1], [0, 0, 10]], dtype=float))
    assert found.value == pytest.approx(0.68, abs=0.005)
    assert (found.high - found.low) / 2 / 1.96 == pytest.approx(0.087, abs=0.001)


def test_kappa_as_scikit_learn_has_it() -> None:
    draw = np.random.default_rng(0)
    one = draw.choice([0, 0.5, 1], 200)
    other = np.where(draw.random(200) < 0.6, one, draw.choice([0, 0.5, 1], 200))
    found = cohen_kappa(verdict_table(one.tolist(), other.tolist()))
    theirs = cohen_kappa_score((2 * one).astype(int), (2 * other).astype(int))
    assert found.value == pytest.approx(theirs)
    assert found.agreement == pytest.approx((one == other).mean())


def test_kappa_of_nothing_and_of_one_verdict_only() -> None:
    assert math.isnan(cohen_kappa(np.zeros((3, 3))).value)
    assert math.isnan(cohen_kappa(np.diag([5.0, 0, 0])).value)


KRIPPENDORFF = (
    "1 2 3 3 2 1 4 1 2 . . .",
    "1 2 3 3 2 2 4 1 2 5 . 3",
    ". 3 3 3 2 3 4 2 2 5 1 .",
    "1 2 3 3 2 4 4 1 2 5 1 .",
)
"""Krippendorff (2011), "Computing Krippendorff's alpha-reliability", example C."""


@pytest.mark.parametrize(
    ("distance", "value"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)]
)
def test_alpha_of_krippendorffs_example(distance: Distance, value: float) -> None:
    ratings: dict[str, dict[Hashable, float]] = {
        f"judge {number}": {
            unit: float(each) for unit, each in enumerate(line.split()) if each != "."
        }
        for number, line in enumerate(KRIPPENDORFF)
    }
    found = krippendorff_alpha(ratings, distance)
    assert found is not None
    assert found.value == pytest.approx(value, abs=0.001)
    assert (found.units, found.judges) == (11, 4)
    assert found.low < found.value < found.high


def test_alpha_needs_two_judges() -> None:
    assert krippendorff_alpha({"one": {1: 1.0, 2: 2.0}}, "interval") is None
    assert krippendorff_alpha({"one": {1: 1.0, 2: 1.0}, "two": {1: 1.0, 2: 1.0}}, "nominal") is None


# Prediction-powered ratings


def test_a_judge_that_says_nothing_changes_nothing() -> None:
    draw = np.random.default_rng(1)
    votes = simulation.judged(draw, np.linspace(0.5, -0.5, 3), 200, 400, agreement=0.0)
    found = fit_prediction_powered(votes, 3)
    assert found.trust < 0.15
    assert found.error == pytest.approx(found.human_error, rel=0.05)


def test_the_users_votes_alone_are_half_wins() -> None:
    votes = random_votes(7, size=3)
    unknown = np.full(len(votes), np.nan)
    found = fit_prediction_powered(JudgedPairs(votes.left, votes.right, unknown, votes.score), 3)
    fit = fit_preferences(comparisons_from_votes(votes), Ties.HALF_WINS)
    assert found.trust == 0
    assert found.rating == pytest.approx(fit.rating, abs=0.01)
    assert found.error == pytest.approx(fit.rating_error, rel=0.02)


def test_a_perfect_judge_gives_the_ratings_of_all_matches() -> None:
    votes = random_votes(8, size=3, count=3000)
    human = np.where(np.arange(3000) < 200, votes.score, np.nan)
    found = fit_prediction_powered(JudgedPairs(votes.left, votes.right, votes.score, human), 3)
    fit = fit_preferences(comparisons_from_votes(votes), Ties.HALF_WINS)
    assert found.trust > 0.9
    assert found.rating == pytest.approx(fit.rating, abs=0.4 * float(found.human_error.max()))
    assert found.error.mean() < 0.5 * found.human_error.mean()


def test_sides_do_not_matter() -> None:
    votes = simulation.judged(np.random.default_rng(2), np.linspace(0.5, -0.5, 3), 150, 300, 0.8)
    turned = JudgedPairs(votes.other, votes.one, 1 - votes.judge, 1 - votes.human)
    one, other = fit_prediction_powered(votes, 3), fit_prediction_powered(turned, 3)
    assert one.rating == pytest.approx(other.rating)
    assert one.error == pytest.approx(other.error)


# What the benchmark shows


def test_ties_modelled_recover_strengths_better() -> None:
    row = simulation.ties(runs=5)["davidson"]
    assert row["tie_share"] == pytest.approx(0.3, abs=0.03)
    assert row["davidson"]["error_points"] < 0.7 * row["half-wins"]["error_points"]


def test_an_effect_of_style_is_recovered() -> None:
    found = simulation.style(runs=10)
    assert found["effects"]["length"]["bias_points"] == pytest.approx(0, abs=8)
    error = found["strength_error_points"]
    assert error["controlled"] < 0.6 * error["plain"]


def test_prediction_powered_intervals_hold_the_truth_and_are_narrower() -> None:
    found = simulation.prediction_powered(runs=200)
    assert 0.92 <= found["covered"] <= 0.98
    assert found["width_ratio"] < 0.8
    assert found["pooled_covered"] < 0.6


def test_points_are_those_of_elo() -> None:
    assert POINTS_PER_LOG_STRENGTH * math.log(10) == pytest.approx(400)
