"""The commands `chatlm rag …` that make and show indices: what is asked and printed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from chatlm import ChatlmError, UsageError, dump_json, expanded, human_bytes, visible
from chatlm_rag.bars import bar
from chatlm_rag.options import as_json_option as _json
from chatlm_rag.options import name_argument as _name
from chatlm_rag.search_commands import evaluate, search

if TYPE_CHECKING:
    from chatlm_rag.chunking import Chunking
    from chatlm_rag.sources.folders import Source


_paths = click.argument("paths", nargs=-1, required=True, metavar="PATH...", type=click.Path())
_include = click.option(
    "--include", multiple=True, metavar="GLOB", help="Only files like this, such as '*.md'."
)
_exclude = click.option(
    "--exclude", multiple=True, metavar="GLOB", help="No files or folders like this."
)
_embedder = click.option("--embedder", metavar="MODEL", help="Another embedding model.")
_tokens = click.option("--tokens", type=int, help="Tokens of a passage at most.")
_overlap = click.option("--overlap", type=int, help="Tokens that passages share at most.")


@click.group()
def rag() -> None:
    """Build, search and measure indices of your documents.

    Example: chatlm rag build notes ~/notes
    """


rag.add_command(search)
rag.add_command(evaluate)


@rag.command()
@click.argument("name")
@_paths
@_include
@_exclude
@_embedder
@_tokens
@_overlap
@_json
def build(
    name: str,
    paths: tuple[str, ...],
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    embedder: str | None,
    tokens: int | None,
    overlap: int | None,
    as_json: bool,
) -> None:
    """Make an index of files and folders.

    Read are Markdown, text, code, HTML, PDF, DOCX and corpora (corpus.jsonl). Hidden files and what
    a .gitignore names are passed by. Stopped with Ctrl-C, it goes on later where it was.

    Example: chatlm rag build notes ~/notes --include '*.md'
    """
    from chatlm_rag import building, showing
    from chatlm_rag.embedders import DEFAULT
    from chatlm_rag.folder import located

    chunking = _chunking(tokens, overlap)
    with bar() as work:
        done = building.build(
            name,
            _sources(paths, include, exclude),
            work,
            embedder=embedder or DEFAULT,
            chunking=chunking,
        )
    showing.tell_outcome(located(name), done, as_json)


@rag.command()
@_name
@_paths
@_include
@_exclude
@_json
def add(
    name: str,
    paths: tuple[str, ...],
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    as_json: bool,
) -> None:
    """Add files and folders to an index, and bring it up to date.

    Example: chatlm rag add notes ~/letters
    """
    from chatlm_rag import building, showing
    from chatlm_rag.folder import located

    with bar() as work:
        done = building.add(name, _sources(paths, include, exclude), work)
    showing.tell_outcome(located(name), done, as_json)


@rag.command()
@_name
@click.option("--rebuild", is_flag=True, help="Read and embed everything anew.")
@_embedder
@_tokens
@_overlap
@_json
def update(
    name: str,
    rebuild: bool,
    embedder: str | None,
    tokens: int | None,
    overlap: int | None,
    as_json: bool,
) -> None:
    """Bring an index up to date, or go on with a build that was stopped.

    Only what changed is read and embedded. Another embedder or length of passages needs --rebuild.

    Example: chatlm rag update notes
    """
    from chatlm_rag import building, showing
    from chatlm_rag.folder import located

    chunking = _chunking(tokens, overlap)
    if not rebuild and (embedder or chunking):
        raise UsageError("This changes every passage.", hint="Say so with: --rebuild")
    with bar() as work:
        done = (
            building.rebuild(name, work, embedder=embedder, chunking=chunking)
            if rebuild
            else building.update(name, work)
        )
    showing.tell_outcome(located(name), done, as_json)


@rag.command("list")
@_json
def list_indices(as_json: bool) -> None:
    """List the indices.

    Example: chatlm rag list
    """
    from chatlm_rag import showing
    from chatlm_rag.folder import indices

    found = {}
    for index in indices():
        try:
            found[index] = showing.made(index)
        except ChatlmError as error:
            click.echo(visible(str(error)), err=True)
    if as_json:
        click.echo(dump_json([showing.row(index, made) for index, made in found.items()]))
        return
    if not found:
        click.echo("There are no indices yet. Make one: chatlm rag build NAME PATH")
    width = max((len(index.name) for index in found), default=0)
    for index, made in found.items():
        click.echo(f"{index.name:<{width}}  {showing.in_short(index, made)}")


@rag.command()
@_name
@_json
def show(name: str, as_json: bool) -> None:
    """Show what an index is made of, and which files could not be read.

    Example: chatlm rag show notes
    """
    from chatlm_rag import showing
    from chatlm_rag.folder import located

    index = located(name)
    made = showing.made(index)
    if as_json:
        click.echo(dump_json(showing.table(index, made)))
        return
    click.echo(f"{index.name}: {showing.in_short(index, made)}")
    if made:
        showing.tell_all(index, made)


@rag.command()
@_name
@click.option("--yes", is_flag=True, help="Do not ask.")
def remove(name: str, yes: bool) -> None:
    """Delete an index; the documents stay.

    Example: chatlm rag remove notes --yes
    """
    from chatlm_rag import showing
    from chatlm_rag.folder import located

    index = located(name)
    with index.writing():
        if not yes:
            click.confirm(f"Delete the index {name}?", abort=True, err=True)
        freed = showing.size(index)
        index.remove()
    click.echo(f"Removed {name}; {human_bytes(freed)} are free again.")


def _sources(
    paths: tuple[str, ...], include: tuple[str, ...], exclude: tuple[str, ...]
) -> tuple[Source, ...]:
    from chatlm_rag.sources.folders import Source

    if not all(paths):
        raise UsageError("A path is empty.", hint="For this folder say a dot: .")
    return tuple(Source(str(expanded(path).absolute()), include, exclude) for path in paths)


def _chunking(tokens: int | None, overlap: int | None) -> Chunking | None:
    from chatlm_rag.chunking import Chunking

    if tokens is None and overlap is None:
        return None
    usual = Chunking()
    length = usual.tokens if tokens is None else tokens
    return Chunking(length, min(usual.overlap, length // 4) if overlap is None else overlap)
