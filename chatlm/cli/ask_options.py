"""Options of plugins in `chatlm ask`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import click

from chatlm.errors import ConfigError, UsageError
from chatlm.plugin_host.faults import Fault
from chatlm.plugin_host.hookspecs import AskOption
from chatlm.text import escape_controls, one_line
from chatlm.types.setups import Setup


class PluginOption(click.Option):
    """An option of `chatlm ask` that a plugin registered."""

    def __init__(self, option: AskOption) -> None:
        super().__init__(
            [option.name],
            metavar=one_line(option.metavar, 30),
            help=one_line(option.help, 200),
            expose_value=False,
            callback=self._store_value,
        )
        self.option = option

    def _store_value(self, context: click.Context, parameter: click.Parameter, value: Any) -> None:
        if value is not None:
            context.meta.setdefault(_VALUES_KEY, []).append((self.option, value))


class AskCommand(click.Command):
    """A command that loads plugins for options which are not its own, and for its help."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments, with the plugins' options if there may be one."""
        ctx.meta[_WORDS_KEY] = (ctx.info_name or "", *args)
        own = {name for parameter in self.params for name in parameter.opts}
        names = {arg.partition("=")[0] for arg in args if arg.startswith("--") and arg != "--"}
        faults: list[Fault] = []
        if names - own:
            ctx.meta[_OPTIONS_KEY], faults = _plugin_options(own, quiet=ctx.resilient_parsing)
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption:
            for fault in faults:  # the plugin that has the option may be among them
                click.echo(escape_controls(str(fault)), err=True)
            raise

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return all parameters, those of plugins last."""
        return [*super().get_params(ctx), *ctx.meta.get(_OPTIONS_KEY, ())]


def setup_from_options(context: click.Context) -> Setup:
    """Return the combined set-up of the plugins' options on the command line.

    Raises:
        ChatlmError: a value is not valid.
    """
    merged = Setup()
    for option, value in context.meta.get(_VALUES_KEY, ()):
        setup = option.setup(value)
        if not isinstance(setup, Setup):
            raise UsageError(f"{option.name} of a plugin did not return a chatlm.Setup.")
        merged = dataclasses.replace(
            merged,
            adapter=setup.adapter or merged.adapter,
            system=setup.system or merged.system,
            sampling=setup.sampling.with_fallback(merged.sampling),
            plugin_data={**merged.plugin_data, **setup.plugin_data},
        )
    return merged


def command_words(context: click.Context) -> tuple[str, ...]:
    """Return the words of the command, such as `ask`, `--json` and the question."""
    words: tuple[str, ...] = context.meta[_WORDS_KEY]
    return words


_OPTIONS_KEY, _VALUES_KEY = "chatlm.ask_options", "chatlm.ask_values"

_WORDS_KEY = "chatlm.ask_words"


def _plugin_options(taken: Iterable[str], *, quiet: bool) -> tuple[list[PluginOption], list[Fault]]:
    """Load the plugins and return their options, and which plugins could not be loaded.

    An option that is refused is a line on stderr.
    """
    from chatlm.config import config
    from chatlm.plugin_host.host import PluginHost
    from chatlm.plugin_host.lifecycle import load_plugins

    owners = dict.fromkeys(taken, "chatlm")
    host = PluginHost()

    def accept(plugin: str, option: AskOption) -> None:
        owner = owners.setdefault(option.name, plugin)
        if owner != plugin:
            raise ValueError(f"the option {option.name} already exists, from {owner}")

    try:
        load_plugins(host, config.load())
    except ConfigError:
        return [], []  # the command itself reports it
    unloaded = host.take_faults()
    registered = host.collect("register_ask_options", accept)
    if not quiet:
        for fault in host.take_faults():
            click.echo(escape_controls(str(fault)), err=True)
    return [PluginOption(option) for _, (option,) in registered], unloaded
