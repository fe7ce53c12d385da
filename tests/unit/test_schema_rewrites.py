"""Schemas with keywords that llguidance does not know are followed by stricter ones."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from chatlm.engines import schema_rewrites
from chatlm.engines.constraint_compiler import compile_schema
from chatlm.engines.schema_rewrites import followable
from tests.unit.random_text import random_text

TEXT = {"type": "string", "maxLength": 3}
FOLLOWED: dict[str, dict[str, Any]] = {
    "format": {"type": "string", "maxLength": 4, "format": "colour"},
    "if": {
        "type": "object",
        "properties": {"a": TEXT, "b": {"type": "integer"}},
        "required": ["a", "b"],
        "if": {"properties": {"a": {"const": "x"}}},
        "then": {"properties": {"b": {"minimum": 3}}},
        "else": {"properties": {"b": {"maximum": 9}}},
    },
    "dependentRequired": {
        "type": "object",
        "properties": {"a": TEXT, "b": TEXT},
        "dependentRequired": {"a": ["b"]},
    },
    "dependencies": {
        "type": "object",
        "properties": {"a": TEXT, "b": TEXT},
        "dependencies": {"a": ["b"], "b": {"required": ["a"]}},
    },
    "unevaluatedProperties": {
        "$defs": {"named": {"properties": {"name": TEXT}, "required": ["name"]}},
        "type": "object",
        "allOf": [{"$ref": "#/$defs/named"}],
        "properties": {"age": {"type": "integer"}},
        "unevaluatedProperties": False,
    },
    "propertyNames, pattern": {
        "type": "object",
        "propertyNames": {"pattern": "^[a-c]{1,2}$"},
        "additionalProperties": {"type": "integer"},
    },
    "propertyNames, list": {
        "type": "object",
        "propertyNames": {"enum": ["x", "y"]},
        "additionalProperties": {"type": "boolean"},
    },
    "propertyNames, length": {"type": "object", "propertyNames": {"minLength": 3}},
    "minProperties": {
        "type": "object",
        "properties": {"a": TEXT, "b": TEXT, "c": TEXT},
        "minProperties": 2,
        "maxProperties": 2,
    },
    "minProperties, pattern": {
        "type": "object",
        "patternProperties": {".*": {"type": "integer"}},
        "additionalProperties": False,
        "minProperties": 1,
        "maxProperties": 3,
    },
    "contains": {"type": "array", "items": {"type": "integer"}, "contains": {"minimum": 7}},
    "uniqueItems": {"type": "array", "items": TEXT, "uniqueItems": True},
    "uniqueItems, list": {
        "type": "array",
        "items": {"enum": ["a", 1, None]},
        "uniqueItems": True,
        "minItems": 2,
    },
    "not, required": {
        "type": "object",
        "properties": {"a": TEXT, "b": TEXT},
        "not": {"required": ["a", "b"]},
    },
    "not, values": {"enum": [1, 2, "x"], "not": {"enum": [2, "x"]}},
    "not, type": {"type": ["string", "number", "null"], "maxLength": 3, "not": {"type": "integer"}},
    "not, anything": {"anyOf": [{"not": {}}, {"const": 1}]},
    "oneOf, types": {"oneOf": [TEXT, {"type": "array", "items": TEXT, "maxItems": 2}]},
    "oneOf, a property": {
        "type": "object",
        "oneOf": [
            {"properties": {"kind": {"enum": ["a", "b"]}, "n": TEXT}, "required": ["kind"]},
            {"properties": {"kind": {"const": "c"}, "m": TEXT}, "required": ["kind", "m"]},
        ],
    },
    "oneOf, closed": {
        "type": "object",
        "oneOf": [
            {"properties": {"a": TEXT}, "required": ["a"], "additionalProperties": False},
            {"properties": {"b": TEXT}, "required": ["b"], "additionalProperties": False},
        ],
    },
    "oneOf, pattern": {
        "oneOf": [{"enum": ["HTTP", "HTTPS"]}, {"type": "string", "pattern": "^\\[[a-z]{1,3}\\]$"}]
    },
    "oneOf, one of three": {
        "oneOf": [{"const": 5}, {"type": "integer", "minimum": 7}, {"type": "number", "minimum": 6}]
    },
}


@pytest.mark.parametrize("schema", FOLLOWED.values(), ids=FOLLOWED)
def test_what_fits_the_stricter_schema_fits_the_schema(schema: dict[str, Any]) -> None:
    grammar = compile_schema(schema)
    for seed in range(12):
        text = random_text(grammar, seed)
        jsonschema.validate(json.loads(text), schema)


def test_several_values_remain_possible() -> None:
    for name in ("oneOf, a property", "oneOf, types", "uniqueItems, list", "minProperties"):
        grammar = compile_schema(FOLLOWED[name])
        assert len({random_text(grammar, seed) for seed in range(12)}) > 2


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"not": {"pattern": "x"}, "type": "string"}, "not"),
        ({"type": "array", "uniqueItems": True, "minItems": 2, "items": TEXT}, "uniqueItems"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf"),
        ({"type": "array", "contains": {"const": 1}, "minContains": 2}, "contains"),
    ],
)
def test_what_has_no_stricter_form_stays_to_be_refused(schema: dict[str, Any], named: str) -> None:
    assert named in followable(schema)


def test_a_schema_of_known_keywords_stays_as_it_is() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "array", "items": {"$ref": "#/$defs/b"}}},
        "$defs": {"b": {"anyOf": [TEXT, {"type": "string", "format": "date"}]}},
        "required": ["a"],
    }
    assert followable(schema) == schema


@pytest.mark.parametrize(
    "option",
    [
        {"type": "string", "pattern": "^b+$"},
        {"type": "object", "patternProperties": {"^b+$": False}},
        {"type": "object", "patternProperties": {"^a+$": {}}, "additionalProperties": False},
        {"type": "string", "pattern": "("},
    ],
)
@pytest.mark.parametrize("value", ["aa!", {"aa!": 1}, {"b": 1}])
def test_where_the_time_for_patterns_is_up_nothing_is_decided(
    monkeypatch: pytest.MonkeyPatch, option: dict[str, Any], value: Any
) -> None:
    """Some patterns take for ever."""
    schema = {"oneOf": [{"const": value}, option]}
    is_text = isinstance(value, str)
    excluded = is_text != (option["type"] == "string") or (
        option.get("pattern") != "(" and not jsonschema.Draft202012Validator(option).is_valid(value)
    )
    assert ("anyOf" in followable(schema)) == excluded
    monkeypatch.setattr(schema_rewrites, "MAX_PATTERN_SECONDS", 0.0)
    if is_text == (option["type"] == "string"):
        assert "oneOf" in followable(schema)
