"""Switch off chatlm's speculative decoding, which repetitive text would flatter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from chatlm.engines.speculative import PromptLookup


@contextmanager
def no_guesses() -> Iterator[None]:
    """Let every step decode one token."""
    draft = PromptLookup.draft
    PromptLookup.draft = lambda self, max_tokens: []  # type: ignore[method-assign]
    try:
        yield
    finally:
        PromptLookup.draft = draft  # type: ignore[method-assign]
