"""Tool calls are streamed in pieces that give the same calls as the whole text."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatlm.engines.model_families import ModelFamily
from chatlm.engines.reply_parser import OpenCall
from chatlm.engines.tool_call_stream import JsonSpelling, ToolCallStream
from chatlm.engines.tool_call_syntax import WrittenCall
from chatlm.types.events import ToolCallDelta
from tests.unit.test_tool_call_grammars import CALLING, SCHEMAS, random_block

JSON = st.dictionaries(
    st.text(max_size=5),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=6,
    ),
    max_size=3,
)


def joined(deltas: Iterable[ToolCallDelta]) -> list[WrittenCall]:
    calls: list[WrittenCall] = []
    for delta in deltas:
        if delta.id:
            assert delta.index == len(calls)
            calls.append(WrittenCall(delta.name, ""))
        at = calls[delta.index]
        calls[delta.index] = WrittenCall(at.name, at.arguments + delta.arguments)
    return calls


@given(JSON, st.booleans(), st.sampled_from([None, 0, 3]))
def test_json_is_spelled_as_when_it_is_written_again(
    value: dict[str, Any], escaped: bool, indent: int | None
) -> None:
    text = json.dumps(value, ensure_ascii=escaped, indent=indent)
    spelling = JsonSpelling()
    pieces = []
    for character in text:
        assert not spelling.is_complete
        piece, read = spelling.feed(character)
        assert read == 1
        pieces.append(piece)
    assert spelling.is_complete
    assert "".join(pieces) == json.dumps(value, ensure_ascii=False)
    assert JsonSpelling().feed(text + "} and more") == ("".join(pieces), len(text))


@pytest.mark.parametrize(
    ("written", "spelled"),
    [
        (r'{"a":"\ud83d\ude00"}', '{"a": "😀"}'),
        (r'{"a":"\ud83dx"}', '{"a": "�x"}'),
        (r'{"a":"\ud83d\n"}', r'{"a": "�\n"}'),
        (r'{"a":"\ude00"}', '{"a": "�"}'),
        (r'{"a":"\ud83d"}', '{"a": "�"}'),
        (r'{"a":"\/\u0041"}', '{"a": "/A"}'),
        ('{"a":1E2,"b":-0,"c":[ ],"d":{ }}', '{"a": 100.0, "b": 0, "c": [], "d": {}}'),
    ],
)
def test_odd_spellings(written: str, spelled: str) -> None:
    spelling = JsonSpelling()
    assert "".join(spelling.feed(character)[0] for character in written) == spelled


@pytest.mark.parametrize("several", [True, False])
@pytest.mark.parametrize("family", CALLING, ids=[family.name for family in CALLING])
def test_calls_are_streamed_as_they_are_read(family: ModelFamily, several: bool) -> None:
    form = family.tool_calls
    assert form is not None
    for seed in range(4):
        text = random_block(form, seed, several)
        calls = form.read(text, SCHEMAS)
        stream = ToolCallStream(form.head, lambda number: f"call{number}")
        early = [
            delta
            for end in range(len(text) + 1)
            for delta in stream.feed(OpenCall(form.starts[0], text[:end]), [], True)
        ]
        assert stream.is_within_call == bool(early)
        if form.head is not None:
            assert joined(early) == calls
            assert len(early) > 2 * len(calls) or {call.name for call in calls} == {"now"}
        else:
            assert early == []
        late = [*stream.feed(None, calls, True)]
        assert joined([*early, *late]) == calls
        assert stream.ids == [f"call{number}" for number in range(len(calls))]
        assert not stream.is_within_call


def test_most_families_have_arguments_in_json() -> None:
    forms = [family.tool_calls for family in CALLING if family.tool_calls]
    assert sum(form.head is not None for form in forms) >= len(forms) - 7


def test_what_may_still_become_text_is_not_streamed() -> None:
    form = next(family.tool_calls for family in CALLING if family.name.startswith("Hermes"))
    assert form is not None
    stream = ToolCallStream(form.head, str)
    text = '{"name": "now", "arguments": {"a": 1}'
    assert [*stream.feed(OpenCall("<tool_call>", text), [], False)] == []
