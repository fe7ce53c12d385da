"""The commands `chatlm rag …`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from chatlm import ChatlmError, UsageError, dump_json, escape_controls, expand_path, human_bytes
from chatlm.plugin_kit.options import complete_names, json_option
from chatlm.plugin_kit.progress import graceful_interrupt, progress_bar
from chatlm_rag.formatting import describe_hit, draw_scorecard, scorecard_dict

if TYPE_CHECKING:
    from chatlm_rag.documents.files import Source
    from chatlm_rag.index.chunks import Chunking


def _index_names() -> list[str]:
    from chatlm_rag.index.folder import all_indices

    return [index.name for index in all_indices()]


name_argument = click.argument("name", shell_complete=complete_names(_index_names))


@click.command()
@name_argument
@click.argument("query", nargs=-1, required=True, metavar="QUERY...")
@click.option("-n", "--limit", type=click.IntRange(1, 100), default=8, help="Maximum passages (8).")
@json_option
def search(name: str, query: tuple[str, ...], limit: int, as_json: bool) -> None:
    """Find passages by meaning and by keywords.

    Example: chatlm rag search notes "When does the lease end?"
    """
    from chatlm_rag.index.folder import find_index
    from chatlm_rag.retrieval.calibration import threshold_of
    from chatlm_rag.retrieval.relevance import CONSIDERED_HITS
    from chatlm_rag.retrieval.search import Index, configured_reranker

    text = " ".join(query)
    index = Index.open(find_index(name))
    hits = index.search(text, max(limit, CONSIDERED_HITS), configured_reranker())
    confidence = index.confidence(text, hits)
    threshold = threshold_of(name)
    relevant = confidence >= threshold
    del hits[limit:]
    if as_json:
        result = {
            "relevant": relevant,
            "confidence": confidence,
            "threshold": threshold,
            "passages": [hit.to_dict() for hit in hits],
        }
        click.echo(dump_json(result))
        return
    if not relevant:
        click.echo(
            f"Nothing relevant in {name}: confidence {confidence:.2f}, threshold {threshold:.2f}. "
            "The nearest passages:\n",
            err=True,
        )
    for number, hit in enumerate(hits, start=1):
        click.echo(describe_hit(number, hit))


@click.command("eval")
@name_argument
@click.option(
    "--queries",
    required=True,
    type=click.Path(path_type=Path),
    help="Questions in BEIR's queries.jsonl format.",
)
@click.option(
    "--qrels",
    required=True,
    type=click.Path(path_type=Path),
    help="Relevance judgements in BEIR's qrels.tsv format.",
)
@click.option(
    "--plot", type=click.Path(path_type=Path), help="Save a plot: FILE.png, .svg or .pdf."
)
@json_option
def evaluate(name: str, queries: Path, qrels: Path, plot: Path | None, as_json: bool) -> None:
    """Measure how well an index finds the documents that answer test questions.

    Compares search by meaning (dense), by keywords (lexical) and by both (fused).

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
            lambda done, total: work.update(done, total, "searching"),
        )
    if plot:
        evaluation.plot_scorecard(card, f"{name}, {card.questions:,} questions", plot)
    if as_json:
        click.echo(dump_json(scorecard_dict(card)))
        return
    click.echo(draw_scorecard(name, card))
    if plot:
        click.echo(f"Saved {escape_controls(str(plot))}")


@click.command()
@name_argument
@click.option(
    "--questions",
    type=click.Path(path_type=Path),
    help="Questions that the documents answer, one a line.",
)
@click.option(
    "--unanswerable",
    type=click.Path(path_type=Path),
    help="Questions that they do not answer, one a line.",
)
@click.option("--reset", is_flag=True, help="Use plugins.rag.threshold again.")
@json_option
def calibrate(
    name: str, questions: Path | None, unanswerable: Path | None, reset: bool, as_json: bool
) -> None:
    """Fit the threshold of an index, below which nothing counts as relevant, to your questions.

    It keeps at least 92 % of the questions that the documents answer. With --unanswerable, it is
    the one that keeps and refuses best.

    Example: chatlm rag calibrate notes --questions asked.txt --unanswerable other.txt
    """
    from chatlm_rag import formatting
    from chatlm_rag.index.folder import find_index
    from chatlm_rag.retrieval import calibration
    from chatlm_rag.retrieval.search import Index

    folder = find_index(name)
    if reset:
        calibration.reset(folder)
        click.echo(f"Threshold of {name}: {calibration.describe_threshold(name)}")
        return
    if questions is None:
        raise UsageError(
            "There are no questions to fit the threshold to.", hint="Name a file: --questions FILE"
        )
    kept = calibration.read_questions(questions)
    refused = calibration.read_questions(unanswerable) if unanswerable else []
    index = Index.open(folder)
    with progress_bar() as work:
        values = calibration.confidences(index, [*kept, *refused], work)
    fitted = calibration.fit(values[: len(kept)], values[len(kept) :])
    calibration.save(folder, fitted)
    if as_json:
        click.echo(dump_json(fitted.to_dict()))
        return
    click.echo(formatting.describe_calibration(name, fitted))


