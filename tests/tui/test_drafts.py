"""Drafts with folded pastes, and the history of sent messages."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from chatlm.tui.composer.drafts import (
    PLACEHOLDER_END,
    PLACEHOLDER_START,
    Draft,
    MessageHistory,
    find_placeholders,
    for_display,
    format_placeholder,
    sanitise,
    should_fold,
)


def test_a_draft_unfolds_its_pastes_and_says_how_large_they_are() -> None:
    lines, long = "a\n" * 120, "x" * 1812
    draft = Draft(
        f"see {format_placeholder(1, lines)} and {format_placeholder(2, long)}", {1: lines, 2: long}
    )
    assert for_display(draft.text) == "see [pasted 1: 120 lines] and [pasted 2: 1,812 characters]"
    assert draft.unfold() == f"see {lines} and {long}"


def test_only_more_than_twelve_lines_or_many_characters_are_long() -> None:
    assert not should_fold("line\n" * 12)
    assert should_fold("line\n" * 13)
    assert not should_fold("x" * 1500)
    assert should_fold("x" * 1501)


@given(st.text(), st.dictionaries(st.integers(1, 9), st.text(), max_size=3))
def test_a_draft_comes_back_from_its_state(text: str, pastes: dict[int, str]) -> None:
    pastes = {number: sanitise(paste) for number, paste in pastes.items()}
    marks = "".join(format_placeholder(number, paste) for number, paste in pastes.items())
    draft = Draft(sanitise(text) + marks, pastes)
    assert Draft.load(draft.dump()) == draft or not draft.text


@given(st.text())
@example("{}")
@example("[]")
@example('{"text": 1, "pastes": {}}')
@example('{"text": "a", "pastes": []}')
@example('{"text": "a", "pastes": {"x": "y"}}')
@example('{"text": "a", "pastes": {"1": 2}}')
@example('{"text": "a"}')
@example("[" * 100_000)
@example('{"text": "a", "pas')
def test_a_foreign_state_is_a_plain_text(state: str) -> None:
    assert Draft.load(state) == Draft(sanitise(state))


def test_a_typed_or_pasted_placeholder_is_no_placeholder() -> None:
    forged = sanitise(
        f"[pasted 1: 120 lines] {PLACEHOLDER_START}pasted 1: 120 lines{PLACEHOLDER_END}"
    )
    assert not any(find_placeholders(forged))
    assert Draft(forged, {1: "secret"}).unfold() == forged


def test_two_drafts_together_keep_all_their_pastes() -> None:
    one = Draft(format_placeholder(1, "a\nb"), {1: "a\nb"})
    two = Draft(f" and {format_placeholder(1, 'c')}{format_placeholder(2, 'd')}", {1: "c", 2: "d"})
    assert (one + two).unfold() == "a\nb and cd"
    assert for_display((one + two).text).startswith(
        "[pasted 1: 2 lines] and [pasted 2: 1 characters]"
    )


def test_the_history_goes_back_and_forth_and_gives_the_draft_back() -> None:
    history = MessageHistory(lambda: ["newest", "oldest"])
    draft = Draft("being typed")
    assert history.step(draft, -1) is None
    assert history.step(draft, 1) == Draft("newest")
    assert history.step(Draft("newest, changed"), 1) == Draft("oldest")
    assert history.step(Draft("oldest"), 1) is None
    assert history.step(Draft("oldest"), -1) == Draft("newest, changed")
    assert history.step(Draft("newest, changed"), -1) == draft
    assert not history.browsing


def test_the_history_is_read_again_for_the_next_walk() -> None:
    messages = ["one"]
    history = MessageHistory(lambda: list(messages))
    assert history.step(Draft(), 1) == Draft("one")
    messages.insert(0, "two")
    history.reset()
    assert history.step(Draft(), 1) == Draft("two")
