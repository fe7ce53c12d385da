"""Writes chats of a store in one of the export formats; knows no file and no screen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, get_args

from chatlm.store import export
from chatlm.store.store import Store
from chatlm.text import visible

Form = Literal["markdown", "jsonl", "messages", "chatml"]
FORMS: tuple[Form, ...] = get_args(Form)

ENDINGS: dict[str, Form] = {
    ".md": "markdown",
    ".jsonl": "jsonl",
    ".messages.jsonl": "messages",
    ".chatml": "chatml",
}
"""What a file's name ends with when it holds that format."""


def exported(store: Store, ids: Iterable[int], form: Form) -> Iterator[str]:
    """The chats as text, piece by piece.

    Raises:
        StoreError: one of them cannot be read.
        UsageError: the format cannot hold what one of them says.
    """
    conversations = (store.conversation(chat_id) for chat_id in ids)
    if form == "jsonl":
        yield from export.to_jsonl(
            conversations, store.passages, store.annotations, store.provenance, store.traces
        )
    elif form == "messages":
        yield from export.to_messages(conversations)
    elif form == "chatml":
        yield from export.to_chatml(conversations)
    else:
        for number, conversation in enumerate(conversations):
            yield ("\n---\n\n" if number else "") + visible(export.to_markdown(conversation))
