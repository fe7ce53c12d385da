"""The command palette: every typed command by its name and what it does."""

from __future__ import annotations

from functools import partial

from textual.command import DiscoveryHit, Hit, Hits, Provider
from textual.content import Content

from chatlm.tui import commands
from chatlm.tui.commands import Command


class ChatCommands(Provider):
    """Finds commands; one that cannot do without an argument is begun in the composer."""

    async def discover(self) -> Hits:
        """All of them, before anything is typed."""
        for command in _typed():
            yield DiscoveryHit(_shown(command), partial(self._run, command), command.title)

    async def search(self, query: str) -> Hits:
        """Those whose name or help is like the query."""
        matcher = self.matcher(query)
        for command in _typed():
            score = max(matcher.match(command.title), matcher.match(command.help))
            if score > 0:
                run = partial(self._run, command)
                yield Hit(score, _shown(command), run, command.title)

    async def _run(self, command: Command) -> None:
        name = "begin" if command.needs_argument else "command"
        await self.screen.run_action(f"screen.{name}('{command.name}')")


def _typed() -> list[Command]:
    return [command for command in commands.ALL.values() if command.typed]


def _shown(command: Command) -> Content:
    return Content.assemble(
        (f"{command.title:<18}", "bold"),
        (f"{commands.key_name(command.key):<8}", "$text-primary"),
        command.help,
    )
