"""LaTeX formulas as Unicode text, where that says the same; pylatexenc knows the symbols."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

from pylatexenc.latex2text import (
    EnvironmentTextSpec,
    LatexNodes2Text,
    MacroTextSpec,
    get_default_latex_context_db,
)
from pylatexenc.latexwalker import LatexWalkerParseError
from pylatexenc.macrospec import std_environment, std_macro

MAX_FORMULA = 2000
"""Characters of a formula; a longer one is shown as it is."""

_SUPERSCRIPTS = dict(
    zip(
        "0123456789+-−=()niabcdefghjklmoprstuvwxyz",
        "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁼⁽⁾ⁿⁱᵃᵇᶜᵈᵉᶠᵍʰʲᵏˡᵐᵒᵖʳˢᵗᵘᵛʷˣʸᶻ",
        strict=True,
    )
)
_SUBSCRIPTS = dict(
    zip("0123456789+-−=()aehijklmnoprstuvx", "₀₁₂₃₄₅₆₇₈₉₊₋₋₌₍₎ₐₑₕᵢⱼₖₗₘₙₒₚᵣₛₜᵤᵥₓ", strict=True)
)

_SIZES = re.compile(
    r"\\(?:left|right|[bB]igg?[lrm]?|limits|nolimits|displaystyle|textstyle)(?![A-Za-z])\.?"
)
"""Commands that change only how large something is drawn."""

_SUM = re.compile(r"[-−+±∓=<>≤≥ ]")
"""What makes the upper part of a fraction ambiguous on one line."""

_PARENTHESES = re.compile(r"\([^()]*\)")

_BEFORE_SUM = re.compile(r"(?<=[\w)⁰¹²³⁴⁵⁶⁷⁸⁹ⁿ₀-₉])(?=[∑∏∫])")
"""Where a factor meets a sum, which would look like a part of a fraction's lower part."""

_ATOM = re.compile(r"[0-9.]+|[∂√]?\w\W?[⁰¹²³⁴⁵⁶⁷⁸⁹ⁿ′₀-₉]*|\(.*\)")
"""A lower part of a fraction that is not ambiguous."""


class _Unknown(Exception):
    """A command that has no text of its own."""


@lru_cache(maxsize=512)
def latex_to_text(source: str) -> str | None:
    """Return a formula as text, such as `x² + ½` for `x^2 + \\frac12`.

    Args:
        source: the formula without its dollar signs or brackets.

    Returns:
        The text, with a newline for each line break; None where something has no text, so that the
        source has to be shown.
    """
    if len(source) > MAX_FORMULA:
        return None
    try:
        text = _convert(_SIZES.sub("", source))
    except (_Unknown, LatexWalkerParseError, RecursionError):
        return None
    lines = [" ".join(line.split()) for line in text.split("\n")]
    return "\n".join(filter(None, lines)) or None


_SPACED = re.compile(r"\\([A-Za-z]+) +(?=[^\s{\[])")


def _convert(source: str) -> str:
    converter = _converter()
    spaced = _SPACED.sub(lambda match: converter.keep_space(match[1], match[0]), source)
    text = converter.latex_to_text(_with_scripts(spaced)).replace("∂ ", "∂")
    return _BEFORE_SUM.sub(" ", text)


def _with_scripts(source: str) -> str:
    """Return LaTeX with superscripts and subscripts as text."""
    out, at = [], 0
    while at < len(source):
        if source[at] == "\\":
            out.append(source[at : at + 2])
            at += 2
        elif source[at] in "^_":
            operand, end = _operand(source, at + 1)
            out.append("{}" + _script(source[at], _convert(operand).strip()))  # ends a command
            at = end
        else:
            out.append(source[at])
            at += 1
    return "".join(out)


def _operand(source: str, start: int) -> tuple[str, int]:
    """Return what a script applies to, and its end."""
    while source[start : start + 1] == " ":
        start += 1
    if command := re.compile(r"\\(?:[A-Za-z]+|.)(?:\{[^{}]*\})?").match(source, start):
        return command[0], command.end()
    if source[start : start + 1] != "{":
        if start >= len(source):
            raise _Unknown
        return source[start], start + 1
    depth = 0
    for at in range(start, len(source)):
        escaped = source[at - 1] == "\\"
        depth += (source[at] == "{" and not escaped) - (source[at] == "}" and not escaped)
        if depth == 0:
            return source[start + 1 : at], at + 1
    raise _Unknown


