"""Lazy groups; cached commands of plugins."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from chatlm.config import paths
from chatlm.errors import ChatlmError, ConfigError
from chatlm.plugin_host.faults import CtrlC, marked_ctrl_c
from chatlm.text import escape_controls, one_line

SHORT_HELP_LIMIT = 120
"""Characters of a command's line under `--help`, which wraps; click would cut it at 45."""


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
        """Return each command's help line by name, without importing the lazy ones."""
        return {name: meaning for name, (_, meaning) in self._lazy.items()} | {
            name: command.get_short_help_str(SHORT_HELP_LIMIT)
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
        own = name in self._lazy or name in self.commands
        here = own or name in self.list_commands(ctx)
        if not here and not ctx.resilient_parsing:
            from difflib import get_close_matches

            near = get_close_matches(name, self.list_commands(ctx), 1, cutoff=0.7)
            ctx.fail(
                f"There is no command {name!r}. "
                + (f"Did you mean {near[0]}?" if near else 'To ask a question: chatlm ask "…"')
            )
        return super().resolve_command(ctx, args)


class ExtensibleGroup(LazyGroup):
    """A group of chatlm's own, such as `models`, to which plugins may add commands."""

    def __init__(
        self, *args: Any, lazy: Mapping[str, tuple[str, str]] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, lazy=lazy or {}, **kwargs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command; plugins are asked only for one that is not chatlm's own."""
        own = super().get_command(ctx, cmd_name)
        root = ctx.find_root().command
        if own is not None or not isinstance(root, RootGroup):
            return own
        return root.plugin_command(ctx, f"{self.name} {cmd_name}")

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return chatlm's commands, then the plugins'."""
        return [*super().list_commands(ctx), *self._plugin_helps(ctx)]

    def short_helps(self) -> dict[str, str]:
        """Return what each command does, in one line, by name."""
        return self.own_helps() | self._plugin_helps(click.get_current_context())

    def own_helps(self) -> dict[str, str]:
        """Return the same of chatlm's own commands."""
        return super().short_helps()

    def _plugin_helps(self, ctx: click.Context) -> dict[str, str]:
        root = ctx.find_root().command
        return root.plugin_helps(ctx, f"{self.name} ") if isinstance(root, RootGroup) else {}


class PluginGroup(LazyGroup):
    """The command line that one plugin's hook gets; a command that is not valid raises at once.

    Args:
        name: the plugin's name.
        taken: the owner of each name that is not free.
        taken_in: returns the same for a group of chatlm's own; raises ValueError for others.
    """

    def __init__(
        self,
        name: str,
        taken: Mapping[str, str],
        taken_in: Callable[[str], Mapping[str, str]] | None = None,
    ) -> None:
        super().__init__(name, lazy={})
        self._taken = taken
        self._taken_in = taken_in
        self.groups: dict[str, PluginGroup] = {}
        """The groups of chatlm's own that the plugin adds commands to, by name."""

    def group_of(self, name: str) -> PluginGroup:
        """Return one of chatlm's own groups, to add commands to it."""
        if self._taken_in is None:
            raise ValueError(f"{self.name} has no groups")
        if name not in self.groups:
            self.groups[name] = PluginGroup(name, self._taken_in(name))
        return self.groups[name]

    def all_helps(self) -> dict[str, str]:
        """Return the help of each command by name, those in groups as `GROUP NAME`."""
        return self.short_helps() | {
            f"{name} {command}": text
            for name, group in self.groups.items()
            for command, text in group.short_helps().items()
        }

    def find(self, ctx: click.Context, path: str) -> click.Command | None:
        """Return the command of `NAME` or `GROUP NAME`."""
        group, _, name = path.rpartition(" ")
        return (self.groups[group] if group else self).get_command(ctx, name)

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Add a command; raise `TypeError` for anything else."""
        if not isinstance(cmd, click.Command):
            raise TypeError(f"add_command got {type(cmd).__name__}, not a click command")
        self._check_name(name or cmd.name)
        super().add_command(cmd, name)

    def add_lazy(self, name: str, import_path: str, help: str) -> None:
        """Add a command that is imported when it runs."""
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
            raise ValueError(f"the command {name} already exists, from {self._taken[name]}")


_INVOKED_KEY = "chatlm.plugin_command"


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
        return own if own is not None else self.plugin_command(ctx, cmd_name)

    def plugin_command(self, ctx: click.Context, path: str) -> click.Command | None:
        """Return a plugin's command, `NAME` or `GROUP NAME`; loads that plugin now."""
        if path not in self._list_plugin_commands(ctx):
            return None
        if path not in self._loaded_commands:
            self._loaded_commands[path] = self._load_command(ctx, path)
        ctx.meta[_INVOKED_KEY] = path
        return self._loaded_commands[path]

    def plugin_helps(self, ctx: click.Context, prefix: str = "") -> dict[str, str]:
        """Return the help of the plugins' commands by name.

        Args:
            ctx: of the group.
            prefix: `GROUP ` for the commands in a group of chatlm's own.
        """
        return {
            path.removeprefix(prefix): one_line(known.help, 80)
            for path, known in self._list_plugin_commands(ctx).items()
            if path.startswith(prefix) and " " not in path.removeprefix(prefix)
        }

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return chatlm's commands, then the plugins'."""
        return [*super().list_commands(ctx), *self.plugin_helps(ctx)]

    def short_helps(self) -> dict[str, str]:
        """Return what each command does, in one line, by name."""
        return super().short_helps() | self.plugin_helps(click.get_current_context())

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; report an unexpected error of a plugin's command as the plugin's."""
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
        except (Exception, KeyboardInterrupt) as error:
            name = ctx.meta.get(_INVOKED_KEY)
            if name is None:
                raise
            plugin = self._list_plugin_commands(ctx)[name].plugin
            if isinstance(error, KeyboardInterrupt):  # by the user, or raised by the plugin
                _warn(ctx, f"The command {name} of the plugin {plugin} was interrupted.")
                raise
            raise _command_error(plugin, name, error) from error

    def _list_plugin_commands(self, ctx: click.Context) -> dict[str, PluginCommand]:
        if self._plugin_commands is None:
            self._plugin_commands = read_command_cache()
        if self._plugin_commands is None:
            before = set(sys.modules)
            groups, whole = self._collect_commands(ctx, None)
            self._plugin_commands = {
                name: PluginCommand(plugin, meaning)
                for plugin, group in groups.items()
                for name, meaning in group.all_helps().items()
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
            with marked_ctrl_c():
                return groups[plugin].find(ctx, name)
        except CtrlC:
            raise
        except BaseException as error:  # an import may fail in any way
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
        taken_in_groups: dict[str, dict[str, str]] = {}
        groups: dict[str, PluginGroup] = {}

        def taken_in(name: str) -> dict[str, str]:
            if name not in taken_in_groups:
                group = LazyGroup.get_command(self, ctx, name)
                if not isinstance(group, ExtensibleGroup):
                    raise ValueError(f"chatlm has no group {name} that takes commands")
                taken_in_groups[name] = dict.fromkeys(group.own_helps(), "chatlm")
            return taken_in_groups[name]

        def arguments(plugin: str) -> Mapping[str, Any]:
            groups[plugin] = PluginGroup(plugin, taken, taken_in)
            return {"cli": groups[plugin]}

        added: dict[str, PluginGroup] = {}
        for plugin in host.call_each("register_commands", arguments):
            taken |= dict.fromkeys(groups[plugin].short_helps(), plugin)
            for name, group in groups[plugin].groups.items():
                taken_in_groups[name] |= dict.fromkeys(group.short_helps(), plugin)
            added[plugin] = groups[plugin]
        faults = host.take_faults()
        for fault in faults:
            _warn(ctx, str(fault))
        return added, not faults


def _command_error(plugin: str, command: str, error: BaseException) -> ChatlmError:
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
        """Convert to JSON values."""
        return {
            "plugin": self.plugin,
            "help": self.help,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PluginCommand:
        """Restore from the values of `to_dict`.

        Raises:
            KeyError, TypeError: the values are invalid.
        """
        return cls(
            plugin=values["plugin"],
            help=values["help"],
        )


def read_command_cache() -> dict[str, PluginCommand] | None:
    """Return the cached commands by name; None if anything changed since."""
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
    """Return the file stamps that show that plugins or settings changed, without opening a file."""
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
