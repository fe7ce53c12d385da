"""What the engine needs of a tokenizer, and how text inside a prompt is tokenized."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Protocol

from tokenizers import pre_tokenizers


class ChatTokenizer(Protocol):
    """A fast tokenizer with optional chat templates, as transformers has them."""

    @property
    def is_fast(self) -> bool:
        """Whether it has a `backend_tokenizer`."""
        ...

    @property
    def backend_tokenizer(self) -> Any:
        """A `tokenizers.Tokenizer`. The engine changes its settings, so it must not be shared."""
        ...

    @property
    def chat_template(self) -> str | dict[str, str] | None:
        """The model's own Jinja template, or several by name."""
        ...

    @property
    def special_tokens_map(self) -> Mapping[str, Any]:
        """Texts of the special tokens by name, such as `bos_token`."""
        ...

    @property
    def eos_token_id(self) -> int | None:
        """Id of the end-of-sequence token."""
        ...

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text with the special tokens that the tokenizer adds."""
        ...


def without_prefix_space(backend: Any) -> Any:
    """Return a tokenizer for text that does not start a prompt.

    With Metaspace's `prepend_scheme: first` only the start of the whole prompt gets a blank.
    """
    splitter = _never_prepend(backend.pre_tokenizer)
    if splitter is None:
        return backend
    middle = copy.deepcopy(backend)
    middle.encode_special_tokens = True
    middle.pre_tokenizer = splitter
    return middle


def _never_prepend(splitter: Any) -> Any:
    """Return a pre-tokenizer without the blank at the start; None if it adds none there only."""
    if isinstance(splitter, pre_tokenizers.Metaspace):
        if splitter.prepend_scheme != "first":
            return None
        return pre_tokenizers.Metaspace(splitter.replacement, "never", splitter.split)
    if isinstance(splitter, pre_tokenizers.Sequence):
        parts = list(splitter)  # type: ignore[call-overload]  # by index, as of tokenizers 0.22
        changed = [_never_prepend(part) for part in parts]
        if any(part is not None for part in changed):
            return pre_tokenizers.Sequence(
                [new if new is not None else old for new, old in zip(changed, parts, strict=True)]
            )
    return None
