"""Ratings from votes: the textbook's example, golden files, and invariants."""

from __future__ import annotations

import csv
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import arena as simulation
from chatlm import UsageError
from chatlm_arena.leaderboard import Bias, build_leaderboard, measure_length_bias, measure_side_bias
from chatlm_arena.pairing import Pairing, choose_pair, information_gains, votes_to_separate
from chatlm_arena.ratings import (
    EloRules,
    elo_history,
    elo_ratings,
    estimate_strengths,
    expected_score,
    fit_strengths,
    to_elo_scale,
)
from chatlm_arena.votes import Verdict, Votes, tally_votes, votes_from_rows, win_matrix

L, R, T, B = Verdict.LEFT, Verdict.RIGHT, Verdict.TIE, Verdict.BOTH_BAD

rows = st.lists(
    st.tuples(st.sampled_from("abcde"), st.sampled_from("abcde"), st.sampled_from(Verdict)).filter(
        lambda row: row[0] != row[1]
    ),
    max_size=40,
)


def test_the_textbooks_example() -> None:
    votes = votes_from_rows([("A", "B", L), ("A", "C", R), ("B", "C", R)])
    assert np.rint(elo_ratings(votes)).tolist() == [1499, 1470, 1531]


def test_one_match_by_hand() -> None:
    assert expected_score(1500, 1500) == 0.5
    assert expected_score(1900, 1500) == pytest.approx(10 / 11)
    lefts, rights = elo_history(votes_from_rows([("a", "b", T), ("a", "b", L)]), EloRules(k=16))
    assert (lefts.tolist(), rights.tolist()) == ([1500, 1508], [1500, 1492])
    assert elo_ratings(votes_from_rows([("a", "b", B)])).tolist() == [1500, 1500]


@pytest.mark.parametrize("k", [3.9, 32.1, float("nan")])
def test_k_has_a_range(k: float) -> None:
    with pytest.raises(UsageError, match="from 4 to 32"):
        EloRules(k=k)


@pytest.mark.parametrize("name", ["food", "simple"])
def test_golden_files(shared_data: Path, name: str) -> None:
    with (shared_data / "arena" / f"{name}.csv").open() as file:
        votes = votes_from_rows(
            (row["left"], row["right"], Verdict(row["winner"])) for row in csv.DictReader(file)
        )
    golden: dict[str, dict[str, float]] = {}
    with (shared_data / "arena" / f"{name}-golden.csv").open() as file:
        for row in csv.DictReader(file):
            golden.setdefault(row["algorithm"], {})[row["item"]] = float(row["score"])
    ours = dict(
        zip(votes.names, elo_ratings(votes, EloRules(k=4, initial_rating=1000)), strict=True)
    )
    assert ours == pytest.approx(golden["elo"], abs=1e-9)
    ours = dict(zip(votes.names, fit_strengths(tally_votes(votes)), strict=True))
    assert ours == pytest.approx(golden["bradley_terry"], abs=1e-5)


@given(rows)
def test_elo_points_are_only_passed_on(given_rows: list[tuple[str, str, Verdict]]) -> None:
    votes = votes_from_rows(given_rows, "abcde")
    assert elo_ratings(votes).mean() == pytest.approx(1500)


@settings(deadline=None)
@given(rows, st.randoms())
def test_strengths_know_no_order_and_no_side(
    given_rows: list[tuple[str, str, Verdict]], chance: object
) -> None:
    votes = votes_from_rows(given_rows, "abcde")
    other = list(given_rows)
    chance.shuffle(other)  # type: ignore[attr-defined]
    turned = votes_from_rows([(right, left, v.mirrored) for left, right, v in other], "abcde")
    found = fit_strengths(tally_votes(votes))
    assert found.sum() == pytest.approx(1)
    assert (found > 0).all()
    assert np.isfinite(found).all()
    assert fit_strengths(tally_votes(turned)) == pytest.approx(found, abs=1e-5)


@given(rows)
def test_no_vote_is_lost_in_the_tally(given_rows: list[tuple[str, str, Verdict]]) -> None:
    votes = votes_from_rows(given_rows)
    cells = tally_votes(votes)
    assert cells.total == len(given_rows)
    assert win_matrix(cells).sum() == len(given_rows)
    assert (cells.one < cells.other).all()


def test_an_undefeated_contestant_has_a_finite_rating() -> None:
    found = estimate_strengths(
        tally_votes(votes_from_rows([("a", "b", L)] * 10 + [("b", "c", L)] * 10))
    )
    assert np.isfinite(found.rating_high).all()
    assert (np.diff(found.rating) < 0).all()


def test_few_games_have_no_rating() -> None:
    found = estimate_strengths(tally_votes(votes_from_rows([("a", "b", L)] * 9)))
    assert (found.strength_low.tolist(), found.strength_high.tolist()) == ([0, 0], [1, 1])
    assert np.isinf(found.rating_low).all()


