"""A chat's title from what was said in it; pure functions that know no model."""

from __future__ import annotations

import re

from chatlm.messages import Conversation

LONGEST = 50
"""Characters of a suggested title."""

_HEADING = re.compile(r"\s*#{1,6}\s+(\S.*)")

_CODE = re.compile(r"(`{3,}|~{3,}).*?(\1|\Z)", re.DOTALL)

_FENCE = re.compile(r"^\s*(?:`{3,}|~{3,}).*$", re.MULTILINE)

_OPENING = re.compile(
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


def suggested(chat: Conversation) -> str:
    """What a chat's first turn is about, in at most `LONGEST` characters; empty for an empty chat.

    The heading that the reply begins with, else the message's first sentence, without code beside
    other text and without greetings, cut between words.
    """
    if not chat.turns:
        return ""
    turn = chat.turns[0]
    heading = _HEADING.match(turn.reply.text) if turn.reply else None
    return _shortened(heading[1].strip(" #*_") if heading else _sentence(turn.words))


def _sentence(text: str) -> str:
    plain = _CODE.sub("\n", text).strip() or _FENCE.sub("", text).strip()
    rest = plain
    while match := _OPENING.match(rest):
        rest = rest[match.end() :]
    return _SENTENCE_END.split(rest.strip() or plain, maxsplit=1)[0]


def _shortened(text: str) -> str:
    title = " ".join(text.split()).rstrip(" .,:;!?")
    title = title[:1].upper() + title[1:]
    if len(title) <= LONGEST:
        return title
    cut = title[:LONGEST]
    words = cut[:-1].rpartition(" ")[0]
    return f"{(words or cut[:-1]).rstrip(' .,:;')}…"
