"""Asks the model for words about a chat rather than for its next reply; stores nothing."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing

from chatlm.errors import EngineError, UsageError
from chatlm.events import Delta
from chatlm.generation import Engine, Request
from chatlm.messages import Message, Turn
from chatlm.sampling import Sampling

LONGEST = 96
"""Tokens of a summary."""

SUMMARY = Sampling(temperature=0.2, top_k=0, top_p=0.95, seed=0, max_tokens=LONGEST, stop=("\n\n",))

_TASK = "Summarise this exchange in one or two short sentences of plain text."


def summary(engine: Engine, turn: Turn) -> Generator[str, None, None]:
    """One or two sentences that may stand for a turn.

    Yields:
        pieces of the text, as they are made, and empty ones while the prompt is read: whoever pulls
        can give up then too.

    Raises:
        UsageError: the turn has no reply.
        EngineError: the generation failed, or nothing was said.
    """
    if turn.reply is None or not turn.reply.text.strip():
        raise UsageError("This turn has no reply yet", hint="Let the model answer it first.")
    messages = _that_fit(engine, turn.user.content, turn.reply.text)
    said = False
    with closing(engine.stream(Request(messages, SUMMARY))) as events:
        for event in events:
            piece = event.text if isinstance(event, Delta) else ""
            said = said or bool(piece.strip())
            yield piece
    if not said:
        raise EngineError("The model said nothing", hint="Try again, or with another model.")


def _that_fit(engine: Engine, question: str, answer: str) -> tuple[Message, ...]:
    """What is asked, with excerpts short enough to leave room for the summary."""
    longest = max(len(question), len(answer))
    messages = _asked(question, answer)
    while longest > 1 and engine.count_tokens(messages) + LONGEST > engine.info.context_length:
        longest //= 2
        messages = _asked(_excerpt(question, longest), _excerpt(answer, longest))
    return messages


def _asked(question: str, answer: str) -> tuple[Message, ...]:
    return (
        Message("system", f"{_TASK} Answer with nothing else."),
        Message("user", f"User: {question}\n\nAssistant: {answer}\n\n{_TASK}"),
    )


def _excerpt(text: str, longest: int) -> str:
    """Beginning and end of a text that is longer than `longest` characters."""
    half = longest // 2
    return text if len(text) <= longest else f"{text[:half]} … {text[len(text) - half :]}"
