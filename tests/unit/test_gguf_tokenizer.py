"""The tokenizer of a GGUF file: what ends a reply, how text is split, which templates it has."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFWriter
from tokenizers import Tokenizer

from chatlm.engines.devices import Placement
from chatlm.engines.load import load
from chatlm.engines.tokenizer import load_tokenizer
from chatlm.hub.gguf.file import GgufError, GgufFile
from chatlm.hub.gguf.pre_tokenizers import SPLITTINGS
from chatlm.hub.gguf.tokenizer import read_special_tokens, read_templates, write_tokenizer
from chatlm.hub.gguf_folder import prepare_in_process
from tests.gguf_files import byte_alphabet, make_folder, save_gguf, write_vocabulary

Vocabulary = Callable[[GGUFWriter], None]

CONTROL, USER_DEFINED, NORMAL = 3, 4, 1


def vocabulary(
    special: dict[str, int] | None = None,
    words: tuple[str, ...] = (),
    pre: str = "gpt-2",
    model: str = "gpt2",
    **values: Any,
) -> Vocabulary:
    """A vocabulary of some special tokens, the byte alphabet and words, and other values."""

    def write_to(writer: GGUFWriter) -> None:
        tokens = [*(special or {}), *byte_alphabet(), *words]
        writer.add_tokenizer_model(model)
        writer.add_tokenizer_pre(pre)
        writer.add_token_list(tokens)
        writer.add_token_types(
            [*(special or {}).values(), *[NORMAL] * (len(tokens) - len(special or {}))]
        )
        writer.add_token_merges([f"{word[0]} {word[1:]}" for word in words])
        for key, value in values.items():
            match value:
                case bool():
                    writer.add_bool(f"tokenizer.ggml.{key}", value)
                case int():
                    writer.add_uint32(f"tokenizer.ggml.{key}", value)
                case _:
                    writer.add_string(f"tokenizer.{key}", value)

    return write_to


def open_vocabulary(path: Path, write_to: Vocabulary) -> GgufFile:
    writer = GGUFWriter(path, "llama")
    write_to(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return GgufFile(path)


def build(folder: Path, write_to: Vocabulary) -> Tokenizer:
    with open_vocabulary(folder / "vocabulary.gguf", write_to) as file:
        write_tokenizer(file, folder, 512)
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def ends(folder: Path, write_to: Vocabulary) -> list[str]:
    with open_vocabulary(folder / "vocabulary.gguf", write_to) as file:
        tokens = file.get("tokenizer.ggml.tokens")
        return [tokens[index] for index in read_special_tokens(file).ends]


@pytest.mark.parametrize("key", ["eot_token_id", "eom_token_id"])
def test_a_reply_ends_at_the_end_of_a_turn_as_well_as_of_a_text(tmp_path: Path, key: str) -> None:
    tokens: dict[str, Any] = {
        "eos_token_id": 5,
        key: 2,
    }  # 5 is an ordinary token, so that only the keys count
    gguf = save_gguf(
        tmp_path / "tiny.gguf", tokenizer=lambda writer: write_vocabulary(writer, **tokens)
    )
    make_folder(gguf)
    model = load(
        "tiny",
        tmp_path / "made",
        Placement({"": "cpu"}, torch.float32),
        weights="bf16",
    )
    assert {5, 2} <= set(model.info.eos_token_ids)


def test_known_control_tokens_end_a_reply_even_if_the_file_names_only_one(tmp_path: Path) -> None:
    special = {"<|endoftext|>": CONTROL, "<|im_start|>": CONTROL, "<|im_end|>": CONTROL}
    write_to = vocabulary(special, eos_token_id=0)
    assert ends(tmp_path, write_to) == ["<|endoftext|>", "<|im_end|>"]


def test_a_word_of_the_vocabulary_does_not_end_a_reply(tmp_path: Path) -> None:
    write_to = vocabulary({"</s>": CONTROL, "<EOT>": NORMAL}, eos_token_id=0)
    assert ends(tmp_path, write_to) == ["</s>"]


def test_the_end_of_a_channel_does_not_end_a_reply(tmp_path: Path) -> None:
    special = {"<|end|>": CONTROL, "<|return|>": CONTROL, "<|call|>": CONTROL}
    assert ends(tmp_path, vocabulary(special, eos_token_id=1)) == ["<|return|>", "<|call|>"]
    phi = {"<|end|>": CONTROL, "<|endoftext|>": CONTROL}
    assert ends(tmp_path, vocabulary(phi, eos_token_id=1)) == ["<|endoftext|>", "<|end|>"]


def test_a_special_token_outside_the_vocabulary_is_damage(tmp_path: Path) -> None:
    with pytest.raises(GgufError, match=r"eot_token_id is 9999, which is no token"):
        ends(tmp_path, vocabulary(eot_token_id=9999))


def test_control_tokens_outside_the_byte_alphabet_stay_whole(tmp_path: Path) -> None:
    tokenizer = build(tmp_path, vocabulary({"<｜User｜>": CONTROL, "<think>": USER_DEFINED}))
    assert tokenizer.encode("<｜User｜>hi<think>").ids[:1] == [0]
    assert tokenizer.encode("<｜User｜>hi<think>").tokens == ["<｜User｜>", "h", "i", "<think>"]
    added = tokenizer.get_added_tokens_decoder()
    assert (added[0].special, added[1].special) == (True, False)


def test_a_control_token_that_is_there_twice_is_damage(tmp_path: Path) -> None:
    def write_to(writer: GGUFWriter) -> None:
        vocabulary()(writer)
        writer.kv_data[0]["tokenizer.ggml.tokens"].value[:2] = ["<s>", "<s>"]
        writer.kv_data[0]["tokenizer.ggml.token_type"].value[:2] = [CONTROL, CONTROL]

    with pytest.raises(GgufError, match="the token '<s>' is there twice"):
        build(tmp_path, write_to)


@pytest.mark.parametrize(
    ("pre", "expected"),
    [
        ("gpt-2", ["a", "Ġ", "Ġ", "12"]),
        ("smollm", ["a", "ĠĠ", "1", "2"]),
        ("llama-bpe", ["a", "Ġ", "Ġ", "12"]),
        ("qwen2", ["a", "Ġ", "Ġ", "1", "2"]),
        ("tekken", ["a", "Ġ", "Ġ", "1", "2"]),
    ],
)
def test_text_is_split_as_the_file_says(tmp_path: Path, pre: str, expected: list[str]) -> None:
    assert (
        build(tmp_path, vocabulary(words=("ĠĠ", "12"), pre=pre)).encode("a  12").tokens == expected
    )


@pytest.mark.parametrize("pre", SPLITTINGS)
def test_every_splitting_keeps_the_text(tmp_path: Path, pre: str) -> None:
    tokenizer = build(tmp_path, vocabulary(pre=pre))
    text = "It's 12  3\n\n\té日本 don't, ABC-def! 1234567"
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids) == text


def test_qwen_normalizes_accents_and_llama_does_not(tmp_path: Path) -> None:
    accent = "e\u0301"
    qwen = build(tmp_path, vocabulary(pre="qwen2"))
    assert qwen.decode(qwen.encode(accent).ids) == "é"
    llama = build(tmp_path, vocabulary(pre="llama-bpe"))
    assert llama.decode(llama.encode(accent).ids) == accent


def test_words_of_llama_3_are_tokens_without_merges(tmp_path: Path) -> None:
    def write_to(writer: GGUFWriter, pre: str) -> None:
        vocabulary(words=("hello",), pre=pre)(writer)
        del writer.kv_data[0]["tokenizer.ggml.merges"]

    assert build(tmp_path, partial(write_to, pre="llama-bpe")).encode("hello").tokens == ["hello"]
    assert len(build(tmp_path, partial(write_to, pre="gpt-2")).encode("hello").tokens) == 5


@pytest.mark.parametrize(("pre", "what"), [("odd", "in the way 'odd'"), (None, "does not say how")])
def test_a_splitting_that_is_not_known_is_refused(
    tmp_path: Path, pre: str | None, what: str
) -> None:
    gguf = save_gguf(tmp_path / "tiny.gguf", tokenizer=partial(write_vocabulary, pre=pre))
    with pytest.raises(GgufError, match=f"splits? text.*|{what}") as caught:
        prepare_in_process(gguf, tmp_path / "made")
    assert what in caught.value.message


def test_a_tokenizer_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GgufError, match="a tokenizer of the kind 'rwkv'"):
        build(tmp_path, vocabulary(model="rwkv"))


@pytest.mark.parametrize(
    ("pre", "values", "expected"),
    [
        ("gpt-2", {}, ["a"]),
        ("gpt-2", {"add_bos_token": True}, ["<s>", "a"]),
        ("gpt-2", {"add_bos_token": True, "add_eos_token": True}, ["<s>", "a", "</s>"]),
        ("llama-bpe", {}, ["<s>", "a"]),
        ("llama-bpe", {"add_bos_token": False}, ["a"]),
    ],
)
def test_the_tokens_of_the_beginning_and_end_are_added_as_the_file_says(
    tmp_path: Path, pre: str, values: dict[str, Any], expected: list[str]
) -> None:
    special = {"<s>": CONTROL, "</s>": CONTROL}
    write_to = vocabulary(special, pre=pre, bos_token_id=0, eos_token_id=1, **values)
    tokenizer = build(tmp_path, write_to)
    assert tokenizer.encode("a").tokens == expected
    assert tokenizer.encode("a", "a").tokens == expected * 2
    assert tokenizer.encode("a", add_special_tokens=False).tokens == ["a"]


def sentencepiece(add_space_prefix: bool | None) -> Vocabulary:
    def write_to(writer: GGUFWriter) -> None:
        pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
        pieces += ["▁", "h", "i", "hi", "▁hi", "  "]
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_list(pieces)
        writer.add_token_scores([0.0] * 259 + [-5.0, -6.0, -7.0, -1.0, -2.0, -1000.0])
        writer.add_token_types([2, 3, 3, *[6] * 256, *[1] * 5, USER_DEFINED])
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        if add_space_prefix is not None:
            writer.add_add_space_prefix(add_space_prefix)

    return write_to


def test_sentencepiece_text_begins_with_a_blank_unless_the_file_says_no(tmp_path: Path) -> None:
    assert build(tmp_path, sentencepiece(None)).encode("hi").tokens == ["<s>", "▁hi"]
    assert build(tmp_path, sentencepiece(True)).encode("hi").tokens == ["<s>", "▁hi"]
    without = build(tmp_path, sentencepiece(False))
    assert without.encode("hi").tokens == ["<s>", "hi"]
    assert without.decode(without.encode(" hi é").ids) == " hi é"


def test_every_template_of_the_file_is_kept(tmp_path: Path) -> None:
    values: dict[str, Any] = {"chat_template": "usual\r\n", "chat_template.tool_use": "tools"}
    with open_vocabulary(tmp_path / "vocabulary.gguf", vocabulary(**values)) as file:
        assert read_templates(file) == {"default": "usual\r\n", "tool_use": "tools"}
        write_tokenizer(file, tmp_path, 512)
    assert load_tokenizer("tiny", tmp_path).chat_template == {
        "default": "usual\n",
        "tool_use": "tools",
    }
    assert (tmp_path / "chat_template.jinja").read_bytes() == b"usual\r\n"


def test_a_template_whose_name_is_a_path_is_refused(tmp_path: Path) -> None:
    values: dict[str, Any] = {"chat_template.../x": "evil"}
    with pytest.raises(GgufError, match="a chat template called"):
        build(tmp_path, vocabulary(**values))


def test_the_tokenizer_starts_without_transformers(tmp_path: Path) -> None:
    build(tmp_path, vocabulary({"<s>": CONTROL}, bos_token_id=0, eos_token_id=0))
    assert type(load_tokenizer("tiny", tmp_path)).__name__ == "JsonTokenizer"
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert (settings["model_max_length"], settings["bos_token"]) == (512, "<s>")