def test_intervals_shrink_with_votes() -> None:
    truth = simulation.normally(5, 100, 3)
    few, many = (
        estimate_strengths(tally_votes(simulation.random_votes(truth, count, 1)))
        for count in (200, 3200)
    )
    ratio = (few.rating_high - few.rating_low) / (many.rating_high - many.rating_low)
    assert 2.5 < float(ratio.mean()) < 6.5  # 4, for 16 times the votes


def test_intervals_hold_the_truth() -> None:
    found = simulation.recovery(runs=25, votes=600, size=5)
    assert 0.85 <= found.covered <= 1.0
    assert found.correlation > 0.9


def test_leaderboard() -> None:
    votes = votes_from_rows(
        [("a", "b", L), ("b", "a", T), ("a", "b", L), ("b", "a", L)] * 30, ["c"]
    )
    board = build_leaderboard(votes)
    first, *_ = board.rows
    assert first.name == "a"
    assert (first.games, first.win_rate, first.is_stable) == (120, 0.625, True)
    assert first.low < first.bradley_terry < first.high
    assert ([row.name for row in board.rows], board.without_votes) == (["a", "b"], ("c",))
    assert build_leaderboard(votes_from_rows([("a", "b", L)] * 99)).rows[0].is_stable is False
    assert list(first.to_dict()) == [
        "name", "elo", "bradley_terry", "low", "high", "games", "win_rate",
    ]  # fmt: skip
    assert build_leaderboard(votes_from_rows([])).rows == ()


def test_votes_to_separate_agree_with_what_happens() -> None:
    truth = np.log([0.57, 0.43])
    votes = simulation.random_votes(truth, 60, 5)
    found = estimate_strengths(tally_votes(votes))
    more = votes_to_separate(found, 0, 1)
    assert more is not None
    assert more > 0  # 60 votes do not settle 57 % against 43 %
    for part, apart in ((0.5, False), (1.5, True)):
        count = 60 + round(part * more)
        columns: list[Any] = [
            np.resize(column, count) for column in (votes.left, votes.right, votes.score)
        ]
        found = estimate_strengths(tally_votes(Votes(votes.names, *columns)))
        low, high = np.percentile(
            found.rating_samples[:, 0] - found.rating_samples[:, 1], (2.5, 97.5)
        )
        assert bool((low > 0) == (high > 0)) is apart
        assert (votes_to_separate(found, 0, 1) == 0) is apart


def test_equals_are_never_separated() -> None:
    found = estimate_strengths(tally_votes(votes_from_rows([("a", "b", T)] * 9)))
    assert votes_to_separate(found, 0, 1) is None


def test_round_robin_takes_the_rarest_pair() -> None:
    cells = tally_votes(votes_from_rows([("a", "b", L), ("a", "c", L)]))
    draw = np.random.default_rng(0)
    assert choose_pair(cells, Pairing.ROUND_ROBIN, draw) == (1, 2)


def test_random_pairs_are_all_there() -> None:
    cells, draw = tally_votes(votes_from_rows([], "abc")), np.random.default_rng(0)
    seen = {choose_pair(cells, Pairing.RANDOM, draw) for _ in range(50)}
    assert seen == {(0, 1), (0, 2), (1, 2)}
    with pytest.raises(ValueError, match="two contestants"):
        choose_pair(tally_votes(votes_from_rows([], "a")), Pairing.RANDOM, draw)


def test_informative_pairs_are_near_and_rare() -> None:
    known = [("a", "b", L), ("b", "a", L)] * 50
    cells = tally_votes(votes_from_rows([*known, ("b", "c", L), ("c", "b", L)]))
    gained = information_gains(cells)
    assert gained[0, 1] < gained[0, 2]
    assert gained[0, 1] < gained[1, 2]
    assert gained == pytest.approx(gained.T)


@pytest.mark.slow
def test_informative_pairs_save_votes() -> None:
    truth = simulation.normally(8, 300, 2)
    random, informative = (
        simulation.votes_needed(truth, how, 260, 1, every=20)
        for how in (Pairing.RANDOM, Pairing.INFORMATIVE)
    )
    assert informative < random


def test_biases() -> None:
    score = np.array([1.0, 1.0, 0.5, 0.0, 1.0])
    assert measure_side_bias(score) == Bias(3, 4)
    left, right = np.array([9.0, 2.0, 5.0, 3.0, np.nan]), np.array([1.0, 4.0, 1.0, 8.0, 2.0])
    assert measure_length_bias(score, left, right) == Bias(2, 3)
    assert Bias(0, 0).rate is None
    assert Bias(90, 100).is_significant
    assert not Bias(54, 100).is_significant


def test_ratings_of_shares() -> None:
    assert to_elo_scale(np.array([10 / 11, 1 / 11])).tolist() == pytest.approx([1700, 1300])


@pytest.mark.slow
def test_a_million_votes_are_rated_in_seconds() -> None:
    votes = simulation.random_votes(simulation.normally(100, 200, 0), 1_000_000, 0)
    begun = time.process_time()
    board = build_leaderboard(votes)
    assert len(board.rows) == 100
    assert time.process_time() - begun < 10
