"""Rewrite JSON schemas in the keywords that llguidance follows, without allowing anything more.

Some keywords have a stricter form that it can follow: what fits the result fits the original. A
keyword without such a form stays, so that the schema is refused by its name.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

from chatlm.errors import UsageError
from chatlm.types.schemas import Schema

FOLLOWED_FORMATS = frozenset(
    ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")
)
"""The others say what a text means; JSON Schema lets no text fail because of them."""

MAX_LISTED_SUBSETS = 4
"""Values of an enumeration whose subsets are listed, to have arrays without repetitions."""

MAX_PATTERN_SECONDS = 0.5
"""For matching listed values with the patterns of one schema."""

MAX_OPTIONS = 64
"""Options of `oneOf` that are compared with each other."""

_MAPS = (
    "properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies",
)  # fmt: skip
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_SINGLE = (
    "items", "additionalProperties", "additionalItems", "contains", "propertyNames", "if", "then",
    "else", "unevaluatedProperties", "unevaluatedItems",
)  # fmt: skip
_APPLIED = frozenset(("$ref", "allOf", "anyOf", "oneOf", "if"))
"""Keywords that may say more about an object than its own properties do."""

_TYPES = ("string", "number", "boolean", "null", "array", "object")


def followable(schema: Schema) -> dict[str, Any]:
    """Return a schema that llguidance can follow, if there is one as strict or stricter.

    Raises:
        UsageError: it says that nothing fits it.
    """
    rewritten = _Rewriter(schema).rewrite(schema)
    if not isinstance(rewritten, Mapping):
        raise UsageError("Nothing fits this schema", hint="Change what `not` rules out.")
    return dict(rewritten)


class _Undecided(Exception):
    """It is not known whether a value fits a schema."""


def _check_nothing(validator: Any, keyword: Any, value: Any, schema: Schema) -> Iterator[Exception]:
    raise _Undecided
    yield


def _misfit(message: str) -> Exception:
    from jsonschema import ValidationError

    return ValidationError(message)


class _Rewriter:
    """Rewrites the parts of one schema.

    Args:
        root: the whole, in which references are looked up.
    """

    def __init__(self, root: Schema) -> None:
        self._root = root
        self._pattern_seconds = MAX_PATTERN_SECONDS

    def rewrite(self, schema: Any) -> Any:
        """Return a schema and those inside it, rewritten."""
        if not isinstance(schema, Mapping):
            return schema
        if schema.get("not") in ({}, True):
            return False
        out = dict(schema)
        for key in _MAPS:
            if isinstance(out.get(key), Mapping):
                out[key] = {name: self.rewrite(each) for name, each in out[key].items()}
        for key in (*_LISTS, "items"):
            if isinstance(out.get(key), list):
                out[key] = [self.rewrite(each) for each in out[key]]
        for key in _SINGLE:
            if isinstance(out.get(key), Mapping):
                out[key] = self.rewrite(out[key])
        for step in _STEPS:
            step(out)
        self.close_evaluated(out)
        if "oneOf" in out:
            self._separate_options(out)
        return out

    def _separate_options(self, out: dict[str, Any]) -> None:
        """Turn `oneOf` into `anyOf`, of the options that exclude all others."""
        options = out["oneOf"]
        if "anyOf" in out or len(options) > MAX_OPTIONS:
            return
        types = _types(out)
        kept = [
            one
            for place, one in enumerate(options)
            if all(
                self._exclude(one, other, types)
                for index, other in enumerate(options)
                if index != place
            )
        ]
        if kept:
            del out["oneOf"]
            out["anyOf"] = kept

    def _exclude(self, one: Any, other: Any, types: set[str]) -> bool:
        """Return whether it is certain that nothing of some types fits both schemas."""
        first, second = self._resolved(one), self._resolved(other)
        if first is None or second is None:
            return False
        types = types & _types(first) & _types(second)
        if not types or self._lists_no_value_of(first, second, types):
            return True
        if types != {"object"}:
            return False
        shared = set(first.get("required", ())) & set(second.get("required", ()))
        return any(
            self._exclude(
                first.get("properties", {}).get(key, {}),
                second.get("properties", {}).get(key, {}),
                set(_TYPES),
            )
            for key in shared
        ) or any(
            key not in closed.get("properties", {}) and not closed.get("patternProperties")
            for required, closed in ((first, second), (second, first))
            if closed.get("additionalProperties") is False and not _APPLIED & closed.keys()
            for key in required.get("required", ())
        )

    def _lists_no_value_of(self, first: Schema, second: Schema, types: set[str]) -> bool:
        """Return whether one of two schemas lists its values, and none of them fits the other."""
        for one, other in ((first, second), (second, first)):
            values = _values(one)
            if values is not None:
                try:
                    validator = self._validator(other)
                    return not any(
                        _type_of(each) in types and validator.is_valid(each) for each in values
                    )
                except _Undecided:
                    return False
        return False

    def _validator(self, schema: Schema) -> Any:
        from jsonschema import validators  # takes 60 ms

        kind = validators.validator_for(self._root, default=validators.Draft202012Validator)
        extend: Any = validators.extend  # untyped
        checks = {
            "pattern": self._check_pattern,
            "patternProperties": self._check_matching_names,
            "additionalProperties": self._check_other_names,
            "unevaluatedProperties": _check_nothing,
        }
        kind = extend(kind, checks)
        shared = {key: self._root[key] for key in ("$defs", "definitions") if key in self._root}
        return kind({**schema, **shared})

    def _check_pattern(
        self, validator: Any, pattern: str, value: Any, schema: Schema
    ) -> Iterator[Exception]:
        if isinstance(value, str) and not self._matches(pattern, value):
            yield _misfit("the pattern does not match")

    def _check_matching_names(
        self, validator: Any, patterns: Mapping[str, Any], value: Any, schema: Schema
    ) -> Iterator[Exception]:
        if isinstance(value, Mapping):
            for pattern, inner in patterns.items():
                for name, each in value.items():
                    if self._matches(pattern, name):
                        yield from validator.descend(each, inner, path=name, schema_path=pattern)

    def _check_other_names(
        self, validator: Any, allowed: Any, value: Any, schema: Schema
    ) -> Iterator[Exception]:
        if not isinstance(value, Mapping):
            return
        for name, each in value.items():
            if name in schema.get("properties", ()) or any(
                self._matches(pattern, name) for pattern in schema.get("patternProperties", ())
            ):
                continue
            if allowed is False:
                yield _misfit("there is no such property")
            else:
                yield from validator.descend(each, allowed, path=name)

    def _matches(self, pattern: str, text: str) -> bool:
        """Match as `re.search` does, but for a limited time: some patterns take for ever.

        Raises:
            _Undecided: the time is up, or the pattern is not valid.
        """
        import regex  # which has a limit, unlike `re`, and lets other threads run

        if self._pattern_seconds <= 0:
            raise _Undecided
        began = time.monotonic()
        try:
            return regex.search(pattern, text, timeout=self._pattern_seconds) is not None
        except (regex.error, TimeoutError) as error:
            raise _Undecided from error
        finally:
            self._pattern_seconds -= time.monotonic() - began

    def close_evaluated(self, out: dict[str, Any]) -> None:
        """Replace `unevaluatedProperties`: there are no others than those of `allOf` and `$ref`."""
        if "unevaluatedItems" in out and not _APPLIED & out.keys():
            out.setdefault("items", out.pop("unevaluatedItems"))
        if "unevaluatedProperties" not in out:
            return
        if not _APPLIED & out.keys():
            out.setdefault("additionalProperties", out.pop("unevaluatedProperties"))
            return
        names = self._applied_names(out, 8)
        if names is not None and "additionalProperties" not in out:
            del out["unevaluatedProperties"]
            out["properties"] = {**dict.fromkeys(names, True), **out.get("properties", {})}
            out["additionalProperties"] = False

    def _applied_names(self, schema: Schema, depth: int) -> list[str] | None:
        """Return the properties that a schema names itself, in `allOf` and in `$ref`."""
        names = list(schema.get("properties", ()))
        parts = list(schema.get("allOf", ()))
        if "$ref" in schema:
            parts.append({"$ref": schema["$ref"]})
        for part in parts:
            found = self._resolved(part)
            more = self._applied_names(found, depth - 1) if found is not None and depth else None
            if more is None:
                return None
            names += more
        return names

    def _resolved(self, schema: Any) -> Schema | None:
        """Follow references within the schema; None where that is not possible."""
        for _ in range(8):
            if not isinstance(schema, Mapping):
                return None
            path = schema.get("$ref")
            if path is None:
                return schema
            if not isinstance(path, str) or not path.startswith("#/"):
                return None
            found: Any = self._root
            for step in path[2:].split("/"):
                name = step.replace("~1", "/").replace("~0", "~")
                found = found.get(name) if isinstance(found, Mapping) else None
            schema = found
        return None


def _types(schema: Schema) -> set[str]:
    """Return the types that a schema allows; an integer counts as a number."""
    values = _values(schema)
    if values is not None:
        return {_type_of(value) for value in values}
    named = schema.get("type", _TYPES)
    names = {named} if isinstance(named, str) else set(named)
    return {"number" if name == "integer" else name for name in names}


def _values(schema: Schema) -> list[Any] | None:
    """Return the values that a schema lists; None if it lists none."""
    if "const" in schema:
        return [schema["const"]]
    listed = schema.get("enum")
    return list(listed) if isinstance(listed, list) else None


def _type_of(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    kinds: list[tuple[type | tuple[type, ...], str]] = [
        (str, "string"), ((int, float), "number"), (Mapping, "object"), (list, "array")
    ]  # fmt: skip
    return next((name for kind, name in kinds if isinstance(value, kind)), "null")


def _leave_out_formats(out: dict[str, Any]) -> None:
    if out.get("format") not in (None, *FOLLOWED_FORMATS):
        del out["format"]


def _apply_both_branches(out: dict[str, Any]) -> None:
    """Replace `if`: what fits both `then` and `else` fits whatever the condition is."""
    if "if" not in out:
        return
    del out["if"]
    branches = [out.pop(key) for key in ("then", "else") if key in out]
    if branches:
        out["allOf"] = [*out.get("allOf", ()), *branches]


def _require_dependents(out: dict[str, Any]) -> None:
    """Replace dependencies: what has the dependent properties in any case fits."""
    required = list(out.get("required", ()))
    for key in ("dependentRequired", "dependencies", "dependentSchemas"):
        for needed in dict(out.pop(key, {})).values():
            if isinstance(needed, list):
                required += needed
            else:
                out["allOf"] = [*out.get("allOf", ()), needed]
    if required:
        out["required"] = list(dict.fromkeys(required))


def _restrict_names(out: dict[str, Any]) -> None:
    """Replace `propertyNames`: a pattern applies to all further names; else there are none."""
    names = out.get("propertyNames")
    if not isinstance(names, Mapping):
        return
    known, pattern = _values(names), names.get("pattern")
    further = out.get("additionalProperties", True)
    if known is None and out.get("properties"):
        return  # its own names would have to be checked as well
    if known is not None:
        own = dict(out.get("properties", {}))
        if out.get("patternProperties"):
            return
        wanted = [name for name in known if isinstance(name, str)]
        out["properties"] = {name: own.get(name, further) for name in wanted}
    elif set(names) <= {"pattern", "type"} and pattern and not out.get("patternProperties"):
        out["patternProperties"] = {pattern: further}
    elif not out.get("patternProperties"):
        out["properties"] = {}
    else:
        return
    out["additionalProperties"] = False
    del out["propertyNames"]


def _count_properties(out: dict[str, Any]) -> None:
    """Replace limits of the number of properties, where there are named ones."""
    if list(out.get("patternProperties", ())) in ([".*"], ["^.*$"], [""]):
        (out["additionalProperties"],) = out.pop("patternProperties").values()
    own = dict(out.get("properties", {}))
    if not own or not {"minProperties", "maxProperties"} & out.keys() or _APPLIED & out.keys():
        return
    required = list(out.get("required", ()))
    least, most = out.pop("minProperties", 0), out.pop("maxProperties", None)
    optional = [name for name in own if name not in required]
    required += optional[: max(0, least - len(required))]
    if len(required) < least or (most is not None and len(required) > most):
        out |= {"minProperties": least}
        return
    if required:
        out["required"] = required
    if most is not None:
        room = most - len(required)
        others = [name for name in own if name not in required][:room]
        out["properties"] = {name: own[name] for name in own if name in (*required, *others)}
        out["additionalProperties"] = False
        out.pop("patternProperties", None)


def _avoid_repetitions(out: dict[str, Any]) -> None:
    """Replace `uniqueItems`: by the subsets of a short list, or else by one item at most."""
    if not out.get("uniqueItems"):
        out.pop("uniqueItems", None)
        return
    items = out.get("items")
    values = _values(items) if isinstance(items, Mapping) else None
    least, most = out.get("minItems", 0), out.get("maxItems", MAX_LISTED_SUBSETS)
    if "prefixItems" in out or isinstance(items, list) or "contains" in out:
        return
    if values and len(values) <= MAX_LISTED_SUBSETS and "anyOf" not in out:
        subsets = [
            subset
            for size in range(least, min(most, len(values)) + 1)
            for subset in combinations(values, size)
        ]
        for key in ("uniqueItems", "items", "minItems", "maxItems"):
            out.pop(key, None)
        out["anyOf"] = [_exactly(subset) for subset in subsets]
    elif least <= 1:
        del out["uniqueItems"]
        out["maxItems"] = min(1, out.get("maxItems", 1))


def _exactly(values: Sequence[Any]) -> dict[str, Any]:
    size = len(values)
    listed = {"prefixItems": [{"const": value} for value in values]} if values else {}
    return {"type": "array", **listed, "items": False, "minItems": size, "maxItems": size}


def _place_contained(out: dict[str, Any]) -> None:
    """Replace `contains`: the first item is such a one."""
    wanted = out.get("contains")
    if wanted is None or "prefixItems" in out or isinstance(out.get("items"), list):
        return
    if out.get("minContains", 1) > 1 or "maxContains" in out:
        return
    del out["contains"]
    if out.pop("minContains", 1) == 0:
        return
    items = out.get("items")
    out["prefixItems"] = [{"allOf": [wanted, items]} if isinstance(items, Mapping) else wanted]
    out["minItems"] = max(1, out.get("minItems", 1))


def _exclude_negated(out: dict[str, Any]) -> None:
    """Replace `not`: the property, value or type that it names is left out."""
    negated = out.get("not")
    if not isinstance(negated, Mapping):
        return
    if negated.keys() == {"required"} and negated["required"]:
        allowed = [name for name in negated["required"] if name not in out.get("required", ())]
        if allowed and ("type" not in out or out["type"] == "object"):
            del out["not"]
            out["properties"] = {**out.get("properties", {}), allowed[0]: False}
        return
    listed, known = _values(negated), _values(out)
    if listed is not None and known is not None and negated.keys() <= {"enum", "const", "type"}:
        kept = [value for value in known if value not in listed]
        if kept:
            del out["not"]
            out.pop("const", None)
            out["enum"] = kept
        return
    if negated.keys() == {"type"} and known is None:
        named = out.get("type", list(_TYPES))
        types = [named] if isinstance(named, str) else list(named)
        out_types = [name for name in types if name not in _names_of_types(negated["type"])]
        if out_types:
            del out["not"]
            out["type"] = out_types


def _names_of_types(value: Any) -> set[str]:
    names = {value} if isinstance(value, str) else set(value)
    if "integer" in names:
        names |= {"number"}  # rather no number than one that may be an integer
    if "number" in names:
        names |= {"integer"}
    return names


_STEPS: tuple[Callable[[dict[str, Any]], None], ...] = (
    _leave_out_formats,
    _apply_both_branches,
    _require_dependents,
    _restrict_names,
    _count_properties,
    _place_contained,
    _avoid_repetitions,
    _exclude_negated,
)
