"""The commands `pull`, `run` and `list`, for hands that know Ollama."""

from __future__ import annotations

import sys

import click

from chatlm.cli.completers import complete_model
from chatlm.cli.models import pull as models_pull
from chatlm.cli.tables import print_table
from chatlm.hub import installed
from chatlm.hub.disk import human_bytes
from chatlm.text import one_line

pull = models_pull
"""`chatlm pull` is `chatlm models pull`."""


@click.command("list")
def list_installed() -> None:
    """List the models on this machine.

    Example: chatlm list
    """
    models = installed.list_installed_models()
    if not models:
        click.echo("No models are installed. Get one: chatlm pull qwen3:4b", err=True)
        return
    print_table(
        ("NAME", "KIND", "SIZE", "PULLED", "CONTEXT"),
        [
            (
                one_line(details.name, 60),
                details.kind,
                human_bytes(details.bytes),
                (details.pulled_at or "")[:10],
                f"{details.context_length:,}" if details.context_length else "-",
            )
            for details in models
        ],
    )


@click.command()
@click.argument("name", shell_complete=complete_model)
@click.argument("prompt", nargs=-1)
def run(name: str, prompt: tuple[str, ...]) -> None:
    """Chat with a model, downloading it first.

    With a PROMPT, or text from a pipe, print the answer instead of opening the chat.

    Example: chatlm run qwen3:4b "Why is the sky blue?"
    """
    from chatlm.cli.main import cli
    from chatlm.cli.model_download import download
    from chatlm.config.config import load_config
    from chatlm.engines.open import is_available
    from chatlm.plugin_host.lifecycle import loaded_plugins

    with loaded_plugins(load_config()) as plugins:
        here = is_available(name, plugins)
    if not here:
        name = download(name).name
    arguments = ["--model", name]
    if prompt or not (sys.stdin.isatty() and sys.stdout.isatty()):
        arguments = ["ask", *arguments, *([" ".join(prompt)] if prompt else [])]
    cli.main(arguments, prog_name="chatlm", standalone_mode=False)
