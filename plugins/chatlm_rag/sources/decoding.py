"""The text in a file's bytes: its encoding, and whether it is text at all."""

from __future__ import annotations

import codecs

from chatlm_rag.sources.document import Unreadable, clean

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""UTF-32 before UTF-16: the mark of one begins with the other's."""

_LOOKED_AT = 65_536


def decode(data: bytes, declared: str = "") -> str:
    """The text, by its byte order mark, what it declares, as UTF-8, else by what is likely.

    Raises:
        Unreadable: it is empty, binary, or in no encoding that is known.
    """
    if not data.strip():
        raise Unreadable("is empty")
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return clean(data.decode(encoding, "replace"))
    if b"\0" in data[:_LOOKED_AT]:
        raise Unreadable("is binary")
    for encoding in ("utf-8", declared):
        try:
            if encoding:
                return clean(data.decode(encoding))
        except (UnicodeError, LookupError):
            continue
    return _likely(data)


def _likely(data: bytes) -> str:
    from charset_normalizer import from_bytes

    sample = data[:_LOOKED_AT]
    controls = sum(byte < 9 or 13 < byte < 32 for byte in sample)
    best = from_bytes(sample).best() if controls * 100 < len(sample) else None
    if best is None:
        raise Unreadable("is binary, or in an encoding that is not known")
    try:
        return clean(data.decode(best.encoding))
    except (UnicodeDecodeError, LookupError):
        return clean(data.decode("cp1252", "replace"))
