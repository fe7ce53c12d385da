"""Escaping of untrusted text for display on a terminal.

Each dangerous character is replaced by a visible one and nothing else changes, so a stream can be
escaped piece by piece. Stored text is never escaped.
"""

from __future__ import annotations

import json
import re
from typing import Any

_ALLOWED_CONTROLS = "\n\t"


def _build_escapes() -> dict[int, str]:
    table: dict[int, str] = {}
    for code in range(0x20):
        if chr(code) not in _ALLOWED_CONTROLS:
            table[code] = chr(0x2400 + code)  # the control pictures block: ␀ ␛ …
    table[ord("\r")] = ""  # a Windows line end keeps its \n
    table[0x7F] = "␡"
    for code in range(0x80, 0xA0):  # C1 controls; 0x9b starts a sequence on its own
        table[code] = f"⟨{code:02X}⟩"
    invisible = [*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x061C, 0x200E, 0x200F]
    invisible += [0x2028, 0x2029, 0xFEFF, *range(0xE0000, 0xE0080)]
    for code in invisible:  # direction overrides, odd line ends, hidden tags
        table[code] = f"⟨U+{code:04X}⟩"
    for code in range(0xD800, 0xE000):  # lone surrogates cannot be written as UTF-8
        table[code] = "\ufffd"
    return table


_ESCAPES = _build_escapes()


def escape_controls(text: str) -> str:
    """Make every control character, terminal escape and direction override visible.

    Newline and tab stay. `escape_controls(a) + escape_controls(b) == escape_controls(a + b)`.
    """
    return text.translate(_ESCAPES)


_STACKED_ACCENTS = re.compile(r"((?:[\u0300-\u036f]){4})[\u0300-\u036f]+")
"""More accents on one letter than any language uses; they would overlap other lines."""


def one_line(text: str, width: int) -> str:
    """Escape text and shorten it to one line of `width` characters, with an ellipsis."""
    line = " ".join(escape_controls(text).split())
    line = _STACKED_ACCENTS.sub(r"\1", line)
    return line if len(line) <= width else line[: max(width - 1, 0)].rstrip() + "…"


def dump_json(value: Any) -> str:
    """Dump JSON for a terminal: Unicode, except for characters that `escape_controls` replaces."""
    text = json.dumps(value, ensure_ascii=False, indent=2)
    unsafe = {code: f"\\u{code:04x}" for code in _ESCAPES if 0x7F <= code < 0x10000}
    unsafe |= {
        code: "".join(f"\\u{unit:04x}" for unit in _surrogate_pair(code))
        for code in _ESCAPES
        if code >= 0x10000
    }
    return text.translate(unsafe)


def _surrogate_pair(code: int) -> tuple[int, int]:
    code -= 0x10000
    return 0xD800 + (code >> 10), 0xDC00 + (code & 0x3FF)
