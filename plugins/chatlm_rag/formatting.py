"""Indices, outcomes and scorecards as text and JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from chatlm import dump_json, escape_controls, human_bytes, one_line
from chatlm_rag.index import manifest
from chatlm_rag.index.builder import BuildResult
from chatlm_rag.index.folder import IndexFolder
from chatlm_rag.index.manifest import Manifest

if TYPE_CHECKING:
    from chatlm_rag.evaluation import Estimate, Scorecard
    from chatlm_rag.retrieval.hits import SearchHit


_MAX_NAMED_FILES = 5
"""How many files are named for each reason to leave some out."""


def read_manifest(index: IndexFolder) -> Manifest | None:
    """What an index is made of; None while it is not finished.

    Raises:
        ChatlmError: it is damaged.
    """
    return index.open(manifest.read) if index.current() else None


def summarize_index(index: IndexFolder, index_manifest: Manifest | None) -> str:
    """An index in one line, without its name."""
    if index_manifest is None:
        return f"not finished; go on: chatlm rag update {index.name}"
    day = index.built_at().astimezone().strftime("%Y-%m-%d %H:%M")
    origin = f"made {day}" if index.is_user_index else "comes with chatlm"
    unfinished = "; an update was stopped" if index.partial.is_dir() else ""
    return f"{describe_size(index_manifest)}, {origin}{unfinished}"


def print_details(index: IndexFolder, index_manifest: Manifest) -> None:
    """Print what an index is made of."""
    cut = index_manifest.chunking
    click.echo(f"Embedder  {index_manifest.embedder.name}, {index_manifest.dimension} dimensions")
    click.echo(f"Passages  at most {cut.tokens} tokens, {cut.overlap} of them shared")
    click.echo(f"Size      {human_bytes(disk_usage(index))} in {escape_controls(str(index.path))}")
    for source in index_manifest.sources:
        only = "".join(f"  only {one_line(glob, 40)}" for glob in source.include)
        none = "".join(f"  without {one_line(glob, 40)}" for glob in source.exclude)
        click.echo(f"Source    {one_line(source.path, 300)}{only}{none}")
    _print_problems(index_manifest)


def print_build_result(index: IndexFolder, result: BuildResult, as_json: bool) -> None:
    """Print what a build or an update did."""
    if as_json:
        click.echo(dump_json(index_details(index, result.manifest) | result.to_dict()))
        return
    for path in result.missing_sources:
        click.echo(f"{one_line(path, 300)} is not there; what was indexed of it stays.", err=True)
    if not result.changed:
        click.echo(f"{index.name}: nothing changed, {describe_size(result.manifest)}.")
        return
    gone = f", {result.files_removed:,} gone" if result.files_removed else ""
    embedded = _pluralize(result.embedded, "passage")
    click.echo(
        f"{index.name}: {describe_size(result.manifest)}. Read "
        f"{_pluralize(result.files_read, 'file')}{gone}; "
        f"embedded {embedded}."
    )
    _print_problems(result.manifest)


def index_row(index: IndexFolder, index_manifest: Manifest | None) -> dict[str, Any]:
    """An index in the list, as plain values."""
    return {
        "name": index.name,
        "own": index.is_user_index,
        "finished": index_manifest is not None,
        "passages": index_manifest.chunk_count if index_manifest else 0,
        "files": _count_indexed_files(index_manifest) if index_manifest else 0,
        "embedder": index_manifest.embedder.name if index_manifest else None,
        "made_at": index.built_at().isoformat() if index_manifest else None,
        "folder": str(index.path),
        "bytes": disk_usage(index),
    }


def index_details(index: IndexFolder, index_manifest: Manifest | None) -> dict[str, Any]:
    """All of an index but its files, as plain values."""
    if index_manifest is None:
        return index_row(index, index_manifest)
    problems = [
        {"path": file.path, "source": file.source, "place": problem.place, "reason": problem.reason}
        for file, problem in index_manifest.problems
    ]
    return index_row(index, index_manifest) | {
        "dimension": index_manifest.dimension,
        "chunking": index_manifest.chunking.to_dict(),
        "sources": [source.to_dict() for source in index_manifest.sources],
        "problems": problems,
    }


def disk_usage(index: IndexFolder) -> int:
    """The bytes that an index takes on disk."""
    return sum(path.stat().st_size for path in index.path.rglob("*") if path.is_file())


def _print_problems(index_manifest: Manifest) -> None:
    """What was left out, on stderr: for each reason how many, and some by name."""
    by_reason: dict[str, list[str]] = {}
    for file, problem in index_manifest.problems:
        where = f"{file.source}, {problem.place}" if problem.place else file.source
        by_reason.setdefault(problem.reason, []).append(one_line(where, 100))
    if by_reason:
        click.echo(f"Left out: {sum(map(len, by_reason.values())):,}", err=True)
    for reason, places in sorted(by_reason.items(), key=lambda item: -len(item[1])):
        more = (
            f" and {len(places) - _MAX_NAMED_FILES:,} more"
            if len(places) > _MAX_NAMED_FILES
            else ""
        )
        click.echo(
            f"  {one_line(reason, 200)}: {', '.join(places[:_MAX_NAMED_FILES])}{more}", err=True
        )


def describe_size(index_manifest: Manifest) -> str:
    """How large an index is, such as `120 passages from 4 files`."""
    return (
        f"{_pluralize(index_manifest.chunk_count, 'passage')} from "
        f"{_pluralize(_count_indexed_files(index_manifest), 'file')}"
    )


def _count_indexed_files(index_manifest: Manifest) -> int:
    return sum(file.chunk_count > 0 for file in index_manifest.files)


def _pluralize(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


_EXCERPT_CHARS = 300
"""Characters of a passage that are printed."""


_INTERVAL_WIDTH = 50
"""Columns of an interval that is drawn."""


def describe_hit(number: int, hit: SearchHit) -> str:
    """Format a search hit as three lines of text."""
    piece = hit.chunk
    place = f", {one_line(piece.place, 100)}" if piece.place else ""
    line = f":{piece.line}" if piece.line else ""
    also = f"  also in {len(hit.duplicates)} other places" if hit.duplicates else ""
    words = f"words {hit.lexical.rank}" if hit.lexical.score else "no word"
    return (
        f"[{number}] {one_line(piece.source, 100)}{line}{place}\n"
        f"    {hit.score:.3f} (meaning {hit.dense.rank}, {words}){also}\n"
        f"    {one_line(piece.text, _EXCERPT_CHARS)}\n"
    )


def scorecard_dict(card: Scorecard) -> dict[str, Any]:
    """Convert a scorecard to JSON values."""
    kinds = {
        kind: {name: figure.mean for name, figure in figures.items()}
        | {"intervals": {name: [figure.low, figure.high] for name, figure in figures.items()}}
        for kind, figures in card.metrics.items()
    }
    gains = {kind: [gain.mean, gain.low, gain.high] for kind, gain in card.fused_gains.items()}
    counts = {
        "questions": card.questions,
        "documents": card.documents,
        "missing": card.missing_documents,
    }
    return kinds | {"fused_gain": gains} | counts


def draw_scorecard(name: str, card: Scorecard) -> str:
    """A scorecard as lines of text, 76 columns at most."""
    lines = [f"{name}: {card.questions:,} questions, {card.documents:,} documents"]
    if card.missing_documents:
        lines.append(f"Not in the index, of the documents that answer: {card.missing_documents:,}")
    lines += ["", f"{'':<11}" + "".join(f"{kind:<22}" for kind in card.metrics).rstrip()]
    for measure in card.metrics["fused"]:
        cells = "".join(
            f"{_format_estimate(figures[measure]):<22}" for figures in card.metrics.values()
        )
        lines.append(f"{measure:<11}{cells}".rstrip())
    lines += ["", *_draw_intervals(card, "ndcg@10"), ""]
    for kind, gain in card.fused_gains.items():
        span = f"{gain.low:+.3f} to {gain.high:+.3f}"
        lines.append(f"fused over {kind:<9}{gain.mean:+.3f} ndcg@10, {span}")
    lines.append("\nRanges hold in 95 of 100 draws of the questions.")
    return "\n".join(lines)


def _format_estimate(estimate: Estimate) -> str:
    return f"{estimate.mean:.3f} {estimate.low:.3f}–{estimate.high:.3f}"


def _draw_intervals(card: Scorecard, measure: str) -> list[str]:
    """A line for each kind, with its interval on a common scale."""
    figures = {kind: row[measure] for kind, row in card.metrics.items()}
    low = min(figure.low for figure in figures.values())
    high = max(figure.high for figure in figures.values())
    step = (high - low) / (_INTERVAL_WIDTH - 1) or 1

    def drawn(figure: Estimate) -> str:
        begin, dot, end = (
            round((at - low) / step) for at in (figure.low, figure.mean, figure.high)
        )
        line = [" "] * begin + ["─"] * (end - begin + 1)
        line[begin], line[end], line[dot] = "├", "┤", "●"
        return "".join(line)

    scale = f"{low:<{_INTERVAL_WIDTH // 2}.3f}{high:>{_INTERVAL_WIDTH - _INTERVAL_WIDTH // 2}.3f}"
    return [f"{measure:<11}{scale}", *(f"{kind:<11}{drawn(f)}" for kind, f in figures.items())]
