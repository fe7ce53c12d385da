"""Each family's markers are read by id, and a thought may begin in the prompt."""

from __future__ import annotations

from contextlib import closing

import pytest

from chatlm import Delta, Message, Request
from tests.engine.byte_model import dictate, open_byte_engine

PLAIN = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
"""Every template here begins like this, and then shows the markers of its family."""

FAMILIES: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "Qwen3": (
        "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}",
        ("<think>", "</think>"),
        ("<think>", "\nHm.\n", "</think>", "\n\n"),
    ),
    "opened by the prompt, as R1, Qwen3.5, Nemotron 3, MiniMax": (
        "{% if add_generation_prompt %}<think>\n{% endif %}",
        ("<think>", "</think>"),
        ("Hm.\n", "</think>", "\n\n"),
    ),
    "GLM": (
        "{{ '<think></think>' if enable_thinking is false else '' }}",
        ("<think>", "</think>"),
        ("\n", "<think>", "Hm.", "</think>", "\n"),
    ),
    "gpt-oss": (
        "{% if add_generation_prompt %}<|start|>assistant{% endif %}",
        ("<|start|>", "<|end|>", "<|channel|>", "<|message|>"),
        (
            *("<|channel|>", "analysis", "<|message|>", "Hm.", "<|end|>"),
            *("<|start|>", "assistant", "<|channel|>", "final", "<|message|>"),
        ),
    ),
    "Gemma 4": (
        "{% if enable_thinking is false %}<|channel>thought\n<channel|>{% endif %}",
        ("<|channel>", "<channel|>"),
        ("<|channel>", "thought\nHm.\n", "<channel|>"),
    ),
    "Ministral": (
        "{{ 'Think within [THINK] and [/THINK].' }}",
        ("[THINK]", "[/THINK]"),
        ("[THINK]", "Hm.", "[/THINK]"),
    ),
    "Seed": (
        "{% if thinking_budget == 0 %}<seed:think></seed:think>{% endif %}",
        ("<seed:think>", "</seed:think>"),
        ("<seed:think>", "Hm.", "</seed:think>"),
    ),
    "Granite 3.3, whose markers are text": (
        "{% if thinking %}Think in <think></think>, answer in <response></response>.{% endif %}",
        (),
        ("<think>Hm.</think>\n<response>",),
    ),
    "Granite 3.2": (
        "{{ 'Begin with Here is my thought process: and then Here is my response:' }}",
        (),
        ("Here is my thought process:\n\nHm.\n\nHere is my response:\n\n",),
    ),
    "SmolLM3": (
        "{% if '/no_think' in messages[0].content %}<think>\n\n</think>\n{% endif %}",
        ("<think>", "</think>"),
        ("<think>", "\nHm.\n", "</think>", "\n"),
    ),
    "Command A": (
        "{% if add_generation_prompt %}<|START_THINKING|>{% endif %}",
        ("<|START_THINKING|>", "<|END_THINKING|>", "<|START_TEXT|>", "<|END_TEXT|>"),
        ("Hm.", "<|END_THINKING|>", "<|START_TEXT|>"),
    ),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_thought_and_answer_are_told_apart(name: str) -> None:
    ending, tokens, pieces = FAMILIES[name]
    engine = open_byte_engine(PLAIN + ending, *tokens)
    assert engine.info.thinks
    dictated = dictate(engine, *pieces, "It is 4, not <b>5</b>.")
    request = Request((Message("user", "2+2?"),), logits_processors=(dictated,))
    texts = {"reasoning": "", "text": ""}
    with closing(engine.stream(request)) as events:
        for event in events:
            if isinstance(event, Delta):
                texts[event.part] += event.text
    assert texts == {"reasoning": "Hm.", "text": "It is 4, not <b>5</b>."}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_message_with_markers_opens_no_thought(name: str) -> None:
    ending, tokens, pieces = FAMILIES[name]
    engine = open_byte_engine(PLAIN + ending, *tokens)
    opens = "".join(pieces).startswith("Hm.")
    for text in ("2+2?", "".join(pieces)[: 4 + "".join(pieces).index("Hm.")]):
        parser = engine.prompt_encoder.reply_parser([Message("user", text)])
        assert parser.part == ("reasoning" if opens else "text"), text
