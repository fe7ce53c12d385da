"""`-t NAME` and `-v NAME=TEXT`: a question by a template, which a plugin offers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from chatlm.errors import ChatlmError, UsageError
from chatlm.messages import Kept
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


@dataclass(frozen=True)
class Opening:
    """How a question begins."""

    rendered: Rendered
    kept: Kept = field(default_factory=dict)
    """What the plugin that offers the template keeps with the chat."""

    @property
    def question(self) -> str:
        """What is sent; the plugin makes the message of it where it has a part in it."""
        return self.rendered.typed or self.rendered.user


def offered(plugins: PluginHost) -> dict[str, tuple[str, TemplateRenderer]]:
    """The templates of all plugins by name, each with its plugin."""
    found: dict[str, tuple[str, TemplateRenderer]] = {}

    def arguments(plugin: str) -> dict[str, Any]:
        def register(name: str, render: TemplateRenderer) -> None:
            found[name] = plugin, render

        return {"register": register}

    for _ in plugins.offer("register_templates", arguments):
        pass
    return found


def opening(template: str | None, pairs: Sequence[str], typed: str, plugins: PluginHost) -> Opening:
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
        return Opening(Rendered(user=typed))
    there = offered(plugins)
    if template not in there:
        for fault in plugins.take_faults():
            click.echo(visible(str(fault)), err=True)
        near = get_close_matches(template, there, 1)
        raise UsageError(
            f"There is no template {template!r}.",
            hint=f"Did you mean {near[0]}?" if near else "See them: chatlm templates list",
        )
    plugin, render = there[template]
    try:
        rendered = render(values_of(pairs), typed)
    except ChatlmError:
        raise
    except Exception as error:  # a plugin may fail in any way
        raise UsageError(
            f"The template {template} failed: {type(error).__name__}: {error}",
            hint="`chatlm logs` may have more.",
        ) from error
    return Opening(rendered, {plugin: rendered.kept} if rendered.kept else {})


def values_of(pairs: Sequence[str]) -> dict[str, str]:
    """`NAME=TEXT` taken apart; a UsageError for one without `=`."""
    values = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise UsageError(f"-v {pair!r} has no =.", hint="Write it so: -v NAME=TEXT")
        values[name.strip()] = text
    return values
