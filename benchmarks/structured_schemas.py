"""Questions with the schemas of their answers: nested, enums, arrays, unicode, bounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _list(items: Any, most: int, least: int = 0) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


def _text(most: int, **more: Any) -> dict[str, Any]:
    return {"type": "string", "maxLength": most, **more}


def _whole(low: int, high: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": low, "maximum": high}


_NODE: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "parts": {"type": "array", "items": {"$ref": "#/$defs/leaf"}, "maxItems": 4},
    },
    "required": ["name", "parts"],
    "$defs": {"leaf": _object(name=_text(20), mass=_whole(1, 999))},
}

SCHEMAS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("Describe a person.", _object(name={"type": "string"}, age=_whole(0, 120))),
    ("Is water wet?", _object(answer={"enum": ["yes", "no", "unsure"]}, why={"type": "string"})),
    ("Name three fruits.", _list({"type": "string"}, 3, 3)),
    ("Invent a book.", _object(
        title=_text(60), year=_whole(1450, 2026),
        authors=_list(_object(first=_text(20), last=_text(20)), 3, 1),
    )),
    ("Rate the film.", _object(
        stars={"type": "number", "minimum": 0, "maximum": 5}, seen={"type": "boolean"},
    )),
    ("Say a greeting in several languages.", _object(
        deutsch={"enum": ["Grüß Gott", "Servus"]}, français={"enum": ["Ça va ?", "Salut"]},
        日本語={"enum": ["こんにちは", "やあ"]},
    )),
    ("Plan a day.", _list(_object(hour=_whole(0, 23), task=_text(40)), 5, 2)),
    ("Give a colour.", {"type": "string", "pattern": "^#[0-9a-f]{6}$"}),
    ("When was the moon landing?", _object(date={"type": "string", "format": "date"})),
    ("Describe a machine and its parts.", dict(_NODE)),
    ("Roll a die five times.", _list(_whole(1, 6), 5, 5)),
    ("Where is Paris?", _object(
        latitude={"type": "number", "minimum": -90, "maximum": 90},
        longitude={"type": "number", "minimum": -180, "maximum": 180},
    )),
    ("Describe a pet; it may have an owner.", {
        "type": "object",
        "properties": {
            "species": {"enum": ["cat", "dog", "fish"]}, "owner": _object(name=_text(30)),
        },
        "required": ["species"],
    }),
    ("Give a value or nothing.", {"anyOf": [{"type": "null"}, _whole(-5, 5), _text(10)]}),
    ("Write a shopping list with prices.", {
        "type": "object",
        "patternProperties": {"^[a-z]{2,12}$": {"type": "number", "minimum": 0, "maximum": 99}},
        "additionalProperties": False, "minProperties": 1, "maxProperties": 4,
    }),
    ("Draw a small table.", _list(_list(_whole(0, 9), 3, 3), 3, 3)),
    ("Describe the weather.", _object(
        sky={"enum": ["☀", "☁", "☔"]}, celsius=_whole(-60, 60), wind=_object(
            from_={"enum": ["N", "E", "S", "W"]}, force=_whole(0, 12)),
    )),
    ("Classify: 'I love it.'", _object(
        label={"enum": ["positive", "negative"]}, words=_list(_text(15), 4),
    )),
    ("Give a version.", {"type": "string", "pattern": r"^[0-9]{1,2}\.[0-9]{1,2}\.[0-9]{1,2}$"}),
    ("Describe a family.", _object(
        parents=_list(_object(name=_text(20), born=_whole(1900, 2000)), 2, 1),
        children=_list(_object(name=_text(20), pets=_list({"enum": ["cat", "dog"]}, 2)), 3),
        address=_object(street=_text(30), number=_whole(1, 999), city=_text(30)),
    )),
)  # fmt: skip
