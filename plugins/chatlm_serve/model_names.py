"""Names of models: the served one, alone and with the set-ups that it can be combined with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from chatlm import Setup, one_line
from chatlm_serve.errors import ApiError, field_error

SETUP_SEPARATOR = "+"
"""Separates the parts of a model name."""


def model_names(model: str, setups: Mapping[str, Setup]) -> list[str]:
    """Return the model names for clients: the model alone, and with each set-up."""
    return [model, *(f"{model}{SETUP_SEPARATOR}{name}" for name in setups)]


def unknown_model_error(name: str, known: Iterable[str]) -> ApiError:
    """Create the error for a model that is not there; it names the most similar one."""
    near = get_close_matches(name, known, 1)
    return ApiError(
        404,
        f"The model {one_line(name, 80)!r} does not exist. "
        + (f"Did you mean {near[0]}? " if near else "")
        + "GET /v1/models lists all models.",
        param="model",
        code="model_not_found",
    )


def setup_for_model(name: str, served_model: str, setups: Mapping[str, Setup]) -> Setup:
    """Return the set-up that a model name selects.

    Args:
        name: the name in the request.
        served_model: the served model.
        setups: available set-ups by name.

    Raises:
        ApiError: the model does not exist, or its parts cannot be combined.
    """
    base, separator, rest = name.removeprefix(served_model).partition(SETUP_SEPARATOR)
    parts = rest.split(SETUP_SEPARATOR) if separator else []
    if base or not name.startswith(served_model) or any(part not in setups for part in parts):
        raise unknown_model_error(name, model_names(served_model, setups))
    return _merge_setups(setups[part] for part in parts)


def _merge_setups(setups: Iterable[Setup]) -> Setup:
    merged: dict[str, Any] = {}
    plugin_data: dict[str, Any] = {}
    for setup in setups:
        values = setup.to_dict()
        data = values.pop("kept", {})
        if shared := sorted((merged.keys() & values.keys()) | (plugin_data.keys() & data.keys())):
            raise field_error(
                "model", f"its parts cannot be combined: more than one sets {shared[0]}."
            )
        merged |= values
        plugin_data |= data
    return Setup.from_dict({**merged, "kept": plugin_data})
