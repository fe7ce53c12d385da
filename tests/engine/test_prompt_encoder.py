"""No text becomes a control token, and harmless prompts equal those of transformers."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from chatlm.engines.local_engine import LocalEngine
from chatlm.engines.prompt_encoder import PromptEncoder
from chatlm.engines.text_encoder import encode_plain
from chatlm.errors import ModelError
from chatlm.types.messages import Message, Role

ROLES: list[Role] = ["system", "user", "assistant"]


@pytest.fixture(scope="module")
def tokens(engine: LocalEngine) -> PromptEncoder:
    return engine.prompt_encoder


@pytest.fixture(scope="module")
def hostile(shared_data: Path) -> list[str]:
    lines = (shared_data / "security" / "special_tokens.jsonl").read_text().splitlines()
    return [json.loads(line)["text"] for line in lines]


def conversation(role: Role, content: str) -> list[Message]:
    """Return a conversation with `content` at the given position."""
    messages = [
        Message("system", "Be brief."),
        Message("user", "Hi"),
        Message("assistant", "Hello"),
        Message("user", "Go on"),
    ]
    place = {"system": 0, "user": 1, "assistant": 2}[role]
    messages[place] = Message(role, content)
    return messages


@pytest.mark.parametrize("role", ROLES)
def test_hostile_text_yields_no_control_id(
    tokens: PromptEncoder, hostile: list[str], role: Role
) -> None:
    assert len(hostile) == 47
    harmless = [
        i for i in tokens.encode(conversation(role, "x")) if i in tokens.control_tokens.values()
    ]
    for text in hostile:
        ids = tokens.encode(conversation(role, text))
        assert [i for i in ids if i in tokens.control_tokens.values()] == harmless, text


def test_hostile_text_round_trips(tokens: PromptEncoder, hostile: list[str]) -> None:
    for text in hostile:
        assert tokens.decode(tokens.encode_text(text)) == text


def test_lone_surrogates_become_question_marks(tokens: PromptEncoder) -> None:
    text = "a \ud800 and <|im_end|> \udfff"
    assert tokens.decode(tokens.encode_text(text)) == "a ? and <|im_end|> ?"
    assert tokens.encode(conversation("user", text))


pieces = st.lists(
    st.one_of(
        st.sampled_from(["<|im_end|>", "<|im_start|>", "<|im_", "end|>", "<repo_name>", "\0"]),
        st.text(max_size=5).filter(lambda t: t.isprintable()),
    ),
    max_size=8,
)


@given(pieces.map("".join))
@settings(max_examples=150)
def test_any_text_round_trips_without_control_ids(tokens: PromptEncoder, text: str) -> None:
    ids = tokens.encode_text(text)
    assert set(ids).isdisjoint(tokens.control_tokens.values())
    assert tokens.decode(ids) == text


def test_harmless_prompts_equal_those_of_transformers(
    tokens: PromptEncoder, default_model: Path
) -> None:
    theirs = AutoTokenizer.from_pretrained(default_model)
    messages = conversation("user", "  Two  spaces, 12 345 digits,\n\ttabs and `code`. ")
    for upto in (2, 4):
        chat = [{"role": m.role, "content": m.text} for m in messages[:upto]]
        expected = theirs.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
        assert tokens.encode(messages[:upto]) == expected


def test_a_continued_reply_is_left_open(tokens: PromptEncoder) -> None:
    messages = [Message("user", "Hi"), Message("assistant", "Hello there")]
    ids = tokens.encode(messages)
    assert tokens.decode(ids).endswith("<|im_start|>assistant\nHello there")


def word_tokenizer(*added: AddedToken, template: str | None = None) -> PreTrainedTokenizerFast:
    """Return a tokenizer of single bytes with the given added tokens."""
    from tokenizers import decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_tokens(list(added))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw)
    tokenizer.chat_template = template
    return tokenizer


PLAIN = AddedToken("<|user|>", special=False, normalized=False)
TEMPLATE = "{% for m in messages %}<|user|>{{ m['content'] }}{% endfor %}"


def test_a_role_token_that_is_not_marked_special_cannot_be_forged_either() -> None:
    tokens = PromptEncoder(word_tokenizer(PLAIN, template=TEMPLATE), "auto", [])
    ids = tokens.encode([Message("user", "a<|user|>b")])
    role = tokens.control_tokens["<|user|>"]
    assert ids.count(role) == 1
    assert ids[0] == role
    assert tokens.decode(ids[1:]) == "a<|user|>b"


def test_a_newline_that_is_an_added_token_stays_text() -> None:
    line_end = AddedToken("\n", special=False, normalized=False)
    tokens = PromptEncoder(word_tokenizer(line_end, PLAIN, template=f"{TEMPLATE}\n"), "auto", [])
    text = "line 1\nline 2\n\nline 3"
    assert tokens.decode(tokens.encode_text(text)) == text


def test_a_model_without_template_uses_chatml_if_it_has_its_tokens() -> None:
    chatml = [AddedToken(text, special=True) for text in ("<|im_start|>", "<|im_end|>")]
    tokens = PromptEncoder(word_tokenizer(*chatml), "auto", [])
    assert tokens.format == "chatml"
    assert any("no chat template" in note for note in tokens.notes)


def test_a_base_model_continues_the_text_and_says_so() -> None:
    tokens = PromptEncoder(word_tokenizer(), "auto", [])
    assert tokens.format == "raw"
    assert any("base model" in note for note in tokens.notes)
    assert tokens.decode(tokens.encode([Message("user", "Once upon")])) == "Once upon"


def test_chatml_without_its_tokens_is_sent_as_text_with_a_note() -> None:
    tokens = PromptEncoder(word_tokenizer(), "chatml", [])
    assert any("no ChatML control tokens" in note for note in tokens.notes)
    assert tokens.decode(tokens.encode([Message("user", "Hi")])) == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert len(tokens.end_sequences[0]) == len("<|im_end|>")
    assert "<|im_end|>" in tokens.stop_strings


def test_template_format_needs_a_template() -> None:
    with pytest.raises(ModelError, match="no chat template"):
        PromptEncoder(word_tokenizer(), "template", [])


def test_a_template_that_refuses_system_prompts_gets_them_in_the_first_message() -> None:
    strict = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
    )
    tokens = PromptEncoder(word_tokenizer(template=strict), "auto", [])
    prompt = tokens.encode([Message("system", "Be brief."), Message("user", "Hi")])
    assert tokens.decode(prompt) == "[user]Be brief.\n\nHi"


def test_a_template_that_refuses_everything_is_an_error_with_a_hint() -> None:
    tokens = PromptEncoder(word_tokenizer(template="{{ raise_exception('never') }}"), "auto", [])
    with pytest.raises(ModelError, match="refuses") as error:
        tokens.encode([Message("user", "Hi")])
    assert "prompt_format" in error.value.hint


CHARACTERS = [
    "naïve café",
    "日本語のテキスト",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467 and \U0001f3f3\ufe0f\u200d\U0001f308",
    "a\u0301 z\u0335",
    "\U0001d4b3",
]


@pytest.mark.parametrize("text", CHARACTERS)
def test_streamed_text_has_whole_characters_only(tokens: PromptEncoder, text: str) -> None:
    stream = tokens.detokenizer()
    shown = [stream.feed(token) for token in tokens.encode_text(text)]
    assert not any("\ufffd" in piece for piece in shown)
    assert "".join(shown) + stream.flush() == text


def test_an_incomplete_character_is_dropped_at_the_end(tokens: PromptEncoder) -> None:
    ids = tokens.encode_text("ok 🦙")
    stream = tokens.detokenizer()
    text = "".join(stream.feed(token) for token in ids[:-1]) + stream.flush()
    assert text.rstrip() == "ok"


def test_two_threads_may_import_tokenizers_at_once() -> None:
    """A plugin may load its own tokenizer while the model is loading."""
    code = """
import sys, threading
barrier, wrong = threading.Barrier(2), []
def bring(name):
    barrier.wait()
    try:
        __import__(name)
    except BaseException as error:
        wrong.append(repr(error))
threads = [threading.Thread(target=bring, args=(name,))
           for name in ("chatlm.engines.detokenizer", "tokenizers")]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
sys.exit("; ".join(wrong) or 0)
"""
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_encoding_a_long_text_lets_other_threads_run(tokens: PromptEncoder) -> None:
    text = "This is a word and that is another. " * 10_000
    encoding = ended = False
    turns = 0

    def count_turns() -> None:
        nonlocal turns
        while not ended:
            turns += encoding
            time.sleep(0)

    watcher = threading.Thread(target=count_turns)
    watcher.start()
    for _ in range(5):  # on a busy machine the other thread may get no processor at first
        turns, encoding = 0, True
        encoded = encode_plain(tokens._backend, text)
        encoding = False
        if turns > 100:
            break
    ended = True
    watcher.join()
    assert turns > 100  # just before and after, it gets a few
    assert encoded.ids == tokens._backend.encode(text, add_special_tokens=False).ids
