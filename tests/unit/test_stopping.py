"""Stop strings are found however the text is split; none leaks and no text is lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatlm.engines.stopping import StopStringFilter, longest_partial_match, matching_stop


def stream(pieces: list[str], stops: list[str]) -> tuple[str, str | None]:
    """Return the released text; check that it is certain when released."""
    matcher = StopStringFilter(stops)
    shown = ""
    for piece in pieces:
        shown += matcher.feed(piece)
        if matcher.matched_stop is not None:
            return shown, matcher.matched_stop
    return shown + matcher.flush(), None


def cut(text: str, stops: list[str]) -> tuple[str, str | None]:
    """Cut at the start of the first completed stop, the longest if several: the definition."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            stop = max(found, key=len)
            return text[: end - len(stop)], stop
    return text, None


@pytest.mark.parametrize(
    ("pieces", "stops", "shown", "found"),
    [
        (["one END", " two"], ["END"], "one ", "END"),
        (["one E", "N", "D two"], ["END"], "one ", "END"),
        (["oneENDtwoEND"], ["END"], "one", "END"),
        (["one EN"], ["END"], "one EN", None),
        (["a\n", "\nb"], ["\n\n"], "a", "\n\n"),
        (["aab", "c"], ["ab", "bc"], "a", "ab"),
        (["xaby"], ["xaby", "ab"], "x", "ab"),
        (["x", "ab"], ["ab", "xab"], "", "xab"),
        (["ababac"], ["abac"], "ab", "abac"),
        (["text"], [], "text", None),
        ([""], ["a"], "", None),
    ],
)
def test_stop_text(pieces: list[str], stops: list[str], shown: str, found: str | None) -> None:
    assert stream(pieces, stops) == (shown, found)


letters = st.text(alphabet="ab<|>\né", max_size=6)


@given(st.lists(letters, max_size=8), st.lists(letters.filter(bool), max_size=4))
def test_joined_text_is_cut_at_the_first_stop_however_it_is_split(
    pieces: list[str], stops: list[str]
) -> None:
    assert stream(pieces, stops) == cut("".join(pieces), stops)


@given(st.lists(letters, min_size=1, max_size=8), st.lists(letters.filter(bool), max_size=4))
def test_released_and_withheld_text_are_all_of_the_text(
    pieces: list[str], stops: list[str]
) -> None:
    matcher = StopStringFilter(stops)
    shown, said = "", ""
    for piece in pieces:
        shown += matcher.feed(piece)
        said += piece
        if matcher.matched_stop is not None:
            return
        assert shown + matcher.withheld == said


def test_partial_and_complete_sequences_of_ids() -> None:
    stops = [(1, 2, 3), (2, 4)]
    assert longest_partial_match((9, 1, 2), stops) == 2
    assert longest_partial_match((9, 2), stops) == 1
    assert longest_partial_match((1, 2, 3), stops) == 0
    assert matching_stop((9, 1, 2, 3), stops) == (1, 2, 3)
    assert matching_stop((1, 2), stops) is None
