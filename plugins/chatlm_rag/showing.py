"""What `chatlm rag …` says of an index, for people and as JSON."""

from __future__ import annotations

from typing import Any

import click

from chatlm import dump_json, human_bytes, one_line, visible
from chatlm_rag import manifest
from chatlm_rag.building import Outcome
from chatlm_rag.folder import IndexFolder
from chatlm_rag.manifest import Manifest

_NAMED = 5
"""How many files are named for each reason to leave some out."""


def made(index: IndexFolder) -> Manifest | None:
    """What an index is made of; None while it is not finished.

    Raises:
        ChatlmError: it is damaged.
    """
    return index.open(manifest.read) if index.current() else None


def in_short(index: IndexFolder, found: Manifest | None) -> str:
    """An index in one line, without its name."""
    if found is None:
        return f"not finished; go on: chatlm rag update {index.name}"
    day = index.made_at().astimezone().strftime("%Y-%m-%d %H:%M")
    origin = f"made {day}" if index.own else "comes with chatlm"
    unfinished = "; an update was stopped" if index.partial.is_dir() else ""
    return f"{amount(found)}, {origin}{unfinished}"


def tell_all(index: IndexFolder, found: Manifest) -> None:
    """Print what an index is made of."""
    cut = found.chunking
    click.echo(f"Embedder  {found.embedder.name}, {found.dimension} dimensions")
    click.echo(f"Passages  at most {cut.tokens} tokens, {cut.overlap} of them shared")
    click.echo(f"Size      {human_bytes(size(index))} in {visible(str(index.path))}")
    for source in found.sources:
        only = "".join(f"  only {one_line(glob, 40)}" for glob in source.include)
        none = "".join(f"  without {one_line(glob, 40)}" for glob in source.exclude)
        click.echo(f"Source    {one_line(source.path, 300)}{only}{none}")
    _tell_problems(found)


def tell_outcome(index: IndexFolder, done: Outcome, as_json: bool) -> None:
    """Print what a build or an update did."""
    if as_json:
        click.echo(dump_json(table(index, done.manifest) | done.to_dict()))
        return
    for path in done.missing:
        click.echo(f"{one_line(path, 300)} is not there; what was indexed of it stays.", err=True)
    if not done.changed:
        click.echo(f"{index.name}: nothing changed, {amount(done.manifest)}.")
        return
    gone = f", {done.gone:,} gone" if done.gone else ""
    embedded = _count(done.embedded, "passage")
    click.echo(
        f"{index.name}: {amount(done.manifest)}. Read {_count(done.read, 'file')}{gone}; "
        f"embedded {embedded}."
    )
    _tell_problems(done.manifest)


def row(index: IndexFolder, found: Manifest | None) -> dict[str, Any]:
    """An index in the list, as plain values."""
    return {
        "name": index.name,
        "own": index.own,
        "finished": found is not None,
        "passages": found.pieces if found else 0,
        "files": _files(found) if found else 0,
        "embedder": found.embedder.name if found else None,
        "made_at": index.made_at().isoformat() if found else None,
        "folder": str(index.path),
        "bytes": size(index),
    }


def table(index: IndexFolder, found: Manifest | None) -> dict[str, Any]:
    """All of an index but its files, as plain values."""
    if found is None:
        return row(index, found)
    problems = [
        {"path": file.path, "source": file.source, "place": problem.place, "reason": problem.reason}
        for file, problem in found.problems
    ]
    return row(index, found) | {
        "dimension": found.dimension,
        "chunking": found.chunking.to_dict(),
        "sources": [source.to_dict() for source in found.sources],
        "problems": problems,
    }


def size(index: IndexFolder) -> int:
    """The bytes that an index takes on disk."""
    return sum(path.stat().st_size for path in index.path.rglob("*") if path.is_file())


def _tell_problems(found: Manifest) -> None:
    """What was left out, on stderr: for each reason how many, and some by name."""
    by_reason: dict[str, list[str]] = {}
    for file, problem in found.problems:
        where = f"{file.source}, {problem.place}" if problem.place else file.source
        by_reason.setdefault(problem.reason, []).append(one_line(where, 100))
    if by_reason:
        click.echo(f"Left out: {sum(map(len, by_reason.values())):,}", err=True)
    for reason, places in sorted(by_reason.items(), key=lambda item: -len(item[1])):
        more = f" and {len(places) - _NAMED:,} more" if len(places) > _NAMED else ""
        click.echo(f"  {one_line(reason, 200)}: {', '.join(places[:_NAMED])}{more}", err=True)


def amount(found: Manifest) -> str:
    """How large an index is, such as `120 passages from 4 files`."""
    return f"{_count(found.pieces, 'passage')} from {_count(_files(found), 'file')}"


def _files(found: Manifest) -> int:
    return sum(file.count > 0 for file in found.files)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
