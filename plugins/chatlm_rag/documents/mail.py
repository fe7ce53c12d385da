"""Extract the text of e-mails (EML): who wrote to whom and when, and what."""

from __future__ import annotations

import email
import email.policy
from email.message import EmailMessage
from pathlib import Path
from typing import cast

from chatlm_rag.documents import html
from chatlm_rag.documents.document import (
    Document,
    SectionText,
    UnreadableFile,
    heading_path,
    join_sections,
)

_FIELDS = ("From", "To", "Cc", "Date", "Subject")


def read(path: Path, source: str) -> Document:
    """Read an e-mail. Its attachments are named, but not read.

    Raises:
        UnreadableFile: it is not an e-mail, or has no text.
        OSError: it cannot be read.
    """
    data = path.read_bytes()
    message = email.message_from_bytes(data, policy=email.policy.default)
    fields = [f"{name}: {message[name]}" for name in _FIELDS if message[name]]
    if not message["From"] and not message["Subject"]:
        raise UnreadableFile("is not an e-mail")
    names = [each.get_filename() for each in message.iter_attachments()]
    if attached := ", ".join(filter(None, names)):
        fields.append(f"Attached: {attached}")
    text = "\n".join(fields) + "\n\n" + _body(message)
    title = heading_path([str(message["Subject"] or "")])
    return join_sections([SectionText(text, title, title)], source, len(data))


def _body(message: EmailMessage) -> str:
    """Return the body as plain text; empty if it has none."""
    part = cast("EmailMessage | None", message.get_body(("plain", "html")))
    if part is None:
        return ""
    try:
        content = part.get_content()
    except (LookupError, ValueError):  # an unknown encoding
        content = (cast("bytes | None", part.get_payload(decode=True)) or b"").decode(
            "utf-8", "replace"
        )
    if part.get_content_subtype() != "html":
        return str(content)
    try:
        return html.read(str(content).encode(), "").text
    except UnreadableFile:
        return ""
