"""Checksums of an index version: written with it, checked in part when it is opened, or in full.

A flipped byte in a vector changes what a search finds without any error.
"""

from __future__ import annotations

import json
from pathlib import Path

from chatlm import (
    FileRecord,
    UsageError,
    find_mismatch,
    find_quick_mismatch,
    record_file,
    write_atomically,
)
from chatlm_rag.index import manifest
from chatlm_rag.index.folder import IndexFolder, wrap_read_errors

FILE = "checksums.json"


def write(folder: Path) -> None:
    """Record all files of a new index version but the manifest, which updates rewrite.

    Raises:
        OSError: a file cannot be read or written.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    table = {
        path.relative_to(folder).as_posix(): record_file(path).to_dict()
        for path in paths
        if path not in (folder / FILE, folder / manifest.FILE)
    }
    write_atomically(folder / FILE, [json.dumps(table, indent=1) + "\n"])


def check(folder: Path) -> None:
    """Check in milliseconds that the files of an index version are those that were written.

    An index of an earlier chatlm has no checksums and is not checked.

    Raises:
        OSError, ValueError: a file is missing or differs.
        KeyError, TypeError, AttributeError: the checksums cannot be read.
    """
    for name, record in _read(folder).items():
        if problem := find_quick_mismatch(folder / name, record):
            raise ValueError(f"{name}: {problem}")


def verify(index: IndexFolder) -> int:
    """Check every byte of an index, and return the number of files.

    Raises:
        UsageError: it has no checksums.
        ChatlmError: it is damaged.
    """

    def check_all(folder: Path) -> int:
        manifest.read(folder)
        records = _read(folder)
        for name, record in records.items():
            if problem := find_mismatch(folder / name, record):
                raise ValueError(f"{name}: {problem}")
        return len(records)

    with wrap_read_errors(index.name):
        count = index.open(check_all)
    if not count:
        raise UsageError(
            f"The index {index.name} has no checksums: an earlier chatlm built it.",
            hint=f"Rebuild it: chatlm rag update {index.name} --rebuild",
        )
    return count


def _read(folder: Path) -> dict[str, FileRecord]:
    try:
        table = json.loads((folder / FILE).read_bytes())
    except FileNotFoundError:
        return {}
    return {name: FileRecord.from_dict(record) for name, record in table.items()}
