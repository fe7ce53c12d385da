"""Ratings and pairing against strengths that are known."""

from __future__ import annotations

import pytest

from benchmarks import arena, arena_statistics

pytestmark = pytest.mark.slow


def test_intervals_and_order() -> None:
    found = arena.recovery(runs=200, votes=2000)
    assert 0.90 <= found.covered <= 0.99
    assert found.ordered >= 0.95


def test_informative_pairs_need_a_quarter_fewer_votes() -> None:
    assert arena.saving(runs=8) >= 0.25


def test_prediction_powered_intervals_hold_the_truth_and_are_narrower() -> None:
    found = arena_statistics.prediction_powered(runs=2000)
    assert 0.93 <= found["covered"] <= 0.97
    assert found["width_ratio"] < 0.8


def test_drop_k_equals_brute_force_on_many_boards() -> None:
    found = arena_statistics.drops(boards=100)
    assert found["equal"] == found["proven"] == found["boards"] > 80
