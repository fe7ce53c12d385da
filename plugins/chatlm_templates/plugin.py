"""The hooks by which chatlm knows the templates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from chatlm import hookimpl

if TYPE_CHECKING:
    from chatlm import Commands, Rendered, TemplateRenderer


@hookimpl
def register_commands(cli: Commands) -> None:
    """Add `chatlm templates`."""
    cli.add_lazy(
        "templates",
        "chatlm_templates.commands:templates",
        "List, show, make, check and try prompt templates.",
    )


@hookimpl
def register_templates(register: Callable[[str, TemplateRenderer], None]) -> None:
    """Offer each template by its name."""
    from chatlm_templates.library import files

    for name in files():
        register(name, partial(_render, name))


def _render(name: str, values: Mapping[str, str], typed: str) -> Rendered:
    from chatlm_templates.library import named
    from chatlm_templates.rendering import render

    return render(named(name), values, typed)
