"""Ratings and pairing against strengths that are known."""

from __future__ import annotations

import pytest

from benchmarks import arena

pytestmark = pytest.mark.slow


def test_intervals_and_order() -> None:
    found = arena.recovery(runs=200, votes=2000)
    assert 0.90 <= found.covered <= 0.99
    assert found.ordered >= 0.95


def test_informative_pairs_need_a_quarter_fewer_votes() -> None:
    assert arena.saving(runs=8) >= 0.25
