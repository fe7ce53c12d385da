"""Test an index with questions that the model generates from its own passages."""

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
from chatlm_rag.reading.statements import statements
from chatlm_rag.retrieval.citations import SUPPORT_THRESHOLD, support_score
from chatlm_rag.retrieval.search import get_open_index
from chatlm_rag.settings import index_from_plugin_data

MAX_QUESTIONS = 20
MAX_TRIED_CHUNKS = 80
"""Limit for the passages tried; few of a small model's questions are answered by their passage."""
EXAMPLE_QUESTIONS = 5
"""Questions shown below the scorecard."""

_MIN_CHUNK_CHARS = 200
"""Shorter passages are not used."""
_MAX_STATEMENT_CHARS = 400
_SAMPLING = Sampling(temperature=0.2, top_k=0, top_p=0.95, seed=0, max_tokens=48, stop=("\n",))
_INSTRUCTION = "Write one short question that this text answers. Write nothing else."


class SelfTestStopped(ChatlmError):
    """The user stopped the test."""

    exit_code = 130


def run(ui: Ui) -> str:
    """Test the chat's index and return the scorecard as text; takes minutes.

    Raises:
        ChatlmError: there is no index or no model, or the user stopped the test.
    """
    name, engine = index_from_plugin_data(ui.state), ui.engine
    if not name:
        raise UsageError("This chat uses no index.", hint="Select one: /rag")
    if engine is None:
        raise UsageError("The model is not loaded yet.", hint="Wait until it is loaded.")
    index = get_open_index(name).index
    with ui.progress(f"Testing {name}") as work:
        questions = generate_questions(engine, sample_chunks(index.chunks), work)

        def report(done: int, total: int) -> None:
            _report(work, done, total, "searching")

        card = evaluation.evaluate(
            index,
            {question: question for question in questions},
            {question: {chunk_id: 1} for question, chunk_id in questions.items()},
            report,
            document_of=lambda chunk: str(chunk.id),
        )
    examples = [f"  {one_line(question, 74)}" for question in list(questions)[:EXAMPLE_QUESTIONS]]
    model = one_line(engine.info.model, 40)
    header = f"Questions by {model}; each should find the passage it was written from."
    return "\n".join([header, "", draw_scorecard(name, card), "", "Examples", *examples])


def sample_chunks(chunks: ChunkReader) -> list[Chunk]:
    """Sample chunks that are long enough to ask about; reproducible for an index."""
    order = random.Random(0).sample(range(len(chunks)), len(chunks))  # noqa: S311 - no secret
    long = (
        chunk for chunk in map(chunks.__getitem__, order) if len(chunk.text) >= _MIN_CHUNK_CHARS
    )
    return [chunk for chunk, _ in zip(long, range(MAX_TRIED_CHUNKS), strict=False)]


def generate_questions(
    engine: Engine, chunks: Sequence[Chunk], work: ProgressReporter
) -> dict[str, str]:
    """Generate up to `MAX_QUESTIONS` questions, each with the id of its chunk.

    The prompt contains the statement of the chunk with the most distinct words. Replies that are
    not a question or that use words not found in the chunk are dropped.

    Raises:
        UsageError: the model wrote no usable question.
        ChatlmError: the model failed, or the user stopped the test.
    """
    questions: dict[str, str] = {}
    for chunk in chunks:
        done = len(questions)
        if done == MAX_QUESTIONS:
            break
        prompt = f"{_richest_statement(chunk)[:_MAX_STATEMENT_CHARS]}\n\n{_INSTRUCTION}"
        reply = ""
        request = Request((Message("user", prompt),), _SAMPLING)
        with closing(engine.stream(request)) as events:
            for event in events:
                _report(work, done, MAX_QUESTIONS, "generating questions")
                reply += event.answer if isinstance(event, Delta) else ""
        question = _extract_question(reply)
        if support_score(question, chunk.indexed_text) >= SUPPORT_THRESHOLD:
            questions[question] = str(chunk.id)
    if not questions:
        raise UsageError(
            "The model wrote no usable question about these documents.",
            hint="Try a larger model: /model",
        )
    return questions


def _richest_statement(chunk: Chunk) -> str:
    """Return the statement with the most distinct words."""
    return max(statements(chunk.text), key=lambda text: len(set(stems(text))), default=chunk.text)


def _extract_question(reply_text: str) -> str:
    """Return the first question in a reply; empty if there is none."""
    match = re.search(r"[^\n.!?:]*\?", reply_text)
    question = " ".join(match[0].split()) if match else ""
    return question if len(question.split()) >= 3 else ""


def _report(work: ProgressReporter, done: int, total: int, note: str) -> None:
    if work.cancelled:
        raise SelfTestStopped("Stopped.")
    work.update(done, total, note)
