"""Log-probabilities come with their text: never before it, and not for text that is cut."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatlm import LogprobBuffer, Request, StopStringFilter, TokenLogprob, UsageError


def token(text: str) -> TokenLogprob:
    return TokenLogprob(text.encode(), -0.5)


@given(
    pieces=st.lists(st.text(alphabet="ab.", max_size=3), max_size=12),
    stops=st.lists(st.text(alphabet="ab.", min_size=1, max_size=3), max_size=2),
)
def test_logprobs_come_with_their_text_and_never_before(
    pieces: list[str], stops: list[str]
) -> None:
    text, shown = StopStringFilter(stops), LogprobBuffer()
    said, released = "", list[TokenLogprob]()
    for piece in pieces:
        shown.feed([token(piece)], piece)
        new = text.feed(piece)
        said += new
        released += shown.release(new)
        assert said.startswith("".join(each.text for each in released))
    if text.matched_stop is None:
        said += (rest := text.flush())
        released += shown.release(rest)
        assert "".join(each.text for each in released) == said == "".join(pieces)
    else:  # all but those of the stop string and of its start
        ends = [len("".join(pieces[: place + 1])) for place in range(len(pieces))]
        whole = [p for p, end in zip(pieces, ends, strict=True) if p and end <= len(said)]
        assert [each.text for each in released if each.text] == whole


def test_a_part_of_a_character_belongs_to_the_text_that_follows() -> None:
    shown = LogprobBuffer()
    parts = [TokenLogprob(bytes([byte]), -1.0) for byte in "é".encode()]
    shown.feed(parts[:1], "")
    assert shown.release("") == ()
    shown.feed(parts[1:], "é")
    assert shown.release("é") == tuple(parts)
    shown.feed(parts[:1], "")  # the reply ends here without its text
    assert shown.release("") == ()


def test_logprobs_are_serialized_as_in_openais_api() -> None:
    top = (token("Hé"), TokenLogprob(b"\xf0\x9f", -2.0))
    assert TokenLogprob("Hé".encode(), -0.5, top).to_dict() == {
        "token": "Hé",
        "logprob": -0.5,
        "bytes": [72, 195, 169],
        "top_logprobs": [
            {"token": "Hé", "logprob": -0.5, "bytes": [72, 195, 169]},
            {"token": "\ufffd", "logprob": -2.0, "bytes": [240, 159]},
        ],
    }


@pytest.mark.parametrize("number", [-1, 21, True, 1.0, "3"])
def test_logprobs_outside_0_to_20_are_refused(number: Any) -> None:
    with pytest.raises(UsageError, match="logprobs must be 0 to 20"):
        Request((), logprobs=number)
    assert Request(()).logprobs is None
    assert Request((), logprobs=20).logprobs == 20
