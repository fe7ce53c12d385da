"""What a thought took is measured while it streams, and stored with it."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from chatlm.chat import reply_writer
from chatlm.chat.session import ChatSession
from chatlm.chat.thought_meter import ThoughtMeter
from chatlm.engines.scripted import ScriptedEngine
from chatlm.store import export
from chatlm.store.importing.chatlm_jsonl import parse_part
from chatlm.store.importing.fields import InvalidChat, JsonObject
from chatlm.store.store import Store
from chatlm.types.events import Delta, Finished
from chatlm.types.messages import Message
from chatlm.types.parts import Part, Reasoning, Text, append_text, join_thoughts, part_from_dict
from chatlm.types.replies import Reply, StopReason, StreamedPart, Usage
from tests.unit.test_session_parts import EventEngine


def used(tokens: int, seconds: float, thoughts: int = 0) -> Usage:
    return Usage(9, 0, tokens, 0.5, seconds, thoughts)


def measured(
    events: Iterable[tuple[str, StreamedPart, Usage]], continued: Reasoning | None = None
) -> ThoughtMeter:
    meter = ThoughtMeter(continued)
    for text, part, usage in events:
        meter.add(text, part, usage)
    return meter


def test_a_thought_takes_the_time_from_its_first_token_to_its_last() -> None:
    meter = measured(
        [
            ("So", "reasoning", used(1, 0.0, 1)),
            (" easy.", "reasoning", used(4, 3.0, 4)),
            ("", "reasoning", used(5, 4.0, 5)),  # a token whose text is withheld
            ("Four", "text", used(7, 9.0, 5)),
        ]
    )
    assert meter.thought("So easy.") == Reasoning("So easy.", 4.0, 5)


def test_each_thought_of_a_reply_is_measured_alone() -> None:
    meter = measured([("a", "reasoning", used(2, 2.0, 2)), ("b", "text", used(4, 4.0, 2))])
    meter.add("c", "reasoning", used(9, 9.5, 7))
    assert meter.thought("c") == Reasoning("c", 5.5, 5)


def test_an_empty_sign_of_life_does_not_end_a_thought() -> None:
    meter = measured(
        [
            ("a", "reasoning", used(1, 1.0, 1)),
            ("", "text", used(1, 1.0, 1)),
            ("b", "reasoning", used(2, 2.0, 2)),
        ]
    )
    assert meter.thought("ab") == Reasoning("ab", 2.0, 2)


@pytest.mark.parametrize(
    ("earlier", "expected"),
    [(Reasoning("So", 1.5, 10), Reasoning("!", 3.5, 13)), (Reasoning("So"), Reasoning("!"))],
    ids=["measured", "older"],
)
def test_a_continued_thought_adds_to_what_is_known(earlier: Reasoning, expected: Reasoning) -> None:
    assert measured([(" it", "reasoning", used(3, 2.0, 3))], earlier).thought("!") == expected


def test_what_an_engine_does_not_count_is_not_known() -> None:
    meter = measured([("a", "reasoning", Usage()), ("b", "text", Usage())])
    assert meter.thought("a") == Reasoning("a")
    assert not meter.end(Usage())


def test_tokens_that_are_counted_at_the_end_are_of_the_newest_thought() -> None:
    meter = measured([("a", "reasoning", used(1, 1.0, 1)), ("b", "text", used(2, 2.0, 1))])
    assert meter.end(used(40, 3.0, 30))
    assert meter.thought("a") == Reasoning("a", 1.0, 30)


def newest(store: Store) -> Reply:
    reply = store.conversation(1).turns[-1].reply
    assert reply is not None
    return reply


def thought(text: str, usage: Usage) -> Delta:
    return Delta(text, usage=usage, part="reasoning")


def test_the_cost_of_a_thought_is_stored_exported_and_imported() -> None:
    store = Store(None)
    engine = EventEngine(
        [
            thought("So", used(1, 0.0, 1)),
            thought(" it is.", used(3, 2.5, 3)),
            Delta("Four.", usage=used(4, 3.0, 3)),
            Finished(StopReason.END, used(4, 3.0, 3)),
        ]
    )
    list(ChatSession(store, lambda: engine).send("2+2?"))
    reply = newest(store)
    assert reply.parts == (Reasoning("So it is.", 2.5, 3), Text("Four."))
    assert reply.usage.reasoning_tokens == 3
    (line,) = export.to_jsonl([store.conversation(1)])
    part = {"type": "reasoning", "text": "So it is.", "seconds": 2.5, "tokens": 3}
    assert parse_part(JsonObject(part)) == part_from_dict(part) == reply.parts[0]
    assert '"seconds": 2.5, "tokens": 3' in line
    with pytest.raises(InvalidChat, match="tokens"):
        parse_part(JsonObject(part | {"tokens": "many"}))


def test_a_reply_cut_in_its_thought_goes_on_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reply_writer, "JOURNAL_SECONDS", 0.0)
    store = Store(None)
    engine = EventEngine(
        [
            thought("So", used(2, 2.0, 2)),
            Finished(StopReason.LENGTH, used(2, 2.0, 2)),
        ],
        [
            thought(" it is.", used(3, 1.0, 3)),
            Delta("4", usage=used(4, 1.5, 3)),
            Finished(StopReason.END, used(9, 1.5, 8)),
        ],
    )
    session = ChatSession(store, lambda: engine)
    list(session.send("2+2?"))
    list(session.continue_reply())
    assert engine.requests[1].messages[-1] == Message("assistant", (Reasoning("So", 2.0, 2),))
    assert newest(store).parts == (Reasoning("So it is.", 3.0, 10), Text("4"))
    assert newest(store).usage.reasoning_tokens == 10


def test_thoughts_are_joined_with_what_they_took() -> None:
    assert join_thoughts([Reasoning("a", 1.0, 2), Reasoning("b", 2.0, 3)]) == Reasoning(
        "ab", 3.0, 5
    )
    assert join_thoughts([Reasoning("a", 1.0, 2), Reasoning("b")]) == Reasoning("ab")
    assert join_thoughts([]) == Reasoning("")


def test_text_that_is_appended_keeps_its_part() -> None:
    parts: tuple[Part, ...] = ()
    for text, kind, cost in (
        ("So", "reasoning", Reasoning("", 1.0, 1)),
        (" on", "reasoning", Reasoning("", 2.0, 2)),
        ("4", "text", None),
        ("!", "text", None),
    ):
        parts = append_text(parts, text, kind, cost)
    assert parts == (Reasoning("So on", 2.0, 2), Text("4!"))


def test_a_script_may_think() -> None:
    engine = ScriptedEngine((Reasoning("One two STOP."), Text("Three four STOP five")))
    store = Store(None)
    session = ChatSession(store, lambda: engine)
    session.session_sampling = session.session_sampling.from_dict({"stop": ["STOP"]})
    list(session.send("Count"))
    (reasoning, text) = newest(store).parts
    assert isinstance(reasoning, Reasoning)
    assert (reasoning.text, reasoning.tokens) == ("One two STOP.", 3)
    assert text == Text("Three four ")
    assert newest(store).stop_reason is StopReason.STOP_STRING
    engine.queue((Reasoning("One two three"), Text("four five six")))
    session.session_sampling = session.session_sampling.from_dict({"max_tokens": 2})
    list(session.send("Count"))
    assert (newest(store).reasoning, newest(store).text) == ("One two three", "four five")
    assert newest(store).stop_reason is StopReason.LENGTH
