"""Summaries of turns by the model, and suggested titles."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Generator
from contextlib import closing

from chatlm.errors import EngineError, UsageError
from chatlm.types.conversations import Conversation, Turn
from chatlm.types.engine import Engine, EngineInfo
from chatlm.types.events import Delta
from chatlm.types.messages import Message
from chatlm.types.requests import Request
from chatlm.types.sampling import Sampling

MAX_SUMMARY_TOKENS = 96
"""Maximum number of tokens of a summary."""


SUMMARY_SAMPLING = Sampling(
    temperature=0.2, top_k=0, top_p=0.95, seed=0, max_tokens=MAX_SUMMARY_TOKENS, stop=("\n\n",)
)


THOUGHT_TOKENS = 256
"""Maximum number of tokens that a model thinks about a summary if it cannot be told not to."""


_INSTRUCTION = "Summarise this exchange in one or two short sentences of plain text."


def summarise_turn(engine: Engine, turn: Turn) -> Generator[str, None, None]:
    """Generate one or two sentences that can replace a turn in the prompt.

    Yields:
        pieces of the text, and empty strings during prefill, so that the consumer can stop then
        too.

    Raises:
        UsageError: the turn has no reply.
        EngineError: the generation failed, or the summary is empty.
    """
    if turn.reply is None or not turn.reply.text.strip():
        raise UsageError("This turn has no reply yet", hint="Let the model answer it first.")
    has_text = False
    with closing(write_summary(engine, turn.user.text, turn.reply.text)) as pieces:
        for piece in pieces:
            has_text = has_text or bool(piece.strip())
            yield piece
    if not has_text:
        raise EngineError(
            "The model returned an empty reply", hint="Try again, or with another model."
        )


def write_summary(engine: Engine, question: str, answer: str) -> Generator[str, None, None]:
    """Generate a summary of an exchange, see `summarise_turn`; it may be empty."""
    sampling = _summary_sampling(engine.info)
    reserve = MAX_SUMMARY_TOKENS + (sampling.thinking_budget or 0)
    messages = _fit_excerpts(engine, question, answer, reserve)
    with closing(engine.stream(Request(messages, sampling))) as events:
        for event in events:
            yield event.answer if isinstance(event, Delta) else ""


def _summary_sampling(info: EngineInfo) -> Sampling:
    """Return the sampling for a model: as few thoughts as it follows, since they take long."""
    if not info.thinks:
        return SUMMARY_SAMPLING
    if "off" in info.thinking_levels:
        return dataclasses.replace(SUMMARY_SAMPLING, thinking="off")
    lowest = info.thinking_levels[0] if info.thinking_levels else None
    return dataclasses.replace(SUMMARY_SAMPLING, thinking=lowest, thinking_budget=THOUGHT_TOKENS)


def _fit_excerpts(engine: Engine, question: str, answer: str, reserve: int) -> tuple[Message, ...]:
    """Build the messages, with excerpts short enough to leave `reserve` tokens of the context."""
    longest = max(len(question), len(answer))
    messages = _summary_prompt(question, answer)
    while longest > 1 and engine.count_tokens(messages) + reserve > engine.info.context_length:
        longest //= 2
        messages = _summary_prompt(_excerpt(question, longest), _excerpt(answer, longest))
    return messages


def _summary_prompt(question: str, answer: str) -> tuple[Message, ...]:
    return (
        Message("system", f"{_INSTRUCTION} Answer with nothing else."),
        Message("user", f"User: {question}\n\nAssistant: {answer}\n\n{_INSTRUCTION}"),
    )


def _excerpt(text: str, max_length: int) -> str:
    """Shorten a text to its beginning and end if it is longer than `max_length` characters."""
    half = max_length // 2
    return text if len(text) <= max_length else f"{text[:half]} … {text[len(text) - half :]}"


MAX_TITLE_LENGTH = 50
"""Maximum length of a suggested title."""


_HEADING = re.compile(r"\s*#{1,6}\s+(\S.*)")


_CODE = re.compile(r"(`{3,}|~{3,}).*?(\1|\Z)", re.DOTALL)


_FENCE = re.compile(r"^\s*(?:`{3,}|~{3,}).*$", re.MULTILINE)


_GREETING = re.compile(
    r"(?:(?:hi|hello|hey|howdy|greetings|hallo|hola|bonjour|salut|ciao|servus|moin"
    r"|good (?:morning|afternoon|evening|day)|guten (?:morgen|tag|abend))"
    r"(?:[ ]+(?:there|all|everyone|again))?"
    r"|(?:ok|okay|so|well|thanks|thank you)(?=\s*[,!.:;–—-])"
    r"|please"
    r"|(?:can|could|would|will) you(?: please)?"
    r")\b[\s,!.:;–—-]*",
    re.IGNORECASE,
)


_SENTENCE_END = re.compile(r"(?<=[.!?…])\s|(?<=[。！？])|\n")


def suggest_title(conversation: Conversation) -> str:
    """Suggest a title of at most `MAX_TITLE_LENGTH` characters; empty for an empty chat.

    It is the heading at the beginning of the first reply, else the first sentence of the first
    message without code and greetings, cut between words.
    """
    if not conversation.turns:
        return ""
    turn = conversation.turns[0]
    heading = _HEADING.match(turn.reply.text) if turn.reply else None
    return _shorten(heading[1].strip(" #*_") if heading else _first_sentence(turn.display_text))


def _first_sentence(text: str) -> str:
    plain = _CODE.sub("\n", text).strip() or _FENCE.sub("", text).strip()
    rest = plain
    while match := _GREETING.match(rest):
        rest = rest[match.end() :]
    return _SENTENCE_END.split(rest.strip() or plain, maxsplit=1)[0]


def _shorten(text: str) -> str:
    title = " ".join(text.split()).rstrip(" .,:;!?")
    title = title[:1].upper() + title[1:]
    if len(title) <= MAX_TITLE_LENGTH:
        return title
    cut = title[:MAX_TITLE_LENGTH]
    words = cut[:-1].rpartition(" ")[0]
    return f"{(words or cut[:-1]).rstrip(' .,:;')}…"
