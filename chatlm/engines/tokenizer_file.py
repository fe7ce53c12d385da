"""Read tokenizer.json without keeping other threads from running."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer
from tokenizers.models import BPE

_OPTIONS = (
    *("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix"),
    *("fuse_unk", "byte_fallback", "ignore_merges"),
)
"""Settings of a BPE model besides its vocabulary."""


def read_tokenizer(path: Path) -> Tokenizer:
    """Read a tokenizer.json.

    `Tokenizer.from_file` keeps Python's lock all the time, so that in a server no stream would go
    on for 0.1 to 0.4 s. So the file is read in Python, and the library gets the vocabulary alone.

    Args:
        path: of the file.

    Raises:
        Exception: as `Tokenizer.from_file` does for a file that it cannot read.
    """
    return _read_in_parts(path) or Tokenizer.from_file(str(path))


def _read_in_parts(path: Path) -> Tokenizer | None:
    """Read a tokenizer of the kind BPE; None for others, and where anything is unusual."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"), parse_int=_whole_number)
        model = values["model"]
        vocab, merges = model.pop("vocab"), model.pop("merges")
        if model.pop("type", "BPE") != "BPE" or not model.keys() <= set(_OPTIONS):
            return None
        added = values.pop("added_tokens")
        pairs = [tuple(each.split(" ") if isinstance(each, str) else each) for each in merges]
        options = {name: value for name, value in model.items() if value is not None}
        empty = {**model, "type": "BPE", "vocab": {}, "merges": []}
        tokenizer = Tokenizer.from_str(json.dumps({**values, "added_tokens": [], "model": empty}))
        tokenizer.model = BPE(vocab=vocab, merges=pairs, **options)
        _add_tokens(tokenizer, added)
        ids = {number: token.content for number, token in _added(tokenizer).items()}
    except Exception:  # the library says what is wrong with the file
        return None
    return tokenizer if ids == {each["id"]: each["content"] for each in added} else None


def _add_tokens(tokenizer: Tokenizer, added: list[dict[str, Any]]) -> None:
    """Add tokens in the order of the file, on which their ids depend."""
    for each in added:
        values = {name: value for name, value in each.items() if name != "id"}
        token = AddedToken(**values)
        add = tokenizer.add_special_tokens if token.special else tokenizer.add_tokens
        add([token])


def _added(tokenizer: Tokenizer) -> dict[int, AddedToken]:
    return dict(tokenizer.get_added_tokens_decoder())


def _whole_number(text: str) -> int:
    """Convert a number; called for each, so that other threads run between."""
    return int(text)
