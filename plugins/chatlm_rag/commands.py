"""`chatlm rag`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from chatlm import ChatlmError, UsageError, dump_json, escape_controls, expand_path, human_bytes
from chatlm_rag.bars import progress_bar
from chatlm_rag.formatting import describe_hit, draw_scorecard, scorecard_dict
from chatlm_rag.options import as_json_option, name_argument
from chatlm_rag.options import as_json_option as _json
from chatlm_rag.options import name_argument as _name

if TYPE_CHECKING:
    from chatlm_rag.documents.files import Source
    from chatlm_rag.index.chunks import Chunking


@click.command()
@name_argument
@click.argument("words", nargs=-1, required=True, metavar="QUERY...")
@click.option("-n", "--most", type=click.IntRange(1, 100), default=8, help="Passages at most (8).")
@as_json_option
def search(name: str, words: tuple[str, ...], most: int, as_json: bool) -> None:
    """Find passages by meaning and by words.

    Example: chatlm rag search notes "When does the lease end?"
    """
    from chatlm_rag.index.folder import find_index
    from chatlm_rag.retrieval.relevance import CONSIDERED_HITS, THRESHOLD
    from chatlm_rag.retrieval.search import Index, configured_reranker

    query = " ".join(words)
    index = Index.open(find_index(name))
    found = index.search(query, max(most, CONSIDERED_HITS), configured_reranker())
    confidence = index.confidence(query, found)
    relevant = confidence >= THRESHOLD
    del found[most:]
    if as_json:
        passages = [each.to_dict() for each in found]
        click.echo(
            dump_json({"relevant": relevant, "confidence": confidence, "passages": passages})
        )
        return
    if not relevant:
        click.echo(
            f"Nothing relevant in {name}: confidence {confidence:.2f}, needed {THRESHOLD:.2f}. "
            "The nearest:\n",
            err=True,
        )
    for number, each in enumerate(found, start=1):
        click.echo(describe_hit(number, each))


@click.command("eval")
@name_argument
@click.option(
    "--queries",
    required=True,
    type=click.Path(path_type=Path),
    help="The questions, a queries.jsonl.",
)
@click.option(
    "--qrels",
    required=True,
    type=click.Path(path_type=Path),
    help="Which documents answer them, a qrels.tsv.",
)
@click.option(
    "--plot", type=click.Path(path_type=Path), help="Save a picture: FILE.png, .svg or .pdf."
)
@as_json_option
def evaluate(name: str, queries: Path, qrels: Path, plot: Path | None, as_json: bool) -> None:
    """Measure how well an index answers test questions.

    By meaning (dense), by words (lexical) and by both (fused); files as in the BEIR collections.

    Example: chatlm rag eval cran --queries queries.jsonl --qrels qrels.tsv --plot cran.png
    """
    from chatlm_rag import evaluation
    from chatlm_rag.evaluation import read_judgements, read_questions
    from chatlm_rag.index.folder import find_index
    from chatlm_rag.retrieval.search import Index

    if plot:
        evaluation.check_plot_path(plot)
    questions, judgements = read_questions(queries), read_judgements(qrels)
    with progress_bar() as work:
        card = evaluation.evaluate(
            Index.open(find_index(name)),
            questions,
            judgements,
            lambda done, total: work.update(done, total, "asking"),
        )
    if plot:
        evaluation.plot_scorecard(card, f"{name}, {card.questions:,} questions", plot)
    if as_json:
        click.echo(dump_json(scorecard_dict(card)))
        return
    click.echo(draw_scorecard(name, card))
    if plot:
        click.echo(f"Saved {escape_controls(str(plot))}")


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
    from chatlm_rag import formatting
    from chatlm_rag.index import builder
    from chatlm_rag.index.embedding import DEFAULT_EMBEDDER
    from chatlm_rag.index.folder import find_index

    chunking = _chunking(tokens, overlap)
    with progress_bar() as work:
        done = builder.build(
            name,
            _sources(paths, include, exclude),
            work,
            embedder=embedder or DEFAULT_EMBEDDER,
            chunking=chunking,
        )
    formatting.print_build_result(find_index(name), done, as_json)


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
    from chatlm_rag import formatting
    from chatlm_rag.index import builder
    from chatlm_rag.index.folder import find_index

    with progress_bar() as work:
        done = builder.add(name, _sources(paths, include, exclude), work)
    formatting.print_build_result(find_index(name), done, as_json)


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
    from chatlm_rag import formatting
    from chatlm_rag.index import builder
    from chatlm_rag.index.folder import find_index

    chunking = _chunking(tokens, overlap)
    if not rebuild and (embedder or chunking):
        raise UsageError("This changes every passage.", hint="Say so with: --rebuild")
    with progress_bar() as work:
        done = (
            builder.rebuild(name, work, embedder=embedder, chunking=chunking)
            if rebuild
            else builder.update(name, work)
        )
    formatting.print_build_result(find_index(name), done, as_json)


@rag.command("list")
@_json
def list_indices(as_json: bool) -> None:
    """List the indices.

    Example: chatlm rag list
    """
    from chatlm_rag import formatting
    from chatlm_rag.index.folder import all_indices

    found = {}
    for index in all_indices():
        try:
            found[index] = formatting.read_manifest(index)
        except ChatlmError as error:
            click.echo(escape_controls(str(error)), err=True)
    if as_json:
        click.echo(dump_json([formatting.index_row(index, made) for index, made in found.items()]))
        return
    if not found:
        click.echo("There are no indices yet. Make one: chatlm rag build NAME PATH")
    width = max((len(index.name) for index in found), default=0)
    for index, made in found.items():
        click.echo(f"{index.name:<{width}}  {formatting.summarize_index(index, made)}")


@rag.command()
@_name
@_json
def show(name: str, as_json: bool) -> None:
    """Show what an index is made of, and which files could not be read.

    Example: chatlm rag show notes
    """
    from chatlm_rag import formatting
    from chatlm_rag.index.folder import find_index

    index = find_index(name)
    made = formatting.read_manifest(index)
    if as_json:
        click.echo(dump_json(formatting.index_details(index, made)))
        return
    click.echo(f"{index.name}: {formatting.summarize_index(index, made)}")
    if made:
        formatting.print_details(index, made)


@rag.command()
@_name
@click.option("--yes", is_flag=True, help="Do not ask.")
def remove(name: str, yes: bool) -> None:
    """Delete an index; the documents stay.

    Example: chatlm rag remove notes --yes
    """
    from chatlm_rag import formatting
    from chatlm_rag.index.folder import find_index

    index = find_index(name)
    with index.lock():
        if not yes:
            click.confirm(f"Delete the index {name}?", abort=True, err=True)
        freed = formatting.disk_usage(index)
        index.remove()
    click.echo(f"Removed {name}; {human_bytes(freed)} are free again.")


def _sources(
    paths: tuple[str, ...], include: tuple[str, ...], exclude: tuple[str, ...]
) -> tuple[Source, ...]:
    from chatlm_rag.documents.files import Source

    if not all(paths):
        raise UsageError("A path is empty.", hint="For this folder say a dot: .")
    return tuple(Source(str(expand_path(path).absolute()), include, exclude) for path in paths)


def _chunking(tokens: int | None, overlap: int | None) -> Chunking | None:
    from chatlm_rag.index.chunks import Chunking

    if tokens is None and overlap is None:
        return None
    usual = Chunking()
    length = usual.tokens if tokens is None else tokens
    return Chunking(length, min(usual.overlap, length // 4) if overlap is None else overlap)
