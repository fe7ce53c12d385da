"""Lazy groups; cached commands of plugins."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from chatlm.config import paths
from chatlm.errors import ChatlmError, ConfigError
from chatlm.text import escape_controls, one_line


class LazyGroup(click.Group):
    """A group with commands from a table beside those that are added to it.

    Args:
        lazy: name -> (`module:attribute`, help in one line).
    """

    def __init__(self, *args: Any, lazy: Mapping[str, tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The table's names in its order, then the others."""
        return [*self._lazy, *(name for name in sorted(self.commands) if name not in self._lazy)]

    def add_lazy(self, name: str, import_path: str, help: str) -> None:
        """Add a command that is imported when it is invoked.

        Args:
            name: as it is typed.
            import_path: `module:attribute` of the command.
            help: what it does, in one line.
        """
        self._lazy = {**self._lazy, name: (import_path, help)}

    def short_helps(self) -> dict[str, str]:
        """What each command does, in one line, by name; imports none of the table's."""
        return {name: meaning for name, (_, meaning) in self._lazy.items()} | {
            name: command.get_short_help_str()
            for name, command in sorted(self.commands.items())
            if name not in self._lazy and not command.hidden
        }

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now if it is one of the table."""
        if cmd_name not in self._lazy:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = self._lazy[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list under `--help`, written without importing the table's commands."""
        with formatter.section("Commands"):
            formatter.write_dl(list(self.short_helps().items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; for an unknown one, name the nearest."""
        name = args[0]
        here = name in self._lazy or name in self.list_commands(ctx)
        if not here and not ctx.resilient_parsing:
            from difflib import get_close_matches

            near = get_close_matches(name, self.list_commands(ctx), 1, cutoff=0.7)
            ctx.fail(
                f"There is no command {name!r}. "
                + (f"Did you mean {near[0]}?" if near else 'To ask a question: chatlm ask "…"')
            )
        return super().resolve_command(ctx, args)


class PluginGroup(LazyGroup):
    """What one plugin's hook gets to add its commands to; a wrong one is refused at once.

    Args:
        name: the plugin's.
        taken: whose each name is that it cannot have.
    """

    def __init__(self, name: str, taken: Mapping[str, str]) -> None:
        super().__init__(name, lazy={})
        self._taken = taken

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """See `hookspecs.Commands`."""
        if not isinstance(cmd, click.Command):
            raise TypeError(f"add_command got {type(cmd).__name__}, not a click command")
        self._check_name(name or cmd.name)
        super().add_command(cmd, name)

    def add_lazy(self, name: str, import_path: str, help: str) -> None:
        """See `hookspecs.Commands`."""
        if (
            not all(isinstance(text, str) for text in (name, import_path, help))
            or ":" not in import_path
        ):
            raise TypeError("add_lazy takes a name, module:attribute and a line of help")
        self._check_name(name)
        super().add_lazy(name, import_path, help)

    def _check_name(self, name: str | None) -> None:
        if not name or name.startswith("-") or name.split() != [name]:
            raise ValueError(f"{name!r} cannot be a command's name")
        if name in self._taken:
            raise ValueError(f"the command {name} is there already, from {self._taken[name]}")


class RootGroup(LazyGroup):
    """`chatlm` itself: its own commands first; plugins are asked only for others.

    A plugin that fails here costs one line on stderr, never the command line.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._plugin_commands: dict[str, PluginCommand] | None = None
        self._loaded_commands: dict[str, click.Command | None] = {}

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command; for a plugin's, that plugin is loaded now."""
        own = super().get_command(ctx, cmd_name)
        if own is not None or cmd_name not in self._list_plugin_commands(ctx):
            return own
        if cmd_name not in self._loaded_commands:
            self._loaded_commands[cmd_name] = self._load_command(ctx, cmd_name)
        return self._loaded_commands[cmd_name]

    def list_commands(self, ctx: click.Context) -> list[str]:
        """chatlm's commands, then the plugins'."""
        return [*super().list_commands(ctx), *self._list_plugin_commands(ctx)]

    def short_helps(self) -> dict[str, str]:
        """What each command does, in one line, by name."""
        others = self._list_plugin_commands(click.get_current_context())
        return super().short_helps() | {
            name: one_line(known.help, 80) for name, known in others.items()
        }

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what a plugin's own raises is told as that plugin's."""
        try:
            return super().invoke(ctx)
        except (
            ChatlmError,
            click.ClickException,
            click.exceptions.Exit,
            click.Abort,
            BrokenPipeError,
        ):
            raise
        except Exception as error:
            name = ctx.invoked_subcommand or ""
            if name not in self._loaded_commands:
                raise
            raise _command_error(
                self._list_plugin_commands(ctx)[name].plugin, name, error
            ) from error

    def _list_plugin_commands(self, ctx: click.Context) -> dict[str, PluginCommand]:
        if self._plugin_commands is None:
            self._plugin_commands = read_command_cache()
        if self._plugin_commands is None:
            before = set(sys.modules)
            groups, whole = self._collect_commands(ctx, None)
            self._plugin_commands = {
                name: PluginCommand(plugin, meaning)
                for plugin, group in groups.items()
                for name, meaning in group.short_helps().items()
            }
            if whole:
                write_command_cache(self._plugin_commands, set(sys.modules) - before)
        return self._plugin_commands

    def _load_command(self, ctx: click.Context, name: str) -> click.Command | None:
        plugin = self._list_plugin_commands(ctx)[name].plugin
        groups, _ = self._collect_commands(ctx, plugin)
        if plugin not in groups:
            return None
        try:
            return groups[plugin].get_command(ctx, name)
        except Exception as error:
            raise _command_error(plugin, name, error) from error

    def _collect_commands(
        self, ctx: click.Context, plugin_name: str | None
    ) -> tuple[dict[str, PluginGroup], bool]:
        """Load one plugin, or all, and let each add its commands.

        Returns:
            the plugins' groups, and whether nothing failed.
        """
        from chatlm.config import config, logs
        from chatlm.plugin_host.host import PluginHost
        from chatlm.plugin_host.lifecycle import load_plugins

        logs.setup_logging()
        try:
            settings = config.load()
        except ConfigError as error:
            _warn(ctx, f"{error.message} Commands of plugins are left out. {error.hint}")
            return {}, False
        host = PluginHost()
        load_plugins(host, settings, None if plugin_name is None else [plugin_name])
        taken = dict.fromkeys(super().short_helps(), "chatlm")
        groups: dict[str, PluginGroup] = {}

        def arguments(plugin: str) -> Mapping[str, Any]:
            groups[plugin] = PluginGroup(plugin, taken)
            return {"cli": groups[plugin]}

        added: dict[str, PluginGroup] = {}
        for plugin in host.call_each("register_commands", arguments):
            taken |= dict.fromkeys(groups[plugin].short_helps(), plugin)
            added[plugin] = groups[plugin]
        faults = host.take_faults()
        for fault in faults:
            _warn(ctx, str(fault))
        return added, not faults


def _command_error(plugin: str, command: str, error: Exception) -> ChatlmError:
    import logging

    logging.getLogger(__name__).error("plugin %s failed in %s", plugin, command, exc_info=error)
    return ChatlmError(
        f"The plugin {plugin} failed in its command {command}: "
        + one_line(f"{type(error).__name__}: {error}", 300),
        hint=f"More: chatlm logs. Without it: chatlm plugins disable {plugin}",
    )


def _warn(ctx: click.Context, text: str) -> None:
    """One line on stderr; none while a shell completes a command."""
    if not ctx.resilient_parsing:
        click.echo(escape_controls(text), err=True)


@dataclass(frozen=True)
class PluginCommand:
    """A plugin's command as the list shows it."""

    plugin: str
    help: str

    def to_dict(self) -> dict[str, Any]:
        """As plain values, ready for JSON."""
        return {
            "plugin": self.plugin,
            "help": self.help,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PluginCommand:
        """Read back what `to_dict` made.

        Raises:
            KeyError, TypeError: it is something else.
        """
        return cls(
            plugin=values["plugin"],
            help=values["help"],
        )


def read_command_cache() -> dict[str, PluginCommand] | None:
    """The commands by name, as they were kept; None when anything changed since."""
    try:
        kept = json.loads(_cache_file().read_text(encoding="utf-8"))
        if kept["now"] != _file_stamps(kept["files"]):
            return None
        return {name: PluginCommand.from_dict(values) for name, values in kept["commands"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def write_command_cache(commands: Mapping[str, PluginCommand], modules: Iterable[str]) -> None:
    """Keep the commands for the next start; a folder that cannot be written goes without.

    Args:
        commands: by name.
        modules: that were imported to find them; a change in one of their files ends it.
    """
    from chatlm.config.paths import write_atomically

    found = (getattr(sys.modules.get(name), "__file__", None) for name in modules)
    files = sorted({file for file in found if isinstance(file, str)})
    kept = {
        "now": _file_stamps(files),
        "files": files,
        "commands": {name: known.to_dict() for name, known in commands.items()},
    }
    with suppress(OSError):
        _cache_file().parent.mkdir(parents=True, exist_ok=True)
        write_atomically(_cache_file(), [json.dumps(kept)])


def _cache_file() -> Path:
    return paths.data_dir() / "plugin-commands.json"


def _file_stamps(files: list[str]) -> dict[str, Any]:
    """What tells that a plugin came, went, changed or was switched, without opening a file."""
    watched = [__file__, str(paths.config_file()), str(paths.user_plugins_dir()), *files, *sys.path]
    with suppress(OSError):
        watched += map(str, paths.user_plugins_dir().iterdir())
    return {path: _file_stamp(Path(path)) for path in watched}


def _file_stamp(path: Path) -> list[int] | None:
    try:
        at = path.stat()
    except OSError:
        return None
    return [at.st_mtime_ns, at.st_size]
