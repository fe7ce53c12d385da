"""A model that was trained to think, in the chat: its thought is stored and shown apart."""

from __future__ import annotations

from pathlib import Path

from chatlm.store.store import Store
from chatlm.types.parts import Reasoning, Text
from chatlm.types.replies import StopReason
from tests.thinker import answer, open_engine, question, thought
from tests.tui.support import everything_drawn, idle, make_app, say


async def test_thought_and_answer_are_parts_and_the_next_prompt_has_the_answer_alone(
    thinking_model: Path,
) -> None:
    store = Store(None)
    app = make_app(store=store, open_engine=lambda model, report: open_engine(thinking_model))
    async with app.run_test(size=(100, 40)) as pilot:
        for count, numbers in enumerate(((3, 4), (5, 2)), start=1):
            await say(pilot, question(*numbers))
            await idle(pilot)
            turns = store.conversation(1).turns
            assert len(turns) == count
            reply = turns[-1].reply
            assert reply is not None
            assert reply.stop_reason is StopReason.END
            assert [(type(part), getattr(part, "text", "")) for part in reply.parts] == [
                (Reasoning, thought(*numbers)),
                (Text, answer(*numbers)),
            ]
        drawn = everything_drawn(pilot)
        assert answer(3, 4) in drawn
        assert answer(5, 2) in drawn
        assert "<think>" not in drawn
        assert reply is not None
        made_by = store.provenance(reply.id)
        assert made_by is not None
        assert [message.text for message in made_by.messages] == [
            question(3, 4),
            answer(3, 4),
            question(5, 2),
        ]
