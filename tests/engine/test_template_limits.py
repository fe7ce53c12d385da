"""A hostile chat template neither hangs chatlm nor fills the memory."""

from __future__ import annotations

import pytest

from chatlm.engines import template_limits
from chatlm.engines.prompt_encoder import PromptEncoder
from chatlm.engines.template_limits import TemplateTooSlow
from chatlm.errors import ModelError
from chatlm.types.messages import Message
from tests.engine.byte_model import byte_tokenizer

LONG = "{% for i in range(99999) %}{% for j in range(99999) %}BODY{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    "template",
    [
        LONG,
        LONG.replace("range(99999) %}BODY", "range(99999) if j < 0 %}"),
        "{% macro m(n) %}{% if n %}{{ m(n-1) ~ m(n-1) }}{% endif %}{% endmacro %}{{ m(60) }}",
        "{% set ns = namespace(n=0) %}{% for i in range(99999) %}"
        "{% for j in range(99999) %}{% set ns.n = ns.n + 1 %}{% endfor %}{% endfor %}",
    ],
)
def test_a_template_that_does_not_end_is_stopped(
    template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(template_limits, "MAX_SECONDS", 0.05)
    with pytest.raises(TemplateTooSlow, match="did not finish") as told:
        PromptEncoder(byte_tokenizer(template=template), "auto", []).encode([Message("user", "x")])
    assert "prompt_format chatml" in told.value.hint


HUGE = "5000000000"


@pytest.mark.parametrize(
    "expression",
    [
        f"'x' * {HUGE}",
        f"{HUGE} * messages[0].content",
        f"[1] * {HUGE}",
        f"9 ** {HUGE}",
        f"'x'.ljust({HUGE})",
        f"'x' | center({HUGE})",
        f"'%{HUGE}d' % 1",
        f"'%*d' % ({HUGE}, 1)",
        f"'{{:{HUGE}}}'.format(1)",
        f"messages | batch({HUGE}, 1) | list",
        f"messages | slice({HUGE}) | list",
        f"'a' | indent({HUGE})",
        f"messages | tojson(indent={HUGE})",
        f"lipsum(n={HUGE})",
    ],
)
def test_what_a_template_makes_too_large_is_refused(expression: str) -> None:
    encoder = PromptEncoder(byte_tokenizer(template="{{ " + expression + " }}"), "auto", [])
    with pytest.raises(ModelError, match=r"chat template (fails|refuses)"):
        encoder.encode([Message("user", "x")])


@pytest.mark.parametrize("start", ["'ab'", "[1]"])
def test_what_grows_in_a_loop_is_refused(start: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_limits, "MAX_LENGTH", 10_000)
    source = (
        "{% set ns = namespace(x=START) %}{% for i in range(40) %}{% set ns.x = ns.x + ns.x %}"
        "{% endfor %}{{ ns.x | length }}"
    )
    encoder = PromptEncoder(byte_tokenizer(template=source.replace("START", start)), "auto", [])
    with pytest.raises(ModelError, match="a text or list of 16,384 elements"):
        encoder.encode([Message("user", "x")])


@pytest.mark.parametrize(
    "template",
    [
        "{{ " + "(" * 20_000 + "1" + ")" * 20_000 + " }}",
        "{% for i in [1] %}" * 25 + "{% endfor %}" * 25,
        "{% if 1 %}" * 150 + "{% endif %}" * 150,
        "{{ " + "9" * 5000 + " }}",
    ],
    ids=["brackets", "loops", "conditions", "number"],
)
def test_a_template_that_python_cannot_compile_is_refused(template: str) -> None:
    with pytest.raises(ModelError, match="is invalid"):
        PromptEncoder(byte_tokenizer(template=template), "auto", [])
