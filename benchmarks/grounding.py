"""Measure how well replies from documents that were never seen hold up.

Run it with `python -m benchmarks.grounding`; `--data` names the folder with `xquad_en`, and
`--collections` that with the published files, see `benchmarks.question_sets`. No collection took
part in training the reader or in fitting its confidence.

A question is *found* if one of the first three passages is of its document and holds an answer. A
reply is *full* if it holds an accepted answer, *partial* if it holds half of the words of one. It
is *cited* if each quote is in the passage that it names. Replies are compared for the same
passages: quotes chosen by the reader, quotes as they were before there was one, and what the
default model writes from the passages.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import grounding_before as before
from benchmarks.grounding_collections import (
    Asked,
    Collection,
    holds,
    load_collection,
    normalize,
    read_passages,
    share_of_words,
    xquad_passages,
)
from benchmarks.question_sets import read_squad
from benchmarks.retrieval import EMBEDDER, link_models, silent
from benchmarks.tools_replies import wilson
from chatlm import Delta, Engine, Message, Passage, Request, Sampling, ensure_model
from chatlm.config.config import load
from chatlm.engines.open import open_engine
from chatlm.hub.jobs import ignore_progress as silent_pull
from chatlm.plugin_host.host import PluginHost
from chatlm_rag.documents.files import Source
from chatlm_rag.index import builder
from chatlm_rag.index.folder import all_indices
from chatlm_rag.retrieval import citations, extractive, grounding, prompting
from chatlm_rag.retrieval.search import get_open_index

PASSAGES = 3
SAMPLING = Sampling(seed=0, max_tokens=80, temperature=0.0)
READER, BEFORE, MODEL = "reader", "before", "model"


@dataclass(frozen=True)
class Outcome:
    """What one system replied to a question."""

    answerable: bool
    found: bool
    """Whether the first three passages hold an answer."""
    text: str
    """The reply; empty for a refusal."""
    full: bool
    partial: bool
    cited: bool
    confidence: float


def collections(options: argparse.Namespace) -> Iterator[Collection]:
    """Yield the collections to measure."""
    folder, count = options.collections, options.questions
    squad = folder / "squad2_half.json"
    known = frozenset(each.text for each in read_squad(squad)) if squad.is_file() else frozenset()
    xquad = xquad_passages(options.data / "xquad_en", known)
    yield load_collection("xquad", "articles", xquad, 48, count)
    wiki = read_passages(folder / "new_wiki.json")
    yield load_collection("new_wiki", "other articles", wiki, 14, count)
    reddit = read_passages(folder / "reddit.json", apart=True)
    yield load_collection("reddit", "posts", reddit, 400, count)
    yield load_collection("covid", "papers", read_passages(folder / "covid.json"), 24, count)


def build(collection: Collection, cache: Path) -> str:
    """Build the index of a collection, or update it; return its name."""
    corpus = cache / f"{collection.name}.jsonl"
    rows = [
        json.dumps({"_id": name, "title": name.replace("_", " "), "text": text})
        for name, text in collection.documents.items()
    ]
    text = "\n".join(rows) + "\n"
    if not corpus.is_file() or corpus.read_text(encoding="utf-8") != text:
        corpus.write_text(text, encoding="utf-8")
    name = collection.name.replace("_", "-")
    if name in [index.name for index in all_indices()]:
        builder.update(name, silent)
    else:
        builder.build(name, (Source(str(corpus)),), silent)
    return name


def judge(
    asked: Asked, answerable: bool, reply: str, passages: Sequence[Passage], confidence: float
) -> Outcome:
    """Judge a reply; an empty one is a refusal."""
    shown = normalize(reply)
    full = any(holds(shown, answer) for answer in asked.answers)
    partial = max((share_of_words(shown, answer) for answer in asked.answers), default=0.0) >= 0.5
    checks = [check for check in citations.check_citations(reply, passages) if check.cited]
    sources = (passage.details["source"] == asked.document for passage in passages)
    return Outcome(
        answerable=answerable,
        found=any(
            from_it and holds(normalize(passage.text), answer)
            for from_it, passage in zip(sources, passages, strict=True)
            for answer in asked.answers
        ),
        text=reply,
        full=full,
        partial=partial and not full,
        cited=bool(checks) and all(check.is_supported for check in checks),
        confidence=confidence,
    )


Replier = Callable[[str, str], tuple[str, Sequence[Passage], float]]
"""Returns the reply of a system to a question, the passages and the confidence."""


def reply_of_reader(name: str, question: str) -> tuple[str, Sequence[Passage], float]:
    """Reply as a chat does."""
    result = grounding.search_index(name, question)
    passages = grounding.to_passages(get_open_index(name), result.hits[:PASSAGES])
    quotes = extractive.select_quotes(question, passages) if result.relevant else []
    return extractive.format_quotes(quotes), passages, result.confidence


def reply_before(name: str, question: str) -> tuple[str, Sequence[Passage], float]:
    """Reply as a chat did before there was a reader."""
    index = get_open_index(name).index
    hits = index.search(question)
    sure = before.confidence(index, question, hits)
    quotes = before.quotes(index, question, hits[:PASSAGES]) if sure >= before.THRESHOLD else []
    text = extractive.format_quotes([extractive.Quote(n, quote, 0.0) for n, quote in quotes])
    return text, grounding.to_passages(get_open_index(name), hits[:PASSAGES]), sure


def reply_of_model(engine: Engine) -> Replier:
    """Return a system that lets the model write from the first passages, without a threshold."""

    def reply(name: str, question: str) -> tuple[str, Sequence[Passage], float]:
        hits = get_open_index(name).index.search(question, PASSAGES)
        passages = grounding.to_passages(get_open_index(name), hits)
        prompt = Message("user", prompting.grounded_prompt(question, passages))
        with closing(engine.stream(Request((prompt,), SAMPLING))) as events:
            text = "".join(event.answer for event in events if isinstance(event, Delta))
        return text, passages, 1.0

    return reply


def outcomes(name: str, collection: Collection, reply: Replier, limit: int) -> list[Outcome]:
    """Return the outcome of each question, at most `limit` of each kind, evenly spread."""
    result = []
    for answerable in (True, False):
        questions = collection.answerable if answerable else collection.unanswerable
        step = max(len(questions) / limit, 1)
        for at in range(min(limit, len(questions))):
            asked = questions[int(at * step)]
            text, passages, confidence = reply(name, asked.text)
            result.append(judge(asked, answerable, text, passages, confidence))
    return result


def share(values: Sequence[bool]) -> dict[str, Any]:
    """Return a share with its Wilson interval and the number of values."""
    if not values:
        return {"share": math.nan, "low": math.nan, "high": math.nan, "of": 0}
    low, high = wilson(sum(values), len(values))
    return {"share": sum(values) / len(values), "low": low, "high": high, "of": len(values)}


def area(answerable: Sequence[float], unanswerable: Sequence[float]) -> dict[str, Any]:
    """Return the area under the ROC curve, with the 95 % interval of Hanley and McNeil (1982)."""
    pairs = [(a > b) + (a == b) / 2 for a in answerable for b in unanswerable]
    if not pairs:
        return share([])
    auc, (n, m) = sum(pairs) / len(pairs), (len(answerable), len(unanswerable))
    q1, q2 = auc / (2 - auc) - auc**2, 2 * auc**2 / (1 + auc) - auc**2
    half = 1.96 * math.sqrt((auc * (1 - auc) + (n - 1) * q1 + (m - 1) * q2) / (n * m))
    return {"share": auc, "low": max(0.0, auc - half), "high": min(1.0, auc + half), "of": n + m}


def summarize(results: Sequence[Outcome]) -> dict[str, dict[str, Any]]:
    """Return the measures of a system."""
    yes = [each for each in results if each.answerable]
    no = [each for each in results if not each.answerable]
    found = [each for each in yes if each.found]
    return {
        "found in the first three": share([each.found for each in yes]),
        "full, of those found": share([each.full for each in found]),
        "partial, of those found": share([each.partial for each in found]),
        "refused, of those found": share([not each.text for each in found]),
        "full, of all": share([each.full for each in yes]),
        "kept, of the answerable": share([bool(each.text) for each in yes]),
        "refused, of the unanswerable": share([not each.text for each in no]),
        "cited correctly": share([each.cited for each in yes if each.text]),
        "area under the curve": area(
            [each.confidence for each in yes], [each.confidence for each in no]
        ),
    }


def words(results: Sequence[Outcome]) -> float:
    """Return the mean length of the replies in words."""
    lengths = [len(each.text.split()) for each in results if each.text]
    return sum(lengths) / max(len(lengths), 1)


def measure(options: argparse.Namespace, engine: Engine | None) -> dict[str, Any]:
    """Measure each system on each collection, and on all together."""
    systems: list[tuple[str, Replier, int]] = [
        (READER, reply_of_reader, options.questions),
        (BEFORE, reply_before, options.questions),
    ]
    if engine:
        systems.append((MODEL, reply_of_model(engine), options.model_questions))
    systems = [system for system in systems if system[0] in options.systems]
    results: dict[str, Any] = {}
    together: dict[str, list[Outcome]] = {}
    for collection in collections(options):
        if options.only and collection.name not in options.only:
            continue
        name = build(collection, options.cache)
        results[collection.name] = {}
        for system, reply, limit in systems:
            started = time.perf_counter()
            found = outcomes(name, collection, reply, limit)
            took = (time.perf_counter() - started) / max(len(found), 1)
            results[collection.name][system] = _row(found, took)
            together.setdefault(system, []).extend(found)
            print(f"{collection.name}, {system}: {took:.2f} s a question", file=sys.stderr)
    results["all"] = {system: _row(found, None) for system, found in together.items()}
    return results


def _row(found: Sequence[Outcome], seconds: float | None) -> dict[str, Any]:
    return {**summarize(found), "words": words(found), "seconds": seconds}


def report(results: dict[str, Any]) -> None:
    """Print a table for each collection."""
    for name, rows in results.items():
        print(f"\n{name}")
        print(f"  {'':<30}" + "".join(f"{system:>24}" for system in rows))
        for measure_name in next(iter(rows.values())):
            cells = [rows[system][measure_name] for system in rows]
            print(f"  {measure_name:<30}" + "".join(f"{_cell(cell):>24}" for cell in cells))


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        interval = f"{value['low']:.2f}–{value['high']:.2f}"
        return f"{value['share']:.3f} {interval} n={value['of']}"
    return "" if value is None else f"{value:.2f}"


def main() -> None:
    """Run the benchmark and print tables, or JSON with `--json`."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/retrieval"))
    parser.add_argument("--collections", type=Path, default=Path("../shared/data/grounding"))
    parser.add_argument("--cache", type=Path, default=Path(".cache/grounding"))
    parser.add_argument("--questions", type=int, default=250, help="of each kind and collection")
    parser.add_argument("--model-questions", type=int, default=10, help="that the model answers")
    parser.add_argument("--only", action="append", help="a collection; repeatable")
    parser.add_argument(
        "--systems", nargs="+", choices=[READER, BEFORE, MODEL], default=[READER, BEFORE, MODEL]
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    settings = load()
    folders = ensure_model(settings.model).folder, ensure_model(EMBEDDER).folder
    options.cache.mkdir(parents=True, exist_ok=True)
    link_models(options.cache.absolute(), *folders)
    if MODEL not in options.systems:
        results = measure(options, None)
    else:
        with closing(open_engine(settings, PluginHost(), silent_pull)) as engine:
            results = measure(options, engine)
    print(json.dumps(results, indent=2)) if options.json else report(results)


if __name__ == "__main__":
    main()
