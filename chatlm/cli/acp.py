"""The command `chatlm acp`."""

from __future__ import annotations

from importlib.util import find_spec

import click

from chatlm.cli.ask import parse_tool_options
from chatlm.cli.completers import complete_model
from chatlm.cli.options import apply_plugin_options, plugin_options
from chatlm.config import config, paths
from chatlm.errors import UsageError


@click.command()
@click.option(
    "-m", "--model", metavar="NAME", shell_complete=complete_model, help="Use this model."
)
@click.option(
    "--tools",
    metavar="NAMES",
    help="Offer these tools and groups of tools to the model, with commas between; 'all' for all.",
)
@click.option("--allow", multiple=True, metavar="RULE", help="As in `chatlm ask`; repeatable.")
@click.option("--deny", multiple=True, metavar="RULE", help="As in `chatlm ask`; repeatable.")
@click.option("--no-save", is_flag=True, help="Do not save the chats.")
@plugin_options
def acp(
    model: str | None,
    tools: str | None,
    allow: tuple[str, ...],
    deny: tuple[str, ...],
    no_save: bool,
    safe_mode: bool,
    without: tuple[str, ...],
) -> None:
    """Run as an agent for editors (Agent Client Protocol).

    The editor starts it and talks to it over standard input and output. In the settings of Zed:
    {"agent_servers": {"chatlm": {"command": "chatlm", "args": ["acp"]}}}. The editor asks before a
    tool runs.

    Example: chatlm acp -m qwen3:4b --tools files
    """
    if find_spec("acp") is None:
        raise UsageError(
            "ACP needs a package that is not installed.",
            hint="Install it: pip install 'chatlm[acp]'",
        )
    settings = apply_plugin_options(config.load(model=model), safe_mode=safe_mode, without=without)
    options = parse_tool_options(settings.tools, tools, allow, deny, None)
    from chatlm.chat.deletion import open_memory_store
    from chatlm.cli.acp_agent import EditorAgent, serve_editor
    from chatlm.plugin_host.lifecycle import loaded_plugins
    from chatlm.store.store import Store

    with (
        loaded_plugins(settings) as plugins,
        open_memory_store() if no_save else Store(paths.database_file()) as store,
        EditorAgent(store, plugins, settings, options) as agent,
    ):
        serve_editor(agent)
