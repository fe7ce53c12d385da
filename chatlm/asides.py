"""Asks the model for words about a chat rather than for its next reply; stores nothing."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing

from chatlm.errors import EngineError, UsageError
from chatlm.events import Delta
from chatlm.generation import Engine, Request
from chatlm.messages import Message, Turn
from chatlm.sampling import Sampling

SUMMARY = Sampling(temperature=0.2, top_k=0, top_p=0.95, seed=0, max_tokens=96, stop=("\n\n",))
TITLE = Sampling(temperature=0.2, top_k=0, top_p=0.95, seed=0, max_tokens=20, stop=("\n",))

Pieces = Generator[str, None, None]


def summary(engine: Engine, turn: Turn) -> Pieces:
    """One or two sentences that may stand for a turn.

    Yields:
        pieces of the text, as they are made.

    Raises:
        UsageError: the turn has no reply.
        EngineError: the generation failed, or nothing was said.
    """
    reply = turn.reply
    if reply is None or not reply.text.strip():
        raise UsageError("This turn has no reply yet", hint="Let the model answer it first.")
    question, answer = turn.user.content, reply.text
    task = "Summarise this exchange in one or two short sentences of plain text."

    def messages(longest: int) -> tuple[Message, ...]:
        said = f"User: {_excerpt(question, longest)}\n\nAssistant: {_excerpt(answer, longest)}"
        return (
            Message("system", f"{task} Answer with nothing else."),
            Message("user", f"{said}\n\n{task}"),
        )

    return _asked(engine, messages, max(len(question), len(answer)), SUMMARY)


def title(engine: Engine, message: str) -> Pieces:
    """A title for a chat that begins with the message; `chatlm.titles.tidied` takes the pieces
    joined.

    Yields:
        pieces of the text, as they are made.

    Raises:
        EngineError: the generation failed, or nothing was said.
    """

    def messages(longest: int) -> tuple[Message, ...]:
        return (
            Message("system", "You give each text a title of two to five words."),
            Message("user", "Text: How long do I boil an egg so that the yolk stays soft?"),
            Message("assistant", "Title: Boiling Soft Eggs"),
            Message("user", "Text: Tell me about the moons of Jupiter."),
            Message("assistant", "Title: The Moons of Jupiter"),
            Message("user", f"Text: {_excerpt(message, longest)}"),
            Message("assistant", "Title:"),
        )

    return _asked(engine, messages, len(message), TITLE)


def _asked(
    engine: Engine, messages: Callable[[int], tuple[Message, ...]], longest: int, sampling: Sampling
) -> Pieces:
    asked = _that_fit(engine, messages, longest, sampling.max_tokens or 0)
    said = False
    with closing(engine.stream(Request(asked, sampling))) as events:
        for event in events:
            if isinstance(event, Delta) and event.text:
                said = said or not event.text.isspace()
                yield event.text
    if not said:
        raise EngineError("The model said nothing", hint="Try again, or with another model.")


def _that_fit(
    engine: Engine, messages: Callable[[int], tuple[Message, ...]], longest: int, reserve: int
) -> tuple[Message, ...]:
    """The messages with excerpts short enough to leave `reserve` tokens of the context."""
    made = messages(longest)
    while longest > 1 and engine.count_tokens(made) + reserve > engine.info.context_length:
        longest //= 2
        made = messages(longest)
    return made


def _excerpt(text: str, longest: int) -> str:
    """Beginning and end of a text that is longer than `longest` characters."""
    half = longest // 2
    return text if len(text) <= longest else f"{text[:half]} … {text[len(text) - half :]}"
