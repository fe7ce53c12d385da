"""A model that thinks: its thoughts stream as a part of their own and are not sent back as text."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from chatlm.engines.devices import resolve_placement
from chatlm.engines.local_engine import LocalEngine
from chatlm.types.engine import thinking_problem
from chatlm.types.events import Delta, Finished
from chatlm.types.messages import Message
from chatlm.types.parts import Reasoning, Text
from chatlm.types.replies import StopReason
from chatlm.types.requests import Request
from chatlm.types.sampling import Sampling
from tests.engine.byte_model import dictate

THINK_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and m.reasoning_content is defined and loop.last %}"
    "<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n"
    "{% else %}<think>\n{% endif %}{% endif %}"
)

HARMONY_TEMPLATE = (
    "{% for m in messages %}"
    "{% if m.role == 'assistant' %}<|start|>assistant<|channel|>final<|message|>{{ m.content }}"
    "{% else %}<|start|>{{ m.role }}<|message|>{{ m.content }}{% endif %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)

HARMONY_TOKENS = {
    "<repo_name>": "<|channel|>",
    "<reponame>": "<|message|>",
    "<file_sep>": "<|start|>",
    "<filename>": "<|end|>",
}
"""Special tokens that the default model has but never uses."""


@pytest.fixture
def open_engine(default_model: Path, tmp_path: Path) -> Iterator[Callable[..., LocalEngine]]:
    """Open the default model with another template and other names of special tokens."""
    engines: list[LocalEngine] = []

    def open_it(template: str, renamed: dict[str, str] | None = None) -> LocalEngine:
        folder = tmp_path / "model"
        shutil.copytree(
            default_model, folder, copy_function=lambda a, b: Path(b).symlink_to(Path(a))
        )
        for name in ("chat_template.jinja", "tokenizer.json"):
            text = (default_model / name).read_text(encoding="utf-8")
            for old, new in (renamed or {}).items():
                text = text.replace(json.dumps(old), json.dumps(new))
            (folder / name).unlink()
            (folder / name).write_text(text, encoding="utf-8")
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
        engines.append(LocalEngine.from_folder("thinker", folder, resolve_placement("cpu")))
        return engines[-1]

    yield open_it
    for engine in engines:
        engine.close()


def answer(
    engine: LocalEngine, messages: Sequence[Message], *pieces: str, **settings: Any
) -> tuple[dict[str, str], Finished]:
    """Return the text of each part, and the end."""
    request = Request(
        tuple(messages),
        Sampling(**settings),
        logits_processors=(dictate(engine, *pieces),),
    )
    texts = {"reasoning": "", "text": ""}
    with closing(engine.stream(request)) as events:
        for event in events:
            if isinstance(event, Delta):
                texts[event.part] += event.text
            if isinstance(event, Finished):
                return texts, event
    raise AssertionError("the stream ended without Finished")


QUESTION = Message("user", "2+2?")


def test_a_thought_that_the_prompt_opens(open_engine: Callable[..., LocalEngine]) -> None:
    engine = open_engine(THINK_TEMPLATE)
    texts, end = answer(engine, [QUESTION], "Easy.\n\nSTOP\n</think>\n\nIt is 4.", stop=("STOP",))
    assert texts == {"reasoning": "Easy.\n\nSTOP", "text": "It is 4."}
    assert end.stop_reason is StopReason.END


def test_a_stop_string_ends_the_answer(open_engine: Callable[..., LocalEngine]) -> None:
    engine = open_engine(THINK_TEMPLATE)
    texts, end = answer(engine, [QUESTION], "a STOP\n</think>\nb STOP c", stop=("STOP",))
    assert texts == {"reasoning": "a STOP", "text": "b "}
    assert end.matched_stop == "STOP"


def test_the_next_prompt_holds_no_thought(open_engine: Callable[..., LocalEngine]) -> None:
    engine = open_engine(THINK_TEMPLATE)
    reply = Message("assistant", (Reasoning("Secret."), Text("4")))
    prompt = engine.prompt_encoder.decode(
        engine.prompt_encoder.encode([QUESTION, reply, Message("user", "3+3?")])
    )
    assert "Secret" not in prompt
    assert "<|im_start|>assistant\n4<|im_end|>" in prompt


def test_a_reply_cut_in_its_thought_goes_on_thinking(
    open_engine: Callable[..., LocalEngine],
) -> None:
    engine = open_engine(THINK_TEMPLATE)
    cut = Message("assistant", (Reasoning("Two and two"),))
    prompt = engine.prompt_encoder.decode(engine.prompt_encoder.encode([QUESTION, cut]))
    assert prompt.endswith("<think>\nTwo and two")
    texts, _ = answer(engine, [QUESTION, cut], " is four.\n</think>\n\n4")
    assert texts == {"reasoning": " is four.", "text": "4"}


def test_an_answer_goes_on_as_an_answer(open_engine: Callable[..., LocalEngine]) -> None:
    engine = open_engine(THINK_TEMPLATE)
    cut = Message("assistant", (Reasoning("Easy."), Text("It is")))
    texts, _ = answer(engine, [QUESTION, cut], " 4, not <think>5</think>.")
    assert texts == {"reasoning": "", "text": " 4, not <think>5</think>."}


def test_channels_of_control_tokens(open_engine: Callable[..., LocalEngine]) -> None:
    engine = open_engine(HARMONY_TEMPLATE, HARMONY_TOKENS)
    texts, _ = answer(
        engine,
        [QUESTION],
        *("<|channel|>", "analysis", "<|message|>", "User asks 2+2. Simple.", "<|end|>"),
        *("<|start|>", "assistant", "<|channel|>", "final", "<|message|>", "It is 4."),
    )
    assert texts == {"reasoning": "User asks 2+2. Simple.", "text": "It is 4."}


def test_thinking_can_be_switched_off(open_engine: Callable[..., LocalEngine]) -> None:
    engine = open_engine(THINK_TEMPLATE)
    off = Request((QUESTION,), Sampling(thinking="off"))
    assert "".join(token.text for token in engine.preview(off).tokens).endswith("</think>\n\n")
    texts, _ = answer(engine, [QUESTION], "4, <think>", thinking="off")
    assert texts == {"reasoning": "", "text": "4, <think>"}


def test_a_budget_ends_the_thought_and_the_answer_follows(
    open_engine: Callable[..., LocalEngine],
) -> None:
    engine = open_engine(THINK_TEMPLATE)
    texts, end = answer(engine, [QUESTION], " ".join(["so"] * 30), thinking_budget=3, max_tokens=4)
    assert texts["reasoning"] == "so so so"
    assert texts["text"].startswith("so")
    assert end.stop_reason is StopReason.LENGTH


def test_max_tokens_counts_the_answer_alone(open_engine: Callable[..., LocalEngine]) -> None:
    engine = open_engine(THINK_TEMPLATE)
    thought = " ".join(["so"] * 30)
    texts, end = answer(engine, [QUESTION], f"{thought}</think>\n\nIt is 4.", max_tokens=8)
    assert texts == {"reasoning": thought, "text": "It is 4."}
    assert end.stop_reason is StopReason.END


def test_a_limit_of_all_new_tokens_counts_thoughts(
    open_engine: Callable[..., LocalEngine],
) -> None:
    engine = open_engine(THINK_TEMPLATE)
    process = dictate(engine, " ".join(["so"] * 30))
    request = Request((QUESTION,), logits_processors=(process,), max_new_tokens=5)
    with closing(engine.stream(request)) as events:
        end = list(events)[-1]
    assert isinstance(end, Finished)
    assert (end.stop_reason, end.usage.completion_tokens) == (StopReason.LENGTH, 5)


def test_a_control_token_ends_the_thought_of_a_family_that_has_one(
    open_engine: Callable[..., LocalEngine],
) -> None:
    engine = open_engine(HARMONY_TEMPLATE, HARMONY_TOKENS)
    texts, _ = answer(
        engine,
        [QUESTION],
        *("<|channel|>", "analysis", "<|message|>", " ".join(["so"] * 40)),
        thinking_budget=2,
        max_tokens=2,
    )
    assert texts["reasoning"] == "so so"
    assert texts["text"]


def test_logprobs_come_with_their_text(open_engine: Callable[..., LocalEngine]) -> None:
    engine = open_engine(THINK_TEMPLATE)
    process = dictate(engine, "So easy.\n</think>\n\nIt is 4.")
    request = Request((QUESTION,), Sampling(), logits_processors=(process,), logprobs=0)
    tokens: dict[str, bytes] = {"reasoning": b"", "text": b""}
    with closing(engine.stream(request)) as events:
        for event in events:
            if isinstance(event, Delta):
                tokens[event.part] += b"".join(token.bytes for token in event.logprobs)
    assert tokens == {"reasoning": b"So easy.", "text": b"It is 4."}


def test_the_tokens_of_thoughts_are_counted(open_engine: Callable[..., LocalEngine]) -> None:
    engine = open_engine(THINK_TEMPLATE)
    thought = " ".join(["so"] * 12)
    texts, end = answer(engine, [QUESTION], f"{thought}</think>\n\nIt is 4.")
    assert texts == {"reasoning": thought, "text": "It is 4."}
    ending = len(engine.prompt_encoder.encode_text("</think>")) - 1  # a thought until it is whole
    assert end.usage.reasoning_tokens == 12 + ending
    _, end = answer(engine, [QUESTION], "4", thinking="off")
    assert end.usage.reasoning_tokens == 0


def test_the_values_of_thinking_that_a_template_follows_are_known(
    open_engine: Callable[..., LocalEngine],
) -> None:
    info = open_engine(THINK_TEMPLATE).info
    assert (info.thinks, info.thinking_levels) == (True, ("off", "low", "medium", "high"))
    assert not info.notes


def test_a_thinking_model_without_a_switch_says_so(
    open_engine: Callable[..., LocalEngine],
) -> None:
    info = open_engine(HARMONY_TEMPLATE, HARMONY_TOKENS).info
    assert (info.thinks, info.thinking_levels) == (True, ())
    assert "cannot change how much it thinks" in str(thinking_problem("off", info))


@pytest.mark.parametrize(
    "template",
    [
        THINK_TEMPLATE.replace("<think>", "(ponder)").replace("</think>", "(/ponder)"),
        "{% for m in messages %}{{ m.reasoning_content or '' }}{{ m.content }}{% endfor %}",
    ],
    ids=["switch", "history"],
)
def test_an_unknown_format_of_thoughts_is_plain_text_and_chatlm_says_so(
    open_engine: Callable[..., LocalEngine], template: str
) -> None:
    engine = open_engine(template)
    assert [note for note in engine.info.notes if "marks its thoughts in a way" in note]
    texts, _ = answer(engine, [QUESTION], "(ponder)Easy.(/ponder)4")
    assert texts == {"reasoning": "", "text": "(ponder)Easy.(/ponder)4"}


def test_a_model_that_does_not_think_says_nothing_about_it(default_model: Path) -> None:
    place = resolve_placement("cpu")
    with closing(LocalEngine.from_folder("plain", default_model, place)) as engine:
        assert (engine.info.thinks, engine.info.thinking_levels) == (False, ())
        assert not engine.info.notes


def test_the_tokens_of_a_prompt_know_which_part_they_are_of(
    open_engine: Callable[..., LocalEngine],
) -> None:
    engine = open_engine(THINK_TEMPLATE)
    cut = Message("assistant", (Reasoning("Two and two"),))
    whole = Message("assistant", (Reasoning("Two and"), Text("It is")))
    for message, expected in (
        (cut, {"text": "2+2?", "reasoning": "Two and two"}),
        (whole, {"text": "2+2?It is", "reasoning": "Two and"}),
    ):
        found = {"text": "", "reasoning": ""}
        for token in engine.preview(Request((QUESTION, message))).tokens:
            if token.message_index is not None:
                found[token.part] += token.text
        assert found == expected
