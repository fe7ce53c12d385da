"""Compare ways to answer questions from documents: several prompts, and quoting.

Run it with `python -m benchmarks.grounding_prompts`; `--data` names the folder with the
collections. Each method answers beginners' questions from the shipped index of the manual, and
questions of xquad_en, with the passages that the chat would retrieve. A reply is right if it
matches the pattern of the answer. It is well cited if it has citations and each is supported by its
passage. It repeats itself if it contains a sentence of four words or more twice. There is no pass
or fail.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from benchmarks.retrieval import EMBEDDER, link_models, silent
from chatlm import Delta, Engine, Message, Passage, Request, Sampling, ensure_model
from chatlm.config.config import load
from chatlm.engines.open import open_engine
from chatlm.hub.jobs import ignore_progress as silent_pull
from chatlm.plugin_host.host import PluginHost
from chatlm_rag.documents.files import Source
from chatlm_rag.evaluation import read_questions
from chatlm_rag.index import builder
from chatlm_rag.retrieval import citations, extractive, grounding, prompting
from chatlm_rag.retrieval.search import Index, get_open_index

MANUAL = {
    "How do I stop a reply?": r"\bEsc\b",
    "How do I go on with a reply that I stopped?": "Ctrl-G",
    "How do I get another answer to the same message?": "Ctrl-R",
    "How do I begin a new line in a message?": "Ctrl-J|Shift-Enter|Alt-Enter",
    "How do I put a file into my message?": "@|/attach",
    "How do I search all my chats?": "Ctrl-S|chats search|/search",
    "How long is a deleted chat kept?": "7 days",
    "In which file are my chats stored?": r"chats\.db|SQLite",
    "How do I change the theme?": "/theme",
    "How do I fetch a larger model?": "models pull|/model",
    "Which key shows all keys?": r"\bF1\b",
    "How do I export a chat?": "/export|chats export",
    "Can I import my chats from ChatGPT?": r"/import|ZIP|conversations\.json|import from ChatGPT",
    "How do I switch a plugin off?": "Space|disable|/plugins",
    "What is an incognito chat?": "memory|nothing saved|no disk",
    "How do I see the exact prompt of a reply?": "`x`|x-ray|/preview|/xray",
    "How do I train an adapter?": "adapters train",
    "How do I make an index of my notes?": "rag build",
    "How do I ask a question from the shell?": "chatlm ask",
    "How do I copy a code block?": "`b`|/copy-code",
    "Which version of Python does chatlm need?": r"3\.11",
    "How do I see which plugin changed my message?": "/trace|`t`",
    "What happens when a chat outgrows the context?": "oldest|left out|greyed",
    "How do I give a chat a system prompt?": "/system",
}
"""Questions about chatlm, and a pattern that the answer must match."""

SAMPLING = Sampling(seed=0, max_tokens=120)

QuestionSet = Sequence[tuple[str, str]]
"""Questions, each with the pattern of its answer."""

Method = Callable[[Index, str, Sequence[Passage]], tuple[Message, ...] | str]
"""Returns the prompt for a question and its passages, or the reply itself."""


def passages_with_instructions(
    index: Index, question: str, found: Sequence[Passage]
) -> tuple[Message]:
    """Return the chat's prompt: whole passages, instructions, the question."""
    return (Message("user", prompting.grounded_prompt(question, found)),)


def passages_only(index: Index, question: str, found: Sequence[Passage]) -> tuple[Message]:
    """Return a prompt of whole passages and the question."""
    return (Message("user", f"{prompting.format_passages(found)}\n\n{question}"),)


def question_first(index: Index, question: str, found: Sequence[Passage]) -> tuple[Message]:
    """Return a prompt with the question before and after the passages."""
    return (
        Message(
            "user",
            f"{question}\n\n{prompting.format_passages(found)}\n\nAnswer from these: {question}",
        ),
    )


def one_passage(index: Index, question: str, found: Sequence[Passage]) -> tuple[Message]:
    """Return a prompt of the best passage, instructions and the question."""
    return passages_with_instructions(index, question, found[:1])


def statements(index: Index, question: str, found: Sequence[Passage]) -> tuple[Message]:
    """Return a prompt of the best statements, instructions and the question."""
    return passages_with_instructions(index, question, best_statements(index, question, found))


def statements_only(index: Index, question: str, found: Sequence[Passage]) -> tuple[Message]:
    """Return a prompt of the best statements and the question."""
    return passages_only(index, question, best_statements(index, question, found))


