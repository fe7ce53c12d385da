"""Tool calls are read from the streamed reply in the format of each family, whole or not at all."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatlm.engines.model_families import FAMILIES, ModelFamily, find_family
from chatlm.engines.reply_parser import ReplyParser
from chatlm.engines.tool_call_syntax import WrittenCall

SCHEMAS: dict[str, dict[str, Any]] = {
    "find_hotel": {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "nights": {"type": "integer"},
            "pets": {"type": "boolean"},
            "code": {"type": ["string", "null"]},
            "tags": {"type": "array"},
        },
    },
    "now": {"type": "object", "properties": {}},
}

BERN = {"city": "Bern", "nights": 2}
ODD = {"city": 'the "Old {Town}]" </b>\nof Bern', "nights": 2}

HOTEL = json.dumps(BERN)
HARD = json.dumps(ODD)

Calls = list[tuple[str, dict[str, Any]]]


def family(sign: str) -> ModelFamily:
    """Return the row of the table whose calls begin with a marker."""
    return next(row for row in FAMILIES if row.tool_calls and row.name.startswith(sign))


def parse(
    row: ModelFamily,
    *pieces: str,
    is_complete: bool = True,
    is_open: bool = False,
    schemas: dict[str, dict[str, Any]] = SCHEMAS,
) -> tuple[str, str, Calls]:
    """Return thoughts, text and calls; every character must be shown or dropped once."""
    parser = ReplyParser(row, schemas, is_open=is_open)
    texts = {"reasoning": "", "text": ""}
    count = 0
    streamed = [piece for text in pieces for piece in parser.feed(text)]
    for piece in [*streamed, *parser.flush(is_complete)]:
        texts[piece.part] += piece.text
        count += len(piece.text) + piece.dropped
    assert count == sum(map(len, pieces))
    assert parser.withheld.strip() == "" or parser.calls
    calls = [(call.name, json.loads(call.arguments)) for call in parser.calls]
    return texts["reasoning"], texts["text"], calls


HOTEL_TAGS = "<function=find_hotel>\n<parameter=city>\nBern\n</parameter>\n<parameter=nights>\n2\n"
HOTEL_TAGS += "</parameter>\n</function>"

WRITTEN: list[tuple[str, str, Calls]] = [
    (
        "Hermes",
        f'<tool_call>\n{{"name": "find_hotel", "arguments": {HOTEL}}}\n</tool_call>\n'
        '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>',
        [("find_hotel", BERN), ("now", {})],
    ),
    (
        "Hermes",
        f'<tool_call>{{"name": "find_hotel", "arguments": {HARD}}}</tool_call>',
        [("find_hotel", ODD)],
    ),
    (
        "Hermes",
        '<tool_call>{"name": "find_hotel", "arguments": {"city": "</tool_call>"}}</tool_call>',
        [("find_hotel", {"city": "</tool_call>"})],
    ),
    (
        "Qwen3-Coder",
        f"<tool_call>\n{HOTEL_TAGS}\n</tool_call>\n<tool_call>\n<function=now>\n</function>\n"
        "</tool_call>",
        [("find_hotel", BERN), ("now", {})],
    ),
    (
        "Qwen3-Coder",
        "<tool_call><function=find_hotel><parameter=city>\na\n\n</tool_call>\n</parameter>"
        "<parameter=pets>True</parameter><parameter=code>07</parameter>"
        '<parameter=tags>["x", 1]</parameter></function></tool_call>',
        [
            (
                "find_hotel",
                {"city": "a\n\n</tool_call>", "pets": True, "code": "07", "tags": ["x", 1]},
            )
        ],
    ),
    (
        "Seed-OSS",
        "<seed:tool_call>\n<function=find_hotel>\n<parameter=city>Bern</parameter>\n"
        "<parameter=nights>2</parameter>\n</function>\n</seed:tool_call>",
        [("find_hotel", BERN)],
    ),
    (
        "MiniMax",
        '<minimax:tool_call>\n<invoke name="find_hotel">\n<parameter name="city">Bern</parameter>\n'
        '<parameter name="nights">2</parameter>\n</invoke>\n<invoke name="now">\n</invoke>\n'
        "</minimax:tool_call>",
        [("find_hotel", BERN), ("now", {})],
    ),
    (
        "DeepSeek V3.2",
        '<｜DSML｜function_calls>\n<｜DSML｜invoke name="find_hotel">\n'
        '<｜DSML｜parameter name="city" string="true">2</｜DSML｜parameter>\n'
        '<｜DSML｜parameter name="nights" string="false">2</｜DSML｜parameter>\n'
        "</｜DSML｜invoke>\n</｜DSML｜function_calls>",
        [("find_hotel", {"city": "2", "nights": 2})],
    ),
    (
        "DeepSeek R1",
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>find_hotel\n"
        f"```json\n{HARD}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n"
        "```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        [("find_hotel", ODD), ("now", {})],
    ),
    (
        "DeepSeek R1",
        f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>find_hotel<｜tool▁sep｜>{HOTEL}"
        "<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        [("find_hotel", BERN)],
    ),
    (
        "GLM",
        "<tool_call>find_hotel\n<arg_key>city</arg_key>\n<arg_value>Bern</arg_value>\n"
        "<arg_key>nights</arg_key>\n<arg_value>2</arg_value>\n</tool_call>\n"
        "<tool_call>now</tool_call>",
        [("find_hotel", BERN), ("now", {})],
    ),
    (
        "GLM",
        "<tool_call>find_hotel<arg_key>city</arg_key><arg_value>x</tool_call>y</arg_value>"
        "</tool_call>",
        [("find_hotel", {"city": "x</tool_call>y"})],
    ),
    (
        "Kimi K2",
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.find_hotel:0"
        f"<|tool_call_argument_begin|>{HARD}<|tool_call_end|><|tool_call_begin|>functions.now:1"
        "<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>",
        [("find_hotel", ODD), ("now", {})],
    ),
    (
        "Mistral",
        f'[TOOL_CALLS][{{"name": "find_hotel", "arguments": {HOTEL}, "id": "abcdefghi"}}, '
        '{"name": "now", "arguments": {}}]',
        [("find_hotel", BERN), ("now", {})],
    ),
    (
        "Mistral",
        f"[TOOL_CALLS]find_hotel[ARGS]{HARD}[TOOL_CALLS]now[CALL_ID]abcdefghi[ARGS]{{}}",
        [("find_hotel", ODD), ("now", {})],
    ),
    (
        "Llama 3.1",
        f'{{"name": "find_hotel", "parameters": {HARD}}}',
        [("find_hotel", ODD)],
    ),
    (
        "Llama 3.1",
        f'<|python_tag|>{{"type": "function", "name": "find_hotel", "parameters": {HOTEL}}}; '
        '{"name": "now", "parameters": {}}',
        [("find_hotel", BERN), ("now", {})],
    ),
    (
        "gpt-oss",
        f"<|channel|>commentary to=functions.find_hotel <|constrain|>json<|message|>{HARD}<|call|>",
        [("find_hotel", ODD)],
    ),
    (
        "gpt-oss",
        f" to=functions.find_hotel<|channel|>commentary json<|message|>{HOTEL}",
        [("find_hotel", BERN)],
    ),
    (
        "Gemma 4",
        '<|tool_call>call:find_hotel{city:<|"|>a, {b}]<|"|>,nights:2,pets:true,'
        'tags:[<|"|>x<|"|>,{y:1.5,z:null}]}<tool_call|><|tool_call>call:now{}<tool_call|>',
        [
            (
                "find_hotel",
                {
                    "city": "a, {b}]",
                    "nights": 2,
                    "pets": True,
                    "tags": ["x", {"y": 1.5, "z": None}],
                },
            ),
            ("now", {}),
        ],
    ),
    (
        "Command A",
        f'<|START_ACTION|>[\n    {{"tool_call_id": "0", "tool_name": "find_hotel", '
        f'"parameters": {HOTEL}}}\n]<|END_ACTION|>',
        [("find_hotel", BERN)],
    ),
    (
        "Apertus",
        f'<|tools_prefix|>[{{"find_hotel": {HOTEL}}}, {{"now": {{}}}}]<|tools_suffix|>',
        [("find_hotel", BERN), ("now", {})],
    ),
    (
        "LFM2",
        "<|tool_call_start|>[find_hotel(city='the \"Old\" [Town]', nights=2, tags=['x']), now()]"
        "<|tool_call_end|>",
        [("find_hotel", {"city": 'the "Old" [Town]', "nights": 2, "tags": ["x"]}), ("now", {})],
    ),
    (
        "LFM2",
        f'<|tool_call_start|>[{{"name": "find_hotel", "arguments": {HOTEL}}}]<|tool_call_end|>',
        [("find_hotel", BERN)],
    ),
    (
        "SmolLM3",
        f'<tool_call>\n{{"name": "find_hotel", "arguments": {HOTEL}}}\n</tool_call>',
        [("find_hotel", BERN)],
    ),
    (
        "Granite 3",
        f'<|tool_call|>[{{"name": "find_hotel", "arguments": {HOTEL}}}]',
        [("find_hotel", BERN)],
    ),
    (
        "Phi-4-mini",
        f'<|tool_call|>{{"name": "find_hotel", "arguments": {HOTEL}}}<|/tool_call|>',
        [("find_hotel", BERN)],
    ),
    (
        "Nemotron Nano",
        f'<TOOLCALL>[{{"name": "find_hotel", "arguments": {HOTEL}}}]</TOOLCALL>',
        [("find_hotel", BERN)],
    ),
    (
        "Apriel",
        f'<tool_calls>[{{"name": "find_hotel", "arguments": {HOTEL}, "id": "x"}}]</tool_calls>',
        [("find_hotel", BERN)],
    ),
    (
        "GigaChat",
        f'<|function_call|>{{"name": "find_hotel", "arguments": {HOTEL}}}',
        [("find_hotel", BERN)],
    ),
    (
        "Functionary",
        f"<function=find_hotel>{HARD}</function><function=now>{{}}</function>",
        [("find_hotel", ODD), ("now", {})],
    ),
]


@pytest.mark.parametrize(("sign", "text", "calls"), WRITTEN)
def test_calls_are_read_however_the_stream_is_split(sign: str, text: str, calls: Calls) -> None:
    row = family(sign)
    assert parse(row, text) == ("", "", calls)
    assert parse(row, *text) == ("", "", calls)
    for place in range(len(text)):
        assert parse(row, text[:place], text[place:]) == ("", "", calls)


def test_every_format_of_the_table_is_tested() -> None:
    rows = {row.name for row in FAMILIES if row.tool_calls}
    assert {family(sign).name for sign, _, _ in WRITTEN} == rows


MARKED = [
    (sign, text, calls)
    for sign, text, calls in WRITTEN
    if (form := family(sign).tool_calls) and text.startswith(form.starts)
]
"""Those that need not begin the reply."""


@pytest.mark.parametrize(("sign", "text", "calls"), MARKED)
def test_text_before_calls_stays_text(sign: str, text: str, calls: Calls) -> None:
    row = family(sign)
    assert parse(row, *f"Let me look.\n\n{text}\n") == ("", "Let me look.", calls)


@pytest.mark.parametrize(("sign", "text", "calls"), WRITTEN)
def test_without_tools_everything_is_text(sign: str, text: str, calls: Calls) -> None:
    del calls
    row = ModelFamily("", tool_calls=family(sign).tool_calls)
    assert parse(row, *text, schemas={}) == ("", text, [])


@pytest.mark.parametrize(("sign", "text", "calls"), WRITTEN)
def test_a_reply_that_is_cut_off_keeps_the_text_of_an_unfinished_call(
    sign: str, text: str, calls: Calls
) -> None:
    row = ModelFamily("", tool_calls=family(sign).tool_calls)
    complete = [calls[:count] for count in range(len(calls) + 1)]
    for place in range(1, len(text)):
        _, shown, found = parse(row, text[:place], is_complete=False)
        assert found in complete
        assert shown or found or not text[:place].strip()
        assert text[:place].rstrip().endswith(shown.strip())


MALFORMED = [
    ("Hermes", "<tool_call>\n{'name': 'now'}\n</tool_call>"),
    ("Hermes", '<tool_call>{"name": "now", "arguments": [1]}</tool_call>'),
    ("Hermes", '<tool_call>{"name": 3, "arguments": {}}</tool_call>'),
    ("Hermes", '<tool_call>{"name": "now", "arguments": {}} and more</tool_call>'),
    ("Hermes", '<tool_call>{"name": "now", "arguments": {"x": NaN}}</tool_call>'),
    ("Hermes", '<tool_call>{"name": "now", "arguments": {"x": "</tool_call>'),
    ("Hermes", "<tool_call></tool_call>"),
    ("Hermes", '<tool_call>[{"name": "now"}, "now"]</tool_call>'),
    ("Qwen3-Coder", "<tool_call>\n<function=now>\n</tool_call>"),
    ("Qwen3-Coder", "<tool_call>\nnow\n</tool_call>"),
    ("Seed-OSS", "<seed:tool_call><function=now>text</function></seed:tool_call>"),
    ("MiniMax", "<minimax:tool_call><invoke>x</invoke></minimax:tool_call>"),
    ("DeepSeek R1", "<｜tool▁calls▁begin｜>now {}<｜tool▁calls▁end｜>"),
    ("GLM", "<tool_call>two words</tool_call>"),
    ("Kimi K2", "<|tool_calls_section_begin|>now<|tool_calls_section_end|>"),
    ("Mistral", "[TOOL_CALLS]now {}"),
    ("Mistral", '[TOOL_CALLS][{"name": "now"'),
    ("Llama 3.1", '{"name": "unknown", "parameters": {}}'),
    ("Llama 3.1", '{"answer": 4}'),
    ("Llama 3.1", "{not JSON"),
    ("gpt-oss", "<|channel|>commentary to=functions.now json<|message|>{<|call|>"),
    ("Gemma 4", "<|tool_call>call:now{x}<tool_call|>"),
    ("Gemma 4", "<|tool_call>now{}<tool_call|>"),
    ("Command A", "<|START_ACTION|>[]<|END_ACTION|>"),
    ("Apertus", '<|tools_prefix|>[{"now": {}, "then": {}}]<|tools_suffix|>'),
    ("LFM2", "<|tool_call_start|>[now(1)]<|tool_call_end|>"),
    ("LFM2", "<|tool_call_start|>[now(x=open('f'))]<|tool_call_end|>"),
    ("LFM2", "<|tool_call_start|>[now(]<|tool_call_end|>"),
    ("Functionary", "<function=now>{</function>"),
]


@pytest.mark.parametrize(("sign", "text"), MALFORMED)
def test_a_malformed_call_stays_text(sign: str, text: str) -> None:
    row = family(sign)
    for place in range(len(text)):
        assert parse(row, text[:place], text[place:]) == ("", text, [])


def test_a_good_call_after_a_malformed_one_is_read() -> None:
    bad, good = "<tool_call>{]</tool_call>", '<tool_call>{"name": "now"}</tool_call>'
    assert parse(family("Hermes"), *bad, *good) == ("", bad, [("now", {})])


def test_the_end_of_a_complete_reply_ends_a_call() -> None:
    open_call = '<tool_call>\n{"name": "now", "arguments": {}}\n'
    assert parse(family("Hermes"), *open_call) == ("", "", [("now", {})])
    assert parse(family("Hermes"), *open_call, is_complete=False) == ("", open_call, [])


def test_a_thought_may_mention_calls() -> None:
    row = find_family(["<think>", "<tool_call>"], [])
    thought = '<think>Use <tool_call>{"name": "now"}</tool_call>?</think>\n\nNo.'
    assert parse(row, *thought) == ('Use <tool_call>{"name": "now"}</tool_call>?', "No.", [])


def test_thoughts_then_a_call() -> None:
    row = find_family(["<think>", "<tool_call>"], [])
    text = '<think>\nThe time.\n</think>\n\nWait.\n\n<tool_call>{"name": "now"}</tool_call>'
    assert parse(row, *text) == ("The time.", "Wait.", [("now", {})])


def test_harmony_thinks_announces_and_calls() -> None:
    row = family("gpt-oss")
    thought = "<|channel|>analysis<|message|>Look it up."
    call = "<|channel|>commentary to=functions.now <|constrain|>json<|message|>{}<|call|>"
    following = "<|end|><|start|>assistant"
    text = thought + following + call
    assert parse(row, *text) == ("Look it up.", "", [("now", {})])
    announced = f"{thought}{following}<|channel|>commentary<|message|>I will look.{following}{call}"
    assert parse(row, *announced) == ("Look it up.", "I will look.", [("now", {})])
    to_first = f"{thought}{following} to=functions.now<|channel|>commentary json<|message|>{{}}"
    assert parse(row, *to_first) == ("Look it up.", "", [("now", {})])


def test_kimi_may_call_inside_a_thought() -> None:
    row = find_family(["<think>", "<|tool_calls_section_begin|>"], [])
    call = next(text for sign, text, _ in WRITTEN if sign == "Kimi K2")
    thoughts, text, calls = parse(row, *f"Hm. {call}", is_open=True)
    assert (thoughts, text, [name for name, _ in calls]) == ("Hm.", "", ["find_hotel", "now"])


def test_json_in_an_answer_that_does_not_begin_with_it_is_no_call() -> None:
    text = 'Call it so: {"name": "now", "parameters": {}}'
    assert parse(family("Llama 3.1"), *text) == ("", text, [])


PIECES = st.lists(
    st.sampled_from(
        (
            *("<tool_call>", "</tool_call>", '{"name": "now"}', "<think>", "</think>", "<to"),
            *("ol_call>", "{", "}", '"', "\\", " ", "\n", "a", "<"),
        )
    ),
    max_size=14,
)


@given(PIECES, st.booleans(), st.booleans())
def test_any_text_is_split_the_same_however_it_arrives(
    pieces: list[str], is_open: bool, is_complete: bool
) -> None:
    row = find_family(["<think>", "<tool_call>"], [])
    text = "".join(pieces)
    whole = parse(row, text, is_open=is_open, is_complete=is_complete)
    assert parse(row, *pieces, is_open=is_open, is_complete=is_complete) == whole
    assert parse(row, *text, is_open=is_open, is_complete=is_complete) == whole


@pytest.mark.parametrize(
    "row", [row for row in FAMILIES if row.tool_calls and row.tool_calls.write]
)
def test_calls_that_are_written_again_read_the_same(row: ModelFamily) -> None:
    form = row.tool_calls
    assert form is not None
    assert form.write is not None
    calls = [WrittenCall("find_hotel", HARD), WrittenCall("now", "{}")]
    end = form.ends[0] if form.ends else ""
    text = "".join(f"{form.starts[0]}{body}{end}" for body in form.write(calls))
    assert parse(row, text) == ("", "", [("find_hotel", ODD), ("now", {})])
