"""A click group whose commands are imported when they are invoked; it knows none of them."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click


class LazyGroup(click.Group):
    """A group with commands from a table beside those that are added to it.

    Args:
        lazy: name -> (`module:attribute`, help in one line).
    """

    def __init__(self, *args: Any, lazy: Mapping[str, tuple[str, str]], **more: Any) -> None:
        super().__init__(*args, **more)
        self._lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The table's names in its order, then the others."""
        return [*self._lazy, *(name for name in sorted(self.commands) if name not in self._lazy)]

    def add_lazy(self, name: str, where: str, help: str) -> None:
        """Add a command that is imported when it is invoked.

        Args:
            name: as it is typed.
            where: `module:attribute` of the command.
            help: what it does, in one line.
        """
        self._lazy = {**self._lazy, name: (where, help)}

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
