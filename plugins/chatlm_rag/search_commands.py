"""The commands `chatlm rag search` and `chatlm rag eval`: what is asked and printed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from chatlm import dump_json, one_line, visible
from chatlm_rag.bars import bar
from chatlm_rag.options import as_json_option, name_argument

if TYPE_CHECKING:
    from chatlm_rag.scorecard import Figure, Scorecard
    from chatlm_rag.searching import Found

_SHOWN = 300
"""Characters of a passage that are printed."""
_WIDTH = 50
"""Columns of an interval that is drawn."""


@click.command()
@name_argument
@click.argument("words", nargs=-1, required=True, metavar="QUERY...")
@click.option("-n", "--most", type=click.IntRange(1, 100), default=8, help="Passages at most (8).")
@as_json_option
def search(name: str, words: tuple[str, ...], most: int, as_json: bool) -> None:
    """Find passages by meaning and by words.

    Example: chatlm rag search notes "When does the lease end?"
    """
    from chatlm_rag.abstaining import CONSIDERED, THRESHOLD
    from chatlm_rag.folder import located
    from chatlm_rag.reranking import configured
    from chatlm_rag.searching import Index

    query = " ".join(words)
    index = Index.open(located(name))
    found = index.search(query, max(most, CONSIDERED), configured())
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
        click.echo(_described(number, each))


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
    from chatlm_rag import plotting, scorecard
    from chatlm_rag.folder import located
    from chatlm_rag.questions import read_judgements, read_questions
    from chatlm_rag.searching import Index

    if plot:
        plotting.check(plot)
    questions, judgements = read_questions(queries), read_judgements(qrels)
    with bar() as work:
        card = scorecard.evaluate(
            Index.open(located(name)),
            questions,
            judgements,
            lambda done, total: work.at(done, total, "asking"),
        )
    if plot:
        plotting.save_scorecard(card, f"{name}, {card.questions:,} questions", plot)
    if as_json:
        click.echo(dump_json(_card_table(card)))
        return
    click.echo(drawn(name, card))
    if plot:
        click.echo(f"Saved {visible(str(plot))}")


def _described(number: int, found: Found) -> str:
    piece = found.piece
    place = f", {one_line(piece.place, 100)}" if piece.place else ""
    line = f":{piece.line}" if piece.line else ""
    also = f"  also in {len(found.also)} other places" if found.also else ""
    words = f"words {found.lexical.rank}" if found.lexical.score else "no word"
    return (
        f"[{number}] {one_line(piece.source, 100)}{line}{place}\n"
        f"    {found.score:.3f} (meaning {found.dense.rank}, {words}){also}\n"
        f"    {one_line(piece.text, _SHOWN)}\n"
    )


def _card_table(card: Scorecard) -> dict[str, Any]:
    kinds = {
        kind: {name: figure.mean for name, figure in figures.items()}
        | {"intervals": {name: [figure.low, figure.high] for name, figure in figures.items()}}
        for kind, figures in card.figures.items()
    }
    gains = {kind: [gain.mean, gain.low, gain.high] for kind, gain in card.gains.items()}
    counts = {"questions": card.questions, "documents": card.documents, "missing": card.missing}
    return kinds | {"fused_gain": gains} | counts


def drawn(name: str, card: Scorecard) -> str:
    """A scorecard as lines of text, 76 columns at most."""
    lines = [f"{name}: {card.questions:,} questions, {card.documents:,} documents"]
    if card.missing:
        lines.append(f"Not in the index, of the documents that answer: {card.missing:,}")
    lines += ["", f"{'':<11}" + "".join(f"{kind:<22}" for kind in card.figures).rstrip()]
    for measure in card.figures["fused"]:
        cells = "".join(f"{_figure(figures[measure]):<22}" for figures in card.figures.values())
        lines.append(f"{measure:<11}{cells}".rstrip())
    lines += ["", *_intervals(card, "ndcg@10"), ""]
    for kind, gain in card.gains.items():
        span = f"{gain.low:+.3f} to {gain.high:+.3f}"
        lines.append(f"fused over {kind:<9}{gain.mean:+.3f} ndcg@10, {span}")
    lines.append("\nRanges hold in 95 of 100 draws of the questions.")
    return "\n".join(lines)


def _figure(figure: Figure) -> str:
    return f"{figure.mean:.3f} {figure.low:.3f}–{figure.high:.3f}"


def _intervals(card: Scorecard, measure: str) -> list[str]:
    """A line for each kind, with its interval on a common scale."""
    figures = {kind: row[measure] for kind, row in card.figures.items()}
    low = min(figure.low for figure in figures.values())
    high = max(figure.high for figure in figures.values())
    step = (high - low) / (_WIDTH - 1) or 1

    def drawn(figure: Figure) -> str:
        begin, dot, end = (
            round((at - low) / step) for at in (figure.low, figure.mean, figure.high)
        )
        line = [" "] * begin + ["─"] * (end - begin + 1)
        line[begin], line[end], line[dot] = "├", "┤", "●"
        return "".join(line)

    scale = f"{low:<{_WIDTH // 2}.3f}{high:>{_WIDTH - _WIDTH // 2}.3f}"
    return [f"{measure:<11}{scale}", *(f"{kind:<11}{drawn(f)}" for kind, f in figures.items())]
