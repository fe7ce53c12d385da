"""The commands `chatlm arena golden …` and `check`: what is asked and printed."""

from __future__ import annotations

from pathlib import Path

import click

from chatlm import UsageError, diff_words, dump_json, escape_controls, load_config, one_line
from chatlm_arena.commands.options import as_json_option as _json
from chatlm_arena.commands.options import name_argument as _name

EXIT_CHANGED = 1
"""The exit code when a reply is not as it should be."""


@click.group()
def golden() -> None:
    """List and remove golden chats: replies that are right.

    In the chat, /arena golden NAME makes the selected turn one.

    Example: chatlm arena golden list
    """


@golden.command("list")
@_json
def list_goldens(as_json: bool) -> None:
    """List the golden chats; JSON can be read by chatlm arena check --file.

    Example: chatlm arena golden list --json > golden.json
    """
    from chatlm_arena.store import store as store_module

    with store_module.open_arena_store() as store:
        there = store.goldens()
    if as_json:
        click.echo(dump_json([one.to_dict() for one in there]))
        return
    if not there:
        click.echo("There are none yet. Mark one in the chat: /arena golden NAME")
    for one in there:
        click.echo(f"{one.name}: {one_line(one.prompt, 60)} → {one_line(one.expected, 60)}")


@golden.command()
@click.argument("name")
def remove(name: str) -> None:
    """Forget a golden chat.

    Example: chatlm arena golden remove greeting
    """
    from chatlm_arena.store import store as store_module

    with store_module.open_arena_store() as store:
        store.remove_golden(name)
    click.echo(escape_controls(f"Removed {name}."))


@click.command()
@_name
@click.option("--file", "path", type=click.Path(path_type=Path), help="Golden chats from a file.")
@click.option(
    "--similar",
    type=click.FloatRange(0, 1),
    default=1.0,
    help="Pass replies whose ROUGE-L with the right one is at least this. Default: 1, the same",
)
@_json
def check(name: str, path: Path | None, similar: float, as_json: bool) -> None:
    """Ask a contestant all golden chats again, and show what changed.

    The exit code is 0 when all replies are as they should be, 1 when one is not, 2 when it could
    not be found out.

    Example: chatlm arena check cold --similar 0.8
    """
    from chatlm import side_chats
    from chatlm_arena import golden as goldens
    from chatlm_arena.store import store as store_module

    with store_module.open_arena_store() as store:
        contestant = store.contestant(name)
        asked = goldens.read_goldens(path.expanduser()) if path else store.goldens()
    if not asked:
        raise UsageError(
            "There is nothing to check.", hint="Mark a turn in the chat: /arena golden NAME"
        )
    with side_chats(load_config(), lambda words: click.echo(one_line(words, 120), err=True)) as s:
        found = list(goldens.check_goldens(s, contestant, asked))
    failed = [one for one in found if not one.passes(similar)]
    if as_json:
        rows = [
            {
                "name": one.golden.name,
                "passes": one.passes(similar),
                "similarity": one.similarity,
                "expected": one.golden.expected,
                "said": one.reply,
            }
            for one in found
        ]
        click.echo(dump_json(rows))
    else:
        for one in failed:
            pieces = diff_words(one.golden.expected, one.reply)
            marks = {"same": "{}", "removed": "[-{}-]", "added": "{{+{}+}}"}
            told = "".join(
                marks[piece.kind].format(escape_controls(piece.text)) for piece in pieces
            )
            click.echo(f"{one.golden.name}, similarity {one.similarity:.2f}:\n{told}\n")
        click.echo(f"{len(found) - len(failed)} of {len(found)} are as they should be.")
    if failed:
        raise click.exceptions.Exit(EXIT_CHANGED)