def after_an_example(index: Index, question: str, found: Sequence[Passage]) -> tuple[Message, ...]:
    """Return the prompt of `statements_only` after an example turn."""
    pets = Passage("Cats are allowed in the flat. Dogs need the owner's consent.", "lease.md", 1)
    boiler = Passage("The boiler is serviced each October.", "lease.md", 1)
    example = f"{prompting.format_passages([pets, boiler])}\n\nWhen is the boiler serviced?"
    return (
        Message("user", example),
        Message("assistant", "The boiler is serviced each October [2]."),
        *statements_only(index, question, found),
    )


def quotations(index: Index, question: str, found: Sequence[Passage]) -> str:
    """Return the quotes that the chat replies with for a small model."""
    return extractive.format_quotes(extractive.select_quotes(question, found))


METHODS: dict[str, Method] = {
    "passages, instruction": passages_with_instructions,
    "passages": passages_only,
    "question on both sides": question_first,
    "one passage, instruction": one_passage,
    "statements, instruction": statements,
    "statements": statements_only,
    "statements, one example": after_an_example,
    "quotations": quotations,
}


def best_statements(index: Index, question: str, found: Sequence[Passage]) -> list[Passage]:
    """Return the statements that would be quoted, as passages."""
    return [
        dataclasses.replace(found[quote.number - 1], text=quote.text)
        for quote in extractive.select_quotes(question, found)
    ]


def generate(engine: Engine, messages: tuple[Message, ...]) -> str:
    """Return the model's reply."""
    with closing(engine.stream(Request(messages, SAMPLING))) as events:
        return "".join(event.answer for event in events if isinstance(event, Delta))


def measure(engine: Engine, name: str, method: Method, questions: QuestionSet) -> dict[str, float]:
    """Return the share of replies that are right, well cited and repetitive, and the time."""
    right = cited = repeated = 0
    started = time.perf_counter()
    for question, pattern in questions:
        found = grounding.find_passages(name, question)
        result = method(get_open_index(name).index, question, found)
        reply = result if isinstance(result, str) else generate(engine, result)
        right += bool(re.search(pattern, reply))
        checks = [check for check in citations.check_citations(reply, found) if check.cited]
        cited += bool(checks) and all(check.is_supported for check in checks)
        repeated += repeats(reply)
    count = len(questions)
    return {
        "right": right / count,
        "good citations": cited / count,
        "repeats itself": repeated / count,
        "seconds": (time.perf_counter() - started) / count,
    }


def repeats(reply: str) -> bool:
    """Return whether a reply contains a sentence of four words or more twice."""
    words = (tuple(re.findall(r"\w+", part.lower())) for part in re.split(r"[.!?]\s|\n", reply))
    long = [each for each in words if len(each) >= 4]
    return len(long) > len(set(long))


def xquad(data: Path, count: int) -> list[tuple[str, str]]:
    """Build the index `xquad`, and return some questions with the patterns of their answers."""
    builder.build("xquad", (Source(str(data / "corpus.jsonl")),), silent)
    answers = json.loads((data / "answers.json").read_text(encoding="utf-8"))
    questions = read_questions(data / "queries.jsonl")
    step = max(len(questions) // count, 1)
    return [
        (questions[name], "|".join(map(re.escape, answers[name])))
        for name in list(questions)[::step][:count]
    ]


def main() -> None:
    """Run the benchmark and print tables, or JSON with `--json`."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/retrieval"))
    parser.add_argument("--questions", type=int, default=24, help="questions of xquad_en (24)")
    parser.add_argument(
        "--methods", nargs="*", choices=METHODS, default=list(METHODS), metavar="METHOD"
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    settings = load()
    folders = ensure_model(settings.model).folder, ensure_model(EMBEDDER).folder
    results: dict[str, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as home:
        link_models(Path(home), *folders)
        sets: dict[str, QuestionSet] = {
            "manual": list(MANUAL.items()),
            "xquad": xquad(options.data / "xquad_en", options.questions),
        }
        with closing(open_engine(settings, PluginHost(), silent_pull)) as engine:
            for name, questions in sets.items():
                results[name] = {}
                for method in options.methods:
                    results[name][method] = measure(engine, name, METHODS[method], questions)
                    print(f"{name}, {method}: done", file=sys.stderr)
    if options.json:
        print(json.dumps(results, indent=2))
        return
    for name, rows in results.items():
        print(f"\n{name}, {len(sets[name])} questions")
        columns = list(next(iter(rows.values())))
        print(f"  {'':<28}" + "".join(f"{column:>16}" for column in columns))
        for method, row in rows.items():
            print(f"  {method:<28}" + "".join(f"{row[column]:>16.2f}" for column in columns))


if __name__ == "__main__":
    main()
