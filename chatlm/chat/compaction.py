"""Automatic compaction: summaries take the place of old turns that no longer fit the context."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing

from chatlm.chat.context_usage import ContextUsage
from chatlm.chat.summary import write_summary
from chatlm.store.store import Store
from chatlm.types.conversations import SUMMARY_PREFIX, ContextPolicy, Conversation, Turn
from chatlm.types.engine import Engine
from chatlm.types.messages import Message

MIN_TURN_TOKENS = 48
"""Shorter turns are not summarised; a summary would save little."""


def compact_turns(
    conversation: Conversation, usage: ContextUsage, engine: Engine, store: Store
) -> Generator[Turn | None, None, None]:
    """Let the model summarise the turns that are left out of the prompt, the oldest first.

    A summary takes the place of its turn as if the user had asked for it. Turns whose context
    policy the user chose, and those whose summary the user took back, are left alone.

    Args:
        conversation: the chat.
        usage: of the chat; tells which turns are left out.
        engine: writes the summaries.
        store: of the chat.

    Yields:
        Each turn as stored with its summary; None during the work, so that the consumer can stop
        it. An unfinished summary is not stored.

    Raises:
        EngineError: the generation failed.
        StoreError: a turn was deleted, or a summary could not be stored.
    """
    for turn in conversation.turns:
        tokens = usage.turn_tokens[turn.id]
        if turn.id not in usage.omitted_turns or tokens < MIN_TURN_TOKENS:
            continue
        if turn.reply is None or not turn.reply.text.strip() or not _is_automatic(turn):
            continue
        summary = ""
        with closing(write_summary(engine, turn.user.text, turn.reply.text)) as pieces:
            for piece in pieces:
                summary += piece
                yield None
        summary = summary.strip()
        if not summary or not _is_automatic(store.turn(turn.id)):  # changed in the meantime
            continue
        as_message = Message("user", f"{SUMMARY_PREFIX}{summary}")
        if engine.count_tokens([as_message]) < tokens:
            store.set_context_policy(turn.id, ContextPolicy.SUMMARISED, summary)
            yield store.turn(turn.id)
        else:  # stored too, so that it is not written again
            store.set_context_policy(turn.id, ContextPolicy.AUTO, summary)


def _is_automatic(turn: Turn) -> bool:
    return turn.context_policy is ContextPolicy.AUTO and not turn.summary
