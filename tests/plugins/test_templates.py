"""Templates are read with the line of every mistake, and a value never leaves its place."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatlm import Message, Sampling, UsageError
from chatlm.engines.local_engine import LocalEngine
from chatlm_templates import library
from chatlm_templates.rendering import escape_tags, render_template
from chatlm_templates.template import PROMPT_PARTS, PromptExample, Template, Variable
from chatlm_templates.template_file import MAX_BYTES, TemplateFileError, read_template

NOTE = Template(
    "note",
    system="Write in {{ style }}.",
    user="Before\n{{ body }}\nStyle: {{ style }}\nAfter",
    variables={"body": Variable("body", "multiline"), "style": Variable("style")},
    input="body",
)


def write(folder: Path, text: str, name: str = "try.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def back(text: str) -> str:
    """The argument of `as_data`."""
    return text.replace("&lt;", "<").replace("&amp;", "&")


# --- a value in its place -------------------------------------------------------------------


@given(st.text() | st.lists(st.sampled_from(["<", "&", "lt;", "amp;", "/body>", "{{", "\n"])))
def test_any_text_stays_in_its_element(value: str | list[str]) -> None:
    text = "".join(value) or "x"
    head, rest = render_template(NOTE, {"body": text, "style": "verse"}).user.split("<body>\n")
    inside, tail = rest.split("\n</body>")
    assert (head, tail) == ("Before\n", "\nStyle: verse\nAfter")
    assert back(inside) == text
    assert not re.search(r"<([^\W\d]|[/!?])", inside)


@given(st.text(min_size=1))
def test_a_text_keeps_to_its_line(value: str) -> None:
    try:
        rendered = render_template(NOTE, {"body": "b", "style": value})
    except UsageError:
        assert len(value.strip().splitlines()) != 1
        return
    assert rendered.user.splitlines()[4:] == [f"Style: {escape_tags(value.strip())}", "After"]
    assert len(rendered.system.splitlines()) == 1


def test_a_value_is_never_read_as_a_template() -> None:
    hostile = "{{ 7 * 7 }}{% for x in y %}{# #}"
    assert hostile in render_template(NOTE, {"body": hostile, "style": "{{ body }}"}).user
    assert (
        render_template(NOTE, {"body": "x", "style": "{{ body }}"}).system == "Write in {{ body }}."
    )


def test_hostile_values_forge_no_turn(shared_data: Path, engine: LocalEngine) -> None:
    lines = (shared_data / "security" / "special_tokens.jsonl").read_text().splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    texts += json.loads((shared_data / "security" / "blns.json").read_text())
    controls = set(engine.prompt_encoder.control_tokens.values())

    def control_ids(value: str) -> list[int]:
        rendered = render_template(NOTE, {"body": value, "style": "verse"})
        messages = [Message("system", rendered.system), Message("user", rendered.user)]
        return [i for i in engine.prompt_encoder.encode(messages) if i in controls]

    harmless = control_ids("x")
    assert [text for text in texts if text and control_ids(text) != harmless] == []


def test_code_and_plain_signs_stay_readable() -> None:
    assert escape_tags("R&D: if a < b && c > d") == "R&D: if a < b && c > d"
    assert escape_tags("</body> &lt; <é") == "&lt;/body> &amp;lt; &lt;é"


# --- what is typed and given ----------------------------------------------------------------


def test_typed_text_is_the_input() -> None:
    assert "<body>\nhello\n</body>" in render_template(NOTE, {"style": "verse"}, "hello").user


def test_typed_text_is_the_message_of_a_template_without_one() -> None:
    rendered = render_template(Template("t", system="Be brief."), {}, "Why?")
    assert (rendered.system, rendered.user) == ("Be brief.", "Why?")


@pytest.mark.parametrize(
    ("values", "typed", "said", "hint"),
    [
        ({"boddy": "x", "style": "y"}, "", "no variable 'boddy'", "body"),
        ({"body": "x"}, "", "needs style", "-v style=TEXT"),
        ({"style": "x"}, "", "needs body", "pipe it in"),
        ({"body": "", "style": "x"}, "", "needs body", ""),
        ({"body": "x", "style": "y"}, "more", "takes no further text", "-v"),
        ({"body": "x", "style": "a\u2028b"}, "", "text on one line", ""),
    ],
)
def test_a_wrong_value_is_reported(
    values: dict[str, str], typed: str, said: str, hint: str
) -> None:
    with pytest.raises(UsageError) as caught:
        render_template(NOTE, values, typed)
    assert said in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("variable", "right", "wrong"),
    [
        (Variable("n", "integer"), {"-7": -7, " 12 ": 12}, ["1.5", "", "٣", "9" * 19, "1_0"]),
        (Variable("n", "number"), {"1.5": 1.5, "-2": -2.0}, ["inf", "nan", "x", ""]),
        (Variable("n", "boolean"), {"Yes": True, "false": False}, ["maybe", ""]),
        (Variable("n", "choice", choices=("a", "b")), {"a": "a"}, ["A", "", "a, b"]),
    ],
)
def test_types(variable: Variable, right: dict[str, object], wrong: list[str]) -> None:
    for text, value in right.items():
        assert variable.parse(text) == value
    for text in wrong:
        with pytest.raises(UsageError, match="n must be"):
            variable.parse(text)


# --- the eight parts ------------------------------------------------------------------------


def test_the_parts_stand_in_their_order() -> None:
    template = Template(
        "t",
        **{part: f"The {part}." for part in PROMPT_PARTS if part != "examples"},  # type: ignore[arg-type]
        examples=(PromptExample("1<a>", "2"), PromptExample("3", "4", "Why.", positive=False)),
        user="Free text.",
    )
    user = render_template(template, {}).user
    heads = re.findall(r"^([A-Z][a-z ]+):$", user, re.MULTILINE)
    assert [head.lower().replace(" ", "_") for head in heads] == list(PROMPT_PARTS)
    assert user.endswith("Call to action:\nThe call_to_action.\n\nFree text.")
    assert (
        "<examples>\n"
        "<example>\n<input>1&lt;a></input>\n<output>2</output>\n</example>\n"
        '<example kind="negative">\n<input>3</input>\n<output>4</output>\n'
        "<explanation>Why.</explanation>\n</example>\n"
        "</examples>" in user
    )


# --- files ----------------------------------------------------------------------------------

WHOLE = """\
description: A try.
system: Be {{ how }}.
variables:
  how: {type: choice, choices: ["yes", no], default: no}
  body: {type: multiline}
