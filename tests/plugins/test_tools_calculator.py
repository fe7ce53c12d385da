"""The tool `calculator`."""

from __future__ import annotations

import ast
import random
from fractions import Fraction

import pytest

from chatlm import UsageError
from chatlm.testing import run_tool
from chatlm_tools.calculator import calculate, calculator


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("0.1 + 0.2", "0.3"),
        ("1/3", "1/3 ≈ 0.333333333333"),
        ("-2^2", "-4"),
        ("2^2^3", "256"),
        ("7 - 3 - 1", "3"),
        ("1,234.5 * 2 =", "2469"),
        ("2(3+4)", "14"),
        ("10!", "3628800"),
        ("17 % 5", "2"),
        ("-17 // 5", "-4"),
        ("15% of 80", "12"),
        ("2^0.5", "≈ 1.41421356237"),
        ("8^(1/3)", "2"),
        ("sqrt(16/9)", "4/3 ≈ 1.33333333333"),
        ("round(2.5)", "3"),
        ("round(-2.345, 2)", "-2.35"),
        ("log(1000)", "3"),
        ("sin(30°)", "≈ 0.5"),
        ("comb(49, 6)", "13983816"),
        ("mean(1, 2, 4)", "7/3 ≈ 2.33333333333"),
        ("3 miles to km", "4.828032 km"),
        ("20 °C to °F", "68 °F"),
        ("5 in to cm", "12.7 cm"),
        ("5 km in miles", "78125/25146 ≈ 3.10685596119 mi"),
        ("90 km/h * 20 min", "30 km"),
        ("1 h + 30 min", "1.5 h"),
        ("5 in * 2 ft", "120 in^2"),
        ("100 km / 8 l", "12.5 km/l"),
        ("sqrt(9 m^2)", "3 m"),
        ("5 kg m / s^2 to N", "5 N"),
        ("3 GiB to MB", "3221.225472 MB"),
        ("25 m² to ft²", "39062500/145161 ≈ 269.097760418 ft^2"),
    ],
)
def test_expressions_are_calculated_exactly(expression: str, result: str) -> None:
    assert calculate(expression) == result


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("", "empty"),
        ("1 / 0", "divides by zero"),
        ("0^-1", "divides by zero"),
        ("5 % 0", "divides by zero"),
        ("1 kg + 1 m", "Cannot convert"),
        ("50 °C + 10 °C", "convert to K"),
        ("200 + 10%", "ambiguous"),
        ("9^9^9", "too many"),
        ("2^100000", "too many"),
        ("1e500 ^ 40", "too many"),
        ("1e99999", "too large"),
        ("exp(99999)", "too large"),
        ("99999!", "0 to 1200"),
        ("2.5!", "whole numbers"),
        ("sqrt(-1)", "no real square root"),
        ("log(0)", "positive"),
        ("asin(2)", "asin"),
        ("sqrt(1, 2, 3)", "does not take 3"),
        ("(1 + 2", "closing parenthesis"),
        ("1 +", "ends too early"),
        ("1 2", "not expected"),
        ("3 EUR", "neither a unit"),
        ("__import__('os').system('true')", "not expected"),
        ("().__class__", "not expected"),
        ("print(1)", "neither a unit"),
        ("(" * 500 + "1" + ")" * 500, "too many parentheses"),
        ("1+" * 1500 + "1", "characters"),
        ("sin(1 kg)", "without a unit"),
    ],
)
def test_what_cannot_be_calculated_is_refused(expression: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        calculate(expression)


def test_random_sums_agree_with_fractions() -> None:
    """Python's own parser gives the same value with each number as a fraction."""
    chance = random.Random(7)

    def expression(depth: int) -> str:
        if depth == 0:
            return chance.choice([str(chance.randint(0, 99)), f"{chance.uniform(0, 9):.2f}"])
        sign = chance.choice(["+", "-", "*", "/", "//", "%"])
        inner = f"{expression(depth - 1)} {sign} {expression(depth - 1)}"
        return f"({inner})" if chance.random() < 0.5 else inner

    class Exact(ast.NodeTransformer):
        def visit_Constant(self, node: ast.Constant) -> ast.AST:
            call = ast.parse(f"Fraction({str(node.value)!r})", mode="eval").body
            return ast.copy_location(call, node)

    compared = 0
    for _ in range(300):
        text = expression(chance.randint(1, 3))
        tree = ast.fix_missing_locations(Exact().visit(ast.parse(text, mode="eval")))
        try:
            value = Fraction(eval(compile(tree, "sum", "eval"), {"Fraction": Fraction}))
        except ZeroDivisionError:
            with pytest.raises(UsageError):
                calculate(text)
            continue
        found = calculate(text).partition(" ")[0]
        assert Fraction(found) == value, text
        compared += 1
    assert compared > 150


def test_the_model_reads_the_sum_and_its_result() -> None:
    output = run_tool(calculator, {"expression": "6 * 7"})
    assert (output.text, output.is_error) == ("6 * 7 = 42", False)
    output = run_tool(calculator, {"expression": "6 / 0"})
    assert output.is_error
    assert "divides by zero" in output.text
