"""Check documents that are ZIP archives before they are unpacked."""

from __future__ import annotations

import zipfile
from pathlib import Path

from chatlm_rag.documents.document import UnreadableFile

MAX_UNPACKED_BYTES = 300_000_000
"""Limit for the total unpacked size, against zip bombs."""

_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
"""Begin of an encrypted file of Microsoft Office, or of one in its old formats."""


def check_archive(path: Path, kind: str) -> None:
    """Refuse a file that is no ZIP archive or unpacks to too much.

    Args:
        path: the file.
        kind: what it should be, such as `a DOCX file`.

    Raises:
        UnreadableFile: it is refused.
        OSError: it cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        with path.open("rb") as file:
            is_ole = file.read(8) == _OLE
        old = kind.split()[1][:3]
        reason = f"is password-protected or an old {old} file" if is_ole else f"is not {kind}"
        raise UnreadableFile(reason) from error
    if sum(member.file_size for member in members) > MAX_UNPACKED_BYTES:
        raise UnreadableFile(f"unpacks to more than {MAX_UNPACKED_BYTES // 1_000_000} MB")
