"""Format indices, build results, search hits and scorecards as text and JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from chatlm import dump_json, escape_controls, human_bytes, one_line
from chatlm_rag.documents.files import LEADS_OUT
from chatlm_rag.index import manifest
from chatlm_rag.index.builder import BuildResult
from chatlm_rag.index.folder import IndexFolder
from chatlm_rag.index.manifest import Manifest

if TYPE_CHECKING:
    from chatlm_rag.evaluation import Estimate, Scorecard
    from chatlm_rag.retrieval.calibration import Calibration
    from chatlm_rag.retrieval.hits import SearchHit


_MAX_NAMED_FILES = 5
"""Files that are named for each kind of problem."""


def read_manifest(index: IndexFolder) -> Manifest | None:
    """Read the manifest of an index; None if its first build is not complete.

    Raises:
        ChatlmError: it is damaged.
    """
    return index.open(manifest.read) if index.current() else None


def summarize_index(index: IndexFolder, index_manifest: Manifest | None) -> str:
    """Summarize an index in one line, without its name."""
    if index_manifest is None:
        return f"not finished; continue: chatlm rag update {index.name}"
    date = index.committed_at().astimezone().strftime("%Y-%m-%d %H:%M")
    origin = f"built {date}" if index.is_user_index else "comes with chatlm"
    unfinished = "; an update was stopped" if index.partial.is_dir() else ""
    return f"{describe_size(index_manifest)}, {origin}{unfinished}"


def print_details(index: IndexFolder, index_manifest: Manifest) -> None:
    """Print the settings, size, sources and problems of an index."""
    chunking = index_manifest.chunking
    click.echo(f"Embedder  {index_manifest.embedder.name}, {index_manifest.dimension} dimensions")
    click.echo(f"Passages  up to {chunking.tokens} tokens, overlap {chunking.overlap}")
    click.echo(f"Size      {human_bytes(disk_usage(index))} in {escape_controls(str(index.path))}")
    for source in index_manifest.sources:
        include = "".join(f"  only {one_line(glob, 40)}" for glob in source.include)
        exclude = "".join(f"  without {one_line(glob, 40)}" for glob in source.exclude)
        links = "  following links" if source.follow_links else ""
        click.echo(f"Source    {one_line(source.path, 300)}{include}{exclude}{links}")
    _print_problems(index_manifest)


def print_build_result(index: IndexFolder, result: BuildResult, as_json: bool) -> None:
    """Print the result of a build or an update."""
    if as_json:
        click.echo(dump_json(index_details(index, result.manifest) | result.to_dict()))
        return
    for path in result.missing_sources:
        click.echo(
            f"{one_line(path, 300)} does not exist; its passages stay in the index.", err=True
        )
    if not result.changed:
        click.echo(f"{index.name}: nothing changed, {describe_size(result.manifest)}.")
        return
    removed = f", removed {result.files_removed:,}" if result.files_removed else ""
    embedded = _pluralize(result.embedded, "passage")
    click.echo(
        f"{index.name}: {describe_size(result.manifest)}. Read "
        f"{_pluralize(result.files_read, 'file')}{removed}; "
        f"embedded {embedded}."
    )
    _print_problems(result.manifest)


def index_row(index: IndexFolder, index_manifest: Manifest | None) -> dict[str, Any]:
    """Convert a summary of an index to JSON values."""
    return {
        "name": index.name,
        "own": index.is_user_index,
        "finished": index_manifest is not None,
        "passages": index_manifest.chunk_count if index_manifest else 0,
        "files": _count_indexed_files(index_manifest) if index_manifest else 0,
        "embedder": index_manifest.embedder.name if index_manifest else None,
        "made_at": index.committed_at().isoformat() if index_manifest else None,
        "folder": str(index.path),
        "bytes": disk_usage(index),
    }


def index_details(index: IndexFolder, index_manifest: Manifest | None) -> dict[str, Any]:
    """Convert an index to JSON values, without its files."""
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
    """Return the size of an index on disk in bytes, all versions included."""
    return sum(path.stat().st_size for path in index.path.rglob("*") if path.is_file())


def _print_problems(index_manifest: Manifest) -> None:
    """Print the files that could not be indexed on stderr, grouped by reason."""
    by_reason: dict[str, list[str]] = {}
    for file, problem in index_manifest.problems:
        if problem.reason == LEADS_OUT:
            continue
        place = f"{file.source}, {problem.place}" if problem.place else file.source
        by_reason.setdefault(problem.reason, []).append(one_line(place, 100))
    if by_reason:
        click.echo(f"Not indexed: {sum(map(len, by_reason.values())):,}", err=True)
    for reason, places in sorted(by_reason.items(), key=lambda item: -len(item[1])):
        more = (
            f" and {len(places) - _MAX_NAMED_FILES:,} more"
            if len(places) > _MAX_NAMED_FILES
            else ""
        )
        click.echo(
            f"  {one_line(reason, 200)}: {', '.join(places[:_MAX_NAMED_FILES])}{more}", err=True
        )
    if left_out := describe_links_left_out(index_manifest):
        click.echo(f"{left_out} To index them too: --follow-links", err=True)


def describe_links_left_out(index_manifest: Manifest) -> str:
    """Say in a sentence how many links were not followed; empty for none."""
    count = sum(problem.reason == LEADS_OUT for _, problem in index_manifest.problems)
    lead, were = ("leads", "was") if count == 1 else ("lead", "were")
    links = _pluralize(count, "link")
    return f"{links} that {lead} out of the folder {were} left out." if count else ""


def describe_size(index_manifest: Manifest) -> str:
    """Describe the size of an index, such as `120 passages from 4 files`."""
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
"""Width of the interval chart in columns."""


def describe_hit(number: int, hit: SearchHit) -> str:
    """Format a search hit as three lines of text."""
    chunk = hit.chunk
    place = f", {one_line(chunk.place, 100)}" if chunk.place else ""
    line = f":{chunk.line}" if chunk.line else ""
    duplicates = f"  also in {len(hit.duplicates)} other places" if hit.duplicates else ""
    words = f"words {hit.lexical.rank}" if hit.lexical.score else "no word"
    return (
        f"[{number}] {one_line(chunk.source, 100)}{line}{place}\n"
        f"    {hit.score:.3f} (meaning {hit.dense.rank}, {words}){duplicates}\n"
        f"    {one_line(chunk.text, _EXCERPT_CHARS)}\n"
    )


def describe_calibration(name: str, calibration: Calibration) -> str:
    """Describe the threshold that was fitted for an index in a line or two."""
    kept = (
        f"It keeps {calibration.kept_rate:.0%} of {calibration.answerable:,} answerable questions"
    )
    refused = (
        f" and refuses {calibration.refused_rate:.0%} of {calibration.unanswerable:,} others"
        if calibration.refused_rate is not None
        else ""
    )
    return f"Threshold of {name}: {calibration.threshold:.2f}\n{kept}{refused}."


def scorecard_dict(card: Scorecard) -> dict[str, Any]:
    """Convert a scorecard to JSON values."""
    rankings = {
        ranking: {name: estimate.mean for name, estimate in metrics.items()}
        | {"intervals": {name: [each.low, each.high] for name, each in metrics.items()}}
        for ranking, metrics in card.metrics.items()
    }
    gains = {name: [gain.mean, gain.low, gain.high] for name, gain in card.fused_gains.items()}
    counts = {
        "questions": card.questions,
        "documents": card.documents,
        "missing": card.missing_documents,
    }
    return rankings | {"fused_gain": gains} | counts


def draw_scorecard(name: str, card: Scorecard) -> str:
    """Draw a scorecard as text, at most 76 columns wide."""
    lines = [f"{name}: {card.questions:,} questions, {card.documents:,} documents"]
    if card.missing_documents:
        lines.append(f"Relevant documents missing from the index: {card.missing_documents:,}")
    lines += ["", f"{'':<11}" + "".join(f"{ranking:<22}" for ranking in card.metrics).rstrip()]
    for metric in card.metrics["fused"]:
        cells = "".join(
            f"{_format_estimate(metrics[metric]):<22}" for metrics in card.metrics.values()
        )
        lines.append(f"{metric:<11}{cells}".rstrip())
    lines += ["", *_draw_intervals(card, "ndcg@10"), ""]
    for ranking, gain in card.fused_gains.items():
        interval = f"{gain.low:+.3f} to {gain.high:+.3f}"
        lines.append(f"fused over {ranking:<9}{gain.mean:+.3f} ndcg@10, {interval}")
    lines.append("\nRanges are 95 % bootstrap intervals over the questions.")
    return "\n".join(lines)


def _format_estimate(estimate: Estimate) -> str:
    return f"{estimate.mean:.3f} {estimate.low:.3f}–{estimate.high:.3f}"


def _draw_intervals(card: Scorecard, metric: str) -> list[str]:
    """Draw the interval of each ranking on a common scale."""
    estimates = {ranking: metrics[metric] for ranking, metrics in card.metrics.items()}
    low = min(estimate.low for estimate in estimates.values())
    high = max(estimate.high for estimate in estimates.values())
    step = (high - low) / (_INTERVAL_WIDTH - 1) or 1

    def draw(estimate: Estimate) -> str:
        start, dot, end = (
            round((value - low) / step) for value in (estimate.low, estimate.mean, estimate.high)
        )
        line = [" "] * start + ["─"] * (end - start + 1)
        line[start], line[end], line[dot] = "├", "┤", "●"
        return "".join(line)

    scale = f"{low:<{_INTERVAL_WIDTH // 2}.3f}{high:>{_INTERVAL_WIDTH - _INTERVAL_WIDTH // 2}.3f}"
    return [f"{metric:<11}{scale}", *(f"{name:<11}{draw(e)}" for name, e in estimates.items())]
