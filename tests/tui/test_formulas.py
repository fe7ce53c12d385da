"""Formulas are shown as Unicode text that says the same, or as they were written."""

from __future__ import annotations

import pytest

from chatlm.tui.chat.latex import latex_to_text
from chatlm.tui.chat.markdown import StreamingMarkdown


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("x^2 + y_1", "x² + y₁"),
        (r"\frac{a+b}{2c}", "(a+b)/(2c)"),
        (r"\frac{n(n+1)}{2}", "n(n+1)/2"),
        (r"\frac12", "1/2"),
        (r"\sum_{i=0}^{n} i^2", "∑ᵢ₌₀ⁿ i²"),
        (r"\sqrt[3]{x+1}", "³√(x+1)"),
        (r"\sqrt{2\pi}", "√(2π)"),
        (r"\sqrt{(a+b)}", "√(a+b)"),
        (r"\sqrt{\frac{1}{n}\sum_{i=1}^n x_i^2}", "√(1/n ∑ᵢ₌₁ⁿ xᵢ²)"),
        (r"\alpha \in \mathbb{R}", "α ∈ ℝ"),
        (r"x^{qQ}", "x^(qQ)"),
        (r"\left( \hat{x} \right)", "( x̂ )"),
        (r"\begin{aligned}a&=b\\c&=d\end{aligned}", "a =b\nc =d"),
    ],
)
def test_a_formula_as_text(source: str, text: str) -> None:
    assert latex_to_text(source) == text


@pytest.mark.parametrize("source", ["", "{", "x_", r"\foo{x}", r"\frac{a}", "a" * 5000, "{" * 900])
def test_what_has_no_text_is_left_as_it_is(source: str) -> None:
    assert latex_to_text(source) is None


def shown(text: str) -> str:
    blocks = StreamingMarkdown(text).blocks
    return "\n".join(
        line.content.plain
        for block in blocks
        for piece in block.fragments
        for line in piece.lines(60)
    )


def test_formulas_in_a_reply() -> None:
    assert shown(r"So $x^2$ and \(y_1\) are.") == "So x² and y₁ are."
    assert shown("$$\nE = mc^2\n$$") == "  E = mc²"
    assert shown("\\[\nE = mc^2\n\\]") == "  E = mc²"
    assert shown(r"So $\foo{x}$ and \(\foo\).") == r"So $\foo{x}$ and \(\foo\)."


@pytest.mark.parametrize(
    "text", ["It costs $5 and $6.", "Use $HOME and $PATH.", "`$x^2$`", "A $ and a $ alone"]
)
def test_a_dollar_is_no_formula_by_itself(text: str) -> None:
    assert shown(text) == text.strip("`")
