"""Read and edit one TOML file, keeping its comments."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chatlm.config.paths import check_regular_file, write_atomically
from chatlm.errors import ConfigError

if TYPE_CHECKING:
    from tomlkit import TOMLDocument

MAX_DEPTH = 50
"""Levels of sections and lists that a file may have."""


def read(path: Path) -> dict[str, Any]:
    """Read the file; a missing one is empty.

    Raises:
        ConfigError: it cannot be read, or is not TOML; the message has line and column.
    """
    return _parse(_read_text(path), path)


def set_key(path: Path, key: Sequence[str], value: Any) -> None:
    """Set a key of one or more parts; a missing file is created.

    Raises:
        ConfigError: the file is not TOML, a part of the key is not a section, or the file cannot
            be written. The file is unchanged.
    """
    import tomlkit

    _check_depth(value, path)
    text = _read_text(path)
    _parse(text, path)
    document = tomlkit.parse(text)
    section: Any = document
    for place, part in enumerate(key[:-1], start=1):
        if part not in section:
            section[part] = tomlkit.table(is_super_table=place < len(key) - 1)
        section = section[part]
        if not isinstance(section, dict):
            raise ConfigError(
                f"{path}: {'.'.join(key[:place])} is not a section, so {key[-1]} cannot "
                "be set in it.",
                hint="Correct it: chatlm config edit",
            )
    section[key[-1]] = value
    _write(path, document)


def remove_key(path: Path, key: Sequence[str]) -> bool:
    """Remove a key; return whether it existed. Raises like `set_key`."""
    import tomlkit

    text = _read_text(path)
    _parse(text, path)
    document = tomlkit.parse(text)
    section: Any = document
    for part in key[:-1]:
        section = section.get(part) if isinstance(section, dict) else None
    if not isinstance(section, dict) or key[-1] not in section:
        return False
    del section[key[-1]]
    _write(path, document)
    return True


def _read_text(path: Path) -> str:
    try:
        check_regular_file(path)
        content = path.read_bytes()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}.",
            hint="Check the file and its permissions.",
        ) from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        column = error.start - content.rfind(b"\n", 0, error.start)
        raise _syntax_error(path, f"line {line}, column {column}", "Not UTF-8") from error


def _parse(text: str, path: Path) -> dict[str, Any]:
    try:
        document = tomllib.loads(text)
    except RecursionError as error:
        raise _depth_error(path) from error
    except tomllib.TOMLDecodeError as error:
        what, _, place = str(error).removesuffix(")").rpartition(" (at ")
        if place == "end of document":
            lines = text.split("\n")
            place = f"line {len(lines)}, column {len(lines[-1]) + 1}"
        raise _syntax_error(path, place, what) from error
    _check_depth(document, path)
    return document


def _check_depth(document: Any, path: Path) -> None:
    """Refuse a document so deep that recursive code fails on it, such as tomlkit's or JSON's."""
    level: list[Any] = [document]
    for _ in range(MAX_DEPTH):
        containers = [value for value in level if isinstance(value, dict | list)]
        level = [
            inner
            for value in containers
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            return
    raise _depth_error(path)


def _depth_error(path: Path) -> ConfigError:
    return ConfigError(
        f"{path}: a key or value is nested more than {MAX_DEPTH} levels deep.",
        hint="Remove it: chatlm config edit",
    )


def _syntax_error(path: Path, location: str, problem: str) -> ConfigError:
    return ConfigError(f"{path}, {location}: {problem}.", hint="Correct it: chatlm config edit")


def _write(path: Path, document: TOMLDocument) -> None:
    import tomlkit

    text = tomlkit.dumps(document)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, [text])
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written: {error.strerror}. It is unchanged.",
            hint="Check the folder's permissions and the free space, or set CHATLM_HOME.",
        ) from error
