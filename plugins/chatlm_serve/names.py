"""Model names: the served model alone, or with set-ups joined to it by `+`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from chatlm import Setup, one_line
from chatlm_serve.errors import ApiError, wrong

JOINT = "+"


def listed(model: str, offered: Mapping[str, Setup]) -> list[str]:
    """The names that a client is shown: the model, and the model with each set-up."""
    return [model, *(f"{model}{JOINT}{name}" for name in offered)]


def setup_of(name: str, model: str, offered: Mapping[str, Setup]) -> Setup:
    """What a name means.

    Args:
        name: as a client says it.
        model: the served one.
        offered: set-ups by name.

    Raises:
        ApiError: there is no such model, or its parts cannot be used together.
    """
    base, joint, rest = name.removeprefix(model).partition(JOINT)
    parts = rest.split(JOINT) if joint else []
    if base or not name.startswith(model) or any(part not in offered for part in parts):
        known = listed(model, offered)
        near = get_close_matches(name, known, 1)
        raise ApiError(
            404,
            f"The model {one_line(name, 80)!r} does not exist. "
            + (f"Did you mean {near[0]}? " if near else "")
            + "GET /v1/models lists all.",
            param="model",
            code="model_not_found",
        )
    return _joined(offered[part] for part in parts)


def _joined(setups: Iterable[Setup]) -> Setup:
    said: dict[str, Any] = {}
    kept: dict[str, Any] = {}
    for setup in setups:
        values = setup.to_dict()
        keeps = values.pop("kept", {})
        if twice := sorted((said.keys() & values.keys()) | (kept.keys() & keeps.keys())):
            raise wrong("model", f"its parts cannot be used together: two have {twice[0]}.")
        said |= values
        kept |= keeps
    return Setup.from_dict({**said, "kept": kept})
