"""The commands `chatlm arena golden …` and `chatlm arena check`."""

from __future__ import annotations

from pathlib import Path

import click

from chatlm import UsageError, diff_words, dump_json, escape_controls, load_config, one_line
from chatlm.plugin_kit.options import json_option
from chatlm.plugin_kit.progress import status_lines
from chatlm_arena.commands.options import name_argument as _name

EXIT_CHANGED = 1
"""Exit code if a reply differs from the expected one."""


@click.group()
def golden() -> None:
    """List and remove golden chats: chats with an expected reply.

    In the chat, /arena golden NAME saves the selected turn as one.

    Example: chatlm arena golden list
    """


@golden.command("list")
@json_option
def list_goldens(as_json: bool) -> None:
    """List the golden chats; chatlm arena check --file reads the JSON.

    Example: chatlm arena golden list --json > golden.json
    """
    from chatlm_arena.store import store as store_module

    with store_module.open_arena_store() as store:
        goldens = store.goldens()
    if as_json:
        click.echo(dump_json([golden.to_dict() for golden in goldens]))
        return
    if not goldens:
        click.echo("No golden chats yet. Save one in the chat: /arena golden NAME")
    for golden in goldens:
        prompt, expected = one_line(golden.prompt, 60), one_line(golden.expected, 60)
        click.echo(f"{golden.name}: {prompt} → {expected}")


@golden.command()
@click.argument("name")
def remove(name: str) -> None:
    """Delete a golden chat.

    Example: chatlm arena golden remove greeting
    """
    from chatlm_arena.store import store as store_module

    with store_module.open_arena_store() as store:
        store.remove_golden(name)
    click.echo(escape_controls(f"Removed {name}."))


@click.command()
@_name
@click.option(
    "--file", "path", type=click.Path(path_type=Path), help="Read golden chats from a file."
)
@click.option(
    "--similar",
    type=click.FloatRange(0, 1),
    default=1.0,
    help="Accept replies with at least this ROUGE-L against the expected one. Default: 1, the same",
)
@json_option
def check(name: str, path: Path | None, similar: float, as_json: bool) -> None:
    """Send all golden chats to a contestant again, and show which replies changed.

    The exit code is 0 if all replies are as expected, 1 if one is not, and 2 on an error.

    Example: chatlm arena check cold --similar 0.8
    """
    from chatlm import side_chats
    from chatlm_arena.golden import check_goldens, read_goldens
    from chatlm_arena.store import store as store_module

    with store_module.open_arena_store() as store:
        contestant = store.contestant(name)
        goldens = read_goldens(path.expanduser()) if path else store.goldens()
    if not goldens:
        raise UsageError(
            "There are no golden chats to check.",
            hint="Save a turn in the chat: /arena golden NAME",
        )
    with side_chats(load_config(), status_lines()) as chats:
        results = list(check_goldens(chats, contestant, goldens))
    failed = [result for result in results if not result.passes(similar)]
    if as_json:
        rows = [
            {
                "name": result.golden.name,
                "passes": result.passes(similar),
                "similarity": result.similarity,
                "expected": result.golden.expected,
                "said": result.reply,
            }
            for result in results
        ]
        click.echo(dump_json(rows))
    else:
        for result in failed:
            changes = diff_words(result.golden.expected, result.reply)
            marks = {"same": "{}", "removed": "[-{}-]", "added": "{{+{}+}}"}
            diff = "".join(
                marks[change.kind].format(escape_controls(change.text)) for change in changes
            )
            click.echo(f"{result.golden.name}, similarity {result.similarity:.2f}:\n{diff}\n")
        click.echo(f"{len(results) - len(failed)} of {len(results)} replies are as expected.")
    if failed:
        raise click.exceptions.Exit(EXIT_CHANGED)