input: body
sampling: {temperature: 0, stop: [END]}
task: {{ body }}
constraints:
  - one
  - two {% if how == "no" %}no{% endif %}
examples:
  - {input: a, output: b}
"""


def test_a_file_is_read_whole(tmp_path: Path) -> None:
    template = read_template(write(tmp_path, WHOLE.replace("{{ body }}", '"{{ body }}"')))
    assert template.name == "try"
    assert template.variables["how"].default == "no"
    assert template.sampling == Sampling(temperature=0, stop=("END",))
    rendered = render_template(template, {}, "x")
    assert rendered.system == "Be no."
    assert "Constraints:\n- one\n- two no" in rendered.user


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("", 1, "it is empty"),
        ("a: [1", 1, "it is not YAML"),
        ("user: hi\nusr: x", 2, "did you mean user?"),
        ("user: hi\nuser: x", 2, "duplicate key user"),
        ("- a", 1, "key: value"),
        ("description: x", 1, "it has no text"),
        ("user: [[a]]", 1, "single value"),
        ("user: |\n  a\n  {{ b }}", 3, "b is not defined under variables"),
        ("user: |\n  a\n  {{ b", 3, "user:"),
        ("user: a\nvariables:\n  b: {}", 3, "the variable b is not used"),
        ("user: '{{ b }}'\nvariables:\n  b: {type: txt}", 3, "the types are text"),
        (
            "user: '{{ b }}'\nvariables:\n  b: {type: choice}",
            3,
            "choices belong to the type choice",
        ),
        ("user: '{{ b }}'\nvariables:\n  b:\n    type: integer\n    default: x", 5, "whole number"),
        ("user: '{{ b }}'\nvariables:\n  b: {default: x, required: true}", 3, "has a default"),
        ("user: '{{ b }}'\nvariables:\n  b: {}\ninput: c", 4, "input must name"),
        ("user: '{{ B }}'\nvariables:\n  B: {}", 3, "lowercase letters"),
        ("user: hi\nsampling:\n  temperature: 9", 3, "temperature must be"),
        ("user: hi\nsampling:\n  schema: {type: strin}", 3, "the schema is invalid"),
        ("user: hi\nsampling:\n  heat: 1", 3, "unknown sampling setting"),
        ("user: hi\nsampling:\n  logit_bias: [[5, 101]]", 3, "from -100 to 100"),
        ("user: hi\nsampling:\n  logit_bias: 5", 3, "logit_bias must be pairs"),
        ("user: hi\nexamples:\n  - input: a", 3, "no output"),
        ("user: hi\nexamples:\n  - {input: a, output: b, kind: negative}", 3, "explanation"),
        ("user: hi\nsampling:\n  seed: !!python/name:os.system", 3, "invalid YAML value"),
        ("user: &a [*a]", 1, "single value"),
    ],
)
def test_a_wrong_file_is_reported_with_its_line(
    tmp_path: Path, text: str, line: int, said: str
) -> None:
    path = write(tmp_path, text)
    with pytest.raises(TemplateFileError) as caught:
        read_template(path)
    assert said in caught.value.problem
    assert (caught.value.path, caught.value.line) == (path, line)


def test_deep_nesting_is_reported(tmp_path: Path) -> None:
    for text in ("user: " + "[" * 2000, "user: '{{ " + "(" * 2000 + "'"):
        with pytest.raises(TemplateFileError, match="nested too deeply"):
            read_template(write(tmp_path, text))


@pytest.mark.parametrize(
    "text",
    [
        "{% for x in range(10**9) %}{% endfor %}",
        "{{ range(9) }}",
        "{{ ''.__class__ }}",
        "{{ ''['__class__'] }}",
        "{{ 'a' * 1000000000 }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ 'a' | center(1000000000) }}",
        "{{ 'a' | attr('x') }}",
        "{% include 'x' %}",
        "{% set x = 1 %}",
        "{% macro m() %}{% endmacro %}",
        "{{ self }}",
    ],
)
def test_what_could_run_long_or_far_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(TemplateFileError):
        read_template(write(tmp_path, json.dumps({"user": text})))


def test_a_file_that_is_no_text_is_reported(tmp_path: Path) -> None:
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"user: a\nsystem: \xe9")
    huge = write(tmp_path, "user: " + "x" * MAX_BYTES, "huge.yaml")
    folder = tmp_path / "folder.yaml"
    folder.mkdir()
    odd = write(tmp_path, "user: hi", "Odd name.yaml")
    for path, line, said in [
        (latin, 2, "not UTF-8"),
        (huge, 0, "at most"),
        (folder, 0, "not a file"),
        (odd, 0, "lowercase letters"),
        (tmp_path / "gone.yaml", 0, "cannot be read"),
    ]:
        with pytest.raises(TemplateFileError) as caught:
            read_template(path)
        assert said in caught.value.problem
        assert caught.value.line == line


def test_own_templates_win_and_a_broken_one_stops_no_other(home: Path) -> None:
    folder = home / "prompts"
    folder.mkdir(parents=True)
    write(folder, "user: mine", "explain.yaml")
    write(folder, "usr: x", "broken.yaml")
    found = library.load_library()
    assert found.templates["explain"].user == "mine"
    assert "translate" in found.templates
    assert [fault.path.name for fault in found.errors] == ["broken.yaml"]


def test_every_shipped_template_can_be_used(home: Path) -> None:
    found = library.load_library()
    assert found.errors == ()
    assert len(found.templates) >= 10
    for template in found.templates.values():
        values = {name: "7" for name, v in template.variables.items() if v.default is None}
        rendered = render_template(template, values, "" if template.has_message else "Hi")
        assert template.description
        assert rendered.user


@pytest.mark.parametrize("seed", ["59:59", ":".join(["59"] * 3000)], ids=["short", "long"])
def test_a_number_in_base_60_is_an_error_of_its_template_alone(tmp_path: Path, seed: str) -> None:
    path = tmp_path / "timed.yaml"
    path.write_text(f"user: Hello\nsampling:\n  seed: {seed}\n")
    with pytest.raises(TemplateFileError, match="line 3: YAML reads this as a number in base 60"):
        read_template(path)
    path.write_text("user: Hello\nsampling:\n  stop: '12:30'\n")
    assert read_template(path).sampling.stop == ("12:30",)


@pytest.mark.parametrize(
    "written",
    ["{type: array, items: {enum: [a, 1]}}", '\'{"type":"array","items":{"enum":["a",1]}}\''],
)
def test_a_schema_is_written_as_yaml_or_json(tmp_path: Path, written: str) -> None:
    path = tmp_path / "list.yaml"
    path.write_text(f"user: Hello\nsampling:\n  schema: {written}\n")
    schema = json.loads(read_template(path).sampling.schema or "")
    assert schema == {"type": "array", "items": {"enum": ["a", 1]}}


def test_a_number_of_thousands_of_digits_is_an_error_of_its_template_alone(tmp_path: Path) -> None:
    path = tmp_path / "long.yaml"
    path.write_text(f"user: Hello\nsampling:\n  seed: 0x{'f' * 5000}\n")
    with pytest.raises(TemplateFileError, match="not a number of thousands of digits"):
        read_template(path)


@pytest.mark.parametrize(
    "written", ['[[15043, -100], [" cat", 5.5]]', '{15043: -100, " cat": 5.5}']
)
def test_a_template_sets_the_newer_samplers(tmp_path: Path, written: str) -> None:
    path = tmp_path / "biased.yaml"
    path.write_text(
        "user: Hello\nsampling:\n  dry_multiplier: 0.8\n  xtc_probability: 0.5\n"
        f"  top_n_sigma: 1.5\n  logit_bias: {written}\n"
    )
    assert read_template(path).sampling == Sampling(
        dry_multiplier=0.8,
        xtc_probability=0.5,
        top_n_sigma=1.5,
        logit_bias=((15043, -100), (" cat", 5.5)),
    )


# --- tools ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "names"),
    [("tools: [calculator, files_read]", ("calculator", "files_read")), ("tools: all", ("all",))],
)
def test_a_template_offers_tools(tmp_path: Path, line: str, names: tuple[str, ...]) -> None:
    template = read_template(write(tmp_path, f"{line}\nuser: hi\n"))
    assert render_template(template, {}).tools == names
    assert template.to_dict()["tools"] == list(names)


def test_a_tool_without_a_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TemplateFileError, match="tools must be names") as error:
        read_template(write(tmp_path, "user: hi\ntools:\n- clock\n- two words\n"))
    assert error.value.line == 4
