"""Bound JSON schemas, so that a weak model comes to an end of what it writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chatlm.types.schemas import Schema

MAX_STRING, MAX_ITEMS, MAX_PROPERTIES = 1000, 32, 16
"""Limits in characters, items and keys where a schema has none: a weak model may find no end."""

MAX_INTEGER = 2**53 - 1
"""Likewise, the largest integer that all programs read from JSON."""


def bounded(schema: Schema) -> dict[str, Any]:
    """Return a stricter schema, whose strings, arrays, objects and integers are bounded.

    Objects that name their properties get no others, unless the schema says so. What fits the
    result fits the schema too.
    """
    return dict(_bound(schema, frozenset()))


_SCHEMA_KEYWORDS = (
    "items", "additionalProperties", "additionalItems", "contains", "propertyNames",
    "unevaluatedItems", "unevaluatedProperties",
)  # fmt: skip
_SCHEMA_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems", "items")
_SCHEMA_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_FIXED = ("enum", "const", "$ref", "anyOf", "oneOf", "allOf", "not", "if")
"""Keywords beside which a `type` alone says little."""


def _bound(schema: Any, siblings: frozenset[str]) -> Any:
    """Bound a schema and those inside it.

    Args:
        schema: a schema, or true or false.
        siblings: properties that `allOf` adds from elsewhere, so that the object stays open.
    """
    if not isinstance(schema, Mapping):
        return schema
    out = dict(schema)
    open_object = siblings or "allOf" in schema or "$ref" in schema
    for key in _SCHEMA_MAPS:
        if isinstance(schema.get(key), Mapping):
            out[key] = {name: _bound(each, frozenset()) for name, each in schema[key].items()}
    for key in _SCHEMA_LISTS:
        if isinstance(schema.get(key), list):
            inner = frozenset({"allOf"}) if key == "allOf" or "properties" in schema else siblings
            out[key] = [
                _bound(each, inner if key in ("anyOf", "oneOf", "allOf") else frozenset())
                for each in schema[key]
            ]
    for key in _SCHEMA_KEYWORDS:
        if isinstance(schema.get(key), Mapping):
            out[key] = _bound(schema[key], frozenset())
    if any(key in schema for key in _FIXED):
        return out
    types = _types(schema)
    if "string" in types and not {"maxLength", "pattern", "format"} & schema.keys():
        out["maxLength"] = max(MAX_STRING, schema.get("minLength", 0))
    if "array" in types and "maxItems" not in schema:
        out["maxItems"] = max(MAX_ITEMS, schema.get("minItems", 0))
    if "integer" in types and not {"maximum", "exclusiveMaximum", "multipleOf"} & schema.keys():
        out["maximum"] = max(MAX_INTEGER, schema.get("minimum", 0))
    if "integer" in types and not {"minimum", "exclusiveMinimum", "multipleOf"} & schema.keys():
        out["minimum"] = min(-MAX_INTEGER, schema.get("maximum", 0))
    if "object" in types and "patternProperties" not in schema and not open_object:
        if schema.get("properties") and "unevaluatedProperties" not in schema:
            out.setdefault("additionalProperties", False)
        elif "maxProperties" not in schema and "properties" not in schema:
            out["maxProperties"] = max(
                MAX_PROPERTIES, schema.get("minProperties", 0), len(schema.get("required", ()))
            )
    return out


def _types(schema: Schema) -> frozenset[str]:
    """Return the types that a schema names, or that its keywords are about."""
    named = schema.get("type")
    if isinstance(named, str):
        return frozenset({named})
    if isinstance(named, list):
        return frozenset(named) - {"integer"}
    if "properties" in schema:
        return frozenset({"object"})
    return frozenset({"array"}) if "items" in schema else frozenset()
