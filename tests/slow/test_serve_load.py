"""Fifty clients for a minute, as `benchmarks.serve` has them, over an engine of an even speed."""

from __future__ import annotations

import pytest

from benchmarks.serve import load, questions
from tests.plugins.serve import MODEL, Echo, serving

pytestmark = pytest.mark.slow


async def test_no_reply_is_lost_or_mixed_in_a_minute() -> None:
    engine = Echo(delay=0.005)
    expected = {question: question.upper() for question in questions(50)}
    with serving(engine) as address:
        made = await load(address, MODEL, expected, seconds=60, tokens=24)
    assert (made.mixed, made.lost) == (0, 0)
    assert made.answered > 50
    assert made.turned_away > 0
    assert len(engine.requests) == made.answered + made.left
