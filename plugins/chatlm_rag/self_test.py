"""Lets the model make questions from the person's own passages, and measures how they are found."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from contextlib import closing

from chatlm import (
    ChatlmError,
    Delta,
    Engine,
    Message,
    ProgressReporter,
    Request,
    Sampling,
    Ui,
    UsageError,
    one_line,
)
from chatlm_rag import evaluation
from chatlm_rag.formatting import draw_scorecard
from chatlm_rag.index.bm25 import stems
from chatlm_rag.index.chunks import Chunk, ChunkReader
from chatlm_rag.retrieval.citations import SUPPORT_THRESHOLD, support_score
from chatlm_rag.retrieval.extractive import statements
from chatlm_rag.retrieval.search import get_open_index
from chatlm_rag.settings import index_from_plugin_data

MAX_QUESTIONS = 20
"""At most."""
MAX_TRIED_CHUNKS = 80
"""Passages at most: a small model makes few questions that their passage answers."""
EXAMPLE_QUESTIONS = 5
"""Questions that are shown below the scorecard."""

_MIN_CHUNK_CHARS = 200
"""Characters that a passage needs to ask about."""
_MAX_STATEMENT_CHARS = 400
_SAMPLING = Sampling(temperature=0.2, top_k=0, top_p=0.95, seed=0, max_tokens=48, stop=("\n",))
_INSTRUCTION = "Write one short question that this text answers. Write nothing else."


class SelfTestStopped(ChatlmError):
    """The person gave up."""

    exit_code = 130


def run(ui: Ui) -> str:
    """The scorecard of the chat's index as lines of text; takes minutes.

    Raises:
        ChatlmError: there is no index or no model, or the person stopped it.
    """
    name, engine = index_from_plugin_data(ui.state), ui.engine
    if not name:
        raise UsageError("This chat asks no index.", hint="/rag chooses one.")
    if engine is None:
        raise UsageError("The model is not loaded yet.", hint="Wait until it is.")
    index = get_open_index(name).index
    with ui.progress(f"Testing {name}") as work:
        questions = generate_questions(engine, sample_chunks(index.chunks), work)

        def tell(done: int, total: int) -> None:
            _report(work, done, total, "searching")

        judgements = {asked: {number: 1} for asked, number in questions.items()}
        card = evaluation.evaluate(
            index,
            {asked: asked for asked in questions},
            judgements,
            tell,
            document_of=lambda piece: str(piece.id),
        )
    examples = [f"  {one_line(asked, 74)}" for asked in list(questions)[:EXAMPLE_QUESTIONS]]
    model = one_line(engine.info.model, 40)
    head = f"{model} made questions of passages; each is to find its own passage."
    return "\n".join([head, "", draw_scorecard(name, card), "", "Such as", *examples])


def sample_chunks(chunks: ChunkReader) -> list[Chunk]:
    """Some passages that are long enough to ask about; of one index always the same."""
    order = random.Random(0).sample(range(len(chunks)), len(chunks))  # noqa: S311 - no secret
    long = (
        piece for piece in map(chunks.__getitem__, order) if len(piece.text) >= _MIN_CHUNK_CHARS
    )
    return [piece for piece, _ in zip(long, range(MAX_TRIED_CHUNKS), strict=False)]


def generate_questions(
    engine: Engine, chunks: Sequence[Chunk], work: ProgressReporter
) -> dict[str, str]:
    """Questions, each with the id of its passage, until there are enough.

    The model is shown the statement of a passage that says most. What is no question, or asks with
    words that the passage does not have, is left out.

    Raises:
        UsageError: there is not one.
        ChatlmError: the model failed, or the person stopped it.
    """
    questions: dict[str, str] = {}
    for piece in chunks:
        done = len(questions)
        if done == MAX_QUESTIONS:
            break
        content = f"{_richest_statement(piece)[:_MAX_STATEMENT_CHARS]}\n\n{_INSTRUCTION}"
        said = ""
        request = Request((Message("user", content),), _SAMPLING)
        with closing(engine.stream(request)) as events:
            for event in events:
                _report(work, done, MAX_QUESTIONS, "making questions")
                said += event.text if isinstance(event, Delta) else ""
        question = _extract_question(said)
        if support_score(question, piece.indexed_text) >= SUPPORT_THRESHOLD:
            questions[question] = str(piece.id)
    if not questions:
        raise UsageError(
            "The model made no question of these documents.", hint="Try a larger model: /model"
        )
    return questions


def _richest_statement(chunk: Chunk) -> str:
    """The statement with the most words that say something."""
    return max(statements(chunk.text), key=lambda text: len(set(stems(text))), default=chunk.text)


def _extract_question(reply_text: str) -> str:
    """The first question in what the model said; empty where there is none."""
    match = re.search(r"[^\n.!?:]*\?", reply_text)
    question = " ".join(match[0].split()) if match else ""
    return question if len(question.split()) >= 3 else ""


def _report(work: ProgressReporter, done: int, total: int, note: str) -> None:
    if work.cancelled:
        raise SelfTestStopped("Stopped.")
    work.update(done, total, note)
