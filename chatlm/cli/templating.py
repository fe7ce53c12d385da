"""`-t NAME` and `-v NAME=TEXT`: a question by a template, which a plugin offers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from chatlm.beginning import Opening, offered, opening
from chatlm.errors import ChatlmError, UsageError
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


def begun(template: str | None, pairs: Sequence[str], typed: str, plugins: PluginHost) -> Opening:
    """What the options make of what was typed.

    Args:
        template: its name; None for none.
        pairs: `NAME=TEXT` for its variables.
        typed: what the person typed or piped in.
        plugins: offer templates.

    Raises:
        UsageError: there is no such template, or the values do not fit it.
    """
    if template is None and pairs:
        raise UsageError("-v fills a gap of a template.", hint="Name the template: -t NAME")
    try:
        return opening(template or "", values_of(pairs), typed, plugins)
    except UsageError:
        for fault in plugins.take_faults():
            click.echo(visible(str(fault)), err=True)
        raise


def values_of(pairs: Sequence[str]) -> dict[str, str]:
    """`NAME=TEXT` taken apart; a UsageError for one without `=`."""
    values = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise UsageError(f"-v {pair!r} has no =.", hint="Write it so: -v NAME=TEXT")
        values[name.strip()] = text
    return values
