"""The tool `calculator`: arithmetic with exact fractions and units.

Expressions are parsed here, never evaluated as Python. Numbers are fractions until a function such
as sin needs a float; results that are not exact are marked with ≈. Pint knows the units; with
fractions as its numbers, conversions are exact too.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Mapping
from decimal import Context, Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from chatlm import UsageError, tool

if TYPE_CHECKING:
    from pint import UnitRegistry

Number = Fraction | float

MAX_LENGTH = 2000
"""Characters of an expression."""
_MAX_BITS = 13_000
"""Of numerators and denominators: fewer digits than Python converts to text."""
_MAX_DEPTH = 60
_MAX_FACTORIAL = 1200
_MAX_DECIMALS = 40
_SHOWN = Context(prec=12)

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d[\d_]*(?:,\d{3})*(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)"
    r"|(?P<name>°[CF]?|[^\W\d_][\w]*|[µΩ$€£])"
    r"|(?P<sign>\*\*|//|->|[-+*/%^!(),×÷·−²³√]))"
)
_SIGNS = {"×": "*", "·": "*", "÷": "/", "−": "-", "**": "^"}
_SUPERSCRIPTS = {"²": 2, "³": 3}
_CONVERSIONS = {"to", "in", "as", "->"}
_UNIT_NAMES = {"°": "degree", "°C": "degC", "°F": "degF", "celsius": "degC", "fahrenheit": "degF"}


def _root(value: Number, degree: int) -> Number:
    """Return a root; exact where it is a fraction."""
    if isinstance(value, Fraction) and value >= 0:
        top, bottom = (_integer_root(part, degree) for part in (value.numerator, value.denominator))
        if top is not None and bottom is not None:
            return Fraction(top, bottom)
    if value < 0:
        if degree % 2:
            return -_root(-value, degree)
        raise UsageError("a negative number has no real square root")
    return math.pow(value, 1 / degree)


def _integer_root(value: int, degree: int) -> int | None:
    """Return the exact root; None if it is not whole."""
    low, high = 0, 1 << (value.bit_length() // degree + 1)
    while low < high:
        middle = (low + high + 1) // 2
        if middle**degree <= value:
            low = middle
        else:
            high = middle - 1
    return low if low**degree == value else None


def _whole(value: Number, what: str) -> int:
    if isinstance(value, float) or value.denominator != 1:
        raise UsageError(f"{what} needs whole numbers, not {_format_number(value)}")
    return value.numerator


def _factorial(value: Number) -> Fraction:
    number = _whole(value, "a factorial")
    if not 0 <= number <= _MAX_FACTORIAL:
        raise UsageError(f"a factorial needs a number from 0 to {_MAX_FACTORIAL}")
    return Fraction(math.factorial(number))


def _round(value: Number, digits: Number = Fraction(0)) -> Fraction:
    """Round as taught in school: a half goes away from zero."""
    factor = Fraction(10) ** max(-50, min(_whole(digits, "round"), 50))
    scaled = abs(Fraction(value)) * factor
    return Fraction(math.floor(scaled + Fraction(1, 2))) / factor * (1 if value >= 0 else -1)


def _logarithm(value: Number, base: Number = Fraction(10)) -> Number:
    if value <= 0 or base <= 0 or base == 1:
        raise UsageError("logarithms need positive numbers")
    if isinstance(value, Fraction) and isinstance(base, Fraction):
        guess = Fraction(round(math.log(value) / math.log(base)))
        if abs(guess) <= 200 and base**guess.numerator == value:
            return guess
    return math.log(value) / math.log(base)


def _natural_logarithm(value: Number) -> Number:
    if value <= 0:
        raise UsageError("logarithms need positive numbers")
    return Fraction(0) if value == 1 else math.log(value)


def _choose(kind: Callable[[int, int], int]) -> Callable[[Number, Number], Fraction]:
    def calculate(whole: Number, part: Number) -> Fraction:
        first, second = _whole(whole, kind.__name__), _whole(part, kind.__name__)
        if not 0 <= second <= first <= 10_000:
            raise UsageError(f"{kind.__name__} needs 10000 ≥ n ≥ k ≥ 0")
        return Fraction(kind(first, second))

    return calculate


_ON_NUMBERS: Mapping[str, Callable[..., Number]] = {
    "factorial": _factorial,
    "exp": lambda value: Fraction(1) if value == 0 else math.exp(value),
    "ln": _natural_logarithm,
    "log": _logarithm,
    "log10": _logarithm,
    "log2": lambda value: _logarithm(value, Fraction(2)),
    "sin": math.sin,
    "cos": math.cos,
    "tan": math.tan,
    "asin": math.asin,
    "acos": math.acos,
    "atan": math.atan,
    "gcd": lambda *values: Fraction(math.gcd(*(_whole(value, "gcd") for value in values))),
    "lcm": lambda *values: Fraction(math.lcm(*(_whole(value, "lcm") for value in values))),
    "comb": _choose(math.comb),
    "perm": _choose(math.perm),
}
"""Functions of numbers without a unit."""

_ON_LISTS = {"min", "max", "sum", "mean", "avg", "average"}
_ON_ONE = {"abs", "floor", "ceil", "round", "sqrt", "cbrt"}
_CONSTANTS = {"pi": math.pi, "π": math.pi, "tau": math.tau, "e": math.e}
_OPERATORS = {"mod", "of", "per"}


@functools.cache
def _registry() -> UnitRegistry[Any]:
    """Return the units; reading their definitions takes half a second."""
    import pint

    return pint.UnitRegistry(non_int_type=Fraction, autoconvert_offset_to_baseunit=True)


def _number_of(quantity: Any, what: str) -> Number:
    """Return the number of a quantity without a unit; an angle counts in radians."""
    if not quantity.dimensionless:
        raise UsageError(f"{what} needs a number without a unit, not {_format_units(quantity)}")
    number: Number = quantity.to("").magnitude
    return number


class _Parser:
    """Calculates while it parses, by precedence."""

    def __init__(self, text: str) -> None:
        self._tokens = _tokenize(text)
        self._place = 0
        self._depth = 0

    def result(self) -> Any:
        """Return the value of the whole expression, a quantity."""
        value = self._sum()
        if self._peek() in _CONVERSIONS:
            self._next()
            if self._peek() == "":
                raise UsageError("a unit must follow, such as: 3 miles to km")
            value = value.to(self._product(only_units=True).units)
        if self._peek():
            raise UsageError(f"{self._peek()!r} is not expected there")
        return value

    def _peek(self, ahead: int = 0) -> str:
        place = self._place + ahead
        return self._tokens[place][1] if place < len(self._tokens) else ""

    def _kind(self, ahead: int = 0) -> str:
        place = self._place + ahead
        return self._tokens[place][0] if place < len(self._tokens) else ""

    def _next(self) -> str:
        text = self._peek()
        if not text:
            raise UsageError("the expression ends too early")
        self._place += 1
        return text

    def _take(self, text: str) -> bool:
        if self._peek() != text:
            return False
        self._place += 1
        return True

    def _sum(self) -> Any:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise UsageError("too many parentheses within each other")
        value = self._product()
        while (sign := self._peek()) in ("+", "-"):
            self._next()
            start = self._place
            other = self._product()
            if self._tokens[start + 1 : self._place] == [("sign", "%")]:
                raise UsageError(
                    "adding a percentage is ambiguous; multiply instead, such as 200 * 1.1"
                )
            value = _checked(value + other if sign == "+" else value - other)
        self._depth -= 1
        return value

    def _product(self, *, only_units: bool = False) -> Any:
        value = self._signed()
        while True:
            sign = self._peek()
            if sign in ("*", "of"):
                self._next()
                value = _checked(value * self._signed())
            elif sign in ("/", "per"):
                self._next()
                value = _checked(value / _not_zero(self._signed()))
            elif sign == "//":
                self._next()
                value = _checked(value // _not_zero(self._signed()))
            elif sign in ("%", "mod"):
                self._next()
                value = _checked(value % _not_zero(self._signed()))
            elif self._starts_operand(only_units=only_units):
                value = _checked(value * self._power())
            else:
                return value

    def _starts_operand(self, *, only_units: bool) -> bool:
        """Whether a factor follows without a sign, as in `2 (3 + 4)` or `kg m`."""
        text, kind = self._peek(), self._kind()
        if kind == "name":
            return text not in _CONVERSIONS | _OPERATORS
        return text in ("(", "√") and not only_units

    def _signed(self) -> Any:
        if self._take("-"):
            return -self._signed()
        if self._take("+"):
            return self._signed()
        return self._power()

    def _power(self) -> Any:
        value = self._postfix()
        if self._peek() in _SUPERSCRIPTS:
            return _raise(value, Fraction(_SUPERSCRIPTS[self._next()]))
        if self._take("^"):
            return _raise(value, _number_of(self._signed(), "an exponent"))
        return value

    def _postfix(self) -> Any:
        value = self._primary()
        while True:
            if self._take("!"):
                value = _registry().Quantity(_factorial(_number_of(value, "a factorial")))
            elif self._peek() == "%" and not self._is_remainder():
                self._next()
                value = value / Fraction(100)
            else:
                return value

    def _is_remainder(self) -> bool:
        """Whether the sign % stands between two values; else it is a percentage."""
        after, kind = self._peek(1), self._kind(1)
        return kind == "number" or after == "(" or (kind == "name" and after not in _OPERATORS)

    def _primary(self) -> Any:
        kind, text = self._kind(), self._next()
        if kind == "number":
            value = _parse_number(text)
            return self._with_unit(value)
        if text == "(":
            value = self._sum()
            if not self._take(")"):
                raise UsageError("a closing parenthesis is missing")
            return value
        if text == "√":
            return _call("sqrt", [self._power()])
        if kind != "name":
            raise UsageError(f"{text!r} is not expected there")
        if self._peek() == "(" and (text in _ON_NUMBERS or text in _ON_LISTS | _ON_ONE):
            return _call(text, self._arguments())
        if text in _CONSTANTS:
            return _registry().Quantity(_CONSTANTS[text])
        return _registry().Quantity(Fraction(1), _parse_unit(text))

    def _with_unit(self, value: Fraction) -> Any:
        """Read the unit that stands after a number, with its power: `3 km²`, `20 °C`."""
        text = self._peek()
        is_inch = text == "in" and (self._kind(1) != "name" or self._peek(1) in _CONVERSIONS)
        if self._kind() != "name" or text in _CONSTANTS or text in _OPERATORS:
            return _registry().Quantity(value)
        if (text in _CONVERSIONS and not is_inch) or self._peek(1) == "(":
            return _registry().Quantity(value)
        self._next()
        unit = _parse_unit("inch" if is_inch else text)
        exponent = Fraction(1)
        if self._peek() in _SUPERSCRIPTS:
            exponent = Fraction(_SUPERSCRIPTS[self._next()])
        elif self._take("^"):
            exponent = Fraction(_number_of(self._signed(), "an exponent"))
        return _registry().Quantity(value, unit if exponent == 1 else unit**exponent)

    def _arguments(self) -> list[Any]:
        self._next()
        values = [self._sum()]
        while self._take(","):
            values.append(self._sum())
        if not self._take(")"):
            raise UsageError("a closing parenthesis is missing")
        return values


def _tokenize(text: str) -> list[tuple[str, str]]:
    tokens = []
    place = 0
    text = text.rstrip().rstrip("=").rstrip()
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            raise UsageError(f"{text[place:].strip()[:20]!r} is not expected there")
        kind = match.lastgroup or ""
        found = match[kind]
        tokens.append((kind, _SIGNS.get(found, found)))
        place = match.end()
    if not tokens:
        raise UsageError("the expression is empty")
    return tokens


def _parse_number(text: str) -> Fraction:
    digits = text.replace(",", "").replace("_", "")
    exponent = re.search(r"[eE]([+-]?\d+)$", digits)
    if len(digits) > 1000 or (exponent and abs(int(exponent[1])) > 1000):
        raise UsageError(f"the number {text[:20]}… is too large")
    return Fraction(digits)


def _parse_unit(name: str) -> Any:
    import pint

    try:
        return _registry().parse_units(_UNIT_NAMES.get(name, name))
    except (pint.UndefinedUnitError, pint.DefinitionSyntaxError, ValueError):
        raise UsageError(f"{name!r} is neither a unit nor a function or constant here") from None


def _not_zero(value: Any) -> Any:
    if value.magnitude == 0:
        raise UsageError("it divides by zero")
    return value


def _checked(value: Any) -> Any:
    """Refuse numbers that are too large to compute with."""
    number = value.magnitude
    if isinstance(number, int):
        value = _registry().Quantity(Fraction(number), value.units)
    elif isinstance(number, float):
        if not math.isfinite(number):
            raise UsageError("the result is too large")
    elif max(number.numerator.bit_length(), number.denominator.bit_length()) > _MAX_BITS:
        raise UsageError("the result has thousands of digits, which is too many")
    return value


def _raise(value: Any, exponent: Number) -> Any:
    if value.dimensionless:
        value = value.to("")
    number = value.magnitude
    if number == 0 and exponent < 0:
        raise UsageError("it divides by zero")
    if isinstance(number, Fraction) and isinstance(exponent, Fraction):
        if exponent.denominator == 1:
            bits = max(number.numerator.bit_length(), number.denominator.bit_length())
            if number not in (0, 1, -1) and bits * abs(exponent) > _MAX_BITS:
                raise UsageError("the result has thousands of digits, which is too many")
            result: Number = number**exponent.numerator
        else:
            if exponent.denominator > 64 or abs(exponent.numerator) > 1000:
                result = _float_power(number, exponent)
            else:
                root = _root(number, exponent.denominator)
                result = _power_of_root(root, exponent.numerator)
    else:
        result = _float_power(number, exponent)
    return _checked(_registry().Quantity(result, value.units ** Fraction(exponent)))


def _power_of_root(root: Number, exponent: int) -> Number:
    return root**exponent if isinstance(root, Fraction) else _float_power(root, Fraction(exponent))


def _float_power(base: Number, exponent: Number) -> float:
    try:
        return math.pow(base, exponent)
    except OverflowError:
        raise UsageError("the result is too large") from None
    except ValueError:
        raise UsageError("the result is not a real number") from None


def _call(name: str, values: list[Any]) -> Any:
    quantity = _registry().Quantity
    try:
        if name in _ON_NUMBERS:
            return _checked(quantity(_ON_NUMBERS[name](*(_number_of(v, name) for v in values))))
        if name in ("min", "max"):
            return (min if name == "min" else max)(values)
        if name in _ON_LISTS:
            total = values[0]
            for value in values[1:]:
                total = total + value
            return _checked(total if name == "sum" else total / Fraction(len(values)))
        value, *more = values
        if name in ("sqrt", "cbrt"):
            degree = 2 if name == "sqrt" else 3
            number = _root(value.magnitude, degree)
            return quantity(number, value.units ** Fraction(1, degree), *more)
        rounding: dict[str, Callable[..., Any]] = {
            "abs": abs,
            "floor": math.floor,
            "ceil": math.ceil,
            "round": _round,
        }
        number = rounding[name](value.magnitude, *(_number_of(each, name) for each in more))
        number = Fraction(number) if isinstance(number, int) else number
        return quantity(number, value.units)
    except (TypeError, IndexError):
        raise UsageError(f"{name} does not take {len(values)} values") from None
    except ValueError as error:
        raise UsageError(f"{name}: {error}") from None
    except OverflowError:
        raise UsageError("the result is too large") from None


def _format_number(value: Number) -> str:
    """Write a number: exactly, with an approximation where a fraction has no finite decimals."""
    if isinstance(value, float):
        return f"≈ {_plain(_SHOWN.create_decimal(value))}"
    if value.denominator == 1:
        return str(value.numerator)
    rest, decimals = value.denominator, 0
    for prime in (2, 5):
        count = 0
        while rest % prime == 0:
            rest //= prime
            count += 1
        decimals = max(decimals, count)
    if rest == 1 and decimals <= _MAX_DECIMALS:
        digits = str(abs(value.numerator) * 10**decimals // value.denominator).zfill(decimals + 1)
        return f"{'-' * (value < 0)}{digits[:-decimals]}.{digits[-decimals:]}"
    shown = _SHOWN.divide(Decimal(value.numerator), Decimal(value.denominator))
    if value.denominator.bit_length() > 130:
        return f"≈ {_plain(shown)}"  # nobody reads such a fraction
    return f"{value.numerator}/{value.denominator} ≈ {_plain(shown)}"


def _plain(value: Decimal) -> str:
    """Write a decimal without an exponent, unless it is very large or small."""
    value = value.normalize(_SHOWN)
    return f"{value:f}" if -10 < value.adjusted() < 15 else f"{value}"


def _format_units(quantity: Any) -> str:
    """Write a quantity's unit, such as `km/h`; pint cannot write powers that are fractions."""
    registry = _registry()
    above: list[str] = []
    below: list[str] = []
    for name, exponent in quantity.unit_items():
        power = Fraction(exponent)
        symbol = registry.get_symbol(name)
        text = symbol if abs(power) == 1 else f"{symbol}^{abs(power)}"
        (above if power > 0 else below).append(text)
    if not below:
        return " ".join(above)
    under = below[0] if len(below) == 1 else f"({' '.join(below)})"
    return f"{' '.join(above) or '1'}/{under}"


