"""Names of models: the served one, alone and with the set-ups that it can be combined with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from chatlm import (
    ModelDetails,
    ModelError,
    OfferedTemplate,
    RenderedTemplate,
    Setup,
    find_installed_model,
    list_installed_models,
    one_line,
)
from chatlm_serve.errors import ApiError, field_error

SETUP_SEPARATOR = "+"
"""Separates the parts of a model name."""

MAX_COMPARED = 200
"""Characters of an unknown name that are compared with the known ones, which takes time."""


def model_names(model: str, setups: Mapping[str, Setup]) -> list[str]:
    """Return the model names for clients: the model alone, and with each set-up."""
    return [model, *(f"{model}{SETUP_SEPARATOR}{name}" for name in setups)]


def unknown_model_error(name: str, known: Iterable[str], problem: str = "") -> ApiError:
    """Create the error for a model that is not there; it names the most similar one.

    Args:
        name: the name in the request.
        known: names of models.
        problem: what is wrong, if more is known than that it does not exist.
    """
    near = get_close_matches(name[:MAX_COMPARED], known, 1)
    return ApiError(
        404,
        f"{problem or f'The model {one_line(name, 80)!r} does not exist.'} "
        + (f"Did you mean {near[0]}? " if near else "")
        + "GET /v1/models lists all models.",
        param="model",
        code="model_not_found",
    )


def split_name(name: str, served_model: str) -> tuple[str, list[str]]:
    """Split a name into the model's own, and those of its set-ups.

    Args:
        name: the name in the request.
        served_model: the served model, whose name may have the separator in it.
    """
    end = name.removeprefix(served_model)
    if name.startswith(served_model) and (not end or end.startswith(SETUP_SEPARATOR)):
        model, parts = served_model, end
    else:
        model, separator, rest = name.partition(SETUP_SEPARATOR)
        parts = separator + rest
    return model, parts.split(SETUP_SEPARATOR)[1:]


@dataclass(frozen=True)
class ServedSetups:
    """The set-ups of plugins, by name."""

    usable: Mapping[str, Setup] = field(default_factory=dict)
    """Those that the server can answer with."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Why it cannot answer with the others."""


def sort_setups(
    setups: Mapping[str, Setup], templates: Mapping[str, OfferedTemplate]
) -> ServedSetups:
    """Tell the set-ups that can be combined with a model from those that cannot be served.

    Args:
        setups: all of them; those that name a model are left out.
        templates: those that plugins offer.
    """
    own = {name: setup for name, setup in setups.items() if not setup.model}
    problems = {name: _problem(setup, templates) for name, setup in own.items()}
    return ServedSetups(
        {name: setup for name, setup in own.items() if not problems[name]},
        {name: problem for name, problem in problems.items() if problem},
    )


def _problem(setup: Setup, templates: Mapping[str, OfferedTemplate]) -> str:
    """Return why the server cannot answer with a set-up; empty if it can."""
    rendered = RenderedTemplate()
    if offered := templates.get(setup.template):
        try:
            rendered = offered.render(setup.values, "Hello.", dict)
        except Exception:  # a plugin may fail in any way; a request gets the error
            return ""
    method = setup.sampling.reply_method or rendered.sampling.reply_method
    if method:
        return f"the method {one_line(method[0], 30)} runs the model several times for a reply"
    if rendered.tools:
        names = one_line(", ".join(rendered.tools), 60)
        return f"its tools ({names}) run in a chat only; a client runs its own"
    return ""


def list_chat_models() -> list[ModelDetails]:
    """List the installed models that can chat."""
    return [details for details in list_installed_models() if details.kind == "chat"]


def find_chat_model(name: str, served_model: str) -> str:
    """Return the name of an installed model that can chat.

    Args:
        name: any name of it: of the catalogue, of the hub, or as Ollama has it; never a path.
        served_model: the served model, for the error.

    Raises:
        ApiError: there is none.
    """
    try:
        found = find_installed_model(name)
    except ModelError as error:
        known = [served_model, *(details.name for details in list_chat_models())]
        raise unknown_model_error(name, known, one_line(error.message, 200)) from error
    if found.kind != "chat":
        raise field_error("model", f"{one_line(found.name, 60)} is no chat model: {found.kind}.")
    return found.name


def setup_for_parts(name: str, model: str, parts: Sequence[str], setups: ServedSetups) -> Setup:
    """Return the set-up that the parts of a model name select.

    Args:
        name: the whole name in the request.
        model: the model.
        parts: names of set-ups.
        setups: the available ones.

    Raises:
        ApiError: a part does not exist or cannot be served, or they cannot be combined.
    """
    for part in parts:
        if part in setups.refused:
            raise field_error(
                "model",
                f"{one_line(part, 60)} cannot be served: {setups.refused[part]}. Use it in "
                "chatlm itself, or another set-up.",
                "unsupported_value",
            )
    if any(part not in setups.usable for part in parts):
        raise unknown_model_error(name, model_names(model, setups.usable))
    return _merge_setups(setups.usable[part] for part in parts)


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
