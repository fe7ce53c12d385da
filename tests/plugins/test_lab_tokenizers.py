"""Tokenizers of lab models: every text comes back, and the fast ways give the library's tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import chatlm
from chatlm import UsageError
from chatlm_lab import tokenizer_kinds
from chatlm_lab.tokenizer_kinds import (
    END_OF_TEXT,
    KINDS,
    UNKNOWN,
    TokenizerKind,
    encode_stream,
    load_tokenizer,
    save_tokenizer,
    train_tokenizer,
)
from tests.plugins.lab import story

TEXT = story(60) + "\n\n  Ein Ärger: 12,5 €!\tfin <|endoftext|> naïve 🙂\n"

TOKENIZERS = {kind: train_tokenizer(kind, [TEXT], 600) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_comes_back_and_never_becomes_a_special_token(kind: TokenizerKind) -> None:
    tokenizer = TOKENIZERS[kind]
    ids = tokenizer.encode(TEXT, add_special_tokens=False).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == TEXT
    assert 0 not in ids
    assert tokenizer.token_to_id(END_OF_TEXT) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_has_the_tokens_of_the_library_with_ends_between(
    kind: TokenizerKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer_kinds, "CHUNK_CHARACTERS", 40)
    monkeypatch.setattr(tokenizer_kinds, "BATCH", 3)
    tokenizer = TOKENIZERS[kind]
    texts = [TEXT, "The cat.\n\n\nA mat. ", "x"]
    expected = [0]
    for text in texts:
        expected += [*tokenizer.encode(text, add_special_tokens=False).ids, 0]
    assert encode_stream(tokenizer, kind, texts).tolist() == expected


@given(st.text(max_size=60))
def test_tables_encode_as_the_library_does(text: str) -> None:
    for kind in ("bytes", "characters"):
        tokenizer = TOKENIZERS[kind]
        expected = tokenizer.encode(text, add_special_tokens=False).ids
        found = encode_stream(tokenizer, kind, [text]).tolist()
        assert found == [0, *expected, 0]


def test_what_is_not_in_the_vocabulary_is_unknown() -> None:
    for kind in ("characters", "words"):
        tokenizer = TOKENIZERS[kind]
        ids = tokenizer.encode("ж", add_special_tokens=False).ids
        assert ids == [tokenizer.token_to_id(UNKNOWN)] == [1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_tokenizer_gives_the_same_tokens_here_and_in_the_engine(
    kind: TokenizerKind, tmp_path: Path
) -> None:
    save_tokenizer(TOKENIZERS[kind], tmp_path)
    expected = TOKENIZERS[kind].encode(TEXT, add_special_tokens=False).ids
    assert load_tokenizer(tmp_path).encode(TEXT, add_special_tokens=False).ids == expected
    backend = chatlm.load_tokenizer("tiny", tmp_path).backend_tokenizer
    assert backend.encode("The cat", add_special_tokens=False).ids == expected_ids(kind, "The cat")


def expected_ids(kind: TokenizerKind, text: str) -> list[int]:
    return list(TOKENIZERS[kind].encode(text, add_special_tokens=False).ids)


def test_a_vocabulary_that_is_too_small_is_refused() -> None:
    with pytest.raises(UsageError, match="bpe needs 258"):
        train_tokenizer("bpe", [TEXT], 200)
    with pytest.raises(UsageError, match="words needs 3"):
        train_tokenizer("words", [TEXT], 2)
    small = train_tokenizer("words", [TEXT], 12)
    assert small.get_vocab_size() == 12
