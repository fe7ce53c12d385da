"""Guesses how many tokens a text has, where only the server knows it."""

from __future__ import annotations

import re

from chatlm import Pieces

_PIECE = re.compile(
    r" ?[A-Za-z\u00c0-\u024f]{1,6}| ?\d{1,2}| ?[!-/:-@\[-`{-~]|\s{1,8}|.", re.DOTALL
)
"""Up to six Latin letters, two digits or one other character: a little more than the tokenizers of
today need for English and code, so that what is thought to fit mostly does."""

PIECES = Pieces(_PIECE.findall)
"""The prompts of all models on servers."""
