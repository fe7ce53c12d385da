"""Why a turn has the passages it has, as lines of text: ranks, scores, and what was left out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from chatlm import ChatlmError, Passage, Turn, Ui, UsageError, one_line
from chatlm_rag import PLUGIN
from chatlm_rag.retrieval.citations import OMITTED
from chatlm_rag.retrieval.hits import Origin, SearchHit, origin_of
from chatlm_rag.retrieval.relevance import THRESHOLD
from chatlm_rag.retrieval.search import get_open_index

MAX_RUNNERS_UP = 6
"""Passages that are shown of those that were not taken."""


_TABLE_HEADER = f"{'':5}{'fused':>6}  {'meaning':>12}  {'words':>12}"


def explain_turn(ui: Ui) -> str:
    """The whole account for the selected turn.

    Raises:
        UsageError: no index was asked for it.
    """
    turn, passages = ui.turn, [p for p in ui.passages if origin_of(p).index]
    asked = _search_annotation(turn)
    if turn is None or asked is None:
        raise UsageError("No index was asked for this turn", hint="/rag chooses one.")
    found, confidence = asked
    lines = [
        f"Question    {one_line(turn.display_text, 300)}",
        f"Found       {found}; confidence {confidence:.2f}, needed {THRESHOLD:.2f}",
        "",
    ]
    if not passages:
        return "\n".join([*lines, "Below that nothing is given to the model."])
    lines += [_TABLE_HEADER, *_passage_lines(turn, passages)]
    return "\n".join([*lines, "", *_runners_up(turn.display_text, passages)])


def _search_annotation(turn: Turn | None) -> tuple[str, float] | None:
    """What was said of the turn's question."""
    for reply, label in turn.annotations if turn else ():
        if reply is None and (label.plugin, label.name) == (PLUGIN, "passages"):
            return label.value, label.score or 0.0
    return None


def _passage_lines(turn: Turn, passages: Sequence[Passage]) -> Iterator[str]:
    fates = passage_outcomes(turn)
    for number, passage in enumerate(passages, start=1):
        origin = origin_of(passage)
        ranks = (origin.dense_rank, origin.dense_score), (origin.lexical_rank, origin.lexical_score)
        yield _row(f"[{number}]", passage.score, *ranks, fates.get(number, "read"))
        yield f"     {one_line(origin.label, 70)}"
        for also in origin.duplicates:
            yield f"     says the same, left out: {one_line(also, 48)}"


def passage_outcomes(turn: Turn) -> dict[int, str]:
    """What became of the passages of a turn's reply, by their numbers, where that is known."""
    fates: dict[int, str] = {}
    shown = turn.reply.id if turn.reply else None
    for reply, label in turn.annotations:
        if reply is None or reply != shown or label.plugin != PLUGIN:
            continue
        if label.name == OMITTED:
            fates |= {int(n): "not read, no room" for n in re.findall(r"\[(\d+)\]", label.value)}
        elif match := re.fullmatch(r"\[(\d+)\]", label.name):
            fates[int(match[1])] = label.value.rpartition(": ")[2]
    return fates


def _runners_up(question: str, passages: Sequence[Passage]) -> list[str]:
    """The next best, as the index ranks them now."""
    try:
        found = get_open_index(origin_of(passages[0]).index).index.search(
            question, len(passages) + MAX_RUNNERS_UP
        )
    except ChatlmError as error:
        return [f"The others cannot be told. {one_line(error.message, 200)}"]
    taken = {origin_of(passage).chunk_id for passage in passages}
    lines = []
    for each in [each for each in found if each.chunk.id not in taken][:MAX_RUNNERS_UP]:
        lines += _hit_lines(each)
    return ["Left out, since others are better:", _TABLE_HEADER, *lines] if lines else []


def _hit_lines(hit: SearchHit) -> list[str]:
    piece = hit.chunk
    origin = Origin(source=piece.source, place=piece.place, line=piece.line)
    dense, lexical = hit.dense, hit.lexical
    row = _row("", hit.score, (dense.rank, dense.score), (lexical.rank, lexical.score), "")
    return [row, f"     {one_line(origin.label, 70)}"]


def _row(
    name: str, fused: float, dense: tuple[int, float], lexical: tuple[int, float], outcome: str
) -> str:
    words = f"#{lexical[0]} {lexical[1]:.2f}" if lexical[1] else "no word"
    meaning = f"#{dense[0]} {dense[1]:.3f}"
    return f"{name:<5}{fused:>6.3f}  {meaning:>12}  {words:>12}  {outcome}".rstrip()
