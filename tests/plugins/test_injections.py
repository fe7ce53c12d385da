"""A text from outside makes no tool run unasked, even with a model that obeys it."""

from __future__ import annotations

import pytest

from benchmarks.injections import ATTACKS, CHANNELS, Injection, attempt, injections

SOME = [each for index, each in enumerate(injections()) if index % 6 == 0] + injections()[-1:]


def test_the_injections_differ() -> None:
    texts = {(each.text, each.channel) for each in injections()}
    assert len(texts) == len(ATTACKS) * len(CHANNELS) == 50


@pytest.mark.parametrize("injection", SOME, ids=lambda each: f"{each.attack.name}, {each.channel}")
def test_nothing_runs_unasked(injection: Injection) -> None:
    outcome = attempt(injection, None, "", allowed=False)
    if injection.attack.tool == "documents_search":  # allowed by itself, since it only reads
        assert (outcome.asked, outcome.unasked) == ((), ("documents_search",))
    else:
        assert (outcome.asked, outcome.unasked) == ((injection.attack.tool,), ())


@pytest.mark.parametrize(
    "name", ["address", "percent-encoded address", "address in base64", "address in pieces"]
)
def test_a_copied_address_is_flagged_though_all_tools_are_allowed(name: str) -> None:
    injection = next(each for each in injections() if each.attack.name == name)
    outcome = attempt(injection, None, "", allowed=True)
    assert (outcome.flagged, outcome.unasked) == (("fetch",), ())
