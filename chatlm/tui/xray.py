"""What each token of a prompt is and whose; pure, it knows no screen and no tokenizer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from chatlm.generation import Prompt, Request
from chatlm.messages import SUMMARY_HEAD, Message, Passage

LONGEST = 256
"""Characters of the longest token that is looked for."""


class Kind(StrEnum):
    """Whose a token is; the value names it on the screen."""

    CONTROL = "control tokens"
    FORMAT = "format around the messages"
    SYSTEM = "system prompt"
    USER = "your messages"
    ASSISTANT = "replies"
    PASSAGE = "passages"
    ADDED = "added by chatlm or a plugin"


@dataclass(frozen=True)
class Xray:
    """A prompt, and what is needed to tell its parts apart."""

    prompt: Prompt
    request: Request
    user_text: str = ""
    """What the person typed for the newest turn."""
    passages: tuple[Passage, ...] = ()
    """What was found for it."""
    sent_hash: str = ""
    """`Prompt.hash` of what was sent, where something was and it is known."""


@dataclass(frozen=True)
class Proof:
    """How many tokens stand in people's and documents' texts, and how many are control tokens."""

    yours: int
    """Tokens of the person's own text."""
    others: int
    """Tokens of all other contents."""
    forged: int
    """How many of both are control tokens; anything but 0 means that a text posed as the format."""


def parts(
    prompt: Prompt, request: Request, user_text: str = "", passages: Iterable[Passage] = ()
) -> list[Kind]:
    """The kind of each of the prompt's tokens; a token that crosses a border is of its beginning.

    In the newest user message the passages and the person's own words are found by their exact
    text, and what is neither was added by chatlm or a plugin.
    """
    owners = _owners(request.messages, user_text, tuple(passages))
    drawn: dict[int, list[str]] = {}
    for token in prompt.tokens:
        if token.message is not None:
            drawn.setdefault(token.message, []).append(token.text)
    reached = {
        number: _missing(request.messages[number].content, "".join(texts))
        for number, texts in drawn.items()
    }
    kinds = []
    for token in prompt.tokens:
        if token.message is None:
            kinds.append(Kind.CONTROL if token.control else Kind.FORMAT)
            continue
        owner = owners[token.message]
        at = reached[token.message]
        kinds.append(owner[min(at if token.text else at - 1, len(owner) - 1)])
        reached[token.message] = at + len(token.text)
    return kinds


def shares(kinds: Sequence[Kind]) -> dict[Kind, int]:
    """Tokens of each kind that there is, in the order of `Kind`."""
    counted = Counter(kinds)
    return {kind: counted[kind] for kind in Kind if counted[kind]}


def proof(prompt: Prompt, kinds: Sequence[Kind]) -> Proof:
    """Count the control tokens among the tokens of contents.

    Args:
        prompt: whose tokens are looked at.
        kinds: of these tokens, from `parts`.
    """
    contents = [
        (token, kind)
        for token, kind in zip(prompt.tokens, kinds, strict=True)
        if token.message is not None
    ]
    yours = sum(kind is Kind.USER for _, kind in contents)
    forged = sum(token.control for token, _ in contents)
    return Proof(yours, len(contents) - yours, forged)


def _missing(content: str, drawn: str) -> int:
    """How many of the content's first characters stand in the format's token before it, where
    `drawn` is the text of the content's own tokens, which may reach beyond its end."""
    for number in range(min(len(content), LONGEST)):
        if content.startswith(drawn, number) or drawn.startswith(content[number:]):
            return number
    return 0


def _owners(
    messages: Sequence[Message], user_text: str, passages: Sequence[Passage]
) -> list[list[Kind]]:
    """For each message, the kind of each of its characters."""
    plain: Mapping[str, Kind] = {
        "system": Kind.SYSTEM,
        "user": Kind.USER,
        "assistant": Kind.ASSISTANT,
    }
    users = [number for number, message in enumerate(messages) if message.role == "user"]
    owners = []
    for number, message in enumerate(messages):
        if users and number == users[-1] and user_text:
            owners.append(_newest(message.content, user_text, passages))
        elif message.role == "user" and message.content.startswith(SUMMARY_HEAD):
            owners.append([Kind.ADDED] * len(message.content))
        else:
            owners.append([plain[message.role]] * len(message.content))
    return owners


def _newest(content: str, user_text: str, passages: Sequence[Passage]) -> list[Kind]:
    """Passages first, each after the one before; then the last place of the person's words that is
    none of theirs, since a passage may quote the question."""
    kinds = [Kind.ADDED] * len(content)
    start = 0
    for passage in passages:
        found = content.find(passage.text, start) if passage.text else -1
        if found >= 0:
            start = found + len(passage.text)
            kinds[found:start] = [Kind.PASSAGE] * len(passage.text)
    found = content.rfind(user_text)
    while found >= 0 and Kind.PASSAGE in kinds[found : found + len(user_text)]:
        found = content.rfind(user_text, 0, found + len(user_text) - 1)
    if found >= 0:
        kinds[found : found + len(user_text)] = [Kind.USER] * len(user_text)
    return kinds
