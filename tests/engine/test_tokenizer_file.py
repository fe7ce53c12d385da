"""A tokenizer.json is read in parts to the same tokenizer as the library reads it to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE, WordPiece

from chatlm.engines import tokenizer_file
from chatlm.engines.tokenizer_file import read_tokenizer
from tests import models

TEXT = "Grüß Gott, <|x|>世界 hugs\n\n  and pugs <b>"


def bpe(**options: Any) -> Tokenizer:
    vocab = {
        text: number for number, text in enumerate(["?", "h", "u", "g", "s", "p", "ug", "hug"])
    }
    tokenizer = Tokenizer(BPE(vocab, [("u", "g"), ("h", "ug")], **options))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.BPEDecoder()
    tokenizer.add_special_tokens(["<|x|>", "?"])
    tokenizer.add_tokens([AddedToken("<b>", lstrip=True, normalized=False), "pugs"])
    tokenizer.post_processor = processors.TemplateProcessing("<|x|> $A", None, [("<|x|>", 8)])
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path) -> Path:
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


def assert_same(path: Path) -> None:
    expected = Tokenizer.from_file(str(path))
    read = read_tokenizer(path)
    assert read.to_str() == expected.to_str()
    assert read.encode(TEXT).ids == expected.encode(TEXT).ids


@pytest.fixture
def without_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the file be read in parts or not at all."""
    read = tokenizer_file._read_in_parts

    def strict(path: Path) -> Tokenizer:
        tokenizer = read(path)
        assert tokenizer is not None
        return tokenizer

    monkeypatch.setattr(tokenizer_file, "_read_in_parts", strict)


@pytest.mark.usefixtures("without_library")
def test_the_default_model() -> None:
    assert_same(models.default_model() / "tokenizer.json")


@pytest.mark.usefixtures("without_library")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"unk_token": "?", "fuse_unk": True},
        {"byte_fallback": True, "unk_token": "?"},
        {"ignore_merges": True, "dropout": 0.0},
        {"continuing_subword_prefix": "", "end_of_word_suffix": ""},
    ],
)
def test_every_option(options: dict[str, Any], tmp_path: Path) -> None:
    assert_same(save(bpe(**options), tmp_path))


@pytest.mark.usefixtures("without_library")
def test_merges_as_texts(tmp_path: Path) -> None:
    path = save(bpe(), tmp_path)
    values = json.loads(path.read_text())
    values["model"]["merges"] = [" ".join(pair) for pair in values["model"]["merges"]]
    path.write_text(json.dumps(values))
    assert_same(path)


def test_others_are_left_to_the_library(tmp_path: Path) -> None:
    vocab = {"[UNK]": 0, "hug": 1, "##s": 2}
    tokenizer = Tokenizer(WordPiece(vocab, unk_token="[UNK]"))
    path = save(tokenizer, tmp_path)
    assert_same(path)
    assert tokenizer_file._read_in_parts(path) is None


def test_added_tokens_with_other_ids_are_left_to_the_library(tmp_path: Path) -> None:
    path = save(bpe(), tmp_path)
    values = json.loads(path.read_text())
    values["added_tokens"][-1]["id"] = 77
    path.write_text(json.dumps(values))
    assert tokenizer_file._read_in_parts(path) is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"model": {"vocab": {}}}'])
def test_a_damaged_file_is_reported_by_the_library(content: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(Exception, match=r"."):
        read_tokenizer(path)