_paths = click.argument("paths", nargs=-1, required=True, metavar="PATH...", type=click.Path())


_include = click.option(
    "--include", multiple=True, metavar="GLOB", help="Index only matching files, such as '*.md'."
)


_exclude = click.option(
    "--exclude", multiple=True, metavar="GLOB", help="Skip matching files and folders."
)


_follow_links = click.option(
    "--follow-links", is_flag=True, help="Index what links that lead out of a folder point to."
)


_embedder = click.option("--embedder", metavar="MODEL", help="Embedding model to use.")


_cut_to = click.option(
    "--dimension",
    "cut_to",
    type=click.IntRange(1),
    metavar="N",
    help="Cut vectors to this size, for embedders that allow it.",
)


_tokens = click.option("--tokens", type=int, help="Maximum tokens of a passage.")


_overlap = click.option("--overlap", type=int, help="Maximum tokens that passages share.")


@click.group()
def rag() -> None:
    """Build, search and evaluate indices of your documents.

    Example: chatlm rag build notes ~/notes
    """


rag.add_command(search)


rag.add_command(evaluate)


rag.add_command(calibrate)


@rag.command()
@click.argument("name")
@_paths
@_include
@_exclude
@_follow_links
@_embedder
@_cut_to
@_tokens
@_overlap
@json_option
def build(
    name: str,
    paths: tuple[str, ...],
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    follow_links: bool,
    embedder: str | None,
    cut_to: int | None,
    tokens: int | None,
    overlap: int | None,
    as_json: bool,
) -> None:
    """Build an index of files and folders.

    Indexes Markdown, text, code, HTML, PDF, DOCX, XLSX, PPTX, EPUB, e-mails, tables and BEIR
    corpora (corpus.jsonl). Skips hidden files and files ignored by a .gitignore. A build that you
    stop with Ctrl-C can be continued.

    Example: chatlm rag build notes ~/notes --include '*.md'
    """
    from chatlm_rag import formatting
    from chatlm_rag.index import builder
    from chatlm_rag.index.embedding import DEFAULT_EMBEDDER
    from chatlm_rag.index.folder import find_index

    chunking = _chunking(tokens, overlap)
    with progress_bar() as work:
        result = builder.build(
            name,
            _sources(paths, include, exclude, follow_links),
            work,
            embedder=embedder or DEFAULT_EMBEDDER,
            chunking=chunking,
            cut_to=cut_to or 0,
        )
    formatting.print_build_result(find_index(name), result, as_json)


@rag.command()
@name_argument
@_paths
@_include
@_exclude
@_follow_links
@json_option
def add(
    name: str,
    paths: tuple[str, ...],
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    follow_links: bool,
    as_json: bool,
) -> None:
    """Add files and folders to an index, and update it.

    Example: chatlm rag add notes ~/letters
    """
    from chatlm_rag import formatting
    from chatlm_rag.index import builder
    from chatlm_rag.index.folder import find_index

    with progress_bar() as work:
        result = builder.add(name, _sources(paths, include, exclude, follow_links), work)
    formatting.print_build_result(find_index(name), result, as_json)


@rag.command()
@name_argument
@click.option("--rebuild", is_flag=True, help="Read and embed everything again.")
@_embedder
@_cut_to
@_tokens
@_overlap
@json_option
def update(
    name: str,
    rebuild: bool,
    embedder: str | None,
    cut_to: int | None,
    tokens: int | None,
    overlap: int | None,
    as_json: bool,
) -> None:
    """Update an index, or continue a build that was stopped.

    Only changed files are read and embedded; another embedder (--embedder) embeds all passages
    again, and a new passage length needs --rebuild. The old index stays in use until the new one
    is complete.

    Example: chatlm rag update notes
    """
    from chatlm_rag import formatting
    from chatlm_rag.index import builder
    from chatlm_rag.index.folder import find_index

    chunking = _chunking(tokens, overlap)
    if not rebuild and chunking:
        raise UsageError("This changes every passage.", hint="Add --rebuild.")
    if cut_to and not embedder:
        raise UsageError("--dimension needs an embedder.", hint="Add --embedder MODEL.")
    with progress_bar() as work:
        if rebuild:
            result = builder.rebuild(
                name, work, embedder=embedder, chunking=chunking, cut_to=cut_to or 0
            )
        elif embedder:
            if cost := builder.estimate_cost(name, embedder, work, cut_to or 0):
                click.echo(cost.describe(), err=True)
            result = builder.change_embedder(name, work, embedder, cut_to or 0)
        else:
            result = builder.update(name, work)
    formatting.print_build_result(find_index(name), result, as_json)


