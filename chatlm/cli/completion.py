"""The command `chatlm completion`: prints a shell's completion script."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

SCRIPT_PATHS = {
    "bash": "~/.local/share/bash-completion/completions/chatlm",
    "zsh": '"${fpath[1]}/_chatlm"',
    "fish": "~/.config/fish/completions/chatlm.fish",
}
"""Shell -> the file it loads a completion script from."""


@click.command()
@click.argument("shell", type=click.Choice(list(SCRIPT_PATHS)))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a shell completion script.

    Example: chatlm completion fish > ~/.config/fish/completions/chatlm.fish
    """
    root = context.find_root()
    maker = get_completion_class(shell)
    if maker is None:
        raise click.UsageError(f"click has no completion for {shell}.")
    click.echo(maker(root.command, {}, "chatlm", "_CHATLM_COMPLETE").source())
    click.echo(f"Install it: chatlm completion {shell} > {SCRIPT_PATHS[shell]}", err=True)
    click.echo("Then open a new terminal and try: chatlm ch<Tab>", err=True)
