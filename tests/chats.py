"""Any chat with everything that belongs to it, and one as ChatGPT exports it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from hypothesis import strategies as st

from chatlm.store.importing.fields import ParsedChat
from chatlm.types.conversations import ContextPolicy, Conversation, Turn
from chatlm.types.messages import Annotation, Message, Passage
from chatlm.types.parts import File, Image, Reasoning, Text, ToolCall, ToolResult
from chatlm.types.provenance import Provenance
from chatlm.types.replies import Reply, ReplyStep, StopReason, Usage
from chatlm.types.sampling import Sampling

TEXT = st.text(max_size=20)
TIMES = st.datetimes(datetime(1970, 1, 2), datetime(2100, 1, 1), timezones=st.just(UTC))
COUNTS = st.integers(0, 2**63 - 1)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
DETAILS = st.dictionaries(TEXT, TEXT | NUMBERS | st.none(), max_size=2)
SAMPLINGS = st.builds(
    Sampling,
    temperature=st.none() | st.floats(0, 5),
    top_k=st.none() | st.integers(0, 100),
    seed=st.none() | COUNTS,
    stop=st.lists(st.text(min_size=1, max_size=5), max_size=2).map(tuple),
)
REASONING = st.builds(Reasoning, TEXT, st.none() | NUMBERS, st.none() | COUNTS)
PARTS = st.one_of(
    st.builds(Text, TEXT),
    REASONING,
    st.builds(ToolCall, TEXT, TEXT, TEXT),
    st.builds(ToolResult, TEXT, TEXT, TEXT, st.booleans()),
    st.builds(File, TEXT, TEXT, TEXT),
    st.builds(Image, TEXT, COUNTS.map(lambda n: n or 1), st.just(2), st.just("0" * 64), TEXT),
)
RICH_PARTS = st.tuples(REASONING, st.lists(PARTS, max_size=2)).map(
    lambda parts: (parts[0], *parts[1])
)
"""Parts that are not plain text, which would be stored and exported as such."""
MESSAGES = st.builds(
    Message,
    st.sampled_from(["system", "user", "assistant", "tool"]),
    TEXT | RICH_PARTS,
    pinned=st.booleans(),
)
PROVENANCES = st.builds(
    Provenance,
    messages=st.lists(MESSAGES, max_size=2).map(tuple),
    sampling=SAMPLINGS,
    model=TEXT,
    adapter=st.none() | TEXT,
    prompt_format=TEXT,
    context_length=COUNTS,
    prompt_hash=TEXT,
    versions=st.dictionaries(TEXT, TEXT, max_size=2),
    plugin_processors=st.lists(TEXT, max_size=2).map(tuple),
)
USAGES = st.builds(Usage, COUNTS, COUNTS, COUNTS, st.none() | NUMBERS, NUMBERS)
STOP_REASONS = st.none() | st.sampled_from(StopReason)
SMALL_USAGES = st.builds(
    Usage,
    *(st.integers(0, 2**62 - 1),) * 3,
    st.none() | NUMBERS,
    st.floats(0, 1e9),
    st.integers(0, 2**62 - 1),
)
STEPS = st.lists(
    st.builds(ReplyStep, RICH_PARTS, STOP_REASONS, SMALL_USAGES), min_size=1, max_size=2
)
SETTINGS = st.sampled_from(["{}", '{"seed": 4, "stop": ["x"]}', "not json", '"1"', "[1]", ""])


def node(
    name: str,
    parent: str | None,
    children: list[str],
    role: str = "",
    text: str = "",
    **more: Any,
) -> tuple[str, dict[str, Any]]:
    """One message of a ChatGPT export; without a role, one that holds nothing."""
    message = {
        "author": {"role": role, "name": None, "metadata": {}},
        "create_time": 1700000000.25 + len(name),
        "content": {"content_type": "text", "parts": [text]},
        "recipient": "all",
        "metadata": {"model_slug": "gpt-4"} if role == "assistant" else {},
    }
    value = (message | more) if role else None
    return name, {"id": name, "message": value, "parent": parent, "children": children}


CHATGPT: dict[str, Any] = {
    "title": "Cities",
    "create_time": 1700000000.5,
    "update_time": 1700000900.5,
    "current_node": "a2",
    "conversation_id": "c",
    "mapping": dict(
        [
            node("root", None, ["sys"]),
            node("sys", "root", ["u1"], "system"),
            node("u1", "sys", ["a1", "a1b"], "user", "Capital of France?"),
            node("a1", "u1", ["u2", "u2b"], "assistant", "Paris."),
            node("a1b", "u1", [], "assistant", "It is Paris."),
            node("u2", "a1", ["call"], "user", "And how many people?"),
            node("call", "u2", ["tool"], "assistant", "search()", recipient="web"),
            node("tool", "call", ["thought"], "tool", "2 million"),
            node("thought", "tool", ["a2"], "assistant", content={"content_type": "thoughts"}),
            node("a2", "thought", [], "assistant", "Two million."),
            node("u2b", "a1", ["a2b"], "user", "And of Spain?"),
            node("a2b", "u2b", [], "assistant", "Madrid."),
        ]
    ),
}
"""With another answer to the first message, a call of a tool, and an edited second message."""


@st.composite
def conversations(draw: Any) -> ParsedChat:
    """A chat as a store could hold it."""
    passages, annotations, provenance = {}, {}, {}
    turns = []
    replies_before = 0
    for position in range(draw(st.integers(0, 3))):
        replies = []
        for version in range(1, draw(st.integers(0, 3)) + 1):
            replies_before += 1
            text = draw(TEXT)
            plain = ReplyStep((Text(text),) if text else (), draw(STOP_REASONS), draw(USAGES))
            reply = Reply(
                id=replies_before * 10,
                version=version,
                error=draw(st.none() | TEXT),
                model=draw(TEXT),
                adapter=draw(st.none() | TEXT),
                settings=draw(SETTINGS),
                created=draw(TIMES),
                steps=draw(st.just([plain]) | STEPS),
            )
            replies.append(reply)
            if draw(st.booleans()):
                provenance[reply.id] = draw(PROVENANCES)
        ids = [reply.id for reply in replies]
        turn = Turn(
            id=position * 7 + 3,
            position=position,
            user=Message("user", draw(TEXT | RICH_PARTS)),
            replies=tuple(replies),
            active_reply_id=draw(st.sampled_from([None, *ids])),
            created=draw(TIMES),
            context_policy=draw(st.sampled_from(ContextPolicy)),
            summary=draw(TEXT),
        )
        turns.append(turn)
        passages[turn.id] = draw(
            st.lists(st.builds(Passage, TEXT, TEXT, NUMBERS, DETAILS), max_size=2)
        )
        labels = st.builds(Annotation, TEXT, TEXT, TEXT, st.none() | NUMBERS)
        annotations[turn.id] = draw(
            st.lists(st.tuples(st.sampled_from([None, *ids]), labels), max_size=2)
        )
    conversation = Conversation(
        id=draw(st.integers(1, 9)),
        title=draw(TEXT),
        system=draw(TEXT),
        turns=tuple(turns),
        created=draw(TIMES),
        updated=draw(TIMES),
        sampling=draw(SAMPLINGS),
        pinned=draw(st.booleans()),
    )
    return ParsedChat(
        conversation,
        created_known=True,
        passages=passages,
        annotations=annotations,
        provenance=provenance,
    )
