"""A chat's title from what was said in it; pure functions that know no model."""

from __future__ import annotations

import re

LONGEST = 50
"""Characters of a suggested title."""

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


def suggested(text: str) -> str:
    """What a message is about, in at most `LONGEST` characters of its own.

    Code beside other text and greetings are left out, then the first sentence is taken and cut
    between words.
    """
    plain = _CODE.sub("\n", text).strip() or _FENCE.sub("", text).strip()
    rest = plain
    while match := _OPENING.match(rest):
        rest = rest[match.end() :]
    sentence = _SENTENCE_END.split(rest.strip() or plain, maxsplit=1)[0]
    return _shortened(sentence)


def tidied(text: str) -> str:
    """A title that a model made up, without quotes, label and full stop, on one line."""
    lines = [line for line in text.splitlines() if line.strip()]
    line = re.sub(r"(?i)^[\s*#]*title\s*:", "", lines[0]) if lines else ""
    return _shortened(line.strip(" \t*#\"'“”„‘’«»`"))


def _shortened(text: str) -> str:
    title = " ".join(text.split()).rstrip(" .,:;!?")
    title = title[:1].upper() + title[1:]
    if len(title) <= LONGEST:
        return title
    cut = title[:LONGEST]
    words = cut[:-1].rpartition(" ")[0]
    return f"{(words or cut[:-1]).rstrip(' .,:;')}…"