@rag.command()
@name_argument
def watch(name: str) -> None:
    """Keep an index up to date: update it whenever its files change, until Ctrl-C.

    Example: chatlm rag watch notes
    """
    from chatlm_rag import formatting
    from chatlm_rag.index.folder import find_index
    from chatlm_rag.index.watching import updates

    index = find_index(name)
    with graceful_interrupt() as pressed:
        click.echo(f"Watching the files of {name}; Ctrl-C stops it.", err=True)
        for result in updates(name, _Pressed(pressed)):
            formatting.print_build_result(index, result, as_json=False)


class _Pressed:
    """Whether Ctrl-C was pressed, asked like a `threading.Event`."""

    def __init__(self, pressed: Callable[[], bool]) -> None:
        self.is_set = pressed


@rag.command("list")
@json_option
def list_indices(as_json: bool) -> None:
    """List the indices.

    Example: chatlm rag list
    """
    from chatlm_rag import formatting
    from chatlm_rag.index.folder import all_indices

    manifests = {}
    for index in all_indices():
        try:
            manifests[index] = formatting.read_manifest(index)
        except ChatlmError as error:
            click.echo(escape_controls(str(error)), err=True)
    if as_json:
        click.echo(dump_json([formatting.index_row(*item) for item in manifests.items()]))
        return
    if not manifests:
        click.echo("There are no indices yet. Build one: chatlm rag build NAME PATH")
    width = max((len(index.name) for index in manifests), default=0)
    for index, manifest in manifests.items():
        click.echo(f"{index.name:<{width}}  {formatting.summarize_index(index, manifest)}")


@rag.command()
@name_argument
@json_option
def show(name: str, as_json: bool) -> None:
    """Show the contents of an index, and which files could not be indexed.

    Example: chatlm rag show notes
    """
    from chatlm_rag import formatting
    from chatlm_rag.index.folder import find_index

    index = find_index(name)
    manifest = formatting.read_manifest(index)
    if as_json:
        click.echo(dump_json(formatting.index_details(index, manifest)))
        return
    click.echo(f"{index.name}: {formatting.summarize_index(index, manifest)}")
    if manifest:
        formatting.print_details(index, manifest)


@rag.command()
@name_argument
@json_option
def verify(name: str, as_json: bool) -> None:
    """Check every byte of an index; a part is checked whenever it is opened.

    Example: chatlm rag verify notes
    """
    from chatlm_rag.index import checksums
    from chatlm_rag.index.folder import find_index

    files = checksums.verify(find_index(name))
    if as_json:
        click.echo(dump_json({"name": name, "intact": True, "files": files}))
        return
    click.echo(f"{name}: all {files} files are as they were written.")


@rag.command()
@name_argument
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def remove(name: str, yes: bool) -> None:
    """Delete an index, but not the documents.

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
    click.echo(f"Removed {name}; freed {human_bytes(freed)}.")


def _sources(
    paths: tuple[str, ...], include: tuple[str, ...], exclude: tuple[str, ...], follow_links: bool
) -> tuple[Source, ...]:
    from chatlm_rag.documents.files import Source
    from chatlm_rag.documents.ignore_patterns import InvalidPattern, parse_pattern

    if not all(paths):
        raise UsageError("A path is empty.", hint="For the current folder, use a dot: .")
    for pattern in (*include, *exclude):
        try:
            parse_pattern(pattern)
        except InvalidPattern as error:
            raise UsageError(
                f"{pattern!r} is not a valid pattern.",
                hint="A bracket is not closed, or a backslash is at its end.",
            ) from error
    return tuple(
        Source(str(expand_path(path).absolute()), include, exclude, follow_links) for path in paths
    )


def _chunking(tokens: int | None, overlap: int | None) -> Chunking | None:
    from chatlm_rag.index.chunks import Chunking

    if tokens is None and overlap is None:
        return None
    default = Chunking()
    length = default.tokens if tokens is None else tokens
    return Chunking(length, min(default.overlap, length // 4) if overlap is None else overlap)
