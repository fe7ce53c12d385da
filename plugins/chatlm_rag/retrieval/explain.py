"""Explain the passages of a turn as text: their ranks and scores, and the runners-up."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from chatlm import ChatlmError, Passage, Turn, Ui, UsageError, one_line
from chatlm_rag import PLUGIN
from chatlm_rag.retrieval.calibration import describe_threshold
from chatlm_rag.retrieval.citations import OMITTED
from chatlm_rag.retrieval.hits import Origin, SearchHit, origin_of
from chatlm_rag.retrieval.search import get_open_index
from chatlm_rag.settings import index_from_plugin_data

MAX_RUNNERS_UP = 6
"""Limit for the passages shown that were not selected."""


_TABLE_HEADER = f"{'':5}{'fused':>6}  {'meaning':>12}  {'words':>12}"


def explain_turn(ui: Ui) -> str:
    """Explain the passages of the selected turn.

    Raises:
        UsageError: no index was searched for it.
    """
    turn, passages = ui.turn, [p for p in ui.passages if origin_of(p).index]
    search = _search_annotation(turn)
    if turn is None or search is None:
        raise UsageError("No index was searched for this turn", hint="Select one: /rag")
    summary, confidence = search
    lines = [
        f"Question    {one_line(turn.display_text, 300)}",
        f"Found       {summary}; confidence {confidence:.2f}",
        f"Threshold   {_threshold(ui, passages)}",
        "",
    ]
    if not passages:
        return "\n".join([*lines, "Below the threshold, the model gets no passages."])
    lines += [_TABLE_HEADER, *_passage_lines(turn, passages)]
    return "\n".join([*lines, "", *_runners_up(turn.display_text, passages)])


def _threshold(ui: Ui, passages: Sequence[Passage]) -> str:
    name = origin_of(passages[0]).index if passages else index_from_plugin_data(ui.state)
    try:
        return describe_threshold(name)
    except ChatlmError as error:  # the index has been deleted since
        return f"unknown. {one_line(error.message, 200)}"


def _search_annotation(turn: Turn | None) -> tuple[str, float] | None:
    """Return the value and score of the search annotation of the turn's question."""
    for reply, annotation in turn.annotations if turn else ():
        if reply is None and (annotation.plugin, annotation.name) == (PLUGIN, "passages"):
            return annotation.value, annotation.score or 0.0
    return None


def _passage_lines(turn: Turn, passages: Sequence[Passage]) -> Iterator[str]:
    outcomes = passage_outcomes(turn)
    for number, passage in enumerate(passages, start=1):
        origin = origin_of(passage)
        ranks = (origin.dense_rank, origin.dense_score), (origin.lexical_rank, origin.lexical_score)
        yield _row(f"[{number}]", passage.score, *ranks, outcomes.get(number, "read"))
        yield f"     {one_line(origin.label, 70)}"
        for duplicate in origin.duplicates:
            yield f"     duplicate, not used: {one_line(duplicate, 52)}"


def passage_outcomes(turn: Turn) -> dict[int, str]:
    """Return how the shown reply used each passage, by passage number, where that is known."""
    outcomes: dict[int, str] = {}
    shown_reply = turn.reply.id if turn.reply else None
    for reply, annotation in turn.annotations:
        if reply is None or reply != shown_reply or annotation.plugin != PLUGIN:
            continue
        if annotation.name == OMITTED:
            numbers = map(int, re.findall(r"\[(\d+)\]", annotation.value))
            outcomes |= dict.fromkeys(numbers, "not read: context too small")
        elif match := re.fullmatch(r"\[(\d+)\]", annotation.name):
            outcomes[int(match[1])] = annotation.value.rpartition(": ")[2]
    return outcomes


def _runners_up(question: str, passages: Sequence[Passage]) -> list[str]:
    """Describe the next best passages, as the index ranks them now."""
    try:
        hits = get_open_index(origin_of(passages[0]).index).index.search(
            question, len(passages) + MAX_RUNNERS_UP
        )
    except ChatlmError as error:
        return [f"The runners-up are unavailable. {one_line(error.message, 200)}"]
    selected = {origin_of(passage).chunk_id for passage in passages}
    lines = []
    for hit in [hit for hit in hits if hit.chunk.id not in selected][:MAX_RUNNERS_UP]:
        lines += _hit_lines(hit)
    return ["Not selected, in order of rank:", _TABLE_HEADER, *lines] if lines else []


def _hit_lines(hit: SearchHit) -> list[str]:
    chunk = hit.chunk
    origin = Origin(source=chunk.source, place=chunk.place, line=chunk.line)
    dense, lexical = hit.dense, hit.lexical
    row = _row("", hit.score, (dense.rank, dense.score), (lexical.rank, lexical.score), "")
    return [row, f"     {one_line(origin.label, 70)}"]


def _row(
    name: str, fused: float, dense: tuple[int, float], lexical: tuple[int, float], outcome: str
) -> str:
    words = f"#{lexical[0]} {lexical[1]:.2f}" if lexical[1] else "no word"
    meaning = f"#{dense[0]} {dense[1]:.3f}"
    return f"{name:<5}{fused:>6.3f}  {meaning:>12}  {words:>12}  {outcome}".rstrip()