def _script(sign: str, text: str) -> str:
    if text in ("′", "'"):
        return "′"
    table = _SUPERSCRIPTS if sign == "^" else _SUBSCRIPTS
    dense = text.replace(" ", "")
    if dense and all(letter in table for letter in dense):
        return "".join(table[letter] for letter in dense)
    return f"{sign}{text}" if len(text) == 1 else f"{sign}({text})"


def _group(text: str) -> str:
    """Return an operand in parentheses, if it is a sum or has several words."""
    return f"({text})" if _SUM.search(_PARENTHESES.sub("", text)) else text


def _under_root(text: str) -> str:
    """Return what a root is drawn from, in parentheses unless it is a single factor."""
    is_one = _PARENTHESES.fullmatch(text) or (_ATOM.fullmatch(text) and not text.startswith("("))
    return text if is_one else f"({text})"


def _argument(node: Any, converter: Any, index: int) -> str:
    found = node.nodeargd.argnlist[index] if node.nodeargd else None
    if found is None:
        raise _Unknown
    text: str = converter.nodelist_to_text([found])
    return text.strip()


def _fraction(node: Any, l2tobj: Any) -> str:
    above, below = (_argument(node, l2tobj, index) for index in (0, 1))
    if not (above and below):
        raise _Unknown
    return f"{_group(above)}/{below if _ATOM.fullmatch(below) else f'({below})'}"


def _root(node: Any, l2tobj: Any) -> str:
    index = ""
    if node.nodeargd.argnlist[0] is not None:
        index = _script("^", _argument(node, l2tobj, 0))
    return f"{index}√{_under_root(_argument(node, l2tobj, 1))}"


def _content(node: Any, l2tobj: Any) -> str:
    return _argument(node, l2tobj, 0)


def _lines(node: Any, l2tobj: Any) -> str:
    text: str = l2tobj.nodelist_to_text(node.nodelist)
    return "\n" + text.replace("&", " ") + "\n"


def _refuse(node: Any, l2tobj: Any = None) -> str:
    raise _Unknown


@cache
def _converter() -> _Converter:
    from pylatexenc.latexwalker import get_default_latex_context_db as get_parsed

    parsed, written = get_parsed(), get_default_latex_context_db()
    one_argument = ("operatorname", "boxed", "mathcal", "mathscr", "mathfrak", "bm", "boldsymbol")
    parsed.add_context_category(
        "chatlm",
        prepend=True,
        macros=[
            *(std_macro(name, False, 2) for name in ("frac", "dfrac", "tfrac", "cfrac")),
            std_macro("sqrt", True, 1),
            *(std_macro(name, False, 1) for name in one_argument),
        ],
        environments=[std_environment(name, None) for name in _LINED],
    )
    commands: dict[str, Callable[..., str]] = {
        **dict.fromkeys(("frac", "dfrac", "tfrac", "cfrac"), _fraction),
        "sqrt": _root,
        **dict.fromkeys(("operatorname", "boxed", "bm", "boldsymbol"), _content),
    }
    written.add_context_category(
        "chatlm",
        prepend=True,
        macros=[MacroTextSpec(name, simplify_repl=make) for name, make in commands.items()],
        environments=[EnvironmentTextSpec(name, simplify_repl=_lines) for name in _LINED],
    )
    written.set_unknown_macro_spec(MacroTextSpec("", simplify_repl=_refuse))
    written.set_unknown_environment_spec(EnvironmentTextSpec("", simplify_repl=_refuse))
    return _Converter(parsed, latex_context=written, math_mode="text", strict_latex_spaces=False)


_LINED = ("aligned", "align", "align*", "gathered", "gather", "gather*", "split", "equation")


class _Converter(LatexNodes2Text):  # type: ignore[misc]  # pylatexenc has no types
    """A converter that reads the commands above with their arguments."""

    def __init__(self, parsed: Any, **options: Any) -> None:
        super().__init__(**options)
        self._parsed = parsed

    def keep_space(self, command: str, written: str) -> str:
        """Return a command so that the space behind it stays, unless it takes an argument."""
        spec = self._parsed.get_macro_spec(command)
        takes_one = spec is not None and bool(spec.args_parser.argspec)
        return written if takes_one else f"\\{command}{{}} "

    def latex_to_text(self, latex: str, **options: Any) -> str:
        """Return the text; unlike its parent, refuse what is incomplete."""
        return str(
            super().latex_to_text(
                latex, latex_context=self._parsed, tolerant_parsing=False, **options
            )
        )
