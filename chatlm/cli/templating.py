"""`-t NAME` and `-v NAME=TEXT`: a question by a template, which a plugin offers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from chatlm.errors import ChatlmError, UsageError
from chatlm.templates import Rendered, TemplateRenderer
from chatlm.text import visible

if TYPE_CHECKING:
    from chatlm.plugins import PluginHost

F = TypeVar("F", bound=Callable[..., Any])


def complete_template(
    context: click.Context, parameter: click.Parameter, start: str
) -> list[CompletionItem]:
    """The names of templates that begin so; none when the settings cannot be read."""
    from chatlm import config
    from chatlm.plugins import loaded

    try:
        with loaded(config.load()) as plugins:
            return [CompletionItem(name) for name in offered(plugins) if name.startswith(start)]
    except ChatlmError:
        return []


def template_options(command: F) -> F:
    """Give a command both options, as `template: str | None` and `pairs: tuple[str, ...]`."""
    command = click.option(
        "-v",
        "--variable",
        "pairs",
        multiple=True,
        metavar="NAME=TEXT",
        help="Fill a gap of the template; can be repeated.",
    )(command)
    return click.option(
        "-t",
        "--template",
        metavar="NAME",
        shell_complete=complete_template,
        help="Ask by this template; see: chatlm templates list",
    )(command)


def offered(plugins: PluginHost) -> dict[str, TemplateRenderer]:
    """The templates of all plugins, by name."""
    found: dict[str, TemplateRenderer] = {}
    for _ in plugins.each("register_templates", register=found.__setitem__):
        pass
    return found


def rendered(
    template: str | None, pairs: Sequence[str], typed: str, plugins: PluginHost
) -> Rendered:
    """What the template makes; without one, what was typed is the message.

    Args:
        template: its name.
        pairs: `NAME=TEXT` for its variables.
        typed: what the person typed or piped in.
        plugins: offer templates.

    Raises:
        UsageError: there is no such template, or the values do not fit it.
    """
    if template is None:
        if pairs:
            raise UsageError("-v fills a gap of a template.", hint="Name the template: -t NAME")
        return Rendered(user=typed)
    there = offered(plugins)
    if template not in there:
        for fault in plugins.take_faults():
            click.echo(visible(str(fault)), err=True)
        near = get_close_matches(template, there, 1)
        raise UsageError(
            f"There is no template {template!r}.",
            hint=f"Did you mean {near[0]}?" if near else "See them: chatlm templates list",
        )
    try:
        return there[template](values_of(pairs), typed)
    except ChatlmError:
        raise
    except Exception as error:  # a plugin may fail in any way
        raise UsageError(
            f"The template {template} failed: {type(error).__name__}: {error}",
            hint="`chatlm logs` may have more.",
        ) from error


def values_of(pairs: Sequence[str]) -> dict[str, str]:
    """`NAME=TEXT` taken apart; a UsageError for one without `=`."""
    values = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise UsageError(f"-v {pair!r} has no =.", hint="Write it so: -v NAME=TEXT")
        values[name.strip()] = text
    return values