def _merge_units(value: Any) -> Any:
    """Write units of the same kind as one, such as inches times feet as square inches."""
    first_of: dict[Any, str] = {}
    merged: dict[str, Fraction] = {}
    for name, exponent in value.unit_items():
        kind = _registry().get_dimensionality(name)
        kept = first_of.setdefault(kind, name) if kind else name
        merged[kept] = merged.get(kept, Fraction(0)) + Fraction(exponent)
    if len(merged) == len(list(value.unit_items())):
        return value
    units = _registry().Unit("")
    for name, power in merged.items():
        units = units * _registry().Unit(name) ** power
    return value.to(units)


def calculate(expression: str) -> str:
    """Return the value of an expression, such as `1.5 h` for `1 h + 30 min`, or `≈ 1.41421356237`.

    Raises:
        UsageError: it cannot be calculated; the message says why.
    """
    import pint

    if len(expression) > MAX_LENGTH:
        raise UsageError(f"the expression has more than {MAX_LENGTH} characters")
    try:
        value = _Parser(expression).result()
        value = _checked(_merge_units(value))
    except pint.DimensionalityError as error:
        raise UsageError(str(error)) from None
    except pint.OffsetUnitCalculusError:
        raise UsageError("°C and °F have no zero to calculate from; convert to K first") from None
    except (OverflowError, ZeroDivisionError):
        raise UsageError("the result is too large, or it divides by zero") from None
    return f"{_format_number(value.magnitude)} {_format_units(value)}".rstrip()


@tool(permission="allow", read_only=True, timeout=10, group="calculator")
def calculator(expression: str) -> str:
    """Calculate exactly. Use it for every sum instead of calculating yourself.

    It knows + - * / // % ^ !, parentheses, percentages (15% of 80), units and conversions
    (3 miles to km, 90 km/h * 20 min), and sqrt, round, min, max, mean, log, ln, sin, cos, comb.

    Args:
        expression: what to calculate, such as 12.5 * (3 + 4) or 20 °C to °F.
    """
    result = calculate(expression)
    return (
        f"{expression.strip().rstrip('=').strip()} {result if result[0] == '≈' else f'= {result}'}"
    )
